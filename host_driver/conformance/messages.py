# SPDX-License-Identifier: Apache-2.0
"""NETLINK_XFRM requests with every field open, and answers taken apart.

`ip xfrm` text says most things; these builders say the rest: wrong lengths, odd flags, fields that
the tool sets by itself. Defaults are those of `texts`: IPv4, 10.1.0.1 to 10.1.0.2, AES-GCM-128 with
a 16-byte ICV, transport mode, reqid 1.
"""

import ipaddress
import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from proto import netlink
from proto.netlink import NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_REQUEST
from proto.xfrm import AF_INET, AF_INET6, IPPROTO_ESP, MSG_MIN, Attr, Msg
from proto.xfrm_structs import (
    Algo,
    AlgoAead,
    AlgoAuth,
    LifetimeCfg,
    UserExpire,
    UserMigrate,
    UserOffload,
    UserPolExpire,
    UserPolicyId,
    UserPolicyInfo,
    UserSaId,
    UserSaInfo,
    UserTmpl,
    XfrmId,
    XfrmSelector,
)

GCM = b"rfc4106(gcm(aes))"
KEY = bytes(range(1, 21))  # AES-128 and 4 bytes of salt
SOURCE, DESTINATION = "10.1.0.1", "10.1.0.2"
_HARDNESS = ("soft", "hard")

# An SA's encryption and authentication apart, AES-CBC-128 and HMAC-SHA-256-128.
ALGORITHMS = {
    Attr.ALG_AUTH_TRUNC: AlgoAuth(b"hmac(sha256)", 256, 128).pack() + bytes(range(32)),
    Attr.ALG_CRYPT: Algo(b"cbc(aes)", 128).pack() + bytes(range(16)),
}

Attributes = Mapping[int, bytes] | Mapping[Attr, bytes] | Sequence[tuple[int, bytes]]


class Note(NamedTuple):
    """One message from the core: its type, fixed part and attributes."""

    type: int
    fixed: bytes
    attributes: dict[int, bytes]
    seq: int
    flags: int

    @property
    def name(self) -> str:
        """NEWSA, EXPIRE, ...; the number for a type without a name."""
        return Msg(self.type).name if self.type in set(Msg) else str(self.type)


class Reply(NamedTuple):
    """What a request came to: `errno` 0 is success; `notes` are the messages before the ack."""

    errno: int
    text: str
    notes: list[Note]

    def __repr__(self) -> str:
        name = "success" if not self.errno else os.strerror(self.errno)
        return f"<{self.errno} ({name}) {self.text!r}, {[note.name for note in self.notes]}>"


def address(text: str) -> bytes:
    """16 bytes, an IPv4 address in the first 4."""
    return ipaddress.ip_address(text).packed.ljust(16, b"\0")


def family_of(text: str) -> int:
    """AF_INET or AF_INET6."""
    return AF_INET if ipaddress.ip_address(text).version == 4 else AF_INET6


def request(
    type: int, payload: bytes, attributes: Attributes = (), flags: int = NLM_F_ACK, seq: int = 1
) -> bytes:  # fmt: skip
    """A request datagram; `attributes` behind the payload, in order."""
    items = attributes.items() if isinstance(attributes, Mapping) else attributes
    tail = b"".join(netlink.attribute(kind, value) for kind, value in items)
    body = payload.ljust(netlink.align(len(payload)), b"\0") if tail else payload
    return netlink.message(type, body + tail, NLM_F_REQUEST | flags, seq)


def dump(type: int, payload: bytes = b"", attributes: Attributes = ()) -> bytes:
    """A dump request (UAPI-04)."""
    return request(type, payload, attributes, NLM_F_DUMP)


