# SPDX-License-Identifier: Apache-2.0
"""IP and UDP headers as bytes: where ESP goes, and a header that fits again what follows it."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from host_driver.xfrm.flow import (
    DEST_OPTIONS,
    FRAGMENT,
    HOP_BY_HOP,
    IPV4_PROTO_AT,
    IPV6_NEXT_AT,
    ROUTING,
    UDP,
    family_of,
)
from proto.xfrm import AF_INET, AF_INET6

IPPROTO_IPIP, IPPROTO_IPV6 = 4, 41
IPV4_BYTES, IPV6_BYTES, UDP_BYTES = 20, 40, 8
IP_DF, IP_MF, IP_OFFSET = 0x4000, 0x2000, 0x1FFF  # of the word at byte 6
ECN_MASK, ECN_ECT_0, ECN_CE = 3, 2, 3
FRAGMENT_UNIT = 8

_U16 = struct.Struct(">H")
_UDP = struct.Struct(">HHHH")


class Parts(NamedTuple):
    """A packet cut in two. `head[next_at]` names the protocol of what followed it, `proto`."""

    head: bytes
    next_at: int
    proto: int
    payload: bytes


def checksum(data: bytes) -> int:
    """RFC 1071: the value that belongs into the checksum field, zero in `data`."""
    padded = data if len(data) % 2 == 0 else data + b"\0"
    total: int = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def checksum_good(packet: bytes) -> bool:
    """Whether an IPv4 header is undamaged; IPv6 headers have no checksum."""
    return family_of(packet) == AF_INET6 or not checksum(packet[: (packet[0] & 15) * 4])


def join(head: bytes, next_at: int, proto: int, payload: bytes) -> bytes:
    """The packet of `head` and another payload: protocol, length and checksum are set."""
    packet = bytearray(head + payload)
    packet[next_at] = proto
    if family_of(head) == AF_INET6:
        _U16.pack_into(packet, 4, len(packet) - IPV6_BYTES)
        return bytes(packet)
    _U16.pack_into(packet, 2, len(packet))
    return with_checksum(packet)


def with_checksum(packet: bytearray) -> bytes:
    """The IPv4 packet with the checksum that its header needs."""
    _U16.pack_into(packet, 10, 0)
    _U16.pack_into(packet, 10, checksum(bytes(packet[: (packet[0] & 15) * 4])))
    return bytes(packet)


def dsfield(packet: bytes) -> int:
    """TOS or traffic class: DSCP and ECN."""
    if family_of(packet) == AF_INET:
        return packet[1]
    return (packet[0] & 15) << 4 | packet[1] >> 4


def with_dsfield(packet: bytes, value: int) -> bytes:
    """The packet with another TOS or traffic class."""
    changed = bytearray(packet)
    if family_of(packet) == AF_INET:
        changed[1] = value
        return with_checksum(changed)
    _U16.pack_into(changed, 0, 6 << 12 | value << 4 | packet[1] & 15)
    return bytes(changed)


def dont_fragment(packet: bytes) -> bool:
    """Whether nobody may cut the packet on its way; nobody may with IPv6 (RFC 8200 5)."""
    return family_of(packet) == AF_INET6 or bool(_U16.unpack_from(packet, 6)[0] & IP_DF)


def split_transport(packet: bytes) -> Parts:
    """Cut where ESP goes in transport mode: behind what every node on the way reads.

    In IPv6 that is behind hop-by-hop, destination options in front of a routing header, and
    routing headers (RFC 4303 3.1.1). The packet has parsed before (`flow.find_upper`).
    """
    if family_of(packet) == AF_INET:
        end, total = (packet[0] & 15) * 4, _U16.unpack_from(packet, 2)[0]
        return Parts(packet[:end], IPV4_PROTO_AT, packet[IPV4_PROTO_AT], packet[end:total])
    end, next_at, routed = IPV6_BYTES, IPV6_NEXT_AT, False
    total = IPV6_BYTES + _U16.unpack_from(packet, 4)[0]
    while (proto := packet[next_at]) in (HOP_BY_HOP, ROUTING, DEST_OPTIONS):
        if proto == DEST_OPTIONS and routed:
            break
        routed = routed or proto == ROUTING
        next_at, end = end, end + (packet[end + 1] + 1) * 8
    return Parts(packet[:end], next_at, packet[next_at], packet[end:total])


def udp_encapsulate(head: bytes, sport: int, dport: int, payload: bytes) -> bytes:
    """A UDP header in front of ESP: without checksum in IPv4, with one in IPv6 (RFC 3948 2.1)."""
    length = UDP_BYTES + len(payload)
    if family_of(head) == AF_INET:
        return _UDP.pack(sport, dport, length, 0) + payload
    pseudo = head[8:40] + struct.pack(">IxxxB", length, UDP)
    summed = checksum(pseudo + _UDP.pack(sport, dport, length, 0) + payload)
    return _UDP.pack(sport, dport, length, summed or 0xFFFF) + payload


def fragments(packet: bytes, mtu: int, ident: int) -> list[bytes]:
    """A packet in pieces of at most `mtu` bytes; a short one stays whole.

    IPv4 (RFC 791) keeps its identification and repeats options in each piece. In IPv6 (RFC 8200
    4.5) `ident` is that of the fragment headers; the packet has no other extension headers that
    only its destination reads, because ESP comes first.
    """
    if len(packet) <= mtu:
        return [packet]
    return (
        _fragments4(packet, mtu)
        if family_of(packet) == AF_INET
        else _fragments6(packet, mtu, ident)
    )


def _cuts(payload: bytes, room: int) -> Iterator[tuple[int, bytes, bool]]:
    """Offset in units of 8 bytes, piece, whether more follow."""
    size = room // FRAGMENT_UNIT * FRAGMENT_UNIT
    for start in range(0, len(payload), size):
        piece = payload[start : start + size]
        yield start // FRAGMENT_UNIT, piece, start + size < len(payload)


def _fragments4(packet: bytes, mtu: int) -> list[bytes]:
    end = (packet[0] & 15) * 4
    word = _U16.unpack_from(packet, 6)[0]
    pieces = []
    for at, payload, more in _cuts(packet[end:], mtu - end):
        head = bytearray(packet[:end])
        _U16.pack_into(head, 6, word + at | (IP_MF if more else 0))
        pieces.append(join(bytes(head), IPV4_PROTO_AT, packet[IPV4_PROTO_AT], payload))
    return pieces


def _fragments6(packet: bytes, mtu: int, ident: int) -> list[bytes]:
    parts = split_transport(packet)
    return [
        join(
            parts.head,
            parts.next_at,
            FRAGMENT,
            struct.pack(">BxHI", parts.proto, at << 3 | more, ident) + payload,
        )
        for at, payload, more in _cuts(parts.payload, mtu - len(parts.head) - FRAGMENT_UNIT)
    ]
