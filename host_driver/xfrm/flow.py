# SPDX-License-Identifier: Apache-2.0
"""What a packet is to the policies: addresses, protocol, ports; and whether selectors cover it.

Decoding is strict: what does not parse to its end has no flow. The ports of a fragment are 0, as
in the kernel. ICMP and Mobility Header types stand in for the source port, ICMP codes for the
destination port, the halves of a GRE key for both.
"""

import struct
from typing import NamedTuple

from proto.xfrm import AF_INET, AF_INET6
from proto.xfrm_structs import XfrmSelector

TCP, UDP, ICMP, GRE, ICMPV6, MOBILITY = 6, 17, 1, 47, 58, 135
WITH_PORTS, WITH_TYPES = frozenset((TCP, UDP, 33, 132, 136)), frozenset((ICMP, ICMPV6))
GRE_CHECKSUM, GRE_ROUTING, GRE_KEY, GRE_VERSION = 0x8000, 0x4000, 0x2000, 0x0007
HOP_BY_HOP, ROUTING, FRAGMENT, DEST_OPTIONS = 0, 43, 44, 60
IPV6_EXTENSIONS = frozenset((HOP_BY_HOP, ROUTING, FRAGMENT, DEST_OPTIONS))  # AH is an upper layer

_IPV4 = struct.Struct(">BxH2xHxB2x4s4s")
_IPV6 = struct.Struct(">B3xHBx16s16s")
_PORTS = struct.Struct(">HH")
_ZERO12 = bytes(12)
IPV4_PROTO_AT, IPV6_NEXT_AT = 9, 6


class Flow(NamedTuple):
    """Addresses are 16 bytes, IPv4 in the first 4. `oif` is the device's ifindex."""

    family: int
    saddr: bytes
    daddr: bytes
    proto: int
    sport: int = 0
    dport: int = 0
    oif: int = 0
    mark: int = 0

    def address(self, address: bytes) -> bytes:
        """An address of this flow without padding: 4 or 16 bytes."""
        return address[:4] if self.family == AF_INET else address


class Upper(NamedTuple):
    """The upper layer of a packet: protocol number, first byte, and where the packet ends.

    `next_at` is the place of the byte that names `proto`.
    """

    saddr: bytes
    daddr: bytes
    proto: int
    offset: int
    end: int
    fragment: bool
    next_at: int


def family_of(packet: bytes) -> int:
    """AF_INET or AF_INET6, by the version."""
    return AF_INET if packet[0] >> 4 == 4 else AF_INET6


def decode(packet: bytes) -> Flow | None:
    """The flow of an IPv4 or IPv6 packet, or None when it does not parse."""
    upper = find_upper(packet)
    if upper is None:
        return None
    # Any fragment, the first one included, has no ports.
    ports = (0, 0) if upper.fragment else _ports(packet, upper.proto, upper.offset, upper.end)
    if ports is None:
        return None
    return Flow(family_of(packet), upper.saddr, upper.daddr, upper.proto, *ports)


