# SPDX-License-Identifier: Apache-2.0
"""Headers: what a frame is (parse), and the few fields that change around ESP (emit).

A frame lies at the start of its buffer. Parsing is strict: no length of a header is believed beyond
the bytes that are there, and nothing behind the IP packet is looked at.
"""

import numpy as np

from nic_model.jit import inline, njit
from nic_model.memory import load16, load32, load64, store16
from proto.limits import ETHERNET_BYTES
from proto.status import Drop
from proto.xfrm import AF_INET, AF_INET6

ETHERTYPE_IPV4, ETHERTYPE_IPV6 = 0x0800, 0x86DD
IPV4_BYTES, IPV6_BYTES = 20, 40
PROTO_AT, NEXT_HEADER_AT = 9, 6  # within the IPv4 and the IPv6 header
IP_AT = ETHERNET_BYTES

HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION = 0, 43, 44, 60
ICMP, TCP, UDP, DCCP, ESP, ICMPV6, NO_NEXT, SCTP, UDPLITE = 1, 6, 17, 33, 50, 58, 59, 132, 136
WITH_PORTS, WITH_TYPES = (TCP, UDP, SCTP, DCCP, UDPLITE), (ICMP, ICMPV6)
UDP_BYTES = 8
TCP_CHECK_AT, UDP_CHECK_AT = 16, 6  # within the headers

# PACKET.fragment: none; the first; a later one, without ports; one of unknown upper protocol.
WHOLE, FIRST, LATER, UNKNOWN = 0, 1, 2, 3

_U1, _U2, _U3, _U4, _U8, _U16, _U24 = (np.uint64(n) for n in (1, 2, 3, 4, 8, 16, 24))
_LOW16 = np.uint64(0xFFFF)

PASS, MALFORMED = int(Drop.NONE), int(Drop.MALFORMED)


@njit
def add_words(buf, at, n, total):
    """`total` plus the 16-bit words of buf[at:at+n], an odd last byte padded with 0 (RFC 1071).

    Summed in the order of the machine, four bytes at once, and turned at the end: `fold` makes of
    it what it makes of the words (RFC 1071 2 B).
    """
    i, words = np.uint64(at), np.uint64(n >> 2)
    turned = np.uint64(0)
    for k in range(words):
        turned += _little32(buf, i + np.uint64(k) * _U4)
    i += words * _U4
    if n & 2:
        turned += np.uint64(buf[i]) | np.uint64(buf[i + _U1]) << _U8
        i += _U2
    if n & 1:
        turned += np.uint64(buf[i])
    while turned >> _U16:
        turned = (turned & _LOW16) + (turned >> _U16)
    word = np.int64(turned)
    return total + (word >> 8 | (word & 0xFF) << 8)


@inline
def _little32(buf, i):
    """Four bytes in the order of the machine."""
    low = np.uint64(buf[i]) | np.uint64(buf[i + _U1]) << _U8
    return low | np.uint64(buf[i + _U2]) << _U16 | np.uint64(buf[i + _U3]) << _U24


@inline
def fold(total):
    """The ones' complement checksum of a sum of words, or of pairs of words (RFC 1071 2 B), that
    is below 2^48."""
    total = (total & 0xFFFF_FFFF) + (total >> 32)
    for _ in range(3):
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


@inline
def parse(buf, length, p):
    """Read the frame buf[:length] into `p` (rows.PACKET); returns PASS or MALFORMED.

    Anything but IPv4 and IPv6 is left alone: family 0. A frame longer than its IP packet (Ethernet
    padding) is fine, a shorter one is not.
    """
    p.family = 0
    if length < ETHERNET_BYTES:
        return MALFORMED
    ethertype = load16(buf, 12)
    if ethertype == ETHERTYPE_IPV4:
        verdict = _parse_ipv4(buf, length, p)
    elif ethertype == ETHERTYPE_IPV6:
        verdict = _parse_ipv6(buf, length, p)
    else:
        return PASS
    if verdict == PASS:
        verdict = _parse_upper(buf, p)
    return verdict


