# SPDX-License-Identifier: Apache-2.0
"""Tunnel mode: the outer IP header around a packet, and what the inner one learns from it.

Written as the recorded kernels 6.12 and 7.3.4 do (xfrm4_tunnel_encap_add and its kin):

    DSCP         of the inner packet, 0 with dont_encap_dscp
    ECN          of the inner packet, ECT(0) for CE (RFC 3168 9.1.1), 0 with noecn
    hop limit    64; flow label of an inner IPv6 packet
    DF           of an inner IPv4 packet, set for IPv6, clear with nopmtudisc
    ID           0 with DF; else the low half of the IV, so that 2^16 packets in turn differ
"""

import numpy as np

from nic_model.jit import inline
from nic_model.memory import copy, load16, store16, store32, store64
from nic_model.packet import (
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    IP_AT,
    IPV4_BYTES,
    IPV6_BYTES,
    NEXT_HEADER_AT,
    PROTO_AT,
    fold,
)
from proto.xfrm import AF_INET

IPIP, IPV6 = 4, 41  # next headers that say what a tunnel carries
HOP_LIMIT = 64
MAC_PAIR_BYTES = 12

_ECN, _CE, _ECT0, _DF = 3, 3, 2, 0x4000
_SHIFT = np.uint64(32)


@inline
def outer_bytes(family):
    """Length of the outer header of a tunnel of this family."""
    return IPV4_BYTES if family == AF_INET else IPV6_BYTES


@inline
def carried(family):
    """The next header for a packet of this family."""
    return IPIP if family == AF_INET else IPV6


@inline
def dsfield(buf, family):
    """TOS or traffic class of the frame in `buf`."""
    if family == AF_INET:
        return np.int64(buf[IP_AT + 1])
    return load16(buf, IP_AT) >> 4 & 0xFF


@inline
def set_dsfield(buf, family, value):
    """Change TOS or traffic class. A damaged IPv4 checksum stays as wrong as it was (RFC 1624)."""
    before = load16(buf, IP_AT)
    if family == AF_INET:
        after = before & 0xFF00 | value
        total = (load16(buf, IP_AT + 10) ^ 0xFFFF) + (before ^ 0xFFFF) + after
        store16(buf, IP_AT + 10, fold(total))
    else:
        after = before & 0xF00F | value << 4
    store16(buf, IP_AT, after)


@inline
def _outer_dsfield(sa, inner):
    outer = 0 if sa.dont_encap_dscp else inner & ~_ECN
    if sa.noecn:
        return outer
    ecn = inner & _ECN
    return outer | (_ECT0 if ecn == _CE else ecn)


@inline
def write_outer(out, at, frame, family, sa, ident):
    """Ethernet and outer IP header of the frame at out[at:], around the packet of `family` in
    `frame`; packet.finish_ip adds length, protocol and checksum. Returns where, from `at` on, the
    next-header byte is."""
    ip = at + IP_AT
    copy(out, at, frame, 0, MAC_PAIR_BYTES)
    ds = _outer_dsfield(sa, dsfield(frame, family))
    if sa.family == AF_INET:
        keeps = family != AF_INET or load16(frame, IP_AT + 6) & _DF
        df = _DF if keeps and not sa.nopmtudisc else 0
        store16(out, at + 12, ETHERTYPE_IPV4)
        store16(out, ip, 0x4500 | ds)
        store16(out, ip + 4, 0 if df else ident)
        store16(out, ip + 6, df)
        store16(out, ip + 8, HOP_LIMIT << 8)
        store32(out, ip + 12, np.int64(sa.src_hi >> _SHIFT))
        store32(out, ip + 16, np.int64(sa.dst_hi >> _SHIFT))
        return IP_AT + PROTO_AT
    label = 0 if family == AF_INET else load16(frame, IP_AT + 2) | (load16(frame, IP_AT) & 15) << 16
    store16(out, at + 12, ETHERTYPE_IPV6)
    store32(out, ip, 6 << 28 | ds << 20 | label)
    store16(out, ip + 6, HOP_LIMIT)
    store64(out, ip + 8, sa.src_hi)
    store64(out, ip + 16, sa.src_lo)
    store64(out, ip + 24, sa.dst_hi)
    store64(out, ip + 32, sa.dst_lo)
    return IP_AT + NEXT_HEADER_AT


@inline
def learn(sa, buf, family, outer):
    """What the inner packet in `buf` takes over from the `outer` dsfield: with decap_dscp the DSCP,
    and unless noecn the congestion mark, where it says that it understands one (RFC 3168 9.1.1)."""
    before = dsfield(buf, family)
    after = outer & ~_ECN | before & _ECN if sa.decap_dscp else before
    if not sa.noecn and outer & _ECN == _CE and before & _ECN:
        after |= _CE
    if after != before:
        set_dsfield(buf, family, after)
