# SPDX-License-Identifier: Apache-2.0
"""What the wire and the stacks have shown of each SA, and the frames they showed it by."""

import ipaddress
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from host_driver.lab.record import Frame
from host_driver.simulate.headers import Parsed
from host_driver.simulate.ledger import SaAsked, Submitted
from host_driver.simulate.window import SPACE, Window


class Fate(Enum):
    """What the reference does with a frame that arrives at a host, before any policy."""

    CLEAR = "clear"  # no ESP of an SA: the policies decide
    TAKEN = "taken"  # authentic and fresh: opened
    REPLAY = "replay"
    INTEGRITY = "integrity"
    SHORT = "short"  # too short for ESP
    TRAILER = "trailer"
    LIMIT = "limit"  # the SA's hard limit is reached
    NO_SA = "no SA"  # ESP that no SA of the host is for
    PIECE = "piece"  # of an ESP packet that software will put together
    MALFORMED = "malformed"
    OTHER = "other"  # not IP


@dataclass(eq=False)
class Seen:
    """One frame: who sealed it, and what its receiver should make of it.

    `packet` is the IP packet without what follows it, None where there is none. Of ESP sent by a
    card, `out` is the SA that opens it (None: none of its host does), `number` the whole sequence
    number and `inner` what was inside; `expected_high` the ESN half that was due. `submitted` is
    the packet of the stack that it carries, None when no stack sent such a packet.
    `into`, `fate` and `arrived` (the packet for the stack) are of the receiver; `numbers` of its
    SA; `delivered` counts how often its stack got it.
    """

    frame: Frame
    step: int
    packet: bytes | None
    parsed: Parsed | None
    esp: bool = False
    spi: int = 0
    out: "Track | None" = None
    foreign: "Track | None" = None  # of another host, and opens it
    number: int = 0
    before: int = 0  # the highest number before this one
    nth: int = 0  # of the SA's packets, from 1
    bytes_before: int = 0  # payload bytes of those before it
    expected_high: int | None = None
    iv: bytes = b""
    iv_uses: int = 0  # with its key, this one included
    inner: bytes | None = None
    sealed: int = 0  # payload bytes of what left
    piece: bool = False  # a fragment of ESP that more must come to
    padding: bytes = b""
    next_header: int = 0
    submitted: Submitted | None = None
    into: "Track | None" = None
    fate: Fate = Fate.OTHER
    number_in: int = 0
    next_half: bool = False  # opens under the high half behind the one that is due
    after_forged: bool = False  # its SA had got a wrong ICV under a number beyond its window
    arrived: bytes | None = None
    behind: bool = False  # its number was not beyond the window's top when it came
    size: int = 0  # payload bytes of what came
    delivered: int = 0
    top_before: int = 0  # of what was delivered, when it was delivered

    def __str__(self) -> str:
        """What it is, for people."""
        where = "injected" if self.frame.src is None else f"sent by host{self.frame.src}"
        if self.parsed is None:
            return f"frame of {len(self.frame.data)} bytes, {where}"
        ends = f"{' > '.join(ends_of(self.parsed))} proto {self.parsed.proto}"
        return f"packet {ends}{f' SPI {self.spi:#x}' if self.spi else ''}, {where}"


