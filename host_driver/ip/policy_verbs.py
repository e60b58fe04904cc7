# SPDX-License-Identifier: Apache-2.0
"""The verbs of `ip xfrm policy`: each reads its words, talks to the core and prints (11.3)."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from host_driver.ip import grammar, names
from host_driver.ip.command import ALL_FLAGS, Command
from host_driver.ip.delete_all import DELETE_ALL, copied_mark, delete_all
from host_driver.ip.policy import NewPolicy, OldPolicy, policy_type_attribute
from host_driver.ip.print_attributes import Values
from host_driver.ip.print_objects import attributes_of, policy_info, policy_type, print_policy
from host_driver.ip.selector import Selector, parse_selector, selector_matches
from host_driver.ip.usage import POLICY
from host_driver.ip.words import IpError, Words, duplicate, invalid
from proto import netlink
from proto.netlink import NlMsg
from proto.xfrm import Attr, Msg, SpdAttr
from proto.xfrm_structs import UserPolicyDefault, UserPolicyId, XfrmSelector

_DEFAULTS = names.DEFAULT_ACTION | {"allow": names.DEFAULT_ACTION["accept"]}
_SOCKET_DIR = 3  # directions from here on are those of socket policies


@dataclass(slots=True)
class _Filter:
    """What list and deleteall compare; None compares nothing."""

    selector: Selector = field(default_factory=Selector)
    dir: int | None = None
    index: int | None = None
    ptype: int | None = None
    action: int | None = None
    priority: int | None = None
    flags: int | None = None
    nosock: bool = False
    family: int = 0

    def matches(self, msg: NlMsg) -> bool:
        info = policy_info(msg)
        return (
            self.family in (0, info.sel.family)
            and not (self.nosock and info.dir >= _SOCKET_DIR)
            and self.dir in (None, info.dir)
            and self.ptype in (None, policy_type(msg))
            and selector_matches(info.sel, self.selector)
            and self.index in (None, info.index)
            and self.action in (None, info.action)
            and self.priority in (None, info.priority)
            and (self.flags is None or info.flags & self.flags != 0)
        )


def _parse_filter(words: Words) -> _Filter:
    wanted, seen_selector = _Filter(family=words.family), False
    while words.more():
        word = words.take()
        if word == "nosock":
            wanted.nosock = True
        elif word == "dir":
            wanted.dir = words.choice(names.POLICY_DIR, "DIR value is invalid")
        elif word == "index":
            wanted.index = words.number(32, "INDEX value is invalid")
        elif word == "ptype":
            wanted.ptype = words.choice(names.PTYPE, "PTYPE value is invalid")
        elif word == "action":
            wanted.action = words.choice(names.ACTION, "ACTION value is invalid\n")
        elif word == "priority":
            wanted.priority = words.number(32, "PRIORITY value is invalid")
        elif word == "flag":
            complaint = "FLAG value is invalid"
            wanted.flags = grammar.flags(words, names.POLICY_FLAG, 8, complaint, wanted.flags or 0)
        elif seen_selector:
            raise invalid("unknown", word)
        else:
            seen_selector = True
            words.back()
            wanted.selector = parse_selector(words, XfrmSelector())
            wanted.family = wanted.selector.sel.family or wanted.family
            words.family = words.family or wanted.family
    return wanted


def _add(command: Command) -> str:
    command.talk.do(Msg.NEWPOLICY, NewPolicy(command.words).payload())
    return ""


def _update(command: Command) -> str:
    command.talk.do(Msg.UPDPOLICY, NewPolicy(command.words).payload())
    return ""


def _delete(command: Command) -> str:
    command.talk.do(Msg.DELPOLICY, OldPolicy(command.words).payload())
    return ""


def _get(command: Command) -> str:
    payload = OldPolicy(command.words).payload()
    return print_policy(command.talk.get(Msg.GETPOLICY, payload), command.style)


def _list(command: Command) -> str:
    wanted = _parse_filter(command.words)
    found = command.talk.dump(Msg.GETPOLICY)
    return "".join(print_policy(msg, command.style) for msg in found if wanted.matches(msg))


def _deleteall(command: Command) -> str:
    wanted = _parse_filter(command.words)

    def requests() -> list[tuple[int, bytes]]:
        found = command.talk.dump(Msg.GETPOLICY, b"", DELETE_ALL)
        return [
            (Msg.DELPOLICY, _delete_payload(msg))
            for msg in found
            if wanted.matches(msg) and policy_info(msg).dir < _SOCKET_DIR
        ]

    delete_all(command, requests, "Failed to send delete-all request")
    return ""


def _delete_payload(msg: NlMsg) -> bytes:
    info, if_id = policy_info(msg), attributes_of(msg).get(Attr.IF_ID)
    fixed = UserPolicyId(info.sel, info.index, info.dir).pack() + copied_mark(msg)
    return fixed if if_id is None else fixed + netlink.attribute(Attr.IF_ID, if_id[:4])


def _flush(command: Command) -> str:
    words, payload = command.words, b""
    while words.more():
        word = words.take()
        if word != "ptype":
            raise invalid("unknown", word)
        if payload:
            raise duplicate("ptype", "ptype")
        payload = policy_type_attribute(words.choice(names.PTYPE, "PTYPE value is invalid"))
    if command.stats > 1:
        command.notes.append("Flush policy\n")
    command.talk.do(Msg.FLUSHPOLICY, payload)
    return ""


def _count(command: Command) -> str:
    values = attributes_of(command.talk.get(Msg.GETSPDINFO, ALL_FLAGS))
    text = "\t SPD"
    if SpdAttr.INFO in values:
        counts = struct.unpack_from("<6I", values[SpdAttr.INFO])
        text += " IN  {} OUT {} FWD {}".format(*counts[:3])
        if command.style.stats:
            text += " (Sock: IN {} OUT {} FWD {})".format(*counts[3:])
    lines = [text, *(_hash_lines(values) if command.stats > 1 else ())]
    return "".join(line + command.style.nl for line in lines) + command.style.end


def _hash_lines(values: Values) -> Iterator[str]:
    if SpdAttr.HINFO in values:
        buckets, most = struct.unpack_from("<2I", values[SpdAttr.HINFO])
        yield f"\t SPD buckets: count {buckets} Max {most}"
    for type, version in ((SpdAttr.IPV4_HTHRESH, 4), (SpdAttr.IPV6_HTHRESH, 6)):
        if type in values:
            local, remote = struct.unpack_from("2B", values[type])
            yield f"\t SPD IPv{version} thresholds: local {local} remote {remote}"


def _set(command: Command) -> str:
    words, thresholds = command.words, dict[str, bytes]()
    while words.more():
        word = words.take()
        if word not in ("hthresh4", "hthresh6"):
            raise invalid("unknown", word)
        if word in thresholds:
            raise duplicate(word, word)
        most, pair = 32 if word == "hthresh4" else 128, []
        for side in ("LBITS", "RBITS"):
            complaint = f"{word} {side} value is invalid"
            pair.append(words.number(8, complaint))
            if pair[-1] > most:
                raise invalid(complaint, words.last())
        type = SpdAttr.IPV4_HTHRESH if word == "hthresh4" else SpdAttr.IPV6_HTHRESH
        thresholds[word] = netlink.attribute(type, bytes(pair))
    command.talk.do(Msg.NEWSPDINFO, ALL_FLAGS + b"".join(thresholds.values()))
    return ""


def _setdefault(command: Command) -> str:
    words, default = command.words, UserPolicyDefault()
    fields = {"in": "in_", "fwd": "fwd", "out": "out"}
    while words.more():
        word = words.take()
        if word not in fields:
            raise invalid("unknown direction", word)
        if getattr(default, fields[word]):
            raise duplicate(word, word)
        complaint = f"{word} policy value is invalid"
        setattr(default, fields[word], words.choice(_DEFAULTS, complaint))
    command.talk.do(Msg.SETDEFAULT, default.pack())
    return ""


def _getdefault(command: Command) -> str:
    msg = command.talk.get(Msg.GETDEFAULT, UserPolicyDefault().pack())
    return print_default(msg)


def print_default(msg: NlMsg) -> str:
    """The three default actions, on lines of their own even with -o (CLI-65)."""
    default = UserPolicyDefault.unpack(msg.payload)
    lines = [("in: ", default.in_), ("fwd:", default.fwd), ("out:", default.out)]
    words = names.DEFAULT_ACTION
    return "Default policies:\n" + "".join(
        f" {label} {names.name(words, value)}\n" for label, value in lines
    )


def _help(_: Command) -> str:
    raise IpError(255, POLICY)


# In the order in which abbreviations are matched.
VERBS: dict[str, Callable[[Command], str]] = {
    "add": _add,
    "update": _update,
    "delete": _delete,
    "deleteall": _deleteall,
    "delall": _deleteall,
    "list": _list,
    "show": _list,
    "lst": _list,
    "get": _get,
    "flush": _flush,
    "count": _count,
    "set": _set,
    "setdefault": _setdefault,
    "getdefault": _getdefault,
    "help": _help,
}
