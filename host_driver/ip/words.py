# SPDX-License-Identifier: Apache-2.0
"""The words of a command line: a cursor, the tool's complaints, numbers, addresses and keys.

What counts as a number, an address or a key is what iproute2 takes (CLI-03, CLI-11): numbers as
C's strtoul reads them, IPv4 addresses with trailing zeros left out, prefixes with length or mask.
"""

import ipaddress
import re
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

from host_driver.ip.names import EXTRA_FLAG, STATE_FLAG
from proto.xfrm import AF_INET, AF_INET6, AF_UNSPEC

AF_BRIDGE, AF_PACKET, AF_MPLS = 7, 17, 28  # of other objects; no address is of them
FAMILY_NAMES = {
    AF_INET: "inet", AF_INET6: "inet6", AF_BRIDGE: "bridge", AF_PACKET: "link", AF_MPLS: "mpls",
}  # fmt: skip
HIDDEN = "<<Keys hidden>>"
# What may be a key wherever it stands: a long word, or many hexadecimal digits.
_LONG = 16
_DIGITS = re.compile("[0-9a-fA-F]{12}")
_FLAGS = STATE_FLAG.keys() | EXTRA_FLAG.keys()
_LENGTH = re.compile("-?[0-9]{1,3}")  # such as the length of an ICV
_SPACE = "[ \t\n\v\f\r]*"
_BASE_0 = re.compile(_SPACE + "([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]{0,19})")
_BASE_16 = re.compile(_SPACE + "([+-]?)((?:0[xX])?[0-9a-fA-F]+)")
_IF_INDEX = re.compile("if([0-9]{1,9})")


class IpError(Exception):
    """The tool refuses: its exit status and what it prints on stderr. Never shows a key."""

    def __init__(self, rc: int, stderr: str) -> None:
        super().__init__(rc, stderr)
        self.rc = rc
        self.stderr = stderr


class Secret(str):
    """A word that stands where a key may stand: no complaint shows it."""

    __slots__ = ()


def shown(word: str) -> str:
    """The word as a complaint may show it: what may be a key, or a part of one, is hidden."""
    if isinstance(word, Secret) or _DIGITS.search(word):
        return HIDDEN
    return HIDDEN if len(word) >= _LONG and not _FLAGS.issuperset(word.split()) else word


def invalid(text: str, word: str) -> IpError:
    """A value that is wrong; `text` says what was expected."""
    return IpError(255, f'Error: argument "{shown(word)}" is wrong: {text}\n')


def missing(name: str) -> IpError:
    """A value that must follow."""
    return IpError(255, f'Error: argument "{name}" is required\n')


def duplicate(name: str, word: str) -> IpError:
    """A value given twice."""
    return IpError(255, f'Error: duplicate "{name}": "{shown(word)}" is the second value.\n')


class Words:
    """A cursor over the words of one command.

    `family` is the preferred address family: set by -4 or -6, and by the addresses read so far.
    `devices` maps device names to ifindex; `sa_dir_known` says whether the kernel has SA_DIR.
    """

    def __init__(
        self,
        words: Sequence[str],
        devices: Mapping[str, int],
        family: int,
        sa_dir_known: bool = True,
    ) -> None:
        self._words = words
        self._next = 0
        self._known: Container[str] | None = None
        self.devices = devices
        self.family = family
        self.sa_dir_known = sa_dir_known

    def more(self) -> bool:
        """Whether a word is left."""
        return self._next < len(self._words)

    def complete(self) -> None:
        """Complain that the command line is incomplete unless a word is left."""
        if not self.more():
            raise IpError(255, 'Command line is not complete. Try option "help"\n')

    def take(self) -> str:
        """The next word; the command line is incomplete without one."""
        self.complete()
        self._next += 1
        return self.last()

    def take_if(self, *choices: str) -> bool:
        """Step over the next word if it is one of `choices`."""
        found = self.more() and self._words[self._next] in choices
        self._next += found
        return found

    def back(self) -> None:
        """Give the last word back."""
        self._next -= 1

    def last(self) -> str:
        """The word taken last."""
        before, word = self._words[max(self._next - 2, 0)], self._words[self._next - 1]
        if self._known is None or word in self._known or before in self._known:
            return word
        return word if _LENGTH.fullmatch(word) else Secret(word)

    def hide_all_but(self, known: Container[str]) -> None:
        """Keys may follow: from here on a word is a Secret, unless it is a `known` keyword, the
        value right behind one, or a short number."""
        self._known = known

    def need(self, name: str) -> None:
        """Complain that `name` is missing unless a word is left."""
        if not self.more():
            raise missing(name)

    def number(self, bits: int, complaint: str) -> int:
        """The next word as an unsigned number of `bits` bits."""
        word = self.take()
        value = number(word, bits)
        if value is None:
            raise invalid(complaint, word)
        return value

    def choice(self, table: Mapping[str, int], complaint: str) -> int:
        """The next word looked up in `table`."""
        word = self.take()
        if word not in table:
            raise invalid(complaint, word)
        return table[word]

    def device(self, complaint: str) -> int:
        """The next word as a device name; gives its ifindex (`if7` names ifindex 7)."""
        word = self.take()
        unnamed = _IF_INDEX.fullmatch(word)
        index = self.devices.get(word) or (int(unnamed[1]) if unnamed else 0)
        if not 0 < index < 1 << 31:
            raise invalid(complaint, word)
        return index


