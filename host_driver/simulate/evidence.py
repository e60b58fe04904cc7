# SPDX-License-Identifier: Apache-2.0
"""What an invariant gets to see after a step: the ledger, the observer, and the span since rest.

A moment of rest is a settled step in which nothing disturbed the lab: no fault was armed, no card
or host died or was reset, everybody answered. From one to the next, books must balance exactly.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from host_driver.simulate.headers import Parsed, parse
from host_driver.simulate.ledger import (
    Armed,
    Delivered,
    Ledger,
    PolicyAsked,
    SaAsked,
    Snapshot,
    Step,
    Submitted,
)
from host_driver.simulate.observer import Observer
from host_driver.simulate.rulings import (
    Ruling,
    Span,
    Standing,
    covers,
    gone_step,
    ruling,
    standing,
)
from host_driver.simulate.tracks import Fate, Seen, Track, Tracks
from proto import netlink
from proto.xfrm import Msg
from proto.xfrm_structs import UserExpire

SECOND_NS = 1_000_000_000
# Where faults make a card look dead, or make up objects that are not there.
GIVEN_UP = ("card.process", "card.health", "card.object.create")


class Told(NamedTuple):
    """An EXPIRE message: of which SA (None: of none that was asked for), hard or soft."""

    host: int
    track: Track | None
    hard: bool
    expire: UserExpire


class Rest(NamedTuple):
    """What a moment of rest left: its step, the answers of both hosts, the wire's counters."""

    step: int
    snapshots: list[Snapshot]
    wire: dict[str, int]


