# SPDX-License-Identifier: Apache-2.0
"""Requests about policies: add, update, delete, get, dump, flush, POLEXPIRE (xfrm_user.c)."""

import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING

from host_driver.sleep import Sleep
from host_driver.xfrm.attributes import (
    mark_of,
    refuse,
    type_of,
    u32,
    verify_policy_dir,
    verify_prefix_lengths,
    verify_sec_ctx,
)
from host_driver.xfrm.device import (
    xfrm_dev_check_registered,
    xfrm_dev_policy_add,
)
from host_driver.xfrm.encode import build, build_delpolicy, build_polexpire, build_policy
from host_driver.xfrm.hold import xfrm_policy_requeue
from host_driver.xfrm.lifecycle import sanitize_mark
from host_driver.xfrm.policy import XfrmPolicy
from host_driver.xfrm.policy_lifecycle import (
    xfrm_policy_discard,
    xfrm_policy_flush,
    xfrm_policy_kill,
    xfrm_policy_unlink,
)
from host_driver.xfrm.spd import identity
from proto.clock import NS
from proto.netlink import NLM_F_MULTI, attribute
from proto.status import OffloadError
from proto.xfrm import (
    AF_INET,
    AF_INET6,
    IPPROTO_AH,
    IPPROTO_COMP,
    IPPROTO_DSTOPTS,
    IPPROTO_ESP,
    IPPROTO_ROUTING,
    MODE_IPTFS,
    POLICY_BLOCK,
    POLICY_OUT,
    SHARE_UNIQUE,
    TUNNEL_MODES,
    XFRM_MAX_DEPTH,
    Attr,
    Group,
    Msg,
)
from proto.xfrm_structs import (
    UserOffload,
    UserPolExpire,
    UserPolicyId,
    UserPolicyInfo,
    UserPolicyType,
    UserTmpl,
    XfrmSelector,
)

if TYPE_CHECKING:
    from host_driver.xfrm.net import XfrmNet
    from host_driver.xfrm.user import Request

TEMPLATE_PROTOS = (IPPROTO_ESP, IPPROTO_AH, IPPROTO_COMP, IPPROTO_ROUTING, IPPROTO_DSTOPTS)


def verify_newpolicy_info(info: UserPolicyInfo) -> None:
    """The fixed part, in the kernel's order (section 4.6). Raises EINVAL."""
    if info.share > SHARE_UNIQUE:
        raise refuse("Invalid policy share")
    if info.action > POLICY_BLOCK:
        raise refuse("Invalid policy action")
    verify_prefix_lengths(info.sel, info.sel.family)
    if info.sel.family not in (AF_INET, AF_INET6):
        raise refuse("Invalid selector family")
    verify_policy_dir(info.dir)
    if info.index and info.index & 7 != info.dir:
        raise refuse("Policy index doesn't match direction")


def templates_of(net: "XfrmNet", request: "Request", family: int, dir: int) -> list[UserTmpl]:
    """The policy's templates; family 0 becomes the policy's. Raises EINVAL (POL-10).

    The kernel fills the family into the request itself, and so into what a refusal repeats.
    """
    data, size = request.attributes.get(Attr.TMPL, b""), UserTmpl.size()
    count = len(data) // size
    if count > XFRM_MAX_DEPTH:
        raise refuse("Template count must be <= XFRM_MAX_DEPTH (6)")
    templates, before = [], family
    for number in range(count):
        tmpl = UserTmpl.unpack(data, number * size)
        if not tmpl.family:
            tmpl.family = family
            request.rewrite(Attr.TMPL, number * size, tmpl.pack())
        _check_template(net, tmpl, before, dir)
        before = tmpl.family
        templates.append(tmpl)
    return templates


def _check_template(net: "XfrmNet", tmpl: UserTmpl, before: int, dir: int) -> None:
    """One template; `before` is the family of the one in front of it, or of the policy."""
    if tmpl.mode in TUNNEL_MODES:
        if tmpl.optional and dir == POLICY_OUT and net.profile.optional_tunnel_refused:
            raise refuse("Mode in optional template not allowed in outbound policy")
    elif tmpl.family != before:
        raise refuse("Mode in template doesn't support a family change")
    modes = MODE_IPTFS + net.profile.iptfs_known
    if tmpl.mode >= modes:
        raise refuse(f"Mode in template must be < XFRM_MODE_MAX ({modes})")
    if tmpl.family not in (AF_INET, AF_INET6):
        raise refuse("Invalid family in template")
    if tmpl.id.proto not in TEMPLATE_PROTOS:
        raise refuse("Invalid XFRM protocol in template")


