# SPDX-License-Identifier: Apache-2.0
"""Cards and hosts are killed, stopped, continued, begun anew, reset and reloaded in any order, and
twice, under traffic: whatever the order, nothing is in clear, no number comes twice, nobody raises,
and in the end all devices are up again or closed.

A life is thirty things under a seed. Many make no sense at that moment, and are refused.
"""

import errno
import random

import pytest

from host_driver.lab import Lab
from proto.status import OffloadError
from support.both import CARD, POLICY, Both, sa
from support.esp import A, B, policy

ACTIONS = 30
VERBS = ("kill", "stop", "resume", "restart")
MOMENTS_S = (0, 0, 1e-4, 0.01, 0.3, 2.5, 30)  # from amid all packets to long after them
REFUSALS = {
    errno.EALREADY,  # killed twice
    errno.EHOSTDOWN,  # asked while dead
    errno.EBUSY,  # reloaded with SAs, reset against the will of another function
    errno.EAGAIN, errno.ENXIO, errno.ETIMEDOUT,  # reloaded while the card boots, is gone, hangs
    errno.EINVAL,  # or cannot be used
}  # fmt: skip
OTHER_CARDS = (CARD + ",revision=4", "tiny", "crypto-only", "cx6dx")
FAULTS = (
    {"site": "card.reset", "kind": "slow", "delay_ms": 3000},
    {"site": "card.reset", "kind": "refuse", "times": 2},
    {"site": "card.process", "kind": "hang", "delay_ms": 1500, "times": 1},
    {"site": "card.process", "kind": "crash", "skip": 20, "times": 1},
    {"site": "card.health", "kind": "fatal", "value": 1, "times": 1},
    {"site": "card.health", "kind": "freeze", "times": 8},
    {"site": "card.command", "kind": "delay", "delay_ms": 1500, "probability": 0.2},
    {"site": "mailbox.command", "kind": "duplicate", "probability": 0.5},
    {"site": "mailbox.reply", "kind": "delay", "delay_ms": 700, "probability": 0.5},
    {"site": "mailbox.reply", "kind": "drop", "probability": 0.3, "times": 5},
    {"site": "mailbox.reply", "kind": "duplicate", "probability": 0.5},
    {"site": "events", "kind": "delay", "delay_ms": 4000, "probability": 0.5},
    {"site": "ring.tx", "kind": "delay", "delay_ms": 40, "probability": 0.5},
    {"site": "ring.tx_done", "kind": "delay", "delay_ms": 900, "probability": 0.5},
    {"site": "ring.rx", "kind": "delay", "delay_ms": 900, "probability": 0.5},
    {"site": "wire", "kind": "delay", "delay_ms": 300, "value": 100},
)


class Lives:
    """A lab, what may happen in it, and what did. `faults`: cards change and fail besides."""

    def __init__(self, lab, seed: int, *, faults: bool) -> None:
        self.lab, self.faults = lab, faults
        self.both = Both(lab)
        self.spi = 0x10000
        self.done: list[str] = []
        self._rng = random.Random(seed)
        self._actions = [action for host in lab.hosts for action in self._of(host)]

    def _of(self, host) -> list[tuple[str, object]]:
        number, nic, add = host.number, host.nic, self.lab.faults.add
        found = [(f"host{number} {verb}", getattr(host, verb)) for verb in (*VERBS, "reload")]
        found += [(f"card{number} {verb}", getattr(nic, verb)) for verb in VERBS]
        for level in ("function", "firmware"):
            found.append((f"card{number} {level} reset", lambda at=level: nic.reset(at)))
        if self.faults:
            for card in (CARD, *OTHER_CARDS):
                found.append((f"card{number} is {card}", lambda card=card: nic.restart(card)))
            for one in FAULTS:
                found.append((f"card{number} {one}", lambda one=one: add(host=number, **one)))
            found += [("faults are over", self.lab.faults.reset)] * 2
        return found

    def live(self) -> None:
        """One thing happens amid packets, then some time passes; perhaps there are new SAs."""
        self.say()
        name, action = self._rng.choice(self._actions)
        self.done.append(name)
        refusal = None
        try:
            action()
        except OffloadError as error:
            refusal = error
        if refusal is not None:
            self.done[-1] += f" ({errno.errorcode[refusal.errno]}: {refusal.text})"
            assert refusal.errno in REFUSALS
        self.say()
        self.lab.advance(self._rng.choice(MOMENTS_S))
        if self._rng.random() < 0.5:
            self.rekey()
        for host in self._awake():
            info = host.info()
            assert info["devices"][1]["carrier"] <= (info["device_state"] == "up")

    def say(self) -> None:
        """Packets of every host that has its policies: without them it would speak in clear."""
        for host in self._awake():
            if self._protected(host):
                self.both.say(host, self._rng.randrange(1, 40))

    def rekey(self) -> None:
        """A new pair of SAs for both ways, wherever it is taken."""
        self.spi += 0x10
        for host in self._awake():
            for ends, dir in self._ways(host):
                host.ip(sa(self.spi + (ends == (B, A)), *ends, dir))

    def heal(self) -> None:
        """Whoever hangs goes on, whoever died begins anew; given time, all is as at the start."""
        self.lab.faults.reset()
        for host in self.lab.hosts:
            for name, party in ((f"host{host.number}", host), (f"card{host.number}", host.nic)):
                match self.lab.state(name):
                    case "stopped":
                        party.resume()
                    case "dead":
                        party.restart()
            if self.faults:
                host.nic.restart(CARD)
        self.lab.advance(60)
        for host in self.lab.hosts:
            if host.info()["device_state"] == "failed":
                assert host.nic.health()["state"] != "active"
                host.nic.recover()
                self.both.wait_for(lambda host=host: self.both.up(host))
            assert self.both.up(host)
            Both.ip(host, "xfrm state flush")
            assert self._protected(host)
        self.lab.settle()
        self.rekey()
        self.both.talk()

    def _awake(self) -> list:
        states = {host: self.lab.state(f"host{host.number}") for host in self.lab.hosts}
        return [host for host, state in states.items() if state == "running"]

    def _protected(self, host) -> bool:
        answers = [host.ip(policy(dir, POLICY, ends=ends)) for ends, dir in self._ways(host)]
        return all(one.rc == 0 or "File exists" in one.stderr for one in answers)

    @staticmethod
    def _ways(host):
        ends = (A, B) if host.number == 0 else (B, A)
        return ((ends, "out"), (ends[::-1], "in"))


@pytest.mark.parametrize("faults", [False, True], ids=["whole", "broken"])
@pytest.mark.parametrize("seed", range(8))
def test_no_order_of_deaths_and_returns_does_harm(seed, faults) -> None:
    with Lab(target="sim", hosts=2, card=CARD, seed=seed) as lab:
        lives = Lives(lab, seed, faults=faults)
        try:
            for _ in range(ACTIONS):
                lives.live()
            lives.heal()
        finally:
            print(*lives.done, sep="\n")  # pytest shows it where this fails
        lives.both.judge()
        for host in lab.hosts:
            assert host.nic.census() == {"keys": 2, "sas": 2, "rules_sa": 2, "rules_policy": 2}
            report = host.nic.audit()
            wrong = {name for name, count in report.items() if count}
            assert wrong <= {"objects", "known", "bound"}, report
