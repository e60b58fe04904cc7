# SPDX-License-Identifier: Apache-2.0
"""The parts of the grammar that states and policies share: ID, mode, mark, limits, flags, context.

Each function reads its words from the cursor, from behind its keyword on, and stops before the
first word that is not its own (CLI-10, CLI-12, CLI-13, CLI-17).
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from host_driver.ip import names
from host_driver.ip.words import IpError, Prefix, Words, invalid, missing, number, prefix
from proto import netlink
from proto.xfrm import IPPROTO_COMP, IPPROTO_DSTOPTS, IPPROTO_ROUTING, Attr
from proto.xfrm_structs import LifetimeCfg, UserTmpl, XfrmId, XfrmMark

MIXED_FAMILIES = 'the same address family is required between values after "src" and "dst"'
_WITHOUT_SPI = (IPPROTO_ROUTING, IPPROTO_DSTOPTS)
CPI_MAX = 0xFFFF  # an SPI of IPComp has 16 bits
_LIMIT: dict[str, str] = {
    "time-soft": "soft_add_expires_seconds",
    "time-hard": "hard_add_expires_seconds",
    "time-use-soft": "soft_use_expires_seconds",
    "time-use-hard": "hard_use_expires_seconds",
    "byte-soft": "soft_byte_limit",
    "byte-hard": "hard_byte_limit",
    "packet-soft": "soft_packet_limit",
    "packet-hard": "hard_packet_limit",
}
_SEC_CTX = struct.Struct("<HHBBH")
_SEC_CTX_LSM = 1  # doi and algorithm of SELinux
_SEC_CTX_LONGEST = 255


def each_word(
    words: Words, handlers: Mapping[str, Callable[[], None]], other: Callable[[str], None]
) -> None:
    """Hand every keyword to its handler, and any other word to `other`, cursor before it."""
    while words.more():
        word = words.take()
        if word in handlers:
            handlers[word]()
        else:
            words.back()
            other(word)


@dataclass(slots=True)
class Id:
    """ID: addresses, protocol and SPI; `src_bits`, `dst_bits` and `given` serve filters."""

    id: XfrmId = field(default_factory=XfrmId)
    saddr: bytes = bytes(16)
    family: int = 0
    src_bits: int = 0
    dst_bits: int = 0
    given: set[str] = field(default_factory=set)


class Ends:
    """Reads the values behind "src" and "dst", which must be of one family. Raises IpError."""

    def __init__(self, words: Words) -> None:
        self._words = words
        self._families: dict[str, int] = {}

    def take(self, word: str) -> Prefix:
        """The value behind `word`."""
        end = prefix(self._words.take(), self._words.family)
        if end.family == 0:
            text = f'value after "{word}" has an unrecognized address family'
            raise invalid(text, self._words.last())
        self._families[word] = end.family
        return end

    def check(self) -> None:
        """When all is read: one family for both."""
        if len(set(self._families.values())) > 1:
            raise invalid(MIXED_FAMILIES, self._words.last())


def parse_id(words: Words, loose: bool = False) -> Id:
    """Read an ID. Unless `loose` the protocol must be there; raises IpError."""
    found, ends = Id(), Ends(words)
    while words.more():
        word = words.take()
        if word in ("src", "dst"):
            end = ends.take(word)
            found.family = end.family
            if word == "src":
                found.saddr, found.src_bits = end.data, end.bits
            else:
                found.id.daddr, found.dst_bits = end.data, end.bits
        elif word == "proto":
            found.id.proto = words.choice(names.XFRM_PROTO, "XFRM-PROTO value is invalid")
        elif word == "spi":
            found.id.spi = words.number(32, "SPI value is invalid")
        else:
            words.back()
            break
        found.given.add(word)
    ends.check()
    of_proto = f'with XFRM-PROTO value "{names.name(names.XFRM_PROTO, found.id.proto)}"\n'
    if found.id.spi and found.id.proto in _WITHOUT_SPI:
        raise IpError(1, f'"spi" is invalid {of_proto}')
    if found.id.spi > CPI_MAX and found.id.proto == IPPROTO_COMP:
        raise IpError(1, f"SPI value is too large {of_proto}")
    if not loose and found.id.proto == 0:
        raise missing("XFRM-PROTO")
    return found


def mode(words: Words) -> int:
    """MODE."""
    return words.choice(names.MODE, "MODE value is invalid")


def reqid(words: Words) -> int:
    """REQID."""
    return words.number(32, "REQID value is invalid")


def mark(words: Words) -> XfrmMark:
    """`V [ mask M ]`; without a mask every bit counts (CLI-17)."""
    value = words.number(32, "MARK value is invalid\n")
    mask = words.number(32, "MASK value is invalid\n") if words.take_if("mask") else 0xFFFF_FFFF
    return XfrmMark(value, mask)


def mark_attribute(value: XfrmMark, *, new: bool) -> bytes:
    """MARK, or nothing. `new` objects take every mark that has a mask; to find an object the tool
    sends only a mark that has a bit in common with its mask."""
    wanted = value.m if new else value.v & value.m
    return netlink.attribute(Attr.MARK, value.pack()) if wanted else b""


def limit(words: Words, lft: LifetimeCfg) -> None:
    """LIMIT: one name and its value, stored in `lft`."""
    word = words.take()
    if word not in _LIMIT:
        raise invalid("LIMIT value is invalid", word)
    setattr(lft, _LIMIT[word], words.number(64, f'value after "{word}" is invalid'))


def flags(words: Words, table: Mapping[str, int], bits: int, complaint: str, before: int) -> int:
    """FLAG-LIST on top of `before`; a hexadecimal value replaces it."""
    word = words.take()
    if len(word) > 2 and word.startswith("0x"):
        value = number(word, bits, base=16)
        if value is None:
            raise invalid(complaint, word)
        return value
    words.back()
    value = before
    while words.take_if(*table):
        value |= table[words.last()]
    return value


def context(words: Words) -> bytes:
    """CTX: a security label, as the payload of XFRMA_SEC_CTX."""
    label = words.take().encode(errors="surrogateescape") + b"\0"
    if len(label) > _SEC_CTX_LONGEST:
        text = f"Error: the security context has {len(label)} bytes, the limit is 255.\n"
        raise IpError(255, text)
    size = _SEC_CTX.size + len(label)
    return _SEC_CTX.pack(size, Attr.SEC_CTX, _SEC_CTX_LSM, _SEC_CTX_LSM, len(label)) + label


def template(words: Words) -> UserTmpl:
    """TMPL: an ID with mode, reqid and level, in any order (CLI-31)."""
    tmpl = UserTmpl(family=words.family)
    words.family = 0
    seen_id = False
    while words.more():
        if words.take_if("mode"):
            tmpl.mode = mode(words)
        elif words.take_if("reqid"):
            tmpl.reqid = reqid(words)
        elif words.take_if("level"):
            levels = {"required": 0, "use": 1}
            tmpl.optional = words.choice(levels, "LEVEL value is invalid\n")
        elif not seen_id:
            seen_id = True
            found = parse_id(words)
            tmpl.id, tmpl.saddr = found.id, found.saddr
            tmpl.family = found.family or tmpl.family
        else:
            break
    words.family = tmpl.family
    return tmpl


def u32_attribute(type: Attr, value: int) -> bytes:
    """An attribute that holds one 32-bit number in host order."""
    return netlink.attribute(type, struct.pack("<I", value))
