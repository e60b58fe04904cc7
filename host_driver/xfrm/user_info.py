# SPDX-License-Identifier: Apache-2.0
"""Counts, hash thresholds and default policies (UAPI-74, UAPI-75)."""

import struct
from typing import TYPE_CHECKING

from host_driver.xfrm.attributes import refuse
from host_driver.xfrm.encode import build
from host_driver.xfrm.spd import BUCKETS_MAX
from proto.netlink import attribute
from proto.xfrm import (
    AF_INET,
    AF_INET6,
    POLICY_FWD,
    POLICY_IN,
    POLICY_OUT,
    USERPOLICY_ACCEPT,
    USERPOLICY_BLOCK,
    Group,
    Msg,
    SadAttr,
    SpdAttr,
)
from proto.xfrm_structs import UserPolicyDefault

if TYPE_CHECKING:
    from host_driver.xfrm.net import XfrmNet
    from host_driver.xfrm.user import Request


def _reply(request: "Request", type: int, payload: bytes) -> None:
    request.replies.append(build(type, payload, request.nlh.seq, request.nlh.pid))


def xfrm_get_sadinfo(net: "XfrmNet", request: "Request") -> None:
    """GETSADINFO: how many SAs there are, larval ones included."""
    payload = (
        request.nlh.payload[:4]
        + attribute(SadAttr.CNT, struct.pack("<I", len(net.sad)))
        + attribute(SadAttr.HINFO, struct.pack("<II", net.sad.buckets, BUCKETS_MAX))
    )
    _reply(request, Msg.NEWSADINFO, payload)


def xfrm_get_spdinfo(net: "XfrmNet", request: "Request") -> None:
    """GETSPDINFO: policies per direction; socket policies there are none."""
    counts = [net.spd.count(dir) for dir in (POLICY_IN, POLICY_OUT, POLICY_FWD)]
    payload = (
        request.nlh.payload[:4]
        + attribute(SpdAttr.INFO, struct.pack("<6I", *counts, 0, 0, 0))
        + attribute(SpdAttr.HINFO, struct.pack("<II", net.spd.index_buckets - 1, BUCKETS_MAX))
        + attribute(SpdAttr.IPV4_HTHRESH, bytes(net.spd.thresholds[AF_INET]))
        + attribute(SpdAttr.IPV6_HTHRESH, bytes(net.spd.thresholds[AF_INET6]))
    )
    _reply(request, Msg.NEWSPDINFO, payload)


def xfrm_set_spdinfo(net: "XfrmNet", request: "Request") -> None:
    """NEWSPDINFO: from which prefix lengths on a selector is exact (SPD-08). All or nothing."""
    wanted = []
    for type, family, bits in (
        (SpdAttr.IPV4_HTHRESH, AF_INET, 32),
        (SpdAttr.IPV6_HTHRESH, AF_INET6, 128),
    ):
        if type not in request.attributes:
            continue
        thresholds = request.attributes[type]
        if max(thresholds[:2]) > bits:
            name = "IPv4" if family == AF_INET else "IPv6"
            raise refuse(f"Invalid hash threshold (must be <= {bits} for {name})")
        wanted.append((family, thresholds[0], thresholds[1]))
    for family, local, remote in wanted:
        net.spd.set_thresholds(family, local, remote)


def _defaults(net: "XfrmNet") -> bytes:
    default = net.policy_default
    return UserPolicyDefault(default[POLICY_IN], default[POLICY_FWD], default[POLICY_OUT]).pack()


def xfrm_set_default(net: "XfrmNet", request: "Request") -> None:
    """SETDEFAULT: what is not BLOCK or ACCEPT leaves its direction as it is."""
    wanted = UserPolicyDefault.unpack(request.nlh.payload)
    for dir, action in (
        (POLICY_IN, wanted.in_),
        (POLICY_FWD, wanted.fwd),
        (POLICY_OUT, wanted.out),
    ):
        if action in (USERPOLICY_BLOCK, USERPOLICY_ACCEPT):
            net.policy_default[dir] = action
    net.policy_default_generation += 1
    net.multicast(Group.POLICY, build(Msg.GETDEFAULT, _defaults(net)))


def xfrm_get_default(net: "XfrmNet", request: "Request") -> None:
    """GETDEFAULT: three bytes, in, fwd, out."""
    _reply(request, Msg.GETDEFAULT, _defaults(net))
