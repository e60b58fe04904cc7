# SPDX-License-Identifier: Apache-2.0
"""The SAD: every live state, found by SPI, by addresses and reqid, or by sequence number (OBJ-14).

Buckets keep the order that decides what a lookup finds first (SAD-01..05): packet-offload
states at the head; the others before the first of their kind, but at the very head when a bucket
holds packet-offload states only (SAD-03, a trap that the kernel still has).
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from typing import TypeVar

from host_driver.xfrm.state import OFFLOAD_PACKET, KmState, XfrmState
from host_driver.xfrm.walk import WalkList
from proto.xfrm import AF_INET, IPPROTO_AH, IPPROTO_COMP, IPPROTO_ESP, IPSEC_PROTO_ANY

DstKey = tuple[bytes, bytes, int, int]
SpiKey = tuple[bytes, int, int, int]
AddressKey = tuple[bytes, bytes, int]

BUCKETS_MAX = 1 << 20
WITH_SPI = (IPPROTO_ESP, IPPROTO_AH, IPPROTO_COMP)


def proto_match(proto: int, wanted: int) -> bool:
    """xfrm_id_proto_match: 0 is every protocol, IPSEC_PROTO_ANY those with an SPI (DEL-06)."""
    return not wanted or proto == wanted or (wanted == IPSEC_PROTO_ANY and proto in WITH_SPI)


def addr(address: bytes, family: int) -> bytes:
    """What two addresses are compared by (xfrm_addr_equal): of an IPv4 one, its 4 bytes."""
    return address[:4] if family == AF_INET else address


def dst_key(x: XfrmState) -> DstKey:
    """Where xfrm_state_find looks."""
    return _dst_key(x.id.daddr, x.props.saddr, x.props.reqid, x.props.family)


def _dst_key(daddr: bytes, saddr: bytes, reqid: int, family: int) -> DstKey:
    return addr(daddr, family), addr(saddr, family), reqid, family


def spi_key(x: XfrmState) -> SpiKey:
    """Where the input looks."""
    return addr(x.id.daddr, x.props.family), x.id.spi, x.id.proto, x.props.family


def address_key(x: XfrmState) -> AddressKey:
    """Where a state is found by its ends alone."""
    family = x.props.family
    return addr(x.id.daddr, family), addr(x.props.saddr, family), family


def mark_match(mark: int, x: XfrmState) -> bool:
    """Whether a packet's or request's mark selects this state (STATE-28)."""
    return mark & x.mark.m == x.mark.v


class Bucket:
    """States of one key in the kernel's order; insertion and removal take constant time.

    The order is `_packet`, `_others`, `_behind`, each the newest first; `_behind` are the packet
    states that were there alone when the first of the others came to the head (SAD-03).
    """

    __slots__ = ("_behind", "_others", "_packet")

    def __init__(self) -> None:
        self._packet: dict[XfrmState, None] = {}
        self._others: dict[XfrmState, None] = {}
        self._behind: dict[XfrmState, None] = {}

    def __iter__(self) -> Iterator[XfrmState]:
        for part in (self._packet, self._others, self._behind):
            yield from reversed(part)

    def __bool__(self) -> bool:
        return bool(self._packet or self._others or self._behind)

    def insert(self, x: XfrmState) -> None:
        """Put a state where the kernel does."""
        if x.xso.type == OFFLOAD_PACKET:
            self._packet[x] = None
            return
        if not self._others:
            self._behind.update(self._packet)
            self._packet.clear()
        self._others[x] = None

    def rehash(self) -> None:
        """Into a larger table: each state in turn is put in anew (SAD-05)."""
        states = list(self)
        if len(states) == 1:
            return
        for part in (self._packet, self._others, self._behind):
            part.clear()
        for x in states:
            self.insert(x)

    def discard(self, x: XfrmState) -> None:
        """Take a state out, if it is there."""
        for part in (self._packet, self._others, self._behind):
            part.pop(x, None)


Key = TypeVar("Key", bound=Hashable)


def _insert(index: dict[Key, Bucket], key: Key, x: XfrmState) -> None:
    index.setdefault(key, Bucket()).insert(x)


def _discard(index: dict[Key, Bucket], key: Key, x: XfrmState) -> None:
    bucket = index.get(key)
    if bucket is not None:
        bucket.discard(x)
        if not bucket:
            del index[key]


class Sad:
    """States by all their keys. Iteration gives the newest first, as the kernel's dump does."""

    def __init__(self) -> None:
        self._all: WalkList[XfrmState] = WalkList()
        self._bydst: dict[DstKey, Bucket] = {}
        self._byspi: dict[SpiKey, Bucket] = {}
        self._byseq: dict[int, Bucket] = {}
        self._bysrc: dict[AddressKey, Bucket] = {}
        # How often an SPI is in use with a protocol, whatever the address (STATE-38).
        self._spis: Counter[tuple[int, int]] = Counter()
        # States that came in as larval ones: they tell where a search for one is worth it.
        self._acquiring: dict[DstKey, Bucket] = {}
        self.encapsulated = 0  # states whose ESP is in UDP
        # Moves whenever a cached choice of an SA may have become wrong (STATE-30).
        self.generation = 0
        # How large the kernel's hash tables would be by now; they never shrink (UAPI-75).
        self.buckets = 8

    def __len__(self) -> int:
        """SAs, larval ones included (SAD-08)."""
        return len(self._all)

    def __iter__(self) -> Iterator[XfrmState]:
        return iter(self._all)

    def __contains__(self, x: XfrmState) -> bool:
        return x in self._all

    def insert(self, x: XfrmState) -> None:
        """Put a state on its lists; one without SPI or sequence number is not found by it."""
        self._all.add(x)
        _insert(self._bydst, dst_key(x), x)
        if x.km.state == KmState.ACQ:
            _insert(self._acquiring, dst_key(x), x)
        if x.km.seq:
            _insert(self._byseq, x.km.seq, x)
        _insert(self._bysrc, address_key(x), x)
        self.insert_spi(x)
        self.encapsulated += x.encap is not None
        self.generation += 1
        if len(self._all) >= self.buckets < BUCKETS_MAX:
            self._grow()

    def insert_spi(self, x: XfrmState) -> None:
        """A state that is on the lists has got its SPI (ALLOCSPI)."""
        if x.id.spi:
            _insert(self._byspi, spi_key(x), x)
            self._spis[x.id.spi, x.id.proto] += 1

    def _grow(self) -> None:
        """Larger hash tables, into which the states go bucket by bucket, from head to tail."""
        self.buckets *= 2
        for index in (self._bydst, self._byspi, self._byseq, self._bysrc, self._acquiring):
            for bucket in index.values():
                bucket.rehash()

    def remove(self, x: XfrmState) -> None:
        """Take a state off all lists; doing it twice changes nothing (TRAP-36)."""
        if x not in self._all:
            return
        self._all.remove(x)
        self.encapsulated -= x.encap is not None
        _discard(self._bydst, dst_key(x), x)
        _discard(self._acquiring, dst_key(x), x)
        _discard(self._byspi, spi_key(x), x)
        _discard(self._byseq, x.km.seq, x)
        _discard(self._bysrc, address_key(x), x)
        if x.id.spi:
            self._spis[x.id.spi, x.id.proto] -= 1
            if not self._spis[x.id.spi, x.id.proto]:
                del self._spis[x.id.spi, x.id.proto]
        self.generation += 1

    def bucket(self, daddr: bytes, saddr: bytes, reqid: int, family: int) -> Iterable[XfrmState]:
        """Candidates of xfrm_state_find, in the kernel's order (TX-10)."""
        return self._bydst.get(_dst_key(daddr, saddr, reqid, family), ())

    def larval(self, daddr: bytes, saddr: bytes, reqid: int, family: int) -> Iterable[XfrmState]:
        """The larval states among the candidates, in the same order (STATE-29)."""
        key = _dst_key(daddr, saddr, reqid, family)
        bucket = self._bydst[key] if key in self._acquiring else ()
        return (x for x in bucket if x.km.state == KmState.ACQ)

    def lookup(
        self, mark: int, daddr: bytes, spi: int, proto: int, family: int
    ) -> XfrmState | None:
        """By SPI; SPI 0 is never found. The first that the mark selects wins (SAD-06)."""
        for x in self.with_spi(daddr, spi, proto, family):
            if mark_match(mark, x):
                return x
        return None

    def with_spi(self, daddr: bytes, spi: int, proto: int, family: int) -> Iterable[XfrmState]:
        """States of this SPI, in the kernel's order."""
        return self._byspi.get((addr(daddr, family), spi, proto, family), ())

    def between(self, daddr: bytes, saddr: bytes, family: int) -> Iterable[XfrmState]:
        """States with these ends, in the kernel's order."""
        return self._bysrc.get((addr(daddr, family), addr(saddr, family), family), ())

    def lookup_byaddr(
        self, mark: int, daddr: bytes, saddr: bytes, proto: int, family: int
    ) -> XfrmState | None:
        """By addresses, for protocols without SPI."""
        for x in self.between(daddr, saddr, family):
            if x.id.proto == proto and mark_match(mark, x):
                return x
        return None

    def locate(self, x: XfrmState) -> XfrmState | None:
        """The state with the identity of `x` (STATE-28)."""
        mark = x.mark.v & x.mark.m
        if proto_match(x.id.proto, IPSEC_PROTO_ANY):
            return self.lookup(mark, *spi_key(x))
        return self.lookup_byaddr(mark, x.id.daddr, x.props.saddr, x.id.proto, x.props.family)

    def spi_taken(self, spi: int, proto: int) -> bool:
        """Whether an SPI is in use with a protocol, whatever address and family (STATE-38)."""
        return (spi, proto) in self._spis

    def find_acq_byseq(self, mark: int, seq: int) -> XfrmState | None:
        """The larval state that an ACQUIRE with this sequence number made (SAD-07)."""
        for x in self._byseq.get(seq, ()):
            if x.km.state == KmState.ACQ and mark_match(mark, x):
                return x
        return None
