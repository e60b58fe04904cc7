# SPDX-License-Identifier: Apache-2.0
"""IP headers taken apart by the observer's own hands (RFC 791, RFC 8200): nothing of core or card.

Addresses are bytes, 4 or 16; offsets count from the first byte of the IP packet.
"""

import struct
from typing import NamedTuple

ETHERNET_BYTES = 14
ICMP, IPIP, TCP, UDP, IPV6_IN, ESP, ICMPV6, NO_NEXT = 1, 4, 6, 17, 41, 50, 58, 59
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION = 0, 43, 44, 60
EXTENSIONS = (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION)
WITH_PORTS, WITH_TYPES = (TCP, UDP, 33, 132, 136), (ICMP, ICMPV6)
ETHERTYPES = {b"\x08\x00": 4, b"\x86\xdd": 6}


class Parsed(NamedTuple):
    """One IP packet. `at` is where the upper-layer header begins and `next_at` the byte that names
    it; `end` the packet's end by its own length. `offset` and `more` are of a fragment, `ident` its
    identification. Without ports (a later fragment, another protocol) those are 0; of ICMP they are
    type and code, as selectors take them. `whole` says that all of the upper header is there.
    """

    version: int
    src: bytes
    dst: bytes
    proto: int
    at: int
    next_at: int
    end: int
    ident: int = 0
    offset: int = 0
    more: bool = False
    sport: int = 0
    dport: int = 0
    whole: bool = True

    @property
    def fragment(self) -> bool:
        """Whether it is a piece of a packet."""
        return self.more or self.offset > 0


def parse(packet: bytes) -> Parsed | None:
    """Take an IP packet apart; None for what is none, or shorter than it says."""
    version = packet[0] >> 4 if packet else 0
    found = {4: _parse4, 6: _parse6}.get(version, lambda _: None)(packet)
    return found and _with_ports(packet, found)


def ip_of(frame: bytes) -> bytes | None:
    """The IP packet of an Ethernet frame, with what padding follows; None for another ethertype."""
    version = ETHERTYPES.get(frame[12:14])
    packet = frame[ETHERNET_BYTES:]
    return packet if version and packet and packet[0] >> 4 == version else None


def _parse4(packet: bytes) -> Parsed | None:
    if len(packet) < 20:
        return None
    head, total = (packet[0] & 15) * 4, int.from_bytes(packet[2:4])
    if head < 20 or total < head or total > len(packet):
        return None
    ident, word = struct.unpack_from(">HH", packet, 4)
    return Parsed(
        4, packet[12:16], packet[16:20], packet[9], head, 9, total,
        ident, (word & 0x1FFF) * 8, bool(word & 0x2000),
    )  # fmt: skip


def _parse6(packet: bytes) -> Parsed | None:
    end = 40 + int.from_bytes(packet[4:6])
    if len(packet) < 40 or end > len(packet):
        return None
    at, next_at, ident, offset, more = 40, 6, 0, 0, False
    while packet[next_at] in EXTENSIONS and not offset:
        kind = packet[next_at]
        size = 8 if at + 2 > end or kind == FRAGMENT else 8 + packet[at + 1] * 8
        if at + size > end:
            break
        if kind == FRAGMENT:
            word, ident = struct.unpack_from(">2xHI", packet, at)
            offset, more = word & 0xFFF8, bool(word & 1)
        at, next_at = at + size, at
    whole = packet[next_at] not in EXTENSIONS
    return Parsed(
        6, packet[8:24], packet[24:40], packet[next_at], at, next_at, end, ident, offset, more,
        whole=whole,
    )  # fmt: skip


def _with_ports(packet: bytes, found: Parsed) -> Parsed:
    if found.offset or not found.whole:
        return found._replace(whole=False)
    room = found.end - found.at
    if found.proto in WITH_PORTS:
        if room < 4:
            return found._replace(whole=False)
        sport, dport = struct.unpack_from(">HH", packet, found.at)
        return found._replace(sport=sport, dport=dport)
    if found.proto in WITH_TYPES:
        if room < 2:
            return found._replace(whole=False)
        return found._replace(sport=packet[found.at], dport=packet[found.at + 1])
    return found


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data[: len(data) & ~1]))
    total += data[-1] << 8 if len(data) & 1 else 0
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def checksum_good(packet: bytes) -> bool:
    """Whether an IPv4 header adds up; IPv6 has no sum."""
    return packet[0] >> 4 != 4 or checksum(packet[: (packet[0] & 15) * 4]) == 0


def carrying(packet: bytes, at: int, next_at: int, proto: int, payload: bytes) -> bytes:
    """The packet's headers up to `at` around another payload: protocol, length, checksum anew."""
    head = bytearray(packet[:at])
    head[next_at] = proto
    if head[0] >> 4 == 6:
        head[4:6] = (at - 40 + len(payload)).to_bytes(2)
    else:
        head[2:4], head[10:12] = (at + len(payload)).to_bytes(2), bytes(2)
        head[10:12] = checksum(bytes(head)).to_bytes(2)
    return bytes(head) + payload


def header_bytes(packet: bytes) -> int:
    """Length of the IP header, without IPv6 extension headers."""
    return (packet[0] & 15) * 4 if packet[0] >> 4 == 4 else 40


def protocol(packet: bytes) -> int:
    """Protocol of IPv4, next header of IPv6."""
    return packet[9] if packet[0] >> 4 == 4 else packet[6]
