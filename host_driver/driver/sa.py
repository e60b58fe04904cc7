# SPDX-License-Identifier: Apache-2.0
"""The driver's view of an SA on the card: handles, cached totals, the commands that build it."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from host_driver.driver.totals import Bound, Totals
from host_driver.sleep import Completion
from proto.commands import (
    IN,
    INFINITE,
    OUT,
    CreateKey,
    CreateSa,
    Selector,
    SetLimits,
)  # fmt: skip
from proto.xfrm import (
    SA_XFLAG_DONT_ENCAP_DSCP,
    SA_XFLAG_OSEQ_MAY_WRAP,
    STATE_DECAP_DSCP,
    STATE_ESN,
    STATE_NOECN,
    STATE_NOPMTUDISC,
)
from proto.xfrm_structs import XfrmSelector

if TYPE_CHECKING:
    from host_driver.driver.objects import CardObject
    from host_driver.xfrm.state import XfrmState

LEGACY_WINDOW_MAX = 32  # struct xfrm_replay_state has one word
SEQ32_LAST, SEQ64_LAST = (1 << 32) - 1, (1 << 64) - 1
SALT_BYTES = 4  # RFC 4106 section 4: the last 4 bytes of the key material


Identity = tuple[int, bytes, int, int]


class Read(Enum):
    """Whether the SA is being read from the card; AGAIN: something happened meanwhile."""

    IDLE = 0
    READING = 1
    AGAIN = 2


@dataclass(slots=True, eq=False)
class Sa:
    """One SA on the card. `undo` are its objects there, in the order of their making.

    `base_packets` and `base_bytes` are what `x.curlft` held when the SA was offloaded; `limits` is
    what the card was told last, of a crypto SA with ESN `told`, the highest number; `telling` that
    this is under way. `retired` completes when nothing is left on the card. Of a `crypto` SA the
    host counts, and keeps the limits.
    """

    x: "XfrmState"
    handle: int
    generation: int
    undo: "list[CardObject]" = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)
    crypto: bool = False
    base_packets: int = 0
    base_bytes: int = 0
    limits: "Limits | None" = None
    told: int = 0
    telling: bool = False
    deleted: bool = False
    stop_sent: bool = False
    stops_read: int = 0  # in a row, while no limit that the core knows was reached
    read: Read = Read.IDLE
    retired: Completion = field(default_factory=Completion)

    def __post_init__(self) -> None:
        self.totals.bound = _bound(self)

    @property
    def identity(self) -> Identity:
        """What the core keeps apart: direction, destination, SPI, family (STATE-28)."""
        x = self.x
        return x.xso.dir, x.id.daddr, x.id.spi, x.props.family

    @property
    def exhausted(self) -> bool:
        """Whether the last outbound sequence number was used (RFC 4303 3.3.3)."""
        props = self.x.props
        if self.crypto or self.x.xso.dir != OUT or props.extra_flags & SA_XFLAG_OSEQ_MAY_WRAP:
            return False
        return self.totals.seq >= (SEQ64_LAST if props.flags & STATE_ESN else SEQ32_LAST)

    @property
    def limited(self) -> bool:
        """Whether packets, bytes or, while it was not used yet, use can expire this SA."""
        lft = self.x.lft
        if self.crypto:
            return False
        if not self.x.curlft.use_time and (
            lft.soft_use_expires_seconds or lft.hard_use_expires_seconds
        ):
            return True
        limits = (lft.soft_byte_limit, lft.hard_byte_limit)
        return any(
            limit != INFINITE for limit in (*limits, lft.soft_packet_limit, lft.hard_packet_limit)
        )


class SaTable:
    """SAs in the data path by handle; `limited` are those that traffic can expire, `encapsulated`
    those in UDP. `version` moves with every SA that comes or goes."""

    def __init__(self) -> None:
        self._sas: dict[int, Sa] = {}
        self._by_state: dict[XfrmState, Sa] = {}
        self._by_identity: defaultdict[Identity, list[Sa]] = defaultdict(list)
        self._pairs: Counter[tuple[bytes, bytes]] = Counter()  # of inbound SAs: source, destination
        self.packet_in = 0  # inbound SAs whose ESP the card opens
        self.limited: dict[int, Sa] = {}
        self.encapsulated: set[int] = set()
        self.version = 0

    def __len__(self) -> int:
        return len(self._sas)

    def __iter__(self) -> Iterator[Sa]:
        return iter(self._sas.values())

    def bind(self, sa: Sa) -> None:
        """Make the SA known to receive path and events."""
        self.version += 1
        if sa.x.encap is not None:
            self.encapsulated.add(sa.handle)
        self._sas[sa.handle] = sa
        self._by_state[sa.x] = sa
        self._by_identity[sa.identity].append(sa)
        self._count_inbound(sa, 1)
        self.note_limits(sa)

    def unbind(self, sa: Sa) -> None:
        """Forget it; unknown ones are fine."""
        if self._sas.get(sa.handle) is sa:
            self.version += 1
            self.encapsulated.discard(sa.handle)
            del self._sas[sa.handle]
            self._by_state.pop(sa.x, None)
            same = self._by_identity[sa.identity]
            same.remove(sa)
            if not same:
                del self._by_identity[sa.identity]
            self._count_inbound(sa, -1)
            self.limited.pop(sa.handle, None)

    def _count_inbound(self, sa: Sa, change: int) -> None:
        if sa.x.xso.dir != IN:
            return
        pair = sa.x.props.saddr, sa.x.id.daddr
        self._pairs[pair] += change
        if not self._pairs[pair]:
            del self._pairs[pair]
        self.packet_in += 0 if sa.crypto else change

    def has_pair(self, saddr: bytes, daddr: bytes) -> bool:
        """Whether some inbound SA goes from `saddr` to `daddr` (16 bytes each)."""
        return (saddr, daddr) in self._pairs

    def inbound(self, daddr: bytes, spi: int, family: int) -> Sa | None:
        """The inbound SA of an ESP packet, as the card would find it."""
        same = self._by_identity.get((IN, daddr, spi, family), [])
        return next((sa for sa in same if not sa.deleted), None)

    def note_limits(self, sa: Sa) -> None:
        """Look at `x.lft` again: an update may have changed it without a word (LIFE-37)."""
        if self._sas.get(sa.handle) is not sa or sa.deleted or not sa.limited:
            self.limited.pop(sa.handle, None)
        else:
            self.limited[sa.handle] = sa

    def new_limits(self, sa: Sa) -> SetLimits | None:
        """The command that tells the card of changed limits or of dying; the core tells nobody."""
        now = limits(sa.x, sa.base_packets, sa.base_bytes)
        if sa.deleted or sa.crypto or now == sa.limits:
            return None
        sa.limits = now
        sa.totals.stopped = sa.stop_sent = False
        sa.stops_read = 0
        return SetLimits(handle=sa.handle, **now._asdict())

    def find(self, handle: int, generation: int) -> Sa | None:
        """The SA of a descriptor, event or record; None for a stale generation (F-LIM-04)."""
        sa = self._sas.get(handle)
        return sa if sa is not None and sa.generation == generation else None

    def of(self, x: "XfrmState") -> Sa | None:
        """What the card has of a state, until it is retired; None when nothing, or no longer."""
        return self._by_state.get(x)

    def twins(self, sa: Sa, *, deleted: bool = False) -> list[Sa]:
        """Other bound SAs of the same identity; `deleted` asks for those on their way out."""
        same = self._by_identity.get(sa.identity, [])
        return [other for other in same if other is not sa and other.deleted is deleted]


def selector(sel: XfrmSelector) -> Selector:
    """The kernel's selector as the card takes it."""
    return Selector(
        family=sel.family,
        saddr=sel.saddr,
        daddr=sel.daddr,
        prefixlen_s=sel.prefixlen_s,
        prefixlen_d=sel.prefixlen_d,
        proto=sel.proto,
        sport=sel.sport,
        sport_mask=sel.sport_mask,
        dport=sel.dport,
        dport_mask=sel.dport_mask,
    )


