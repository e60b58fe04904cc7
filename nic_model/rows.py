# SPDX-License-Identifier: Apache-2.0
"""The layout of the card's rows: one SA, one policy, one tuple of masks, one parsed packet.

Addresses are two big-endian 64-bit halves, IPv4 in the upper 32 bits of the first, so that masks by
prefix length look alike in both families. Row numbers are never 0, which means "none".
"""

import numpy as np

_SELECTOR = [
    ("sel_src_hi", "<u8"), ("sel_src_lo", "<u8"), ("sel_dst_hi", "<u8"), ("sel_dst_lo", "<u8"),
    ("src_mask_hi", "<u8"), ("src_mask_lo", "<u8"), ("dst_mask_hi", "<u8"), ("dst_mask_lo", "<u8"),
    ("sel_sport", "<i4"), ("sport_mask", "<i4"), ("sel_dport", "<i4"), ("dport_mask", "<i4"),
    ("sel_family", "<i4"), ("sel_proto", "<i4"),
]  # fmt: skip

# One SA with its ASO block. `head` is the window's bit of the highest sequence number `seq`.
# (`rounds`, `count`) and (`soft_rounds`, `soft_count`) are packet counts split as aso.split does.
# `src` and `dst` are the ends of the ESP packet, of a tunnel the outer ones.
SA = np.dtype(
    [
        ("src_hi", "<u8"), ("src_lo", "<u8"), ("dst_hi", "<u8"), ("dst_lo", "<u8"),
        ("iv_mask", "<u8"), ("seq", "<u8"),
        ("rounds", "<i8"), ("count", "<i8"), ("soft_rounds", "<i8"), ("soft_count", "<i8"),
        ("byte_limit", "<i8"), ("packets", "<i8"), ("bytes", "<i8"),
        ("replay", "<i8"), ("replay_window", "<i8"), ("integrity_failed", "<i8"),
        ("trailer", "<i8"), ("selector_failed", "<i8"),
        *_SELECTOR,
        ("half", "<i8"), ("window", "<i8"), ("head", "<i8"),
        ("spi", "<u4"), ("salt", "<u4"), ("reqid", "<u4"), ("key", "<u4"), ("generation", "<u4"),
        ("rx_next", "<i4"), ("tx_next", "<i4"), ("family", "<i4"), ("icv", "<i4"),
        ("encap_sport", "<i4"), ("encap_dport", "<i4"), ("tunnel", "<i4"), ("crypto", "<i4"),
        ("direction", "u1"), ("esn", "u1"), ("may_wrap", "u1"), ("stopped", "u1"),
        ("soft_arm", "u1"), ("hard_arm", "u1"), ("seq_arm", "u1"), ("dying", "u1"),
        ("noecn", "u1"), ("decap_dscp", "u1"), ("nopmtudisc", "u1"), ("dont_encap_dscp", "u1"),
    ]
)  # fmt: skip

# One policy. `tuple` names its mask tuple, `next` chains a hash bucket, best policy first. A tunnel
# template has addresses and a family of its own, 0 = any.
POLICY = np.dtype(
    [
        ("sel_src_hi", "<u8"), ("sel_src_lo", "<u8"), ("sel_dst_hi", "<u8"), ("sel_dst_lo", "<u8"),
        ("priority", "<i8"), ("age", "<i8"),
        ("tuple", "<i4"), ("next", "<i4"), ("sel_sport", "<i4"), ("sel_dport", "<i4"),
        ("sel_proto", "<i4"), ("action", "<i4"), ("protect", "<i4"), ("tunnel", "<i4"),
        ("tmpl_src_hi", "<u8"), ("tmpl_src_lo", "<u8"),
        ("tmpl_dst_hi", "<u8"), ("tmpl_dst_lo", "<u8"),
        ("reqid", "<u4"), ("spi", "<u4"), ("tmpl_family", "<i4"), ("pad", "<i4"),
    ]
)  # fmt: skip

# The masks that all policies of one tuple share; `best` is their lowest priority number.
TUPLE = np.dtype(
    [
        ("src_mask_hi", "<u8"), ("src_mask_lo", "<u8"),
        ("dst_mask_hi", "<u8"), ("dst_mask_lo", "<u8"),
        ("best", "<i8"), ("sport_mask", "<i4"), ("dport_mask", "<i4"), ("proto_mask", "<i4"),
        ("list", "<i4"),
    ]
)  # fmt: skip

# What packet.parse found; offsets count from the first byte of the Ethernet header.
PACKET = np.dtype(
    [
        ("src_hi", "<u8"), ("src_lo", "<u8"), ("dst_hi", "<u8"), ("dst_lo", "<u8"),
        ("family", "<i8"),  # 0: not IP
        ("end", "<i8"),  # behind the last byte of the IP packet
        ("fragment", "<i8"),  # packet.WHOLE, FIRST, LATER, UNKNOWN
        ("place", "<i8"), ("place_nh", "<i8"),  # where ESP goes, and the byte that will say 50
        ("upper", "<i8"), ("upper_nh", "<i8"),  # upper-layer header, and the byte that names it
        ("proto", "<i8"), ("sport", "<i8"), ("dport", "<i8"),
        ("syndrome", "<i8"),  # of ESP that a crypto SA could not open: a Drop, else 0
        ("high", "<i8"),  # of ESP that a crypto SA opened: the high half of its sequence number
        # Of the flow before, what was found for it: nic_model.flow.
        ("policy", "<i8"), ("row", "<i8"), ("verdict", "<i8"), ("opener", "<i8"),
    ]
)  # fmt: skip

# With numpy.record as their type, rows have attributes in plain Python as they have in numba.
SA_ROW, POLICY_ROW, TUPLE_ROW, PACKET_ROW = (
    np.dtype((np.record, layout)) for layout in (SA, POLICY, TUPLE, PACKET)
)

assert SA.itemsize == 5 * 64  # whole cache lines
assert POLICY.itemsize == 2 * 64
