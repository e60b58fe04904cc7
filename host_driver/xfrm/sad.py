# SPDX-License-Identifier: Apache-2.0
"""The SAD: every live state, found by SPI, by addresses and reqid, or by sequence number (OBJ-14).

Buckets keep the order that decides what a lookup finds first (SAD-01..05): packet-offload
states at the head; the others before the first of their kind, but at the very head when a bucket
holds packet-offload states only (SAD-03, a trap that the kernel still has).
"""

from collections.abc import Iterable, Iterator

from host_driver.xfrm.state import OFFLOAD_PACKET, KmState, XfrmState
from proto.xfrm import AF_INET, AF_INET6, IPPROTO_AH, IPPROTO_COMP, IPPROTO_ESP, IPSEC_PROTO_ANY

DstKey = tuple[bytes, bytes, int, int]
SpiKey = tuple[bytes, int, int, int]

BUCKETS_MAX = 1 << 20
WITH_SPI = (IPPROTO_ESP, IPPROTO_AH, IPPROTO_COMP)


def proto_match(proto: int, wanted: int) -> bool:
    """xfrm_id_proto_match: 0 is every protocol, IPSEC_PROTO_ANY those with an SPI (DEL-06)."""
    return not wanted or proto == wanted or (wanted == IPSEC_PROTO_ANY and proto in WITH_SPI)


def dst_key(x: XfrmState) -> DstKey:
    """Where xfrm_state_find looks."""
    return x.id.daddr, x.props.saddr, x.props.reqid, x.props.family


def spi_key(x: XfrmState) -> SpiKey:
    """Where the input looks."""
    return x.id.daddr, x.id.spi, x.id.proto, x.props.family


def mark_match(mark: int, x: XfrmState) -> bool:
    """Whether a packet's or request's mark selects this state (STATE-28)."""
    return mark & x.mark.m == x.mark.v


def _insert(bucket: list[XfrmState], x: XfrmState) -> None:
    at = 0
    if x.xso.type != OFFLOAD_PACKET:
        others = (i for i, y in enumerate(bucket) if y.xso.type != OFFLOAD_PACKET)
        at = next(others, 0)
    bucket.insert(at, x)


class Sad:
    """States by all their keys. Iteration gives the newest first, as the kernel's dump does."""

    def __init__(self) -> None:
        self._all: dict[XfrmState, None] = {}
        self._bydst: dict[DstKey, list[XfrmState]] = {}
        self._byspi: dict[SpiKey, list[XfrmState]] = {}
        self._byseq: dict[int, list[XfrmState]] = {}
        # Moves whenever a cached choice of an SA may have become wrong (STATE-30).
        self.generation = 0
        # How large the kernel's hash tables would be by now; they never shrink (UAPI-75).
        self.buckets = 8

    def __len__(self) -> int:
        """SAs, larval ones included (SAD-08)."""
        return len(self._all)

    def __iter__(self) -> Iterator[XfrmState]:
        return reversed(self._all)

    def __contains__(self, x: XfrmState) -> bool:
        return x in self._all

    def insert(self, x: XfrmState) -> None:
        """Put a state on its lists; one without SPI or sequence number is not found by it."""
        self._all[x] = None
        if len(self._all) >= self.buckets < BUCKETS_MAX:
            self.buckets *= 2
        _insert(self._bydst.setdefault(dst_key(x), []), x)
        if x.km.seq:
            _insert(self._byseq.setdefault(x.km.seq, []), x)
        self.insert_spi(x)
        self.generation += 1

    def insert_spi(self, x: XfrmState) -> None:
        """A state that is on the lists has got its SPI (ALLOCSPI)."""
        if x.id.spi:
            _insert(self._byspi.setdefault(spi_key(x), []), x)

    def remove(self, x: XfrmState) -> None:
        """Take a state off all lists; doing it twice changes nothing (TRAP-36)."""
        if x not in self._all:
            return
        del self._all[x]
        _discard(self._bydst, dst_key(x), x)
        _discard(self._byspi, spi_key(x), x)
        _discard(self._byseq, x.km.seq, x)
        self.generation += 1

    def bump_genids(self, new: XfrmState) -> None:
        """A state that competes with others appeared: they are chosen anew (STATE-30)."""
        self.generation += 1
        mark = new.mark.v & new.mark.m
        for x in self._bydst.get(dst_key(new), ()):
            if x.if_id == new.if_id and mark_match(mark, x):
                x.genid += 1

    def bucket(self, daddr: bytes, saddr: bytes, reqid: int, family: int) -> Iterable[XfrmState]:
        """Candidates of xfrm_state_find, in the kernel's order (TX-10)."""
        return self._bydst.get((daddr, saddr, reqid, family), ())

    def lookup(
        self, mark: int, daddr: bytes, spi: int, proto: int, family: int
    ) -> XfrmState | None:
        """By SPI; SPI 0 is never found. The first that the mark selects wins (SAD-06)."""
        for x in self._byspi.get((daddr, spi, proto, family), ()):
            if mark_match(mark, x):
                return x
        return None

    def lookup_byaddr(
        self, mark: int, daddr: bytes, saddr: bytes, proto: int, family: int
    ) -> XfrmState | None:
        """By addresses, for protocols without SPI."""
        wanted = (daddr, saddr, proto, family)
        for x in self:
            found = (x.id.daddr, x.props.saddr, x.id.proto, x.props.family)
            if found == wanted and mark_match(mark, x):
                return x
        return None

    def locate(self, x: XfrmState) -> XfrmState | None:
        """The state with the identity of `x` (STATE-28)."""
        mark = x.mark.v & x.mark.m
        if proto_match(x.id.proto, IPSEC_PROTO_ANY):
            return self.lookup(mark, *spi_key(x))
        return self.lookup_byaddr(mark, x.id.daddr, x.props.saddr, x.id.proto, x.props.family)

    def spi_taken(self, daddr: bytes, spi: int, proto: int) -> bool:
        """Whether any family has this SPI already (STATE-38)."""
        return any((daddr, spi, proto, family) in self._byspi for family in (AF_INET, AF_INET6))

    def find_acq_byseq(self, mark: int, seq: int) -> XfrmState | None:
        """The larval state that an ACQUIRE with this sequence number made (SAD-07)."""
        for x in self._byseq.get(seq, ()):
            if x.km.state == KmState.ACQ and mark_match(mark, x):
                return x
        return None


def _discard(index: dict, key: object, x: XfrmState) -> None:  # type: ignore[type-arg]
    bucket = index.get(key)
    if bucket and x in bucket:
        bucket.remove(x)
        if not bucket:
            del index[key]
