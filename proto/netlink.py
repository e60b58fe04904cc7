# SPDX-License-Identifier: Apache-2.0
"""Netlink header and attribute codec (UAPI-01, UAPI-06, UAPI-13)."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

NLMSGHDR = struct.Struct("<IHHII")
NLA = struct.Struct("<HH")
NLA_TYPE_MASK = 0x3FFF

NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE, NLMSG_OVERRUN = 1, 2, 3, 4

NLM_F_REQUEST, NLM_F_MULTI, NLM_F_ACK, NLM_F_ECHO, NLM_F_DUMP_INTR = 1, 2, 4, 8, 16
NLM_F_ROOT, NLM_F_MATCH = 0x100, 0x200
NLM_F_DUMP = NLM_F_ROOT | NLM_F_MATCH
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200

NLMSGERR_ATTR_MSG, NLMSGERR_ATTR_OFFS = 1, 2


class NetlinkError(ValueError):
    """The bytes are no well-formed netlink message or attribute."""


class NlMsg(NamedTuple):
    """One message. `payload` starts behind the 16-byte header."""

    type: int
    flags: int
    seq: int
    pid: int
    payload: bytes


def align(length: int) -> int:
    """Round up to the netlink alignment of 4."""
    return (length + 3) & ~3


def message(type: int, payload: bytes, flags: int = 0, seq: int = 0, pid: int = 0) -> bytes:
    """One netlink message; the length in the header does not count padding behind it."""
    return NLMSGHDR.pack(NLMSGHDR.size + len(payload), type, flags, seq, pid) + payload


def messages(data: bytes) -> Iterator[NlMsg]:
    """All messages of a datagram. Raises NetlinkError for a length that does not fit."""
    offset = 0
    while offset + NLMSGHDR.size <= len(data):
        length, type, flags, seq, pid = NLMSGHDR.unpack_from(data, offset)
        if length < NLMSGHDR.size or offset + length > len(data):
            raise NetlinkError(f"message length {length} at byte {offset} of {len(data)}")
        yield NlMsg(type, flags, seq, pid, bytes(data[offset + NLMSGHDR.size : offset + length]))
        offset += align(length)


def attribute(type: int, payload: bytes) -> bytes:
    """One attribute, padded to 4 bytes."""
    length = NLA.size + len(payload)
    return NLA.pack(length, type) + payload + bytes(align(length) - length)


class Attributes(NamedTuple):
    """Parsed attributes; of doubles the last wins. `leftover` counts bytes that no header fits."""

    values: dict[int, bytes]
    offsets: dict[int, int]
    leftover: int


def attributes(data: bytes, offset: int = 0) -> Attributes:
    """Walk the attributes behind `offset`, as leniently as the kernel does: a tail is left over."""
    values: dict[int, bytes] = {}
    offsets: dict[int, int] = {}
    while len(data) - offset >= NLA.size:
        length, type = NLA.unpack_from(data, offset)
        if length < NLA.size or offset + length > len(data):
            break
        values[type & NLA_TYPE_MASK] = bytes(data[offset + NLA.size : offset + length])
        offsets[type & NLA_TYPE_MASK] = offset
        offset += align(length)
    return Attributes(values, offsets, max(0, len(data) - offset))