def sa_info(
    spi: int = 0x1000, src: str = SOURCE, dst: str = DESTINATION, *, proto: int = IPPROTO_ESP,
    lft: LifetimeCfg | None = None, sel: XfrmSelector | None = None, **fields: Any,
) -> UserSaInfo:  # fmt: skip
    """xfrm_usersa_info; `fields` are its other members (reqid, mode, flags, replay_window, seq)."""
    fields = {"family": family_of(dst), "reqid": 1, **fields}
    return UserSaInfo(
        sel=sel or XfrmSelector(), id=XfrmId(address(dst), spi, proto), saddr=address(src),
        lft=lft or LifetimeCfg(), **fields,
    )  # fmt: skip


def aead(key: bytes = KEY, icv_bits: int = 128, name: bytes = GCM, key_bits: int = -1) -> bytes:
    """The value of ALG_AEAD."""
    return AlgoAead(name, 8 * len(key) if key_bits < 0 else key_bits, icv_bits).pack() + key


def offload(ifindex: int, flags: int) -> bytes:
    """The value of OFFLOAD_DEV; `flags`: IPV6 1, INBOUND 2, PACKET 4 (UAPI-20)."""
    return UserOffload(ifindex, flags).pack()


def new_sa(
    info: UserSaInfo | None = None, attributes: Attributes = (), type: int = Msg.NEWSA, **how: Any
) -> bytes:
    """NEWSA or UPDSA with ALG_AEAD, unless `attributes` bring an algorithm of their own."""
    items = list(attributes.items() if isinstance(attributes, Mapping) else attributes)
    algorithms = {Attr.ALG_AEAD, Attr.ALG_AUTH, Attr.ALG_CRYPT, Attr.ALG_COMP, Attr.ALG_AUTH_TRUNC}
    if not algorithms & {kind for kind, _ in items}:
        items.insert(0, (Attr.ALG_AEAD, aead()))
    return request(type, (info or sa_info(**how)).pack(), items)


def alloc_spi(low: int = 0x500, high: int = -1, attributes: Attributes = (), **how: Any) -> bytes:
    """ALLOCSPI from a range, by default of one SPI: a larval SA; `how` as for `sa_info`."""
    bounds = struct.pack("<II", low, low if high < 0 else high)
    return request(Msg.ALLOCSPI, sa_info(0, **how).pack() + bounds, attributes)


def sa_id(spi: int = 0x1000, dst: str = DESTINATION, proto: int = IPPROTO_ESP) -> bytes:
    """xfrm_usersa_id, the fixed part of GETSA and DELSA."""
    return UserSaId(address(dst), spi, family_of(dst), proto).pack()


def selector(
    src: str = SOURCE, dst: str = DESTINATION, prefixlen: int | None = None, **fields: Any
) -> XfrmSelector:
    """xfrm_selector between two hosts, or two networks of `prefixlen`."""
    longest = 32 if family_of(dst) == AF_INET else 128
    length = longest if prefixlen is None else prefixlen
    fields = {"family": family_of(dst), **fields}
    return XfrmSelector(
        address(dst), address(src), prefixlen_d=length, prefixlen_s=length, **fields
    )


def policy_info(
    src: str = SOURCE, dst: str = DESTINATION, *, dir: int = 1, prefixlen: int | None = None,
    sel: XfrmSelector | None = None, lft: LifetimeCfg | None = None, **fields: Any,
) -> UserPolicyInfo:  # fmt: skip
    """xfrm_userpolicy_info; `fields` are its other members (priority, index, action, flags)."""
    sel = sel or selector(src, dst, prefixlen)
    return UserPolicyInfo(sel, lft or LifetimeCfg(), dir=dir, **fields)


def template(
    src: str = "0.0.0.0", dst: str = "0.0.0.0", *, spi: int = 0, proto: int = IPPROTO_ESP,
    reqid: int = 1, mode: int = 0, optional: int = 0, family: int | None = None,
) -> bytes:  # fmt: skip
    """xfrm_user_tmpl."""
    return UserTmpl(
        XfrmId(address(dst), spi, proto), family_of(dst) if family is None else family,
        address(src), reqid, mode, optional=optional,
    ).pack()  # fmt: skip