@dataclass
class Evidence:
    """One step to be judged; what the step alone brought lies in `step` and `observer`.

    `span`: the steps since the last moment of rest, or since the last disturbance; `frames`,
    `deliveries`, `submitted` (accepted) and `refused` are of the whole span. `rest`: the moment of
    rest that the span began at, None where something disturbed the lab since. `at_rest`: this step
    is one again. `rested`: the step of the last one, whatever came after it. `answered` has the
    last answers of each host before this step, `booted` who died, hung or was reset since. `told`
    are the expiries of the step; `told_of` those of which the wire has shown all the packets that
    they count: once a step has settled, all since the one that did so before.
    """

    ledger: Ledger
    step: Step
    observer: Observer
    span: Span
    rest: Rest | None = None
    at_rest: bool = False
    rested: int = -1
    calm_since_ns: int = 0
    told: list[Told] = field(default_factory=list)
    told_of: list[Told] = field(default_factory=list)
    frames: list[Seen] = field(default_factory=list)
    deliveries: list[Delivered] = field(default_factory=list)
    submitted: list[Submitted] = field(default_factory=list)
    refused: list[Submitted] = field(default_factory=list)
    answered: dict[int, Snapshot] = field(default_factory=dict)
    booted: set[tuple[str, int]] = field(default_factory=set)

    @property
    def balanced(self) -> bool:
        """Whether this step closes a span from rest to rest."""
        return self.at_rest and self.rest is not None

    @property
    def calm_s(self) -> float:
        """Seconds of the lab since the last disturbance."""
        return (self.step.ended_ns - self.calm_since_ns) / SECOND_NS

    def settled_s(self, seconds: float) -> bool:
        """Whether nothing has disturbed the lab ever, or not for so long."""
        return not self.calm_since_ns or self.calm_s >= seconds

    def sure(self, sa: SaAsked) -> bool:
        """Whether an SA was there for the whole span."""
        return self.standing(sa) is Standing.SURE

    @property
    def hosts(self) -> range:
        """The hosts of the lab."""
        return range(self.ledger.hosts)

    def standing(self, asked: PolicyAsked | SaAsked) -> Standing:
        """Of an SA or policy within the span."""
        return standing(asked, self.span)

    def surely_gone(self, asked: PolicyAsked | SaAsked) -> bool:
        """Whether it was taken back or expired, and a moment of rest has come since."""
        gone = gone_step(asked)
        return gone is not None and gone <= self.rested < self.step.number

    def sent(self) -> Iterator[Seen]:
        """Frames that cards put on the wire in this step."""
        return (seen for seen in self.observer.seen if seen.frame.src is not None)

    def ruling_out(self, seen: Seen) -> Ruling | None:
        """What the sender's policies say about the packet that a frame carries, from the moment at
        which its stack sent it."""
        host, packet = seen.frame.src, seen.inner if seen.out else seen.packet
        parsed = parse(packet) if packet else None
        if host is None or parsed is None:
            return None
        first = seen.submitted.step if seen.submitted else self.step.number
        return self.ruling(host, "out", parsed, Span(first, seen.step))

    def ruling_in(self, host: int, packet: bytes, step: int) -> Ruling | None:
        """What the receiver's policies say about a packet that came in a step."""
        parsed = parse(packet)
        return parsed and self.ruling(host, "in", parsed, Span(step, self.step.number))

    def ruling(self, host: int, direction: str, packet: Parsed, span: Span) -> Ruling:
        """What the policies of a host say within some steps."""
        span = span._replace(resolved=self.span.resolved)
        return ruling(self.ledger.policies, host, direction, packet, span)

    def touched(self, host: int) -> bool:
        """Whether the link or a setting of a host's device changed within the span."""
        steps = self.ledger.steps[self.span.first :]
        return any(life.host == host for step in (*steps, self.step) for life in step.lives)

    def lived(self, sa: SaAsked) -> bool:
        """Whether anybody died, hung or was reset since an SA was asked for, or a driver may have
        given up card or SA for good reasons."""
        steps = [*self.ledger.steps[sa.asked_step :], self.step]
        return any(
            step.deaths or any(firing["site"] in GIVEN_UP for firing in step.firings)
            for step in steps
        )

    def misread(self, track: Track) -> bool:
        """Whether a driver may believe a count that is not true: its bytes are broken, or, of an SA
        whose numbers do not bound its packets, one reading after the other is torn."""
        broken = self.may_break("ring", "mailbox", kinds=("corrupt", "truncate"))
        bounded = track.sa.direction == "out" or track.windowed
        return broken or (not bounded and self.may_break("card.counters", kinds=("torn",)))

    def may_break(self, *sites: str, kinds: Sequence[str] = ()) -> bool:
        """Whether a fault was ever armed that happens at one of these sites or below (and is of one
        of these kinds)."""
        return any(
            (not kinds or one.spec.get("kind") in kinds) and _happens_at(one, sites)
            for one in self.ledger.armed
        )

    def armed(self, *sites: str) -> bool:
        """Whether a fault is armed now that happens at one of these sites or below."""
        return any(one.healed_step is None and _happens_at(one, sites) for one in self.ledger.armed)

    @property
    def undead(self) -> bool:
        """Whether a card may have told that an object is gone, and kept it until an audit."""
        return self.may_break("card.object.destroy", kinds=("undead",))

    @property
    def phantom(self) -> bool:
        """Whether a card may have told that an object is there, and not made it."""
        return self.may_break("card.object.create", kinds=("phantom",))

    def only_broken(self, sites: Sequence[str]) -> bool:
        """Whether faults were armed, all of them at these sites, and nobody died or was reset."""
        armed = [str(one.spec.get("site", "")) for one in self.ledger.armed]
        return (
            bool(armed)
            and not self.ledger.deadly
            and all(
                any(site == part or site.startswith(part + ".") for part in sites) for site in armed
            )
        )

    def missing(self) -> Iterator[Seen]:
        """Frames whose packet must be in a stack by now: the reference takes them, SA and policy
        are there for sure, and books are balanced."""
        if not self.balanced:
            return
        for seen in self.frames:
            track, host = seen.into, seen.frame.dst
            if seen.fate is not Fate.TAKEN or seen.delivered or track is None or host is None:
                continue
            parsed = parse(seen.arrived or b"")
            if not track.exact or self.touched(host) or parsed is None:
                continue
            found = self.ruling(host, "in", parsed, self.span)
            if self.standing(track.sa) is Standing.SURE and _welcome(found, track.sa, parsed):
                yield seen

    def tracks(self, host: int | None = None) -> Iterator[Track]:
        """All SAs, or those of one host."""
        return (track for track in self.observer.tracks if host in (None, track.sa.host))

    def named(self, host: int, spi: int, target: bytes) -> Iterator[Track]:
        """All SAs of a host with an SPI and destination (16 bytes)."""
        for direction in ("in", "out"):
            for track in self.observer.tracks.named(host, direction, spi):
                if track.target.ljust(16, b"\0") == target:
                    yield track

    def delta(self, host: int, *names: str) -> int:
        """How much counters of a card, or of its driver, grew over the span, together."""
        return sum(_delta(self._counters(host, "counters"), name) for name in names)

    def delta_of(self, host: int, prefix: str) -> int:
        """The same of all counters whose names begin alike."""
        pair = self._counters(host, "counters")
        return sum(_delta(pair, name) for name in pair[1] if name.startswith(prefix))

    def mib_delta(self, host: int, *names: str) -> int:
        """Of /proc/net/xfrm_stat."""
        return sum(_delta(self._counters(host, "mib"), name) for name in names)

    def snmp_delta(self, host: int) -> dict[str, int]:
        """Of /proc/net/snmp and snmp6, each."""
        pair = self._counters(host, "snmp")
        return {name: _delta(pair, name) for name in pair[1]}

    def wire_delta(self, name: str) -> int:
        """Of the wire."""
        assert self.rest is not None
        return self.step.wire.get(name, 0) - self.rest.wire.get(name, 0)

    def _counters(self, host: int, kind: str) -> tuple[dict[str, int], dict[str, int]]:
        assert self.rest is not None
        before = getattr(self.rest.snapshots[host], kind)
        return before or {}, getattr(self.step.snapshots[host], kind) or {}


