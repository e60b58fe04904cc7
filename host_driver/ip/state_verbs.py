# SPDX-License-Identifier: Apache-2.0
"""The verbs of `ip xfrm state`: each reads its words, talks to the core and prints (11.2)."""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from host_driver.ip import grammar, names
from host_driver.ip.command import ALL_FLAGS, Command
from host_driver.ip.delete_all import DELETE_ALL, copied_mark, delete_all
from host_driver.ip.print_attributes import u32
from host_driver.ip.print_objects import attributes_of, print_state, state_info
from host_driver.ip.selector import address_matches
from host_driver.ip.state import AllocSpi, NewState
from host_driver.ip.usage import STATE
from host_driver.ip.words import IpError, Words, duplicate, invalid
from proto import netlink, xfrm
from proto.netlink import NlMsg
from proto.xfrm import Attr, Msg, SadAttr
from proto.xfrm_structs import AddressFilter, UserSaFlush, UserSaId, UserSaInfo, XfrmMark

_DELETE_FAILED = "Failed to send delete-all request\n"  # and so the complaint has two lines


@dataclass(slots=True)
class _Filter:
    """What list and deleteall compare (CLI-20)."""

    id: grammar.Id = field(default_factory=grammar.Id)
    mode: int | None = None
    reqid: int | None = None
    flags: int | None = None
    family: int = 0

    def matches(self, info: UserSaInfo) -> bool:
        want, given = self.id, self.id.given
        return (
            self.family in (0, info.family)
            and address_matches(info.saddr, want.saddr, want.src_bits)
            and address_matches(info.id.daddr, want.id.daddr, want.dst_bits)
            and ("proto" not in given or info.id.proto == want.id.proto)
            and ("spi" not in given or info.id.spi == want.id.spi)
            and self.mode in (None, info.mode)
            and self.reqid in (None, info.reqid)
            and (self.flags is None or info.flags & self.flags != 0)
        )


def _parse_filter(words: Words) -> tuple[_Filter, bool]:
    """The filter, and whether keys are to be hidden."""
    wanted, nokeys, seen_id = _Filter(family=words.family), False, False
    while words.more():
        word = words.take()
        if word == "nokeys":
            nokeys = True
        elif word == "mode":
            wanted.mode = grammar.mode(words)
        elif word == "reqid":
            wanted.reqid = grammar.reqid(words)
        elif word == "flag":
            complaint = "FLAG value is invalid"
            wanted.flags = grammar.flags(words, names.STATE_FLAG, 8, complaint, wanted.flags or 0)
        elif seen_id:
            raise invalid("unknown", word)
        else:
            seen_id = True
            words.back()
            wanted.id = grammar.parse_id(words, loose=True)
            wanted.family = wanted.id.family or wanted.family
            words.family = words.family or wanted.family
    return wanted, nokeys


def _add(command: Command) -> str:
    command.talk.do(Msg.NEWSA, NewState(command.words).payload())
    return ""


def _update(command: Command) -> str:
    command.talk.do(Msg.UPDSA, NewState(command.words).payload())
    return ""


def _allocspi(command: Command) -> str:
    payload = AllocSpi(command.words).payload()
    return print_state(command.talk.get(Msg.ALLOCSPI, payload), command.style)


def _parse_key(words: Words) -> bytes:
    """The payload of GETSA and DELSA: `ID [ mark ]`; the source address is an attribute."""
    mark, fixed, source = XfrmMark(), UserSaId(family=words.family), b""
    while words.more():
        word = words.take()
        if word == "mark":
            mark = grammar.mark(words)
        elif source:
            raise invalid("unknown", word)
        else:
            words.back()
            found = grammar.parse_id(words)
            family = found.family or fixed.family
            fixed = UserSaId(found.id.daddr, found.id.spi, family, found.id.proto)
            source = netlink.attribute(Attr.SRCADDR, found.saddr)
    fixed.family = fixed.family or xfrm.AF_INET
    return fixed.pack() + source + grammar.mark_attribute(mark, new=False)


def _delete(command: Command) -> str:
    command.talk.do(Msg.DELSA, _parse_key(command.words))
    return ""


def _get(command: Command) -> str:
    return print_state(command.talk.get(Msg.GETSA, _parse_key(command.words)), command.style)


def _list(command: Command) -> str:
    """The kernel filters by protocol and addresses as well; the rest is filtered here."""
    wanted, nokeys = _parse_filter(command.words)
    style, ends = command.style, wanted.id
    if nokeys:
        style = replace(style, nokeys=True)
    by_proto = b""
    if ends.id.proto:
        by_proto = netlink.attribute(Attr.PROTO, bytes([ends.id.proto]))
    family = ends.family or style.family
    filter = AddressFilter(ends.saddr, ends.id.daddr, family, ends.src_bits, ends.dst_bits)
    payload = by_proto + netlink.attribute(Attr.ADDRESS_FILTER, filter.pack())
    found = command.talk.dump(Msg.GETSA, payload)
    return "".join(print_state(msg, style) for msg in found if wanted.matches(state_info(msg)))


def _deleteall(command: Command) -> str:
    wanted, _ = _parse_filter(command.words)

    def requests() -> list[tuple[int, bytes]]:
        found = command.talk.dump(Msg.GETSA, b"", DELETE_ALL)
        return [
            (Msg.DELSA, _delete_payload(msg)) for msg in found if wanted.matches(state_info(msg))
        ]

    delete_all(command, requests, _DELETE_FAILED)
    return ""


def _delete_payload(msg: NlMsg) -> bytes:
    info = state_info(msg)
    fixed = UserSaId(info.id.daddr, info.id.spi, info.family, info.id.proto)
    return fixed.pack() + netlink.attribute(Attr.SRCADDR, info.saddr) + copied_mark(msg)


def _flush(command: Command) -> str:
    words, proto = command.words, None
    while words.more():
        word = words.take()
        if word != "proto":
            raise invalid("unknown", word)
        if proto is not None:
            raise duplicate("proto", "proto")
        proto = words.choice(names.XFRM_PROTO, "XFRM-PROTO value is invalid")
    if command.stats > 1:
        name = names.name(names.XFRM_PROTO, proto or 0)
        command.notes.append(f'Flush state with XFRM-PROTO value "{name}"\n')
    command.talk.do(Msg.FLUSHSA, UserSaFlush(proto or 0).pack())
    return ""


def _count(command: Command) -> str:
    msg = command.talk.get(Msg.GETSADINFO, ALL_FLAGS)
    values = attributes_of(msg)
    text = "\t SAD"
    if SadAttr.CNT in values:
        text += f" count {u32(values[SadAttr.CNT])}"
    if command.style.stats and SadAttr.HINFO in values:
        buckets, most = struct.unpack_from("<2I", values[SadAttr.HINFO])
        text += f" (buckets count {buckets} Max {most})"
    return text + "\n"


def _help(_: Command) -> str:
    raise IpError(255, STATE)


# In the order in which abbreviations are matched.
VERBS: dict[str, Callable[[Command], str]] = {
    "add": _add,
    "update": _update,
    "allocspi": _allocspi,
    "delete": _delete,
    "deleteall": _deleteall,
    "delall": _deleteall,
    "list": _list,
    "show": _list,
    "lst": _list,
    "get": _get,
    "flush": _flush,
    "count": _count,
    "help": _help,
}