def xfrm_policy_construct(net: "XfrmNet", request: "Request", info: UserPolicyInfo) -> XfrmPolicy:
    """A finished policy that no device has seen yet; `index` is what the request wishes for."""
    attributes = request.attributes
    type = type_of(attributes)
    return XfrmPolicy(
        selector=info.sel,
        priority=info.priority,
        index=info.index,
        dir=info.dir,
        mark=mark_of(attributes),
        if_id=u32(attributes, Attr.IF_ID),
        type=type,
        action=info.action,
        flags=info.flags,
        lft=info.lft,
        xfrm_vec=templates_of(net, request, info.sel.family, info.dir),
        family=info.sel.family,
    )


def xfrm_add_policy(net: "XfrmNet", request: "Request") -> Sleep[None]:
    """NEWPOLICY and UPDPOLICY: verify, construct, offload, insert, notify (POL-01..12)."""
    nlh = request.nlh
    info = UserPolicyInfo.unpack(nlh.payload)
    verify_newpolicy_info(info)
    if Attr.SEC_CTX in request.attributes:
        verify_sec_ctx(request.attributes[Attr.SEC_CTX])
    xp = xfrm_policy_construct(net, request, info)
    if Attr.OFFLOAD_DEV in request.attributes:
        offload = UserOffload.unpack(request.attributes[Attr.OFFLOAD_DEV])
        yield from xfrm_dev_policy_add(net, xp, offload, request.extack)
    try:
        xfrm_dev_check_registered(net, xp.xdo)
        sanitize_mark(net, xp.mark)
        if nlh.type == Msg.NEWPOLICY and net.spd.existing(xp) is not None:
            raise refuse("", errno.EEXIST)
    except OffloadError:
        xfrm_policy_discard(net, xp)
        raise
    xp.curlft.add_time = net.seconds()
    replaced = net.spd.insert(xp)
    net.arm(xp, net.now_ns + NS)
    if replaced is not None:
        xfrm_policy_requeue(net, replaced, xp)
        xfrm_policy_kill(net, replaced)
    net.multicast(Group.POLICY, build_policy(xp, nlh.type, nlh.seq, nlh.pid, 0))


def _find(
    net: "XfrmNet", request: "Request", index: int, dir: int, sel: XfrmSelector
) -> XfrmPolicy:
    """The policy that a request names by index or selector (UAPI-71). Raises ENOENT."""
    type = type_of(request.attributes)
    verify_policy_dir(dir)
    if_id, mark = u32(request.attributes, Attr.IF_ID), mark_of(request.attributes)
    if index:
        xp = net.spd.byid(index, dir, type, if_id, mark)
    else:
        if Attr.SEC_CTX in request.attributes:
            verify_sec_ctx(request.attributes[Attr.SEC_CTX])
        xp = net.spd.find(identity(dir, type, if_id, sel, mark))
    if xp is None:
        raise refuse("", errno.ENOENT)
    return xp


def xfrm_get_policy(net: "XfrmNet", request: "Request") -> None:
    """GETPOLICY of one policy, and DELPOLICY."""
    nlh = request.nlh
    id = UserPolicyId.unpack(nlh.payload)
    xp = _find(net, request, id.index, id.dir, id.sel)
    if nlh.type == Msg.GETPOLICY:
        request.replies.append(build_policy(xp, Msg.NEWPOLICY, nlh.seq, nlh.pid, 0))
        return
    deleted = build_delpolicy(xp, bool(id.index), nlh.seq, nlh.pid)
    xfrm_policy_unlink(net, xp)
    net.multicast(Group.POLICY, deleted)


def xfrm_dump_policy(net: "XfrmNet", request: "Request") -> Iterator[bytes]:
    """GETPOLICY dump: the newest first (DUMP-05)."""
    nlh = request.nlh
    for xp in net.spd:
        yield build_policy(xp, Msg.NEWPOLICY, nlh.seq, nlh.pid, NLM_F_MULTI)


def xfrm_flush_policy(net: "XfrmNet", request: "Request") -> None:
    """FLUSHPOLICY of one type; silent when there was nothing to delete (UAPI-08)."""
    nlh = request.nlh
    type = type_of(request.attributes)
    if xfrm_policy_flush(net, type):
        payload = attribute(Attr.POLICY_TYPE, UserPolicyType(type).pack())
        net.multicast(Group.POLICY, build(Msg.FLUSHPOLICY, payload, nlh.seq, nlh.pid))


def xfrm_add_pol_expire(net: "XfrmNet", request: "Request") -> None:
    """A user's POLEXPIRE: delete if it is a hard one, then notify (UAPI-72)."""
    expire = UserPolExpire.unpack(request.nlh.payload)
    xp = _find(net, request, expire.pol.index, expire.pol.dir, expire.pol.sel)
    message = build_polexpire(xp, bool(expire.hard), request.nlh.pid)
    if expire.hard:
        net.xfrm_policy_delete(xp)
    net.multicast(Group.EXPIRE, message)
