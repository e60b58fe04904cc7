# SPDX-License-Identifier: Apache-2.0
"""proto: netlink codec and XFRM structures against bytes that iproute2 and a kernel exchanged."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto import netlink, xfrm_structs
from proto.netlink import NetlinkError
from proto.xfrm import ATTR_MIN, Attr, Msg

# ip xfrm state get src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x1000, put together by hand.
GETSA = bytes.fromhex(
    "28000000 1200 0100 01000000 00000000"
    "0a000002 000000000000000000000000 00001000 0200 32 00".replace(" ", "")
)


def test_a_request_unpacks_to_the_kernels_fields():
    (message,) = netlink.messages(GETSA)
    assert (message.type, message.flags, message.seq) == (Msg.GETSA, 1, 1)
    said = xfrm_structs.UserSaId.unpack(message.payload)
    assert said.daddr == bytes([10, 0, 0, 2]) + bytes(12)
    assert (said.spi, said.family, said.proto) == (0x1000, 2, 50)
    assert netlink.message(Msg.GETSA, said.pack(), flags=1, seq=1) == GETSA


@pytest.mark.parametrize(
    ("cls", "field", "offset", "format"),
    [
        (xfrm_structs.XfrmSelector, "dport", 32, ">H"),
        (xfrm_structs.XfrmSelector, "prefixlen_s", 43, "B"),
        (xfrm_structs.XfrmSelector, "ifindex", 48, "<i"),
        (xfrm_structs.UserSaInfo, "reqid", 208, "<I"),
        (xfrm_structs.UserSaInfo, "replay_window", 215, "B"),
        (xfrm_structs.UserSaInfo, "flags", 216, "B"),
        (xfrm_structs.UserPolicyInfo, "priority", 152, "<I"),
        (xfrm_structs.UserPolicyInfo, "share", 163, "B"),
        (xfrm_structs.UserTmpl, "reqid", 44, "<I"),
        (xfrm_structs.UserTmpl, "optional", 50, "B"),
        (xfrm_structs.UserAcquire, "seq", 276, "<I"),
        (xfrm_structs.AeventId, "reqid", 44, "<I"),
        (xfrm_structs.ReplayStateEsn, "replay_window", 20, "<I"),
        (xfrm_structs.AlgoAead, "alg_icv_len", 68, "<I"),
        (xfrm_structs.EncapTmpl, "encap_dport", 4, ">H"),
        (xfrm_structs.UserOffload, "flags", 4, "B"),
    ],
)
def test_fields_lie_at_the_kernels_offsets(cls, field, offset, format):
    data = bytearray(cls.size())
    struct.pack_into(format, data, offset, 0x5A)
    assert getattr(cls.unpack(bytes(data)), field) == 0x5A
    assert cls.unpack(bytes(data)).pack() == bytes(data)


def test_attribute_minimums_are_the_sizes_of_their_structures():
    for attr, cls in (
        (Attr.TMPL, xfrm_structs.UserTmpl),
        (Attr.SA, xfrm_structs.UserSaInfo),
        (Attr.POLICY, xfrm_structs.UserPolicyInfo),
        (Attr.OFFLOAD_DEV, xfrm_structs.UserOffload),
        (Attr.REPLAY_ESN_VAL, xfrm_structs.ReplayStateEsn),
        (Attr.ALG_AEAD, xfrm_structs.AlgoAead),
    ):
        assert ATTR_MIN[attr] == cls.size()


def test_attributes_are_padded_and_the_last_of_doubles_wins():
    data = netlink.attribute(31, b"\1\2\3\4") + netlink.attribute(33, b"\1")
    assert data == bytes.fromhex("08001f0001020304 0500210001000000")
    parsed = netlink.attributes(data + netlink.attribute(33, b"\2"))
    assert parsed.values == {31: b"\1\2\3\4", 33: b"\2"}
    assert parsed.leftover == 0


def test_a_broken_tail_is_left_over():
    parsed = netlink.attributes(netlink.attribute(33, b"\1") + b"\xff\xff\0\0")
    assert parsed.values == {33: b"\1"}
    assert parsed.leftover == 4


@given(st.binary(max_size=80))
def test_random_bytes_parse_or_are_refused(data):
    netlink.attributes(data)
    try:
        consumed = sum(16 + len(m.payload) for m in netlink.messages(data))
    except NetlinkError:
        return
    assert consumed <= len(data)
