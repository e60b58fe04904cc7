# SPDX-License-Identifier: Apache-2.0
"""Replies and notifications, byte for byte as the kernel lays them out (UAPI-60..68).

Late kernels first let the driver of an SA bring its counters up to date (DUMP-03).
"""

from typing import TYPE_CHECKING

from host_driver.xfrm.device import xfrm_dev_state_update_stats
from host_driver.xfrm.policy import XfrmPolicy
from host_driver.xfrm.state import (
    OFFLOAD_DIR_IN,
    OFFLOAD_PACKET,
    Algorithm,
    DevOffload,
    XfrmState,
)
from proto.netlink import align, attribute, message
from proto.xfrm import AE_ETHR, AE_RTHR, OFFLOAD_INBOUND, POLICY_OUT, Attr, Msg
from proto.xfrm import OFFLOAD_PACKET as OFFLOAD_FLAG_PACKET
from proto.xfrm_structs import (
    Algo,
    AlgoAead,
    AlgoAuth,
    UserAcquire,
    UserExpire,
    UserOffload,
    UserPolExpire,
    UserPolicyId,
    UserPolicyInfo,
    UserPolicyType,
    UserSaId,
    UserSaInfo,
    UserTmpl,
    XfrmMark,
    XfrmSelector,
)

if TYPE_CHECKING:
    from host_driver.xfrm.net import XfrmNet


def build(type: int, payload: bytes, seq: int = 0, pid: int = 0, flags: int = 0) -> bytes:
    """A message as the kernel ends it: its length counts the padding."""
    return message(type, payload.ljust(align(len(payload)), b"\0"), flags, seq, pid)


def _u32(type: int, value: int) -> bytes:
    return attribute(type, value.to_bytes(4, "little"))


def _u8(type: int, value: int) -> bytes:
    return attribute(type, bytes((value,)))


def copy_to_user_state(net: "XfrmNet", x: XfrmState) -> UserSaInfo:
    """The fixed part that describes an SA; asks the driver for its counters first (DUMP-02..04)."""
    if net.profile.update_at_serialization:
        xfrm_dev_state_update_stats(net, x)
    return UserSaInfo(
        sel=x.sel,
        id=x.id,
        saddr=x.props.saddr,
        lft=x.lft,
        curlft=x.curlft,
        stats=x.stats,
        seq=x.km.seq,
        reqid=x.props.reqid,
        family=x.props.family,
        mode=x.props.mode,
        replay_window=x.props.replay_window,
        flags=x.props.flags,
    )


def state_attributes(x: XfrmState) -> bytes:
    """All attributes of an SA, keys included, in the kernel's order (UAPI-60)."""
    parts = []
    if x.props.extra_flags:
        parts.append(_u32(Attr.SA_EXTRA_FLAGS, x.props.extra_flags))
    if x.coaddr is not None:
        parts.append(attribute(Attr.COADDR, x.coaddr))
    if x.lastused:
        parts.append(attribute(Attr.LASTUSED, x.lastused.to_bytes(8, "little")))
    parts.append(_algorithms(x))
    if x.encap is not None:
        parts.append(attribute(Attr.ENCAP, x.encap.pack()))
    if x.tfcpad:
        parts.append(_u32(Attr.TFCPAD, x.tfcpad))
    parts.append(_mark(x.mark))
    smark = x.props.smark
    if smark.v or smark.m:
        parts.append(_u32(Attr.SET_MARK, smark.v) + _u32(Attr.SET_MARK_MASK, smark.m))
    parts.append(_replay(x))
    parts.append(_offload(x.xso))
    if x.if_id:
        parts.append(_u32(Attr.IF_ID, x.if_id))
    if x.mapping_maxage:
        parts.append(_u32(Attr.MTIMER_THRESH, x.mapping_maxage))
    parts.append(_direction(x))
    if x.nat_keepalive_interval:
        parts.append(_u32(Attr.NAT_KEEPALIVE_INTERVAL, x.nat_keepalive_interval))
    return b"".join(parts)


def _algorithms(x: XfrmState) -> bytes:
    parts = []
    if x.aead is not None:
        aead = AlgoAead(x.aead.name.encode(), x.aead.key_bits, x.aead.icv_bits)
        parts.append(attribute(Attr.ALG_AEAD, aead.pack() + x.aead.key))
    if x.aalg is not None:
        auth = AlgoAuth(x.aalg.name.encode(), x.aalg.key_bits, x.aalg.trunc_bits)
        parts.append(_algo(Attr.ALG_AUTH, x.aalg))
        parts.append(attribute(Attr.ALG_AUTH_TRUNC, auth.pack() + x.aalg.key))
    if x.ealg is not None:
        parts.append(_algo(Attr.ALG_CRYPT, x.ealg))
    if x.calg is not None:
        parts.append(_algo(Attr.ALG_COMP, x.calg))
    return b"".join(parts)


def _algo(type: int, algorithm: Algorithm) -> bytes:
    fixed = Algo(algorithm.name.encode(), algorithm.key_bits)
    return attribute(type, fixed.pack() + algorithm.key)


def _mark(mark: XfrmMark) -> bytes:
    return attribute(Attr.MARK, mark.pack()) if mark.v or mark.m else b""


def _replay(x: XfrmState) -> bytes:
    """Exactly one of the two replay attributes."""
    if x.replay_esn is None:
        return attribute(Attr.REPLAY_VAL, x.replay.pack())
    words = b"".join(word.to_bytes(4, "little") for word in x.replay_esn.bmp)
    return attribute(Attr.REPLAY_ESN_VAL, x.replay_esn.fixed.pack() + words)