def new_policy(
    info: UserPolicyInfo | None = None, attributes: Attributes = (), type: int = Msg.NEWPOLICY,
    templates: list[bytes] | None = None, **how: Any,
) -> bytes:  # fmt: skip
    """NEWPOLICY or UPDPOLICY; one transport template unless `templates` says otherwise."""
    templates = [template()] if templates is None else templates
    items = list(attributes.items() if isinstance(attributes, Mapping) else attributes)
    if templates:
        items.insert(0, (Attr.TMPL, b"".join(templates)))
    return request(type, (info or policy_info(**how)).pack(), items)


def migrate(
    dst: str, src: str = SOURCE, *, attributes: Mapping[Attr, bytes] | None = None,
    old_src: str = SOURCE, old_dst: str = DESTINATION, mode: int = 0, reqid: int = 1, dir: int = 1,
) -> bytes:  # fmt: skip
    """MIGRATE of the SA and the policy between the old ends to new ones."""
    move = UserMigrate(
        address(old_dst), address(old_src), address(dst), address(src), IPPROTO_ESP, mode, reqid,
        family_of(old_dst), family_of(dst),
    )  # fmt: skip
    items = {Attr.MIGRATE: move.pack(), **(attributes or {})}
    return request(Msg.MIGRATE, policy_id(selector(old_src, old_dst), dir=dir), items)


def policy_id(sel: XfrmSelector | None = None, *, index: int = 0, dir: int = 1) -> bytes:
    """xfrm_userpolicy_id, the fixed part of GETPOLICY and DELPOLICY."""
    return UserPolicyId(sel or XfrmSelector(), index, dir).pack()


def notes(datagrams: list[bytes]) -> list[Note]:
    """All messages of these datagrams but acks and DONE."""
    found = []
    for message in (one for data in datagrams for one in netlink.messages(data)):
        if message.type >= Msg.NEWSA:
            fixed = MSG_MIN.get(message.type, 0)
            values = netlink.attributes(message.payload, netlink.align(fixed)).values
            part = message.payload[:fixed]
            found.append(Note(message.type, part, values, message.seq, message.flags))
    return found


def expiries(messages: list[Note]) -> list[str]:
    """EXPIRE as "soft 0x1000" or "hard 0x1000", POLEXPIRE as "soft policy" or "hard policy"."""
    found = []
    for one in messages:
        if one.type == Msg.EXPIRE:
            expire = UserExpire.unpack(one.fixed)
            found.append(f"{_HARDNESS[expire.hard]} {expire.state.id.spi:#x}")
        elif one.type == Msg.POLEXPIRE:
            found.append(f"{_HARDNESS[UserPolExpire.unpack(one.fixed).hard]} policy")
    return found


def reply(datagrams: list[bytes]) -> Reply:
    """The errno of the last ack or DONE (0 where there is none), its text, and the messages."""
    errno, text = 0, ""
    for message in (one for data in datagrams for one in netlink.messages(data)):
        if message.type in (netlink.NLMSG_ERROR, netlink.NLMSG_DONE):
            errno, text = _ack(message)
    return Reply(errno, text, notes(datagrams))


def _ack(message: netlink.NlMsg) -> tuple[int, str]:
    (error,) = struct.unpack_from("<i", message.payload)
    if not message.flags & NLM_F_ACK_TLVS:
        return -error, ""
    at = 4
    if message.type == netlink.NLMSG_ERROR:
        (length,) = struct.unpack_from("<I", message.payload, 4)
        capped = message.flags & NLM_F_CAPPED
        at += netlink.NLMSGHDR.size if capped else netlink.align(length)
    tlvs = netlink.attributes(message.payload, at).values
    return -error, tlvs.get(netlink.NLMSGERR_ATTR_MSG, b"").split(b"\0")[0].decode(errors="replace")
