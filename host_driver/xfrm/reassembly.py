# SPDX-License-Identifier: Apache-2.0
"""ESP that arrives in IP fragments is put together before it is opened (RFC 4303 3.4.1).

Everything is bounded: datagrams under way, their age, their length. Pieces that overlap end their
datagram, as in the kernel (RFC 5722). All is counted (RFC 4293).
"""

import struct
from dataclasses import dataclass, field

from host_driver.xfrm.flow import IPV4_PROTO_AT, IPV6_NEXT_AT, Upper, family_of
from host_driver.xfrm.headers import FRAGMENT_UNIT, IP_MF, IP_OFFSET, IPV6_BYTES, join
from host_driver.xfrm.snmp import REASM_FAILS, REASM_OKS, REASM_REQDS, REASM_TIMEOUT, Snmp
from proto.clock import NS
from proto.xfrm import AF_INET

DATAGRAMS_MAX = 64
TIMEOUT_NS = 30 * NS  # net.ipv4.ipfrag_time
LENGTH_MAX = 0xFFFF

Key = tuple[bytes, bytes, int, int]
_WORD4 = struct.Struct(">HH")  # identification, flags and offset: bytes 4 to 8 of the header
_FRAGMENT6 = struct.Struct(">BxHI")


@dataclass(slots=True)
class _Piece:
    """`head` and `next_at` as in `headers.Parts`, of the datagram without its fragment header."""

    key: Key
    start: int
    more: bool
    payload: bytes
    head: bytes
    next_at: int


@dataclass(slots=True)
class _Datagram:
    due_ns: int
    pieces: dict[int, _Piece] = field(default_factory=dict)


class Reassembly:
    """The datagrams of a host that are not complete yet."""

    def __init__(self, snmp: Snmp) -> None:
        self._snmp = snmp
        self._datagrams: dict[Key, _Datagram] = {}

    def __len__(self) -> int:
        return len(self._datagrams)

    def add(self, now_ns: int, packet: bytes, upper: Upper) -> bytes | None:
        """Take a fragment; the whole packet with the last of them, else None."""
        family = family_of(packet)
        self._snmp.bump(family, REASM_REQDS)
        self.expire(now_ns)
        piece = _piece(packet, upper)
        end = piece.start + len(piece.payload)
        if (piece.more and len(piece.payload) % FRAGMENT_UNIT) or end > LENGTH_MAX:
            self._snmp.bump(family, REASM_FAILS)
            return None
        while piece.key not in self._datagrams and len(self) >= DATAGRAMS_MAX:
            self._give_up(next(iter(self._datagrams)))
        datagram = self._datagrams.setdefault(piece.key, _Datagram(now_ns + TIMEOUT_NS))
        if (known := datagram.pieces.get(piece.start)) and known.payload == piece.payload:
            return None  # the same once more
        datagram.pieces[piece.start] = piece
        if _overlaps(datagram, known):
            self._give_up(piece.key)
            return None
        whole = _whole(datagram, upper.proto)
        if whole is not None:
            del self._datagrams[piece.key]
            self._snmp.bump(family, REASM_OKS)
        return whole

    def expire(self, now_ns: int) -> None:
        """Give up the datagrams that are too old."""
        for key in [k for k, one in self._datagrams.items() if one.due_ns <= now_ns]:
            self._snmp.bump(self._give_up(key), REASM_TIMEOUT)

    def _give_up(self, key: Key) -> int:
        """Forget a datagram; its family."""
        piece = next(iter(self._datagrams.pop(key).pieces.values()))
        self._snmp.bump(family := family_of(piece.head), REASM_FAILS)
        return family


def _piece(packet: bytes, upper: Upper) -> _Piece:
    payload = packet[upper.offset : upper.end]
    if family_of(packet) == AF_INET:
        ident, word = _WORD4.unpack_from(packet, 4)
        key = (upper.saddr, upper.daddr, upper.proto, ident)
        head = packet[:6] + b"\0\0" + packet[8 : upper.offset]
        start = (word & IP_OFFSET) * FRAGMENT_UNIT
        return _Piece(key, start, bool(word & IP_MF), payload, head, IPV4_PROTO_AT)
    at = upper.next_at  # of the fragment header, the last one that was read
    _, word, ident = _FRAGMENT6.unpack_from(packet, at)
    key = (upper.saddr, upper.daddr, upper.proto, ident)
    return _Piece(key, word & ~7, bool(word & 1), payload, packet[:at], _named_by(packet, at))


def _named_by(packet: bytes, at: int) -> int:
    """The place of the byte that names the IPv6 extension header at `at`."""
    next_at, following = IPV6_NEXT_AT, IPV6_BYTES
    while following < at:
        next_at, following = following, following + (packet[following + 1] + 1) * 8
    return next_at


def _overlaps(datagram: _Datagram, replaced: _Piece | None) -> bool:
    end = 0
    for start in sorted(datagram.pieces):
        if start < end:
            return True
        end = start + len(datagram.pieces[start].payload)
    return replaced is not None


def _whole(datagram: _Datagram, proto: int) -> bytes | None:
    """The packet, if the pieces leave no gap up to one that is the last."""
    payload, last = b"", False
    for start in sorted(datagram.pieces):
        piece = datagram.pieces[start]
        if start != len(payload) or last:
            return None
        payload, last = payload + piece.payload, not piece.more
    if not last or len(datagram.pieces[0].head) + len(payload) > LENGTH_MAX:
        return None
    first = datagram.pieces[0]
    return join(first.head, first.next_at, proto, payload)