@inline
def parse_inside(buf, length, p, proto):
    """`parse` again, of a whole packet out of which ESP was taken at p.upper; `proto` is what was
    in it. Of IPv4 nothing else is new."""
    if p.family != AF_INET:
        return parse(buf, length, p)
    p.end, p.proto = length, proto
    return _parse_upper(buf, p)


@inline
def _parse_ipv4(buf, length, p):
    """RFC 791. ESP goes behind all options (RFC 4303 3.1.1)."""
    if length < IP_AT + IPV4_BYTES:
        return MALFORMED
    header = np.int64(buf[IP_AT] & 0xF) * 4
    total = load16(buf, IP_AT + 2)
    if buf[IP_AT] >> 4 != 4 or header < IPV4_BYTES or total < header or IP_AT + total > length:
        return MALFORMED
    p.family = AF_INET
    p.end = IP_AT + total
    p.src_hi = np.uint64(load32(buf, IP_AT + 12)) << np.uint64(32)
    p.dst_hi = np.uint64(load32(buf, IP_AT + 16)) << np.uint64(32)
    p.src_lo = p.dst_lo = np.uint64(0)
    p.fragment = _fragment_kind(load16(buf, IP_AT + 6), 0x1FFF, 0x2000)
    p.place = p.upper = IP_AT + header
    p.place_nh = p.upper_nh = IP_AT + PROTO_AT
    p.proto = buf[IP_AT + PROTO_AT]
    return PASS


@inline
def _fragment_kind(word, offset_mask, more):
    """WHOLE, FIRST or LATER from the word with offset and more-fragments bit."""
    if word & offset_mask:
        return LATER
    return FIRST if word & more else WHOLE


@inline
def _parse_ipv6(buf, length, p):
    """RFC 8200 section 3; the extension headers are walked by _walk_extensions."""
    if length < IP_AT + IPV6_BYTES:
        return MALFORMED
    end = IP_AT + IPV6_BYTES + load16(buf, IP_AT + 4)
    if buf[IP_AT] >> 4 != 6 or end > length:
        return MALFORMED
    p.family = AF_INET6
    p.end = end
    p.src_hi, p.src_lo = load64(buf, IP_AT + 8), load64(buf, IP_AT + 16)
    p.dst_hi, p.dst_lo = load64(buf, IP_AT + 24), load64(buf, IP_AT + 32)
    return _walk_extensions(buf, p)


@inline
def _walk_extensions(buf, p):
    """Find the upper layer, and where ESP goes: RFC 4303 3.1.1.

    ESP stands behind hop-by-hop, routing and fragment headers and behind the destination options in
    front of a routing header; destination options that come last are for the end and get encrypted.
    A fragment that does not hold the whole chain (RFC 7112) is told apart as UNKNOWN.
    """
    at, nh_at = IP_AT + IPV6_BYTES, IP_AT + NEXT_HEADER_AT
    p.place, p.place_nh, p.fragment = at, nh_at, WHOLE
    nh = np.int64(buf[nh_at])
    while _is_extension(nh):
        if p.fragment == LATER:  # what follows is the middle of something
            p.fragment = UNKNOWN
            break
        size = 8
        if at + 8 <= p.end and nh != FRAGMENT:
            size += np.int64(buf[at + 1]) * 8
        if at + size > p.end:
            if p.fragment == WHOLE:
                return MALFORMED
            p.fragment = UNKNOWN
            break
        if nh == HOP_BY_HOP and at != IP_AT + IPV6_BYTES:
            return MALFORMED  # RFC 8200 4.1: only right behind the IPv6 header
        if nh == FRAGMENT:
            p.fragment = max(p.fragment, _fragment_kind(load16(buf, at + 2), 0xFFF8, 1))
        moves = nh != DESTINATION
        nh, nh_at = np.int64(buf[at]), at
        at += size
        if moves:
            p.place, p.place_nh = at, nh_at
    p.upper, p.upper_nh, p.proto = at, nh_at, nh
    return PASS


