# SPDX-License-Identifier: Apache-2.0
"""Segmentation: a large TCP or UDP packet becomes packets of at most `mss` bytes of payload each.

As the kernel's tcp_gso_segment and __udp_gso_segment cut: every piece has the headers of the whole,
its own lengths, IPv4 identification and checksums; of TCP its own sequence number, CWR only in the
first piece, PSH and FIN only in the last.
"""

import numpy as np

from nic_model.jit import inline
from nic_model.memory import copy, load16, load32, store16, store32
from nic_model.packet import (
    FRAGMENT,
    IP_AT,
    IPV4_BYTES,
    IPV6_BYTES,
    NEXT_HEADER_AT,
    ROUTING,
    TCP,
    UDP,
    UDP_BYTES,
    finish_ip,
    finish_upper,
    parse,
)  # fmt: skip
from proto.limits import FRAME_MAX_BYTES, GSO_MAX_SEGMENTS
from proto.status import Drop
from proto.xfrm import AF_INET

_MALFORMED, _DESCRIPTOR, _TOO_LONG = int(Drop.MALFORMED), int(Drop.DESCRIPTOR), int(Drop.TOO_LONG)
_TCP_BYTES = 20
_IPV4_END, _IPV4_NOP, _LOOSE, _STRICT = 0, 1, 131, 137
_CWR, _PSH_FIN = 0x80, 0x09
_SEQ_AT, _OFFSET_AT, _FLAGS_AT = 4, 12, 13
_UDP_LENGTH_AT, _ID_AT = 4, 4


@inline
def pieces(t, length, mss):
    """How many packets the frame in t.large becomes, or -Drop; and where its payload begins."""
    p = t.packet[0]
    malformed = parse(t.large, length, p)
    if malformed:
        return -malformed, 0
    if mss == 0:
        return -_DESCRIPTOR, 0
    room = p.end - p.upper
    if p.family == 0 or p.fragment or _source_routed(t.large, p):
        return -_MALFORMED, 0
    if p.proto == TCP and room >= _TCP_BYTES:
        header = np.int64(t.large[p.upper + _OFFSET_AT] >> 4) * 4
        if header < _TCP_BYTES:
            return -_MALFORMED, 0
    elif p.proto == UDP and room >= UDP_BYTES:
        header = UDP_BYTES
    else:
        return -_MALFORMED, 0
    if header > room:
        return -_MALFORMED, 0
    count = max(1, (room - header + mss - 1) // mss)
    if count > GSO_MAX_SEGMENTS:
        return -_DESCRIPTOR, 0
    if p.upper + header + min(mss, room - header) > FRAME_MAX_BYTES:
        return -_TOO_LONG, 0
    return count, p.upper + header


@inline
def _source_routed(buf, p):
    """Whether a header of the parsed packet tells a way: its checksum is over an address that does
    not stand in front (RFC 8200 8.1; RFC 791, loose and strict source route)."""
    at, end = IP_AT + IPV4_BYTES, p.upper
    if p.family == AF_INET:
        while at < end and buf[at] != _IPV4_END:
            if buf[at] == _LOOSE or buf[at] == _STRICT:
                return True
            size = 1 if buf[at] == _IPV4_NOP else np.int64(buf[at + 1])
            if size < 1 or (size < 2 and buf[at] != _IPV4_NOP):
                return True  # nobody can tell
            at += size
        return False
    at = IP_AT + IPV6_BYTES
    nh = buf[IP_AT + NEXT_HEADER_AT]
    while at < end:
        if nh == ROUTING and buf[at + 3] != 0:
            return True
        size = 8 if nh == FRAGMENT else (np.int64(buf[at + 1]) + 1) * 8
        nh = buf[at]
        at += size
    return False


@inline
def cut(t, whole, payload, mss, k, count):
    """Write piece `k` of `count` to t.frame; `whole` is what t.packet[0] said of the frame in
    t.large, as (family, proto, upper, upper_nh, end). Returns the length of the piece."""
    family, proto, upper, upper_nh, end = whole
    start = payload + k * mss
    size = min(mss, end - start)
    copy(t.frame, 0, t.large, 0, payload)
    copy(t.frame, payload, t.large, start, size)
    length = payload + size
    if proto == TCP:
        store32(t.frame, upper + _SEQ_AT, load32(t.frame, upper + _SEQ_AT) + k * mss)
        flags = t.frame[upper + _FLAGS_AT]
        if k > 0:
            flags &= 0xFF ^ _CWR
        if k < count - 1:
            flags &= 0xFF ^ _PSH_FIN
        t.frame[upper + _FLAGS_AT] = flags
    else:
        store16(t.frame, upper + _UDP_LENGTH_AT, length - upper)
    if family == AF_INET:
        store16(t.frame, IP_AT + _ID_AT, load16(t.frame, IP_AT + _ID_AT) + k)
    finish_ip(t.frame, 0, family, length, upper_nh, proto)
    finish_upper(t.frame, 0, family, proto, upper, length)
    return length