def _offload(record: DevOffload) -> bytes:
    """OFFLOAD_DEV of a state or policy: the IPV6 bit is never reported (UAPI-61)."""
    if record.dev is None:
        return b""
    flags = OFFLOAD_INBOUND if record.dir == OFFLOAD_DIR_IN else 0
    flags |= OFFLOAD_FLAG_PACKET if record.type == OFFLOAD_PACKET else 0
    return attribute(Attr.OFFLOAD_DEV, UserOffload(record.dev.ifindex, flags).pack())


def _pcpu(x: XfrmState) -> bytes:
    return b"" if x.pcpu_num is None else _u32(Attr.SA_PCPU, x.pcpu_num)


def _direction(x: XfrmState) -> bytes:
    return _pcpu(x) + (_u8(Attr.SA_DIR, x.dir) if x.dir else b"")


def build_state(net: "XfrmNet", x: XfrmState, type: int, seq: int, pid: int, flags: int) -> bytes:
    """NEWSA or UPDSA: reply, dump entry or notification."""
    info = copy_to_user_state(net, x)
    return build(type, info.pack() + state_attributes(x), seq, pid, flags)


def state_id(x: XfrmState) -> UserSaId:
    """What names an SA in a message about it."""
    return UserSaId(x.id.daddr, x.id.spi, x.props.family, x.id.proto)


def build_delsa(net: "XfrmNet", x: XfrmState, seq: int, pid: int) -> bytes:
    """The DELSA notification: id, whole SA, attributes (UAPI-64)."""
    whole = attribute(Attr.SA, copy_to_user_state(net, x).pack())
    return build(Msg.DELSA, state_id(x).pack() + whole + state_attributes(x), seq, pid)


def build_expire(net: "XfrmNet", x: XfrmState, hard: bool, pid: int) -> bytes:
    """EXPIRE: never keys, replay data or the device (UAPI-63)."""
    expire = UserExpire(copy_to_user_state(net, x), int(hard))
    if_id = _u32(Attr.IF_ID, x.if_id) if x.if_id else b""
    return build(Msg.EXPIRE, expire.pack() + _mark(x.mark) + if_id + _direction(x), 0, pid)


def copy_to_user_policy(xp: XfrmPolicy, dir: int) -> UserPolicyInfo:
    """The fixed part that describes a policy."""
    return UserPolicyInfo(
        sel=xp.selector,
        lft=xp.lft,
        curlft=xp.curlft,
        priority=xp.priority,
        index=xp.index,
        dir=dir,
        action=xp.action,
        flags=xp.flags,
    )


def policy_attributes(xp: XfrmPolicy) -> bytes:
    """All attributes of a policy in the kernel's order (UAPI-62)."""
    templates = b"".join(tmpl.pack() for tmpl in xp.xfrm_vec)
    return b"".join(
        (
            attribute(Attr.TMPL, templates) if templates else b"",
            attribute(Attr.POLICY_TYPE, UserPolicyType(xp.type).pack()),
            _mark(xp.mark),
            _u32(Attr.IF_ID, xp.if_id) if xp.if_id else b"",
            _offload(xp.xdo),
        )
    )


def build_policy(xp: XfrmPolicy, type: int, seq: int, pid: int, flags: int) -> bytes:
    """NEWPOLICY or UPDPOLICY: reply, dump entry or notification."""
    info = copy_to_user_policy(xp, xp.dir)
    return build(type, info.pack() + policy_attributes(xp), seq, pid, flags)


def build_delpolicy(xp: XfrmPolicy, by_index: bool, seq: int, pid: int) -> bytes:
    """The DELPOLICY notification: names the policy as the request did (UAPI-64)."""
    sel = XfrmSelector() if by_index else xp.selector
    id = UserPolicyId(sel, xp.index if by_index else 0, xp.dir)
    whole = attribute(Attr.POLICY, copy_to_user_policy(xp, xp.dir).pack())
    return build(Msg.DELPOLICY, id.pack() + whole + policy_attributes(xp), seq, pid)


def build_polexpire(xp: XfrmPolicy, hard: bool, pid: int) -> bytes:
    """POLEXPIRE, with the policy's attributes."""
    expire = UserPolExpire(copy_to_user_policy(xp, xp.dir), int(hard))
    return build(Msg.POLEXPIRE, expire.pack() + policy_attributes(xp), 0, pid)


def build_acquire(x: XfrmState, tmpl: UserTmpl, xp: XfrmPolicy) -> bytes:
    """ACQUIRE: what the larval SA `x` shall protect, and the policy that wants it (UAPI-65)."""
    acquire = UserAcquire(
        id=x.id,
        saddr=x.props.saddr,
        sel=x.sel,
        policy=copy_to_user_policy(xp, POLICY_OUT),
        aalgos=tmpl.aalgos,
        ealgos=tmpl.ealgos,
        calgos=tmpl.calgos,
        seq=x.km.seq,
    )
    return build(Msg.ACQUIRE, acquire.pack() + policy_attributes(xp) + _pcpu(x))


def aevent_attributes(x: XfrmState, flags: int) -> bytes:
    """Attributes of NEWAE; the driver is not asked (UAPI-68)."""
    parts = [_replay(x), attribute(Attr.LTIME_VAL, x.curlft.pack())]
    if flags & AE_RTHR:
        parts.append(_u32(Attr.REPLAY_THRESH, x.replay_maxdiff))
    if flags & AE_ETHR:
        parts.append(_u32(Attr.ETIMER_THRESH, x.replay_maxage))
    parts.append(_mark(x.mark))
    if x.if_id:
        parts.append(_u32(Attr.IF_ID, x.if_id))
    parts.append(_direction(x))
    return b"".join(parts)