@inline
def _is_extension(nh):
    """Extension headers that are walked; AH and ESP are the end of what can be seen."""
    return nh in (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION)


@inline
def _parse_upper(buf, p):
    """Ports, or type and code, as the kernel's flow decode has them (xfrm_flowi_sport, _dport).

    What else the kernel puts there (GRE keys, Mobility Header types) no selector here may ask for.
    """
    p.sport = p.dport = 0
    if p.fragment > FIRST:
        return PASS
    at, room, proto = p.upper, p.end - p.upper, p.proto
    if proto in WITH_PORTS:
        if room < 4:
            return PASS if p.fragment else MALFORMED
        p.sport, p.dport = load16(buf, at), load16(buf, at + 2)
    elif proto in WITH_TYPES:
        if room < 2:
            return PASS if p.fragment else MALFORMED
        p.sport, p.dport = buf[at], buf[at + 1]
    return PASS


@inline
def ipv4_checksum_good(buf):
    """Whether the header of the parsed IPv4 packet in `buf` adds up."""
    total = load32(buf, IP_AT) + load32(buf, IP_AT + 4) + load32(buf, IP_AT + 8)
    return fold(total + _behind_ten(buf, IP_AT)) == 0


@inline
def _behind_ten(buf, ip):
    """The sum of the pairs of words of the IPv4 header at buf[ip] behind its checksum."""
    total = load32(buf, ip + 12) + load32(buf, ip + 16)
    for k in range(5, buf[ip] & 0xF):
        total += load32(buf, ip + 4 * k)
    return total


@inline
def finish_ip(buf, at, family, end, nh_at, proto):
    """Set length, protocol and (IPv4) header checksum of the frame at buf[at], which ends at `end`.

    `nh_at` is the place of the next-header byte, all positions within the buffer. What is written
    here is not read again for the checksum: a load of just stored pieces waits for all of them.
    """
    ip = at + IP_AT
    if family == AF_INET:
        total = load16(buf, ip) + end - ip + load32(buf, ip + 4)
        total += (np.int64(buf[ip + 8]) << 8 | proto) + _behind_ten(buf, ip)
        store16(buf, ip + 2, end - ip)
        store16(buf, ip + 10, fold(total))
    else:
        store16(buf, ip + 4, end - ip - IPV6_BYTES)
    buf[nh_at] = np.uint8(proto)


@inline
def write_udp(buf, at, sport, dport, length):
    """The UDP header of RFC 3948 2.1, checksum 0 as IPv4 wants it; length includes the header."""
    store16(buf, at, sport)
    store16(buf, at + 2, dport)
    store16(buf, at + 4, length)
    store16(buf, at + 6, 0)


@inline
def finish_upper(buf, at, family, proto, upper, end):
    """The checksum of TCP or UDP at buf[upper:end], over its pseudo header (RFC 9293 3.1, RFC 768,
    RFC 8200 8.1); frame at buf[at]. Of UDP it is never 0, which would mean none."""
    place = upper + (TCP_CHECK_AT if proto == TCP else UDP_CHECK_AT)
    store16(buf, place, 0)
    ip = at + IP_AT
    addresses, size = (ip + 12, 8) if family == AF_INET else (ip + 8, 32)
    total = add_words(buf, addresses, size, proto + end - upper)
    checksum = fold(add_words(buf, upper, end - upper, total))
    store16(buf, place, 0xFFFF if proto == UDP and checksum == 0 else checksum)


@inline
def finish_udp6(buf, at, udp, length):
    """The UDP checksum over IPv6, where there must be one; frame at buf[at]."""
    finish_upper(buf, at, AF_INET6, UDP, udp, udp + length)
