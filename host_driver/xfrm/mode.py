# SPDX-License-Identifier: Apache-2.0
"""Transport and tunnel mode: what of a packet ESP protects, and what stands around it.

Outward and inward as recorded of 7.3.4 ("ESP on the wire"). BEET and the other modes are kept and
reported; their packets are dropped as mode errors.
"""

import struct
from collections.abc import Callable

from host_driver.xfrm.flow import IPV4_PROTO_AT, IPV6_NEXT_AT, family_of, find_upper
from host_driver.xfrm.headers import (
    ECN_CE,
    ECN_ECT_0,
    ECN_MASK,
    IP_DF,
    IPPROTO_IPIP,
    IPPROTO_IPV6,
    IPV4_BYTES,
    IPV6_BYTES,
    Parts,
    dont_fragment,
    dsfield,
    join,
    split_transport,
    with_dsfield,
)
from host_driver.xfrm.state import XfrmState
from proto.xfrm import (
    AF_INET,
    AF_INET6,
    MODE_TRANSPORT,
    MODE_TUNNEL,
    SA_XFLAG_DONT_ENCAP_DSCP,
    STATE_DECAP_DSCP,
    STATE_NOECN,
    STATE_NOPMTUDISC,
)

HOP_LIMIT = 64  # of the route, whatever the inner packet has
PROTO_OF = {AF_INET: IPPROTO_IPIP, AF_INET6: IPPROTO_IPV6}
_IPV4 = struct.Struct(">BBHHHBBH4s4s")
_IPV6 = struct.Struct(">IHBB16s16s")


def mode_output(x: XfrmState, packet: bytes, ip_id: Callable[[], int]) -> Parts | None:
    """Header and payload of the packet that `x` makes; None where the mode cannot take it.

    `ip_id` gives the identification of an outer IPv4 packet that may be cut; the others have 0.
    """
    upper = find_upper(packet)
    if upper is None:
        return None
    if x.props.mode == MODE_TRANSPORT:
        # ESP in transport mode is for whole datagrams only (RFC 4303 3.3.4).
        good = not upper.fragment and family_of(packet) == x.props.family
        return split_transport(packet) if good else None
    if x.props.mode != MODE_TUNNEL:
        return None
    inner = packet[: upper.end]
    outer = _outer4(x, inner, ip_id) if x.props.family == AF_INET else _outer6(x, inner)
    next_at = IPV4_PROTO_AT if x.props.family == AF_INET else IPV6_NEXT_AT
    return Parts(outer, next_at, PROTO_OF[family_of(inner)], inner)


def _outer_dsfield(x: XfrmState, inner: bytes) -> int:
    """DSCP and ECN of the outer header (RFC 6040 in normal mode: CE becomes ECT(0))."""
    value = dsfield(inner)
    ecn = value & ECN_MASK
    dscp = 0 if x.props.extra_flags & SA_XFLAG_DONT_ENCAP_DSCP else value & ~ECN_MASK
    if x.props.flags & STATE_NOECN:
        return dscp
    return dscp | (ECN_ECT_0 if ecn == ECN_CE else ecn)


def _outer4(x: XfrmState, inner: bytes, ip_id: Callable[[], int]) -> bytes:
    whole = dont_fragment(inner) and not x.props.flags & STATE_NOPMTUDISC
    ident, flags = (0, IP_DF) if whole else (ip_id(), 0)
    ends = x.props.saddr[:4], x.id.daddr[:4]
    return _IPV4.pack(0x45, _outer_dsfield(x, inner), 0, ident, flags, HOP_LIMIT, 0, 0, *ends)


def _outer6(x: XfrmState, inner: bytes) -> bytes:
    """The flow label is that of an inner IPv6 packet."""
    label = int.from_bytes(inner[1:4], "big") & 0xF_FFFF if family_of(inner) == AF_INET6 else 0
    word = 6 << 28 | _outer_dsfield(x, inner) << 20 | label
    return _IPV6.pack(word, 0, 0, HOP_LIMIT, x.props.saddr, x.id.daddr)


def mode_input(x: XfrmState, parts: Parts, next_header: int) -> bytes | None:
    """The packet that was protected; None when it is not what the mode carries.

    `parts` has the outer headers and the decrypted payload, `next_header` is the trailer's.
    """
    if x.props.mode == MODE_TRANSPORT:
        return join(parts.head, parts.next_at, next_header, parts.payload)
    if x.props.mode != MODE_TUNNEL:
        return None
    shortest = {IPPROTO_IPIP: IPV4_BYTES, IPPROTO_IPV6: IPV6_BYTES}.get(next_header)
    if shortest is None or len(parts.payload) < shortest:
        return None
    inner, outer_ds = parts.payload, dsfield(parts.head)
    if PROTO_OF[family_of(inner)] != next_header:
        return None
    value = dsfield(inner)
    if x.props.flags & STATE_DECAP_DSCP:
        value = outer_ds & ~ECN_MASK | value & ECN_MASK
    if not x.props.flags & STATE_NOECN and outer_ds & ECN_MASK == ECN_CE and value & ECN_MASK:
        value |= ECN_CE
    return inner if value == dsfield(inner) else with_dsfield(inner, value)