def number(word: str, bits: int, base: int = 0) -> int | None:
    """An unsigned number as strtoul reads it (a minus sign wraps at 64 bits); None otherwise."""
    match = (_BASE_16 if base == 16 else _BASE_0).fullmatch(word)
    if match is None:
        return None
    sign, digits = match.groups()
    if base == 0:
        base = 16 if digits[1:2] in ("x", "X") else 8 if digits[0] == "0" else 10
    value = int(digits, base)
    if value >= 1 << 64:
        return None
    value = -value % (1 << 64) if sign == "-" else value
    return value if value < 1 << bits else None


class Prefix(NamedTuple):
    """An address with its prefix length; `family` 0 when `any` was given without a family."""

    family: int
    data: bytes
    bits: int


def _ipv4(word: str) -> bytes | None:
    """Dotted numbers, each in any base; missing ones are 0 (`10.1` is 10.1.0.0)."""
    parts = [number(part, 8) for part in word.split(".")]
    if len(parts) > 4 or None in parts:
        return None
    return bytes(part for part in parts if part is not None).ljust(4, b"\0")


def _address(word: str, family: int) -> Prefix | None:
    if word in ("default", "any", "all"):
        return Prefix(family or AF_INET, bytes(16), 0)
    if ":" in word:
        if family not in (AF_UNSPEC, AF_INET6) or "%" in word:
            return None
        try:
            return Prefix(AF_INET6, ipaddress.IPv6Address(word).packed, 128)
        except ValueError:
            return None
    data = _ipv4(word) if family in (AF_UNSPEC, AF_INET) else None
    return None if data is None else Prefix(AF_INET, data.ljust(16, b"\0"), 32)


def _mask_bits(word: str) -> int | None:
    """A prefix length, or a mask such as 255.255.0.0."""
    bits = number(word, 32)
    if bits is not None:
        return bits
    mask = _ipv4(word)
    if mask is None:
        return None
    text = f"{int.from_bytes(mask, 'big'):032b}"
    return None if "01" in text else text.count("1")


def _wanted(family: int) -> str:
    return FAMILY_NAMES.get(family, "any valid")


def prefix(word: str, family: int) -> Prefix:
    """An address with an optional length; raises IpError for anything else."""
    if word in ("default", "any", "all"):
        return Prefix(family, bytes(16), 0)
    host, slash, length = word.partition("/")
    found = _address(host, AF_UNSPEC if family == AF_PACKET else family)
    if found is not None and family == AF_PACKET:
        may_be = f'"{shown(word)}" may be {_wanted(found.family)} prefix'
        raise IpError(1, f"Error: {may_be}, but it is not allowed in this context.\n")
    if found is not None:
        most = 128 if found.family == AF_INET6 else 32
        bits = _mask_bits(length) if slash else most
        if bits is not None and bits <= most:
            return found._replace(bits=bits)
    raise IpError(1, f'Error: {_wanted(family)} prefix is expected rather than "{shown(word)}".\n')


def address(word: str, family: int = AF_UNSPEC) -> bytes:
    """An address as 16 bytes; raises IpError for anything else."""
    found = _address(word, family)
    if found is None:
        text = f'Error: {_wanted(family)} address is expected rather than "{shown(word)}".\n'
        raise IpError(1, text)
    return found.data


def quad_or_number(word: str, complaint: str) -> int:
    """A 32-bit value written as a number or a dotted quad (the key of a GRE selector)."""
    if "." in word:
        data = _ipv4(word)
        if data is None:
            text = f'Error: an IP address is expected rather than "{shown(word)}"\n'
            raise IpError(1, text)
        return int.from_bytes(data, "big")
    value = number(word, 32)
    if value is None:
        raise IpError(255, complaint)
    return value


def key_bytes(word: str, longest: int) -> bytes:
    """Key material: 0x and hexadecimal digits (odd: a 0 is put in front), or the characters."""
    if len(word) > 2 and word.startswith("0x"):
        digits = word[2:] if len(word) % 2 == 0 else "0" + word[2:]
        if re.fullmatch("[0-9a-fA-F]+", digits) is None:
            raise invalid("ALGO-KEYMAT value is invalid", HIDDEN)
        data = bytes.fromhex(digits)
    else:
        data = word.encode(errors="surrogateescape")
    if len(data) > longest:
        raise invalid("ALGO-KEYMAT value makes buffer overflow\n", HIDDEN)
    return data
