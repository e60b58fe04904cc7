# SPDX-License-Identifier: Apache-2.0
"""Segmentation of large TCP and UDP packets by the host, where no device does it (GSO).

A large packet has the headers of one packet and the payload of many: `gso_size` bytes in each, the
rest in the last. What is written into each one's headers is what the kernel's tcp_gso_segment and
__udp_gso_segment write; `nic_model.segment` does the same in the card.
"""

from collections.abc import Iterable
from typing import NamedTuple

from host_driver.xfrm.flow import (
    FRAGMENT,
    IPV6_EXTENSIONS,
    IPV6_NEXT_AT,
    ROUTING,
    TCP,
    UDP,
    find_upper,
)
from host_driver.xfrm.headers import IPV4_BYTES, IPV6_BYTES, UDP_BYTES, checksum
from proto.limits import GSO_MAX_BYTES, GSO_MAX_SEGMENTS, TXQUEUE_LEN

TCP_BYTES = 20
GSO_SIZE_MAX = 0xFFFF
PIECES_MAX = TXQUEUE_LEN // 2  # software ESP may make two packets of each, and all fit a queue
SEGMENTS_TCP4, SEGMENTS_TCP6 = "tx-tcp-segmentation", "tx-tcp6-segmentation"
SEGMENTS_UDP = "tx-udp-segmentation"
FEATURES = frozenset({SEGMENTS_TCP4, SEGMENTS_TCP6, SEGMENTS_UDP})  # as ethtool calls them
IPV4_END, IPV4_NOP, SOURCE_ROUTES = 0, 1, (131, 137)
_CWR, _PSH, _FIN = 0x80, 0x08, 0x01


class Layout(NamedTuple):
    """A packet that can be cut: its upper layer begins at `upper`, its payload at `payload`."""

    ipv6: bool
    proto: int
    upper: int
    payload: int

    @property
    def feature(self) -> str:
        """What a device must have to cut it."""
        if self.proto == UDP:
            return SEGMENTS_UDP
        return SEGMENTS_TCP6 if self.ipv6 else SEGMENTS_TCP4


def layout(packet: bytes) -> Layout | None:
    """None for what is not TCP or UDP in one whole packet."""
    upper = find_upper(packet)
    if upper is None or upper.fragment or upper.end != len(packet):
        return None
    at, size = upper.offset, UDP_BYTES
    if upper.proto == TCP and upper.end - at >= TCP_BYTES:
        size = (packet[at + 12] >> 4) * 4
    if upper.proto not in (TCP, UDP) or at + size > upper.end:
        return None
    if (upper.proto == TCP and size < TCP_BYTES) or source_routed(packet):
        return None
    return Layout(packet[0] >> 4 == 6, upper.proto, at, at + size)


def source_routed(packet: bytes) -> bool:
    """Whether a header tells a way: its checksum is over an address that does not stand in front
    (RFC 8200 8.1; RFC 791, loose and strict source route)."""
    if packet[0] >> 4 == 4:
        at, end = IPV4_BYTES, (packet[0] & 15) * 4
        while at < end and packet[at] != IPV4_END:
            if packet[at] in SOURCE_ROUTES:
                return True
            if packet[at] == IPV4_NOP:
                at += 1
                continue
            if at + 1 >= end or packet[at + 1] < 2:
                return True  # nobody can tell
            at += packet[at + 1]
        return False
    proto, at = packet[IPV6_NEXT_AT], IPV6_BYTES
    while proto in IPV6_EXTENSIONS:
        if proto == ROUTING and packet[at + 3]:
            return True
        size = 8 if proto == FRAGMENT else (packet[at + 1] + 1) * 8
        proto, at = packet[at], at + size
    return False


def pieces(packet: bytes, gso_size: int) -> int:
    """How many packets it becomes; 0 where nobody can cut it."""
    found = layout(packet) if 0 < gso_size <= GSO_SIZE_MAX else None
    return max(1, -(-(len(packet) - found.payload) // gso_size)) if found else 0


def can_be_cut(packet: bytes, gso_size: int) -> bool:
    """Whether anybody would, which has to fit the queue of a device."""
    return 0 < pieces(packet, gso_size) <= PIECES_MAX


def room(packet: bytes, gso_size: int) -> int:
    """How much of a device's queue it takes at most, where it is cut."""
    return 2 * pieces(packet, gso_size) if can_be_cut(packet, gso_size) else 1


def longest(packet: bytes, gso_size: int) -> int:
    """Bytes of the longest packet that it becomes."""
    found = layout(packet) if gso_size else None
    return min(len(packet), found.payload + gso_size) if found else len(packet)


def needs(packets: Iterable[bytes], gso_size: int) -> frozenset[str] | None:
    """What a device must have to cut these; None where none could, or where nobody can."""
    features = set()
    for packet in packets:
        found = layout(packet)
        if not found or not 0 < pieces(packet, gso_size) <= GSO_MAX_SEGMENTS:
            return None
        if len(packet) > GSO_MAX_BYTES:
            return None
        features.add(found.feature)
    return frozenset(features)


def can_segment(features: set[str], packet: bytes, gso_size: int) -> bool:
    """Whether a device with these features cuts the packet."""
    needed = needs([packet], gso_size)
    return needed is not None and needed <= features


def segment(packet: bytes, gso_size: int) -> list[bytes]:
    """The packets that one becomes which `can_be_cut`."""
    found = layout(packet)
    assert found is not None, "not to be cut"
    starts = range(found.payload, max(len(packet), found.payload + 1), gso_size)
    return [_piece(packet, found, start, gso_size) for start in starts]


def _piece(packet: bytes, found: Layout, start: int, gso_size: int) -> bytes:
    piece = bytearray(packet[: found.payload] + packet[start : start + gso_size])
    behind, upper = start - found.payload, found.upper
    if found.ipv6:
        piece[4:6] = (len(piece) - IPV6_BYTES).to_bytes(2)
        addresses = piece[8:40]
    else:
        ident = int.from_bytes(piece[4:6]) + behind // gso_size
        piece[2:4], piece[4:6] = len(piece).to_bytes(2), (ident & 0xFFFF).to_bytes(2)
        piece[10:12] = bytes(2)
        piece[10:12] = checksum(bytes(piece[: (piece[0] & 15) * 4])).to_bytes(2)
        addresses = piece[12:20]
    if found.proto == TCP:
        sequence = int.from_bytes(piece[upper + 4 : upper + 8]) + behind
        piece[upper + 4 : upper + 8] = (sequence & 0xFFFF_FFFF).to_bytes(4)
        if behind:
            piece[upper + 13] &= 0xFF ^ _CWR
        if start + gso_size < len(packet):
            piece[upper + 13] &= 0xFF ^ (_PSH | _FIN)
    else:
        piece[upper + 4 : upper + 6] = (len(piece) - upper).to_bytes(2)
    at = upper + (16 if found.proto == TCP else 6)
    piece[at : at + 2] = bytes(2)
    pseudo = addresses + (len(piece) - upper).to_bytes(4) + found.proto.to_bytes(4)
    summed = checksum(bytes(pseudo + piece[upper:]))
    piece[at : at + 2] = (summed or (0xFFFF if found.proto == UDP else 0)).to_bytes(2)
    return bytes(piece)