@dataclass(eq=False)
class Track:
    """The history of one SA of one host. `number` is the highest that the wire has seen (out).

    `exact`: nothing has happened to host, card or wire since it was asked for that the reference
    does not follow, so that `window`, `taken` and `sent` are what the card has, too.
    """

    sa: SaAsked
    number: int = 0
    sent: int = 0
    sent_bytes: int = 0
    last_bytes: int = 0  # of the last packet, sent or delivered
    window: Window = field(init=False)
    taken: int = 0  # by the reference
    taken_bytes: int = 0
    last_taken: int = 0  # bytes of the last packet that the reference took
    replays: int = 0  # refused by the window; number 0 is no replay (REPLAY-08)
    failed: int = 0  # refused for its ICV
    delivered: Counter[int] = field(default_factory=Counter)  # to the stack, by number
    delivered_bytes: int = 0
    came: int = 0  # frames that the reference took, or may have: all that opened
    curlft: int = 0  # packets, as told last
    delivered_top: int = 0
    limit_ns: int | None = None  # when the reference saw a hard limit reached
    used_ns: int | None = None  # when it saw the first packet
    forged: bool = False  # a wrong ICV under a number beyond the window came in
    exact: bool = True
    updated: tuple[int, int, int] | None = None  # step of the last update, packets, bytes then
    soft_told: list[int] = field(default_factory=list)  # steps
    hard_told: list[int] = field(default_factory=list)
    target: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.exact = self.windowed or not self.sa.window or self.sa.direction == "out"
        self.number = self.sa.sequence
        self.target = ipaddress.ip_address(self.sa.dst).packed
        self.window = Window(self.sa.window, self.sa.sequence, esn=self.sa.esn)

    def __repr__(self) -> str:
        sa = self.sa
        return f"SA {sa.number} (host{sa.host} {sa.direction} {sa.dst} {sa.spi:#x} {sa.offload})"

    def expected_high(self, low: int) -> int | None:
        """The ESN high half of the next number with this low half (RFC 4303 2.2.1)."""
        if not self.sa.esn:
            return None
        high, top = divmod(self.number, SPACE)
        return high + (low <= top)

    def limit(self, name: str) -> int | None:
        """The largest limit of this name that was ever asked for; None where one time had none."""
        asked = [self.sa.limits, *(limits for _, limits, _ in self.sa.updates)]
        values = [getattr(limits, name) for limits in asked]
        return None if None in values else max(values)

    def allowed(self, name: str) -> int | None:
        """How much an SA may move by now under the hard limit of this name: after an update that
        was taken before the last moment of rest, that limit, or what it had moved by then."""
        if self.updated is None:
            return self.limit(name)
        taken = [limits for _, limits, error in self.sa.updates if not error]
        latest: int | None = getattr(taken[-1], name)
        moved = self.updated[1] if name == "hard_packets" else self.updated[2]
        return None if latest is None else max(latest, moved)

    @property
    def moved(self) -> tuple[int, int]:
        """Packets and bytes that it sealed, or that a stack got through it."""
        if self.sa.direction == "out":
            return self.sent, self.sent_bytes
        return self.delivered.total(), self.delivered_bytes

    @property
    def windowed(self) -> bool:
        """Whether it must take no number twice. Linux finds its window's head anew from 32 bits and
        jumps where 2^32 is no multiple of the window; a card need not."""
        window = self.sa.window
        own = self.sa.offload == "packet" or (window > 0 and not SPACE % window)
        return self.sa.direction == "in" and window > 0 and own

    @property
    def exhausted(self) -> bool:
        """Whether the last sequence number of an SA out is on the wire."""
        return not self.sa.esn and self.number >= SPACE - 1

    def looked_at(self, now_ns: int) -> None:
        """A packet has counted: when that was the first one, or a limit was reached by it."""
        if self.used_ns is None:
            self.used_ns = now_ns
        if self.limit_reached() and self.limit_ns is None:
            self.limit_ns = now_ns

    def limit_reached(self) -> bool:
        """Whether a hard limit of packets or bytes is reached, as the reference counts."""
        out = self.sa.direction == "out"
        packets, octets = (self.sent, self.sent_bytes) if out else (self.taken, self.taken_bytes)
        return _at(packets, self.limit("hard_packets")) or _at(octets, self.limit("hard_bytes"))


def _at(count: int, limit: int | None) -> bool:
    return limit is not None and count >= limit


def ends_of(parsed: Parsed) -> tuple[str, str]:
    """Source and destination of a packet, as users write them."""
    return str(ipaddress.ip_address(parsed.src)), str(ipaddress.ip_address(parsed.dst))


class Tracks:
    """All SAs ever asked for, by place in the ledger and by what the wire shows of them."""

    def __init__(self) -> None:
        self._all: list[Track] = []
        self._named: defaultdict[tuple[int, str, int], list[Track]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Track]:
        return iter(self._all)

    def learn(self, sas: Iterable[SaAsked]) -> None:
        """SAs that are new in the ledger."""
        for sa in sas:
            track = Track(sa)
            self._all.append(track)
            self._named[sa.host, sa.direction, sa.spi].append(track)

    def of(self, sa: SaAsked) -> Track:
        """The track of an SA."""
        return self._all[sa.number]

    def named(self, host: int, direction: str, spi: int) -> list[Track]:
        """All of a host, direction and SPI, oldest first."""
        return self._named.get((host, direction, spi), [])
