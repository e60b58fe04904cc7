# SPDX-License-Identifier: Apache-2.0
"""One state or policy message as text, as list, get and monitor print it (11.5, 11.6, CLI-60)."""

from collections.abc import Container

from host_driver.ip import names
from host_driver.ip.format import Style, identity, lifetimes, selector, stats
from host_driver.ip.print_attributes import Values, attribute_lines, mark_line, u32
from proto import netlink, xfrm
from proto.netlink import NlMsg
from proto.xfrm import MSG_MIN, Attr, Msg
from proto.xfrm_structs import (
    UserExpire,
    UserPolExpire,
    UserPolicyInfo,
    UserPolicyType,
    UserSaInfo,
    XfrmSelector,
)

_TITLE: dict[int, str] = {
    Msg.DELSA: "Deleted ",
    Msg.UPDSA: "Updated ",
    Msg.EXPIRE: "Expired ",
    Msg.DELPOLICY: "Deleted ",
    Msg.UPDPOLICY: "Updated ",
    Msg.POLEXPIRE: "Expired ",
}
_STATES = (Msg.NEWSA, Msg.UPDSA, Msg.DELSA, Msg.EXPIRE)
_POLICIES = (Msg.NEWPOLICY, Msg.UPDPOLICY, Msg.DELPOLICY, Msg.POLEXPIRE)
_IPSEC = (xfrm.IPPROTO_ESP, xfrm.IPPROTO_AH, xfrm.IPPROTO_COMP)
_POLICY_MAX = 3  # directions from here on are those of socket policies
_SEC_CTX_BYTES = 8


def _expect(msg: NlMsg, types: Container[int]) -> None:
    if msg.type not in types:
        raise netlink.NetlinkError(f"a message of type 0x{msg.type:x} was not expected")


def attributes_of(msg: NlMsg) -> Values:
    """The attributes behind the fixed part; raises NetlinkError for a type that is not known."""
    _expect(msg, MSG_MIN)
    return netlink.attributes(msg.payload, netlink.align(MSG_MIN[msg.type])).values


def state_info(msg: NlMsg) -> UserSaInfo:
    """The state of a NEWSA, UPDSA, DELSA or EXPIRE message; raises struct.error if it is short."""
    _expect(msg, _STATES)
    if msg.type == Msg.DELSA:
        return UserSaInfo.unpack(attributes_of(msg).get(Attr.SA, b""))
    return UserSaInfo.unpack(msg.payload)


def policy_info(msg: NlMsg) -> UserPolicyInfo:
    """The policy of a NEWPOLICY, UPDPOLICY, DELPOLICY or POLEXPIRE message."""
    _expect(msg, _POLICIES)
    if msg.type == Msg.DELPOLICY:
        return UserPolicyInfo.unpack(attributes_of(msg).get(Attr.POLICY, b""))
    return UserPolicyInfo.unpack(msg.payload)


def policy_type(msg: NlMsg) -> int:
    """The POLICY_TYPE of a policy message, main without one."""
    data = attributes_of(msg).get(Attr.POLICY_TYPE)
    return UserPolicyType.unpack(data).type if data else 0


def print_state(msg: NlMsg, style: Style) -> str:
    """A state as text; raises struct.error for a message that is too short."""
    info, values = state_info(msg), attributes_of(msg)
    ipsec = info.id.proto in _IPSEC
    text = _TITLE.get(msg.type, "") + identity(
        info.saddr, info.id, info.mode, info.reqid, info.family, style, spi=ipsec
    )
    text += _state_flags(info, values, style) + style.nl + _marks(values, style)
    lines = attribute_lines(values, info.family, style, with_dir=True)
    text += "".join(line + style.nl for line in lines)
    if info.sel != XfrmSelector():  # CLI-51
        text += f"\tsel {selector(info.sel, info.family, style)}"
    if style.stats:
        tail = lifetimes(info.lft, info.curlft) + stats(info.stats)
        text += "".join(line + style.nl for line in tail)
    text += _context(values, style)
    if msg.type == Msg.EXPIRE:
        text += f"\thard {UserExpire.unpack(msg.payload).hard}{style.nl}"
    return text + style.end


def _state_flags(info: UserSaInfo, values: Values, style: Style) -> str:
    text = f"\treplay-window {info.replay_window} "
    if style.stats:
        text += f"seq 0x{info.seq:08} "  # decimal behind 0x: that is what the tool prints
    if style.stats or info.flags:
        text += f"flag {names.bit_names(names.STATE_FLAG, info.flags)}"
    if style.stats and Attr.SA_EXTRA_FLAGS in values:
        extra = u32(values[Attr.SA_EXTRA_FLAGS])
        text += f"extra_flag {names.bit_names(names.EXTRA_FLAG, extra)}"
    if style.stats:
        text += f" (0x{info.flags:08b})"
    return text


def _marks(values: Values, style: Style) -> str:
    line = mark_line(values)
    return line + style.nl if line else ""


def _context(values: Values, style: Style) -> str:
    data = values.get(Attr.SEC_CTX)
    if data is None:
        return ""
    label = data[_SEC_CTX_BYTES:].split(b"\0")[0].decode(errors="replace")
    return f"\tsecurity context {label} {style.nl}"


def policy_text(info: UserPolicyInfo, values: Values, style: Style, prefix: str = "") -> str:
    """A policy from its selector on; `prefix` stands before every line but the first."""
    text = selector(info.sel, 0, style) + _context(values, style)
    socket = info.dir >= _POLICY_MAX
    direction = names.name(names.POLICY_DIR, info.dir - _POLICY_MAX * socket)
    text += f"{prefix}\t{'socket' if socket else 'dir'} {direction} "
    if style.stats or info.action:
        text += f"action {names.name(names.ACTION, info.action)} "
    if style.stats:
        text += f"index {info.index} "
    text += f"priority {info.priority} "
    if Attr.POLICY_TYPE in values:
        type = UserPolicyType.unpack(values[Attr.POLICY_TYPE]).type
        text += f"ptype {names.name(names.PTYPE, type)} "
    if style.stats:
        text += f"share {names.name(names.SHARE, info.share)} "
    if style.stats or info.flags:
        text += f"flag {names.bit_names(names.POLICY_FLAG, info.flags)}"
    if style.stats:
        text += f" (0x{info.flags:08b})"
    limits = lifetimes(info.lft, info.curlft) if style.stats else []
    text += style.nl + "".join(prefix + line + style.nl for line in limits)
    text += _marks(values, style)  # without the prefix: so the tool has it
    lines = attribute_lines(values, info.sel.family, style, with_dir=False)
    return text + "".join(prefix + line + style.nl for line in lines)


def print_policy(msg: NlMsg, style: Style) -> str:
    """A policy as text; raises struct.error for a message that is too short."""
    text = _TITLE.get(msg.type, "") + policy_text(policy_info(msg), attributes_of(msg), style)
    if msg.type == Msg.POLEXPIRE:
        text += f"\thard {UserPolExpire.unpack(msg.payload).hard}{style.nl}"
    return text + style.end