def serves(sa: SaAsked, policy: PolicyAsked) -> bool:
    """Whether an SA is one that a protect policy's template names (TX-10)."""
    return (sa.direction, sa.reqid, sa.mode) == (policy.direction, policy.reqid, policy.mode) and (
        sa.mode == "transport" or policy.tunnel is None or (sa.src, sa.dst) == policy.tunnel
    )


def _welcome(found: Ruling, sa: SaAsked, packet: Parsed) -> bool:
    """Whether selector and policy let in what an SA has opened."""
    policy = found.policy
    return (
        found.certain
        and policy is not None
        and policy.verdict == "protect"
        and policy.offload == (sa.offload == "packet")
        and serves(sa, policy)
        and packet.whole
        and not packet.fragment
        and (sa.selector is None or covers(sa.selector, packet) is True)
    )


def _happens_at(one: Armed, sites: Sequence[str]) -> bool:
    return any(_overlap(site, str(one.spec.get("site", ""))) for site in sites)


def _overlap(site: str, armed: str) -> bool:
    """Whether one of two sites is, or lies below, the other; a fault without one is everywhere."""
    return not armed or f"{site}.".startswith(f"{armed}.") or f"{armed}.".startswith(f"{site}.")


def _delta(pair: tuple[dict[str, int], dict[str, int]], name: str) -> int:
    before, after = pair
    return after.get(name, 0) - before.get(name, 0)


def expiries(step: Step, tracks: Tracks) -> Iterator[Told]:
    """The EXPIRE messages of a step."""
    for notice in step.notices:
        for message in netlink.messages(notice.message):
            if message.type == Msg.EXPIRE:
                expire = UserExpire.unpack(message.payload)
                yield Told(notice.host, _named(tracks, notice.host, expire), bool(expire.hard),
                           expire)  # fmt: skip


def _named(tracks: Tracks, host: int, expire: UserExpire) -> Track | None:
    """The newest accepted SA of a host with this SPI, destination and reqid."""
    name = expire.state.id
    for direction in ("in", "out"):
        for track in reversed(tracks.named(host, direction, name.spi)):
            same = track.target.ljust(16, b"\0") == name.daddr
            if same and track.sa.reqid == expire.state.reqid and not track.sa.errno:
                return track
    return None
