# SPDX-License-Identifier: Apache-2.0
"""`ip xfrm monitor`: one multicast message as text (11.4, 11.7)."""

import struct
from collections.abc import Callable, Mapping

from host_driver.ip import names
from host_driver.ip.format import Style, address, selector
from host_driver.ip.policy_verbs import print_default
from host_driver.ip.print_objects import (
    attributes_of,
    policy_text,
    policy_type,
    print_policy,
    print_state,
)
from proto import netlink, xfrm
from proto.netlink import NlMsg
from proto.xfrm import Msg
from proto.xfrm_structs import AeventId, UserAcquire, UserSaFlush, UserSaId, XfrmSelector

_AEVENT_CAUSES = (
    (xfrm.AE_CR, " replay update "),
    (xfrm.AE_CE, " timer expired "),
    (xfrm.AE_CU, " policy updated "),
)
_REQID = struct.Struct("<I")
_MAPPING = struct.Struct(">16s16sHH")  # behind xfrm_usersa_id and reqid
_MAPPING_AT = 28
_REPORT = struct.Struct("<B3x")


def format_notification(
    message: bytes,
    devices: Mapping[str, int] | None = None,
    *,
    stats: bool = False,
    oneline: bool = False,
    nokeys: bool = False,
) -> str:
    """What `ip xfrm monitor` prints for `message` (one netlink message, or several in a row).

    `devices` maps device names to ifindex. Never raises: bytes that are no message of a known type
    give a line that says so.
    """
    by_index = {ifindex: name for name, ifindex in (devices or {}).items()}
    style = Style(stats, oneline, nokeys, devices=by_index)
    try:
        return "".join(_format(msg, style) for msg in netlink.messages(message))
    except netlink.NetlinkError as error:
        return f"Malformed message: {error}\n"


def _format(msg: NlMsg, style: Style) -> str:
    printer = _PRINTERS.get(msg.type)
    if printer is None:
        length = netlink.NLMSGHDR.size + len(msg.payload)
        return f"Unknown message: {length:08} 0x{msg.type:08x} 0x{msg.flags:08x}\n"
    try:
        return printer(msg, style)
    except struct.error:
        return f"Malformed message: type 0x{msg.type:x} with {len(msg.payload)} bytes\n"


def _acquire(msg: NlMsg, style: Style) -> str:
    """CLI-61: the SA wanted, the flow, and the policy that wants it."""
    acquire, values, nl = UserAcquire.unpack(msg.payload), attributes_of(msg), style.nl
    family = acquire.sel.family or acquire.policy.sel.family
    text = f"acquire proto {names.name(names.XFRM_PROTO, acquire.id.proto)} "
    if style.stats or acquire.id.spi:
        text += f"spi 0x{acquire.id.spi:08x}{f'({acquire.id.spi})' if style.stats else ''} "
    text += f"{nl}  sel {selector(acquire.sel, family, style)}"
    text += "  policy " + policy_text(acquire.policy, values, style, prefix="    ")
    if style.stats:
        text += f"  seq 0x{acquire.seq:08} "
        text += f"enc-mask {acquire.ealgos:08x} auth-mask {acquire.aalgos:08x} "
        text += f"comp-mask {acquire.calgos:08x}"
    return text + nl + style.end


def _aevent(msg: NlMsg, style: Style) -> str:
    """CLI-62."""
    event = AeventId.unpack(msg.payload)
    causes = "".join(text for bit, text in _AEVENT_CAUSES if event.flags & bit)
    sa = event.sa_id
    text = f"Async event  (0x{event.flags:x}) {causes}\n"
    text += f"\tsrc {address(sa.family, event.saddr)} dst {address(sa.family, sa.daddr)} "
    text += f" reqid 0x{event.reqid:x} protocol {names.name(names.PROTO, sa.proto)} "
    return text + f" SPI 0x{sa.spi:x}\n"


def _flush_state(msg: NlMsg, style: Style) -> str:
    """CLI-63; a flush of all protocols has protocol 0, which has no name."""
    proto = UserSaFlush.unpack(msg.payload).proto
    return f"Flushed state proto {names.name(names.XFRM_PROTO, proto)}{style.nl}{style.end}"


def _flush_policy(msg: NlMsg, style: Style) -> str:
    text = "Flushed policy "
    if xfrm.Attr.POLICY_TYPE in attributes_of(msg):
        text += f"ptype {names.name(names.PTYPE, policy_type(msg))} "
    return text + style.nl + style.end


def _mapping(msg: NlMsg, _: Style) -> str:
    """A NAT mapping that changed: SA, then old and new source."""
    sa, reqid = UserSaId.unpack(msg.payload), _REQID.unpack_from(msg.payload, UserSaId.size())[0]
    old, new, old_port, new_port = _MAPPING.unpack_from(msg.payload, _MAPPING_AT)
    text = f"Mapping change {address(sa.family, old)}:{old_port} -> "
    text += f"{address(sa.family, new)}:{new_port}\n"
    text += f"\tdst {address(sa.family, sa.daddr)}  reqid 0x{reqid:x} "
    return text + f"protocol {names.name(names.PROTO, sa.proto)}  SPI 0x{sa.spi:x}\n"


def _report(msg: NlMsg, style: Style) -> str:
    proto = _REPORT.unpack_from(msg.payload)[0]
    sel = XfrmSelector.unpack(msg.payload, _REPORT.size)
    text = f"report proto {names.name(names.XFRM_PROTO, proto)} {style.nl}"
    return text + f"  sel {selector(sel, sel.family, style)}{style.end}"


def _default(msg: NlMsg, _: Style) -> str:
    return print_default(msg)


def _silent(_: NlMsg, __: Style) -> str:
    return ""


_PRINTERS: dict[int, Callable[[NlMsg, Style], str]] = {
    Msg.NEWSA: print_state,
    Msg.UPDSA: print_state,
    Msg.DELSA: print_state,
    Msg.EXPIRE: print_state,
    Msg.NEWPOLICY: print_policy,
    Msg.UPDPOLICY: print_policy,
    Msg.DELPOLICY: print_policy,
    Msg.POLEXPIRE: print_policy,
    Msg.ACQUIRE: _acquire,
    Msg.FLUSHSA: _flush_state,
    Msg.FLUSHPOLICY: _flush_policy,
    Msg.REPORT: _report,
    Msg.MAPPING: _mapping,
    Msg.NEWAE: _aevent,
    Msg.SETDEFAULT: _default,
    Msg.GETDEFAULT: _default,
    netlink.NLMSG_NOOP: _silent,
    netlink.NLMSG_ERROR: _silent,
    netlink.NLMSG_DONE: _silent,
}
