# SPDX-License-Identifier: Apache-2.0
"""The 24-byte header of every message between host, card and wire.

    magic u16 | version u8 | kind u8 | index u32 | count u32 | check u32 | length u32 | epoch u32

All little-endian. `index` is the producer's running number of the first of `count` items
(descriptors, frames, events, counter records), so a gap is a lost message; `length` is that of the
body.

`epoch` keeps lives apart. Between host and card it is the number that the host chose when it took
the card (commands.InitFunction), on the wire the card's boot id (proto.hello): whatever a dead
host, card or function left in a queue has another one, and is counted and dropped (F-LIF-11).

`check` is a CRC-32 over header and body between host and card, else 0: a flipped bit must not turn
a refusal into a success or one ring position into another. A message that fails it counts as lost.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum, unique
from typing import NamedTuple
from zlib import crc32

from proto.limits import MESSAGE_MAX_BYTES, PROTOCOL_VERSION

MAGIC = 0x584E
HEADER = struct.Struct("<HBBIIIII")
assert HEADER.size == 24

INDEX_MASK = 0xFFFF_FFFF
CHECK_FIELD = 5

Buffer = bytes | memoryview


@unique
class Kind(IntEnum):
    """What a message carries. Each from COMMAND on travels on one channel only."""

    HELLO = 1  # wire (card) or control (host): proto.hello
    TERMINATE = 2  # wire or control: clean goodbye
    CLOSED = 3  # made by our own end of a channel: the other end has gone
    OPENED = 4  # and the same: somebody is there again
    COMMAND = 16  # mailbox, host to card: commands.Request
    REPLY = 17  # mailbox, card to host: commands.Reply
    EVENTS = 18  # events, card to host: list of events.Event
    ARM = 19  # events, host to card: all before `index` are handled, interrupt me for the next
    HEALTH = 20  # events, card to host: health.HealthRecord; of no epoch
    TX = 32  # rings, host to card: descriptors [+ packets]
    TX_DONE = 33  # rings, card to host: `count` descriptors are done [+ COMPLETION_ERROR records]
    RX = 34  # rings, card to host: descriptors [+ packets]
    RX_DONE = 35  # rings, host to card: `count` slots are free again
    COUNTERS = 36  # rings, card to host: SA_COUNTERS records
    WIRE = 48  # wire, both ways: frames (proto.wire)
    WIRE_DONE = 49  # wire, both ways: credits for `count` frames
    LINK = 50  # wire to card: the cable is in (`count` 1) or out (0)
    CONTROL = 64  # control: host_driver.control with a host, proto.management with a card


@unique
class Channel(IntEnum):
    """The separate queues between two parties; each is an Endpoint of its own."""

    MAILBOX = 0
    EVENTS = 1
    RINGS = 2
    WIRE = 3
    CONTROL = 4


class Message(NamedTuple):
    """A message without its header. `body` is bytes-like."""

    kind: Kind
    index: int  # type: ignore[assignment]
    count: int  # type: ignore[assignment]
    body: Buffer
    epoch: int = 0


# Between host and card, as a PCIe link has it; the wire carries what it is given.
CHECKED = frozenset(kind for kind in Kind if Kind.COMMAND <= kind <= Kind.COUNTERS)

# What counts in its own epoch only. A card says how it is whoever it belongs to.
OF_AN_EPOCH = CHECKED - {Kind.HEALTH}


class FrameError(ValueError):
    """The bytes are no message of this protocol version."""


def pack(kind: Kind, body: Buffer = b"", index: int = 0, count: int = 0, epoch: int = 0) -> bytes:
    """Header and body as one byte string."""
    return pack_parts(kind, (body,), index, count, epoch)


def pack_parts(
    kind: Kind, parts: Sequence[Buffer], index: int = 0, count: int = 0, epoch: int = 0
) -> bytes:
    """The same of a body in several parts, which are copied once."""
    header = bytearray(HEADER.size)
    _write_header(header, parts, kind, index, count, epoch)
    return b"".join((header, *parts))


def pack_into(buffer: bytearray, kind: Kind, epoch: int = 0) -> None:
    """Write the header into the first bytes of a message whose body stands behind them already.

    So that a message with a key is never copied and can be wiped once it is sent.
    """
    _write_header(buffer, (memoryview(buffer)[HEADER.size :],), kind, 0, 0, epoch)


def _write_header(
    buffer: bytearray, parts: Sequence[Buffer], kind: Kind, index: int, count: int, epoch: int
) -> None:
    length = sum(map(len, parts))
    fields = [MAGIC, PROTOCOL_VERSION, kind, index & INDEX_MASK, count, 0, length, epoch]
    fields[CHECK_FIELD] = _check(HEADER.pack(*fields), parts, kind)
    HEADER.pack_into(buffer, 0, *fields)


def _check(header: bytes, parts: Sequence[Buffer], kind: Kind) -> int:
    """The CRC over a header whose check field is 0, and its body; 0 for unchecked kinds."""
    if kind not in CHECKED:
        return 0
    check = crc32(header)
    for part in parts:
        check = crc32(part, check)
    return check


def renumbered(raw: bytes | memoryview, *, index: int = 0, count: int = 0) -> bytes:
    """The same message with `index` and `count` so much higher (modulo their sizes), and a right
    check: what a peer says that has lost its place. Raises FrameError."""
    old = unpack(raw)
    return pack(old.kind, old.body, old.index + index, (old.count + count) & INDEX_MASK, old.epoch)


def unpack(raw: bytes | memoryview) -> Message:
    """The inverse of `pack`; `body` is a view into `raw`. Raises FrameError on anything else."""
    if len(raw) < HEADER.size:
        raise FrameError(
            f"message of {len(raw)} bytes is shorter than its {HEADER.size}-byte header"
        )
    magic, version, kind, index, count, check, length, epoch = HEADER.unpack_from(raw)
    if magic != MAGIC:
        raise FrameError(f"magic is {magic:#06x}, not {MAGIC:#06x}")
    if version != PROTOCOL_VERSION:
        raise FrameError(f"protocol version is {version}, this side speaks {PROTOCOL_VERSION}")
    if length != len(raw) - HEADER.size or length > MESSAGE_MAX_BYTES:
        raise FrameError(f"header announces {length} bytes of body, {len(raw) - HEADER.size} came")
    try:
        kind = Kind(kind)
    except ValueError:
        raise FrameError(f"message kind {kind} is unknown") from None
    body = memoryview(raw)[HEADER.size :]
    header = HEADER.pack(magic, version, kind, index, count, 0, length, epoch)
    expected = _check(header, (body,), kind)
    if check != expected:
        raise FrameError(f"check of a {kind.name} message is {check:#010x}, not {expected:#010x}")
    return Message(kind, index, count, body, epoch)