def replay_window(x: "XfrmState") -> int:
    """The window in packets, wherever the request carried it. The legacy bitmap has 32 bits."""
    if x.replay_esn:
        return x.replay_esn.fixed.replay_window
    return min(x.props.replay_window, LEGACY_WINDOW_MAX)


def _replay(x: "XfrmState") -> tuple[int, tuple[int, ...]]:
    """Last sequence number used (out) or highest seen (in), and the bitmap in replay_esn's form."""
    inbound = x.xso.dir == IN
    if x.replay_esn:
        fixed = x.replay_esn.fixed
        low, high = (fixed.seq, fixed.seq_hi) if inbound else (fixed.oseq, fixed.oseq_hi)
        esn = bool(x.props.flags & STATE_ESN)
        return (high << 32 | low if esn else low), tuple(x.replay_esn.bmp) if inbound else ()
    if not inbound:
        return x.replay.oseq, ()
    # The legacy bitmap counts back from the highest number; replay_esn's is indexed by number.
    window, word = replay_window(x), 0
    for back in range(window):
        if x.replay.bitmap >> back & 1:
            word |= 1 << (x.replay.seq - 1 - back) % window
    return x.replay.seq, (word,) if window else ()


def _bound(sa: Sa) -> Bound | None:
    """What sequence numbers say about packets: nothing where they wrap, or are not looked at."""
    x = sa.x
    window = replay_window(x) if x.xso.dir == IN else 0
    wraps = bool(x.props.extra_flags & SA_XFLAG_OSEQ_MAY_WRAP)
    if sa.crypto or wraps or (x.xso.dir == IN and not window):
        return None
    return Bound(_replay(x)[0], window)


