# SPDX-License-Identifier: Apache-2.0
"""A host's life drawn from a seed: what users, peers, links and clocks do to SAs and policies.

Property cases run it and judge what must hold whatever was drawn. Two peers, each with a flow out
and one in and two SPIs for either, so that they meet again; a card with few places, so that drivers
refuse. Every SA gets a key of its own, for a key used twice would be the user's fault.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from host_driver.conformance import layouts, messages, packets, texts
from host_driver.conformance.bench import Bench
from host_driver.conformance.messages import SOURCE, Note
from host_driver.conformance.subject import Subject
from proto.xfrm import Attr

PEERS = ("10.1.0.2", "10.1.0.3")
NEW_HOME = "10.1.0.9"
SPIS = tuple(range(0x1000, 0x1008))
GIVEN = range(0x2000, 0x2004)  # SPIs that ALLOCSPI may draw
SCARCE = "sa_max=5,rule_max=8"  # of 8 SAs, and of 4 policies that may be the card's
OUT, ALLOW = 1, 0
SA_LIMITS = (
    "", "", "limit packet-soft 2 limit packet-hard 4", "limit byte-soft 120 limit byte-hard 400",
    "limit packet-soft 1", "limit packet-hard 3", "limit time-soft 1 limit time-hard 2",
)  # fmt: skip
POLICY_LIMITS = ("", "", "", "limit time-hard 2")
KEY_BYTES = 20
KEYS = re.compile("0x[0-9a-f]{40}")


@dataclass(frozen=True)
class Lost:
    """A packet that left in clear although an offloaded policy covered its flow."""

    step: str
    peer: str


class Workload:
    """`known_leaks` False leaves out where v6.2 loses references: duplicates of policies, acquires;
    `software` False leaves out SAs and policies without a device.

    `log` has the steps taken, for the report of a failure; `notes` what the user was told; `lost`
    what left in clear.
    """

    def __init__(
        self, bench: Bench, name: str, *, known_leaks: bool = True, software: bool = True
    ) -> None:  # fmt: skip
        card = bench.options.card
        self.host: Subject = bench.host(card=card + (",", ":")[":" not in card] + SCARCE)
        self.log: list[str] = [f"seed {bench.options.seed}"]
        self.lost: list[Lost] = []
        self.notes: list[Note] = []
        self._bench = bench
        self._random = random.Random(f"{bench.options.seed} {name}")
        self._known_leaks = known_leaks
        self._offloaded_share = 0.85 if software else 1.0
        self._keys: dict[int, bytes] = {}
        self._seqs: dict[int, int] = {}
        self.host.sysctl("acq_expires", 2)
        if not known_leaks:
            self.host.listen()  # without a key manager there is no larval SA

    # --- a life, and its end ---

    def run(self, steps: int) -> "Workload":
        """So many steps; what each did to packets is looked at before the next."""
        kinds: dict[Callable[[], str], int] = {
            self._add_sa: 16, self._send: 16, self._receive: 8, self._add_policy: 8,
            self._delete_sa: 4, self._wait: 4, self._delete_policy: 2, self._refused: 4,
            self._allocspi: 2, self._migrate: 1, self._flush: 1, self._bounce: 1,
        }  # fmt: skip
        for _ in range(steps):
            (step,) = self._random.choices(list(kinds), list(kinds.values()))
            covered, seen = self._covered(), len(self._bench.frames())
            self.log.append(step())
            clear = self._clear(seen) & covered
            if clear:
                self.lost += [Lost(self.log[-1], peer) for peer in clear & self._covered()]
            self.notes += self.host.notes()
        return self

    def drain(self) -> "Workload":
        """Take everything back, as a user does, and let what waits come to its end."""
        for command in ("xfrm state flush", "xfrm policy flush"):
            self.host.ok(command)
        self._bench.advance(4)
        self.notes += self.host.notes()
        return self

    # --- steps ---

    def _add_sa(self) -> str:
        spi, verb = self._random.choice(SPIS), self._random.choice(("add", "add", "update"))
        dev = self.host.dev if self._random.random() < self._offloaded_share else None
        key, peer = self._random.randbytes(KEY_BYTES), _peer(spi)
        source, target = _ends(spi)
        done = self._try(
            texts.state(
                dev, verb=verb, spi=spi, src=source, dst=target, reqid=_reqid(peer), key=key,
                dir="in" if spi & 1 else "out", more=self._random.choice(SA_LIMITS),
            )
        )  # fmt: skip
        if done.endswith("done") and verb == "add":  # an update keeps the key
            self._keys[spi] = key
        return done

    def _delete_sa(self) -> str:
        spi = self._random.choice(SPIS)
        source, target = _ends(spi)
        return self._try(texts.delete(spi=spi, src=source, dst=target))

    def _add_policy(self) -> str:
        verb = self._random.choice(("add", "update")) if self._known_leaks else "update"
        peer, inward = self._random.choice(PEERS), self._random.random() < 0.3
        source, target = (peer, SOURCE) if inward else (SOURCE, peer)
        dev = self.host.dev if self._random.random() < self._offloaded_share else None
        return self._try(
            texts.policy(
                dev, verb=verb, dir="in" if inward else "out", reqid=_reqid(peer),
                priority=self._random.randrange(4), more=self._random.choice(POLICY_LIMITS),
                src=source, dst=target,
            )
        )  # fmt: skip

    def _delete_policy(self) -> str:
        peer = self._random.choice(PEERS)
        if self._random.random() < 0.3:
            return self._try(texts.policy_delete(src=peer, dst=SOURCE, dir="in"))
        return self._try(texts.policy_delete(dst=peer))

    def _refused(self) -> str:
        """What cards or core refuse, whatever there is."""
        spi, dev = self._random.choice(SPIS), self.host.dev
        wrong = (
            texts.state(dev, spi=spi, mode="beet", dst=_peer(spi)),
            texts.state("lo", spi=spi, dst=_peer(spi)),
            texts.state(dev, spi=spi, dst=_peer(spi), more="limit packet-hard 0"),
            texts.policy("lo", dst=_peer(spi)),
            texts.policy(dev, dst=_peer(spi), dir="fwd"),
            texts.policy(dev, dst=_peer(spi), mode="beet"),
        )
        return self._try(self._random.choice(wrong))

    def _allocspi(self) -> str:
        peer = self._random.choice(PEERS)
        return self._try(
            f"xfrm state allocspi src {SOURCE} dst {peer} proto esp mode transport "
            f"reqid {_reqid(peer)} min {GIVEN[0]:#x} max {GIVEN[-1]:#x}"
        )

    def _migrate(self) -> str:
        """A peer moves; half of these SAs stay on the device."""
        peer = self._random.choice(PEERS)
        wish = {Attr.OFFLOAD_DEV: messages.offload(self.host.ifindex, 4)}
        attributes = wish if self._random.random() < 0.5 else {}
        move = messages.migrate(NEW_HOME, old_dst=peer, reqid=_reqid(peer), attributes=attributes)
        return f"migrate {peer} -> {self.host.request(move).errno}"

    def _flush(self) -> str:
        return self._try(self._random.choice(("xfrm state flush", "xfrm policy flush")))

    def _bounce(self) -> str:
        """The link goes down and comes back, with or without the feature in between."""
        if self._random.random() < 0.5:
            self.host.link(esp_hw_offload=False)
            self.host.link(esp_hw_offload=True)
        self.host.link(up=False)
        self.host.link(up=True)
        return "link down, link up"

    def _wait(self) -> str:
        self._bench.advance(1)
        return "a second passes"

    def _send(self) -> str:
        peer, count = self._random.choice(PEERS), self._random.randint(1, 3)
        self.host.send([packets.udp(dst=peer)] * count)
        return f"send {count} to {peer}"

    def _receive(self) -> str:
        """From a peer, with the right key if its SA is there, and fresh unless it came back."""
        spi = self._random.choice(SPIS[1::2])
        key, seq = self._keys.get(spi, bytes(KEY_BYTES)), self._seqs.get(spi, 0) + 1
        self._seqs[spi] = seq
        packet = packets.Esp(spi, key).seal(packets.udp(src=_peer(spi), dst=SOURCE), seq)
        self._bench.lab.wire.inject(host=0, frames=[packets.frame(packet, self.host.mac)])
        self.host.receive()
        return f"receive {spi:#x} {seq}"

    def _try(self, command: str) -> str:
        """Whether it is taken or not is part of the draw."""
        result = self.host.ip(command)
        return f"{KEYS.sub('KEY', command)} -> {result.stderr.strip() or 'done'}"

    # --- what left ---

    def _covered(self) -> set[str]:
        """Peers whose flow an offloaded policy out covers that protects or blocks."""
        peers = set()
        for note in self.host.policies():
            info = layouts.USERPOLICY_INFO.read(note.fixed)
            protects = Attr.TMPL in note.attributes or info.action != ALLOW
            if info.dir == OUT and Attr.OFFLOAD_DEV in note.attributes and protects:
                target = layouts.SELECTOR.read(info.sel).daddr
                peers |= {peer for peer in PEERS if messages.address(peer) == target}
        return peers

    def _clear(self, since: int) -> set[str]:
        """Peers to whom packets left in clear after so many frames."""
        left = [frame[packets.ETHERNET_BYTES :] for frame in self._bench.frames()[since:]]
        targets = {packet[16:20] for packet in left if not packets.is_esp(packet)}
        return {peer for peer in PEERS if messages.address(peer)[:4] in targets}


def _peer(spi: int) -> str:
    return PEERS[spi >> 1 & 1]


def _ends(spi: int) -> tuple[str, str]:
    """Source and destination: odd SPIs are inbound."""
    return (_peer(spi), SOURCE) if spi & 1 else (SOURCE, _peer(spi))


def _reqid(peer: str) -> int:
    return 1 + PEERS.index(peer)
