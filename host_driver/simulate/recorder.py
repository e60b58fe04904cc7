# SPDX-License-Identifier: Apache-2.0
"""The recorder: after each step, asks what the outside can see, and writes it into the ledger."""

import ipaddress
from collections.abc import Callable
from typing import Any

from host_driver.conformance.messages import dump
from host_driver.lab import Lab
from host_driver.simulate.ledger import Delivered, Ledger, Life, Notice, SaAsked, Snapshot, Step
from host_driver.simulate.play import Player
from proto import netlink
from proto.status import OffloadError
from proto.xfrm import Msg
from proto.xfrm_structs import UserExpire, UserPolicyInfo, UserSaInfo

Boot = tuple[int, int]  # boot generation and epoch, 0 on a dead card

GIVEN_UP = "given up"  # a card by its host; how it is itself does not matter then
DUMP_EVERY = 8  # steps; a dump asks drivers, which makes good what they might have missed


class Recorder:
    """Knows how far it has read. What it asks is the same in every run of a plan."""

    def __init__(self, lab: Lab, ledger: Ledger, player: Player) -> None:
        self._lab = lab
        self._ledger = ledger
        self._player = player
        self._frames = 0
        self._firings: dict[str, int] = {}  # by party
        self._calls = [0] * len(lab.hosts)
        self._boots: dict[int, Boot | None] = {}  # of the cards; None where one did not answer

    def begin(self) -> None:
        """What was before this run, in a lab that has lived, is not this run's."""
        self._frames = self._lab.wire.forget()
        for firing in self._lab.faults.log():
            self._firings[firing["party"]] = _number(firing)
        for host in self._lab.hosts:
            host.receive(), host.notifications()
            calls = host.trace()
            self._calls[host.number] = calls[-1]["seq"] if calls else 0

    def collect(self, step: Step) -> None:
        """Everything since the last step. A host that is down, or silent, tells nothing."""
        step.ended_ns = self._lab.now_ns()
        cards = []
        for host in range(self._ledger.hosts):
            self._take(step, host)
            cards.append(self._follow_boots(step, host))
        if step.settled:
            listed = step.phase != "run" or step.number % DUMP_EVERY == 0
            step.snapshots = [
                self._snapshot(host, card, listed=listed) for host, card in enumerate(cards)
            ]
            heard = [self._hear(step, host) for host in range(self._ledger.hosts)]
            if any(heard):  # a timer ran out meanwhile: the answers are not of one moment
                step.settled, step.snapshots = False, []
        step.frames = self._lab.wire.frames(self._frames)
        self._frames += len(step.frames)
        step.wire = self._lab.wire.counters()
        step.firings = self._log()
        self._follow_restarts(step)

    def _log(self) -> list[dict[str, Any]]:
        """What fired since, as long as everybody can be asked."""
        if not self._ledger.armed or not all(map(self._player.healthy, range(self._ledger.hosts))):
            return []
        try:
            fired = self._lab.faults.log(self._firings)
        except OffloadError:
            return []
        for firing in fired:
            self._firings[firing["party"]] = _number(firing)
        return fired

    def _follow_boots(self, step: Step, host: int) -> str | None:
        """The state of a card, None where it does not answer. One that hangs, died or began anew by
        a fault, nobody asking: its health tells."""
        if host not in self._player.running:
            return None
        health = self._ask(host, self._lab.hosts[host].nic.health)
        state = None if health is None else health["state"]
        now = None if health is None else (health.get("boot", 0), health.get("epoch", 0))
        before = self._boots.get(host, now)
        self._boots[host] = now
        if now == before or any((one.party, one.host) == ("card", host) for one in step.lives):
            return state
        what = _what_became(before, now)
        if what == "kill":
            self._player.cards.discard(host)
        if what:
            step.lives.append(Life(step.number, host, "card", what, 0, step.ended_ns))
        return state

    def _follow_restarts(self, step: Step) -> None:
        """A new process counts from the beginning."""
        for life in step.lives:
            if life.what == "restart" and not life.errno:
                self._firings[f"{life.party}{life.host}"] = 0
                if life.party == "host":
                    self._calls[life.host] = 0

    def _take(self, step: Step, host: int) -> None:
        handle, now_ns = self._lab.hosts[host], self._lab.now_ns()
        packets = self._ask(host, handle.receive) or []
        step.delivered += [Delivered(step.number, host, packet, now_ns) for packet in packets]
        self._hear(step, host)
        calls = self._ask(host, lambda: handle.trace(self._calls[host])) or []
        done = next((n for n, call in enumerate(calls) if call["result"] is None), len(calls))
        step.trace.append(calls[:done])
        self._calls[host] += done

    def _hear(self, step: Step, host: int) -> bool:
        """What a core has told since it was heard last; whether that was anything."""
        messages = self._ask(host, self._lab.hosts[host].notifications) or []
        now_ns = self._lab.now_ns()
        step.notices += [Notice(step.number, host, message, now_ns) for message in messages]
        self._follow(step, host, messages)
        return bool(messages)

    def _follow(self, step: Step, host: int, messages: list[bytes]) -> None:
        """A key manager stops counting on an SA that expired hard; each ACQUIRE has a larval SA."""
        for message in (one for data in messages for one in netlink.messages(data)):
            self._ledger.larvals[host] += message.type == Msg.ACQUIRE
            if message.type != Msg.EXPIRE:
                continue
            expire = UserExpire.unpack(message.payload)
            if expire.hard:
                for sa in self._ledger.live_sas(host):
                    if _is(sa, expire):
                        sa.expired_step = step.number

    def _snapshot(self, host: int, card: str | None, *, listed: bool) -> Snapshot:
        """Counters as they stand when nothing moves: those of different parties fit together."""
        nic, handle = self._lab.hosts[host].nic, self._lab.hosts[host]
        counters = self._ask(host, nic.counters)
        if counters and counters.get("driver_device_errors") and not self._has_card(host):
            card = GIVEN_UP
        return Snapshot(
            host,
            counters,
            self._ask(host, nic.census),
            self._ask(host, handle.mib),
            self._dump(host, Msg.GETSA, UserSaInfo.size()) if listed else None,
            self._dump(host, Msg.GETPOLICY, UserPolicyInfo.size()) if listed else None,
            self._ask(host, handle.snmp),
            card,
        )

    def _has_card(self, host: int) -> bool:
        """Whether a host works with its card, as far as it tells."""
        reporters = self._ask(host, self._lab.hosts[host].nic.reporters) or []
        return all(one["state"] == "healthy" for one in reporters if one["name"] == "fw_fatal")

    def _dump(self, host: int, request: int, size: int) -> list[bytes] | None:
        """The fixed part of everything that a dump gives, in the core's order."""
        datagrams = self._ask(host, lambda: self._lab.hosts[host].netlink(dump(request)))
        if datagrams is None:
            return None
        wanted = (Msg.NEWSA, Msg.NEWPOLICY)
        messages = (one for data in datagrams for one in netlink.messages(data))
        return [one.payload[:size] for one in messages if one.type in wanted]

    def _ask(self, host: int, question: Callable[[], Any]) -> Any:
        return self._player.call(host, question)[1]


def _what_became(before: Boot | None, now: Boot | None) -> str:
    """Of a card; "" if it only answers again."""
    if now is None:
        return "hang"
    if before is None:
        return ""
    if now[0] == before[0]:
        return "reset-function"
    return "reset-firmware" if now[0] else "kill"


def _number(firing: dict[str, Any]) -> int:
    return int(firing["id"].partition(":")[2])


def _is(sa: SaAsked, expire: UserExpire) -> bool:
    return sa.spi == expire.state.id.spi and _address(sa.dst) == expire.state.id.daddr


def _address(text: str) -> bytes:
    return ipaddress.ip_address(text).packed.ljust(16, b"\0")
