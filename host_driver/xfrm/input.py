# SPDX-License-Identifier: Apache-2.0
"""The way in: the policy check of packets from a device, and ESP that no device took (RX-02..13).

There is no software ESP here: an ESP packet that reaches the host is looked up, judged and counted
as the kernel does, and where the kernel would decrypt it, it is dropped as XfrmInStateProtoError.
"""

import struct
from typing import TYPE_CHECKING

from host_driver.netdev import CRYPTO_DONE, CRYPTO_SUCCESS, Skb
from host_driver.xfrm.flow import Flow, decode, find_upper, selector_match
from host_driver.xfrm.lifetime import xfrm_state_check_expire
from host_driver.xfrm.policy import XfrmPolicy
from host_driver.xfrm.replay import replay_check
from host_driver.xfrm.state import OFFLOAD_PACKET, KmState, XfrmState
from proto.xfrm import (
    IPPROTO_ESP,
    MODE_TRANSPORT,
    POLICY_BLOCK,
    POLICY_IN,
    SA_DIR_OUT,
    USERPOLICY_BLOCK,
)
from proto.xfrm_structs import UserTmpl

if TYPE_CHECKING:
    from host_driver.xfrm.net import XfrmNet

ESP_HEADER = struct.Struct(">II")  # SPI and sequence number
ANY_ADDRESS = bytes(16)


def xfrm_input(net: "XfrmNet", skb: Skb) -> bytes | None:
    """What is delivered to the stack, or None: dropped, and counted unless the device failed it."""
    sec_path = skb.sec_path
    if sec_path is not None and sec_path.x.xso.type == OFFLOAD_PACKET:
        # RX-02: the device is trusted; no policy is looked up, no counter moves either way.
        skb.sec_path = None
        good = sec_path.flags & CRYPTO_DONE and sec_path.status & CRYPTO_SUCCESS
        return skb.data if good else None
    flow = decode(skb.data)
    if flow is None:
        net.mib.bump("XfrmInHdrError")
        return None
    flow = flow._replace(mark=skb.mark, oif=skb.in_dev.ifindex if skb.in_dev else 0)
    if flow.proto == IPPROTO_ESP:
        net.mib.bump(_stray_esp(net, skb, flow))
        return None
    x = sec_path.x if sec_path is not None else None
    counter = xfrm_policy_check(net, flow, x)
    if counter:
        net.mib.bump(counter)
        return None
    return skb.data


def xfrm_policy_check(net: "XfrmNet", flow: Flow, x: XfrmState | None) -> str:
    """The full check of a packet that `x`, or no SA, was applied to; the counter of its refusal."""
    if x is not None:
        if x.sel.family and not selector_match(x.sel, flow, x.sel.family):
            return "XfrmInStateMismatch"
        if x.dir == SA_DIR_OUT:
            return "XfrmInStateDirError"
    xp = net.spd.lookup(flow, POLICY_IN)
    if xp is None:
        blocked = net.policy_default[POLICY_IN] == USERPOLICY_BLOCK
        tunnelled = x is not None and x.props.mode != MODE_TRANSPORT
        return "XfrmInNoPols" if blocked or tunnelled else ""
    if not xp.curlft.use_time:
        xp.curlft.use_time = net.seconds()
    if xp.action == POLICY_BLOCK:
        return "XfrmInPolBlock"
    return "" if _templates_hold(xp, x) else "XfrmInTmplMismatch"


def _templates_hold(xp: XfrmPolicy, x: XfrmState | None) -> bool:
    """Whether the SA satisfies the policy's templates, at most one transform deep (RX-07)."""
    if x is None and xp.xdo.type == OFFLOAD_PACKET:
        return True  # RX-08: the device has enforced the policy
    used = False
    for tmpl in reversed(xp.xfrm_vec):
        if x is not None and not used and _template_ok(tmpl, x):
            used = True
        elif not (tmpl.optional and tmpl.mode == MODE_TRANSPORT):
            return bool(tmpl.optional) and x is None
    return used or x is None or x.props.mode == MODE_TRANSPORT


def _template_ok(tmpl: UserTmpl, x: XfrmState) -> bool:
    addresses = tmpl.mode == MODE_TRANSPORT or (
        tmpl.id.daddr in (ANY_ADDRESS, x.id.daddr) and tmpl.saddr in (ANY_ADDRESS, x.props.saddr)
    )
    return (
        addresses
        and (tmpl.id.proto, tmpl.mode) == (x.id.proto, x.props.mode)
        and tmpl.id.spi in (0, x.id.spi)
        and tmpl.reqid in (0, x.props.reqid)
    )


def _stray_esp(net: "XfrmNet", skb: Skb, flow: Flow) -> str:
    """Which counter an ESP packet bumps that no device decrypted (RX-12, RX-13)."""
    upper = find_upper(skb.data)
    if upper is None or upper.offset + ESP_HEADER.size > upper.end:
        return "XfrmInHdrError"
    spi, seq = ESP_HEADER.unpack_from(skb.data, upper.offset)
    x = net.sad.lookup(skb.mark, flow.daddr, spi, IPPROTO_ESP, flow.family)
    if x is None:
        return "XfrmInNoStates"
    if x.dir == SA_DIR_OUT:
        return "XfrmInStateDirError"
    if x.km.state != KmState.VALID:
        return "XfrmAcquireError" if x.km.state == KmState.ACQ else "XfrmInStateInvalid"
    if x.encap is not None:
        return "XfrmInStateMismatch"
    if not replay_check(x, seq):
        return "XfrmInStateSeqError"
    if xfrm_state_check_expire(net, x):
        return "XfrmInStateExpired"
    return "XfrmInStateProtoError"