def find_upper(packet: bytes) -> Upper | None:
    """Walk the IP header and, in IPv6, what extends it. None when a length does not fit."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= _IPV4.size:
        return _upper4(packet)
    return _upper6(packet) if version == 6 and len(packet) >= _IPV6.size else None


def _upper4(packet: bytes) -> Upper | None:
    first, total, fragment, proto, saddr, daddr = _IPV4.unpack_from(packet)
    header = (first & 15) * 4
    if header < 20 or not header <= total <= len(packet):
        return None
    pieces = bool(fragment & 0x3FFF)
    return Upper(saddr + _ZERO12, daddr + _ZERO12, proto, header, total, pieces, IPV4_PROTO_AT)


def _upper6(packet: bytes) -> Upper | None:
    _, payload, proto, saddr, daddr = _IPV6.unpack_from(packet)
    offset, end, next_at = _IPV6.size, _IPV6.size + payload, IPV6_NEXT_AT
    if end > len(packet):
        return None
    fragment = False
    while proto in IPV6_EXTENSIONS and not fragment:
        if offset + 8 > end:
            return None
        following, length = packet[offset], packet[offset + 1]
        next_at = offset
        if proto == FRAGMENT:
            fragment = bool(_PORTS.unpack_from(packet, offset)[1] & 0xFFF9)
            offset += 8
        else:
            offset += (length + 1) * 8
        if offset > end:
            return None
        proto = following
    return Upper(saddr, daddr, proto, offset, end, fragment, next_at)


def _ports(packet: bytes, proto: int, offset: int, end: int) -> tuple[int, int] | None:
    """What stands for the ports behind `offset`; None when the packet ends before them."""
    if proto in WITH_PORTS:
        return None if offset + 4 > end else _PORTS.unpack_from(packet, offset)
    if proto in WITH_TYPES:
        return None if offset + 2 > end else (packet[offset], packet[offset + 1])
    if proto == MOBILITY:
        return None if offset + 3 > end else (packet[offset + 2], 0)
    return _gre_key(packet, offset, end) if proto == GRE else (0, 0)


def _gre_key(packet: bytes, offset: int, end: int) -> tuple[int, int] | None:
    """The two halves of the key (RFC 2890), 0 without one; of PPTP's only the call (RFC 2637 4.1).

    As in __skb_flow_dissect_gre, there is none behind source routes and in unknown versions.
    """
    if offset + 4 > end:
        return None
    flags = _PORTS.unpack_from(packet, offset)[0]
    version = flags & GRE_VERSION
    if not flags & GRE_KEY or flags & GRE_ROUTING or version > 1:
        return 0, 0
    at = offset + (8 if flags & GRE_CHECKSUM else 4)
    if at + 4 > end:
        return None
    high, low = _PORTS.unpack_from(packet, at)
    return (0, low) if version else (high, low)


def prefix(address: bytes, length: int) -> bytes:
    """The first `length` bits of a 16-byte address, the rest zero."""
    if length >= 128:
        return address
    whole, bits = divmod(length, 8)
    if not bits:
        return address[:whole] + bytes(16 - whole)
    return address[:whole] + bytes((address[whole] & (0xFF00 >> bits) & 0xFF,)) + bytes(15 - whole)


def selector_match(sel: XfrmSelector, flow: Flow, family: int) -> bool:
    """Whether the selector covers the flow (SPD-25). `sel.family` is the caller's to test."""
    bits = 32 if family == AF_INET else 128
    length_d, length_s = min(sel.prefixlen_d, bits), min(sel.prefixlen_s, bits)
    return (
        (not sel.proto or sel.proto == flow.proto)
        and (not sel.ifindex or sel.ifindex == flow.oif)
        and not (flow.dport ^ sel.dport) & sel.dport_mask
        and not (flow.sport ^ sel.sport) & sel.sport_mask
        and prefix(flow.daddr, length_d) == prefix(sel.daddr, length_d)
        and prefix(flow.saddr, length_s) == prefix(sel.saddr, length_s)
    )


def selector_allows(sel: XfrmSelector, flow: Flow) -> bool:
    """Whether an SA with this selector is for the flow; without a family it is for every one."""
    return not sel.family or (sel.family == flow.family and selector_match(sel, flow, flow.family))


def flow_selector(flow: Flow) -> XfrmSelector:
    """The selector that covers exactly this flow, as a larval SA gets it (ACQ-01)."""
    bits = 32 if flow.family == AF_INET else 128
    return XfrmSelector(
        daddr=flow.daddr,
        saddr=flow.saddr,
        dport=flow.dport,
        dport_mask=0xFFFF,
        sport=flow.sport,
        sport_mask=0xFFFF,
        family=flow.family,
        prefixlen_d=bits,
        prefixlen_s=bits,
        proto=flow.proto,
        ifindex=flow.oif,
    )