class Limits(NamedTuple):
    """What the card enforces, counted from the offload of the SA."""

    packets: int
    soft_packets: int
    bytes: int
    dying: bool = False


def limits(x: "XfrmState", base_packets: int, base_bytes: int) -> Limits:
    """The core's limits as the card takes them: what is left after the base, at least 1."""
    lft = x.lft

    def left(limit: int, used: int) -> int:
        return INFINITE if limit == INFINITE else max(1, limit - used)

    return Limits(
        left(lft.hard_packet_limit, base_packets),
        left(lft.soft_packet_limit, base_packets),
        left(lft.hard_byte_limit, base_bytes),
        bool(x.km.dying),
    )


def create_key(x: "XfrmState") -> CreateKey:
    """The key object. The mailbox zeroes this copy of the key once the card has answered."""
    assert x.aead is not None
    return CreateKey(x.aead.key[:-SALT_BYTES])  # type: ignore[arg-type]  # writable on purpose


def create_sa(x: "XfrmState", key: int) -> CreateSa:
    """The SA object of a validated state; `key` is the handle of its key object."""
    now, flags = limits(x, x.curlft.packets, x.curlft.bytes), x.props.flags
    return msgspec.structs.replace(
        create_crypto_sa(x, key),
        crypto=False,
        reqid=x.props.reqid,
        selector=selector(x.sel),
        bitmap=_replay(x)[1],
        packets=now.packets,
        soft_packets=now.soft_packets,
        bytes=now.bytes,
        mode=x.props.mode,
        noecn=bool(flags & STATE_NOECN),
        decap_dscp=bool(flags & STATE_DECAP_DSCP),
        nopmtudisc=bool(flags & STATE_NOPMTUDISC),
        dont_encap_dscp=bool(x.props.extra_flags & SA_XFLAG_DONT_ENCAP_DSCP),
    )


def create_crypto_sa(x: "XfrmState", key: int) -> CreateSa:
    """The same for crypto offload: what sealing and opening need, nothing that the host does."""
    assert x.aead is not None
    encap = x.encap
    return CreateSa(
        key=key,
        salt=bytes(x.aead.key[-SALT_BYTES:]),
        icv_bytes=x.aead.icv_bits // 8,
        spi=x.id.spi,
        family=x.props.family,
        saddr=x.props.saddr,
        daddr=x.id.daddr,
        direction=x.xso.dir,
        reqid=0,
        selector=Selector(),
        esn=bool(x.props.flags & STATE_ESN),
        may_wrap=bool(x.props.extra_flags & SA_XFLAG_OSEQ_MAY_WRAP),
        seq=_replay(x)[0],
        replay_window=replay_window(x) if x.xso.dir == IN else 0,
        encap_sport=encap.encap_sport if encap else 0,
        encap_dport=encap.encap_dport if encap else 0,
        crypto=True,
    )
