# SPDX-License-Identifier: Apache-2.0
"""__xfrm_policy_check: whether a received packet may pass, given the SAs that were applied to it.

`xvec` is the packet's sec_path: its SAs, the first to be applied (the outermost) first.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from host_driver.xfrm.flow import Flow, selector_allows
from host_driver.xfrm.state import OFFLOAD_CRYPTO, OFFLOAD_PACKET, XfrmState
from proto.xfrm import (
    ANY_ADDRESS,
    MODE_TRANSPORT,
    POLICY_BLOCK,
    POLICY_IN,
    SA_DIR_OUT,
    USERPOLICY_BLOCK,
    XFRM_MAX_DEPTH,
)
from proto.xfrm_structs import UserTmpl

if TYPE_CHECKING:
    from host_driver.xfrm.net import XfrmNet


def xfrm_policy_check(net: "XfrmNet", flow: Flow, xvec: Sequence[XfrmState]) -> str:
    """The counter of the packet's refusal, or empty when it passes (RX-06..09)."""
    for x in reversed(xvec):
        if not selector_allows(x.sel, flow):
            return "XfrmInStateMismatch"
        if x.dir == SA_DIR_OUT:
            return "XfrmInStateDirError"
    policies = net.spd.lookup(flow, POLICY_IN)
    if not policies:
        return _without_policy(net, xvec)
    for xp in policies:
        xp.curlft.use_time = net.seconds()
    if any(xp.action == POLICY_BLOCK for xp in policies):
        return "XfrmInPolBlock"
    templates = [tmpl for xp in policies for tmpl in xp.xfrm_vec]
    if len(templates) >= XFRM_MAX_DEPTH:
        return "XfrmInBufferError"
    offloaded = policies[0].xdo.type == OFFLOAD_PACKET and net.profile.offloaded_policy_trusted
    if offloaded and not xvec:
        return ""  # RX-08: the device has enforced the policy
    return "" if _templates_hold(templates, xvec) else "XfrmInTmplMismatch"


def _without_policy(net: "XfrmNet", xvec: Sequence[XfrmState]) -> str:
    """What a tunnel brought needs a policy, unless a crypto-offload SA did."""
    if net.policy_default[POLICY_IN] == USERPOLICY_BLOCK:
        return "XfrmInNoPols"
    by_device = bool(xvec) and xvec[-1].xso.type == OFFLOAD_CRYPTO
    trusted = by_device and net.profile.crypto_tunnel_trusted
    return "XfrmInNoPols" if _has_tunnel(xvec) and not trusted else ""


def _has_tunnel(xvec: Sequence[XfrmState]) -> bool:
    return any(x.props.mode != MODE_TRANSPORT for x in xvec)


def _templates_hold(templates: Sequence[UserTmpl], xvec: Sequence[XfrmState]) -> bool:
    """Whether the SAs are those that the templates ask for, the outermost first (RX-07)."""
    used = 0
    for tmpl in reversed(templates):
        at = _policy_ok(tmpl, xvec, used)
        if at is None:
            return False
        used = at
    return not _has_tunnel(xvec[used:])


def _policy_ok(tmpl: UserTmpl, xvec: Sequence[XfrmState], used: int) -> int | None:
    """How many SAs are used up once `tmpl` is satisfied; None when it is not.

    SAs of transport mode may be passed over, a tunnel may not.
    """
    if tmpl.optional and tmpl.mode == MODE_TRANSPORT:
        return used
    for at in range(used, len(xvec)):
        if _state_ok(tmpl, xvec[at]):
            return at + 1
        if xvec[at].props.mode != MODE_TRANSPORT:
            break
    return used if tmpl.optional else None


def _state_ok(tmpl: UserTmpl, x: XfrmState) -> bool:
    """xfrm_state_ok: of the addresses only a tunnel's source counts."""
    return (
        (tmpl.id.proto, tmpl.mode) == (x.id.proto, x.props.mode)
        and tmpl.id.spi in (0, x.id.spi)
        and tmpl.reqid in (0, x.props.reqid)
        and (tmpl.mode == MODE_TRANSPORT or tmpl.saddr in (ANY_ADDRESS, x.props.saddr))
    )
