# SPDX-License-Identifier: Apache-2.0
"""One card without a host: messages in, answers taken apart, credits given back at once."""

import random
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from fuzz.target import require
from nic_model.firmware import Firmware
from proto import commands as c
from proto.caps import parse_card
from proto.codec import decode
from proto.frame import Channel, Kind, Message, pack, unpack
from proto.health import FunctionState
from proto.layouts import DESCRIPTOR
from proto.limits import MARK_BYTES, TX_BUFFER_BYTES
from proto.link.dma import Dma, slots_of, tx_offset
from proto.wire import pack_frames, unpack_frames
from proto.xfrm import AF_INET

CARD = "full:key_max=64,sa_max=64,rule_max=160,event_queue=16"
KEY, SALT = bytes.fromhex("a1b2c3d4e5f60718293a4b5c6d7e8f90"), b"salt"
HERE, THERE = bytes((10, 1, 0, 1)).ljust(16, b"\0"), bytes((10, 1, 0, 2)).ljust(16, b"\0")
DMA = Dma.anonymous()  # 78 MB: one for all cards, one after the other

CHANNELS = {
    Kind.COMMAND: Channel.MAILBOX, Kind.REPLY: Channel.MAILBOX, Kind.EVENTS: Channel.EVENTS,
    Kind.ARM: Channel.EVENTS, Kind.COUNTERS: Channel.RINGS, Kind.TX: Channel.RINGS,
    Kind.TX_DONE: Channel.RINGS, Kind.RX: Channel.RINGS, Kind.RX_DONE: Channel.RINGS,
    Kind.WIRE: Channel.WIRE, Kind.WIRE_DONE: Channel.WIRE, Kind.HELLO: Channel.WIRE,
    Kind.CONTROL: Channel.CONTROL,
}  # fmt: skip
EPOCH = 7


class Bench:
    """A fresh card with objects for both directions; `handles` are what it answered to creates."""

    def __init__(self) -> None:
        self.firmware = Firmware("card0", parse_card(CARD), DMA, random.Random(1), bytes(6))
        self.now_ns = 0
        self._token = 1000
        self.handles: list[int] = []
        self.wire_index = 0
        self.step(Channel.CONTROL, b"")  # HELLO
        self.step(Channel.MAILBOX, self.take(EPOCH))
        self.begin()
        for direction in (c.OUT, c.IN):
            key = self.make(c.CreateKey(KEY))
            sa = self.make(sa_command(key, direction, spi=0x1000 * direction))
            self.make(c.CreateSaRule(sa))
            self.make(policy_command(direction))
        tunnel = sa_command(self.handles[0], c.IN, spi=0x3000, mode=1, esn=True, seq=7)
        self.make(c.CreateSaRule(self.make(tunnel)))
        crypto = sa_command(self.handles[0], c.IN, spi=0x4000, crypto=True)
        self.make(c.CreateSaRule(self.make(crypto)))
        self.crypto_out = self.make(sa_command(self.handles[0], c.OUT, spi=0x5000, crypto=True))
        encap = sa_command(self.handles[0], c.IN, spi=0x6000, encap_sport=9, encap_dport=9)
        self.make(c.CreateSaRule(self.make(encap)))
        self.census = self.command(c.QueryCensus()).values

    def take(self, epoch: int) -> bytes:
        """The message with which a host takes the card."""
        body = msgspec.msgpack.encode(c.Request(self.token(), c.InitFunction(epoch)))
        return pack(Kind.COMMAND, body, epoch=epoch)

    def begin(self) -> None:
        """A host has taken the card: its queues begin anew."""
        self.tx_index = 0
        self.give_back(self.step(Channel.EVENTS, self.pack(Kind.ARM)))

    def boot(self) -> None:
        """Let a reset that somebody asked for come to its end."""
        while self.firmware.life.state in (FunctionState.RESETTING, FunctionState.BOOT):
            self.now_ns = self.firmware.deadline_ns()
            self.firmware.step(self.now_ns, [])

    def close(self) -> None:
        """Let go of the tables now: they are large, and the parts of a card refer to each other."""
        vars(self.firmware).clear()

    def step(self, channel: Channel, raw: bytes) -> list[Message]:
        """One message; what comes back has the right channel and a good header."""
        messages = []
        for to, answer in self.firmware.step(self.now_ns, [(channel, bytearray(raw))]):
            message = unpack(answer)
            require(CHANNELS.get(message.kind, to) is to, f"{message.kind.name} on {to.name}")
            require(KEY not in answer, "a message shows a key")
            messages.append(message)
        return messages

    def counters(self) -> dict[str, int]:
        """All of the card's, without asking it."""
        return self.firmware.all_counters()

    def token(self, again: bool = False) -> int:
        """The next token, or the last one."""
        self._token += not again
        return self._token

    def command(self, command: c.Command) -> c.Reply:
        """A valid command and its reply."""
        body = msgspec.msgpack.encode(c.Request(self.token(), command))
        raw = self.pack(Kind.COMMAND, body)
        (reply,) = (m for m in self.step(Channel.MAILBOX, raw) if m.kind is Kind.REPLY)
        return decode(reply.body, c.Reply)

    def make(self, command: c.Command) -> int:
        """A command that must succeed; its handle."""
        reply = self.command(command)
        require(reply.status == 0, f"a valid command was refused: {reply.text}")
        self.handles.append(reply.handle)
        return reply.handle

    def pack(self, kind: Kind, body: bytes = b"", index: int = 0, count: int = 0) -> bytes:
        """A framed message of the right epoch with a good check."""
        of_wire = CHANNELS.get(kind) is Channel.WIRE
        epoch = self.firmware.boot if of_wire else self.firmware.epoch
        return pack(kind, body, index, count, 0 if kind is Kind.CONTROL else epoch)

    def tx(self, packets: Sequence[Any], index: int = 0, count: int = 0) -> bytes:
        """A TX message. A packet is [offset, length, flags, syndrome, handle, generation, frame];
        the first two, `index` and `count` are added to what would be right."""
        descriptors = np.zeros(len(packets), DESCRIPTOR)
        for number, (more, longer, flags, syndrome, handle, generation, frame) in enumerate(
            packets
        ):
            offset = tx_offset(self.tx_index + number)
            frame = frame[: TX_BUFFER_BYTES - MARK_BYTES]
            DMA.memory[offset : offset + len(frame)] = np.frombuffer(frame, np.uint8)
            descriptors[number] = (
                (offset + more) % (1 << 32), (len(frame) + longer) % (1 << 16), flags % 256,
                syndrome % 256, handle % (1 << 32), generation % (1 << 32),
            )  # fmt: skip
        slots, marks = slots_of(self.tx_index, len(packets))
        DMA.tx_marks[slots] = marks
        count = (len(packets) + count) % (1 << 16)
        return self.pack(Kind.TX, descriptors.tobytes(), self.tx_index + index, count)

    def wire(self, frames: Sequence[bytes], index: int = 0, count: int = 0) -> bytes:
        """A WIRE message; `index` and `count` are added to what would be right."""
        count = (len(frames) + count) % (1 << 16)
        return self.pack(Kind.WIRE, pack_frames(frames), self.wire_index + index, count)

    def give_back(self, messages: Sequence[Message]) -> list[Message]:
        """Return the credits of what came; -> what that set free."""
        more: list[Message] = []
        for message in messages:
            if message.kind is Kind.RX:
                done = self.pack(Kind.RX_DONE, index=message.index, count=message.count)
                more += self.step(Channel.RINGS, done)
            elif message.kind is Kind.EVENTS:
                arm = self.pack(Kind.ARM, index=message.index + message.count)
                more += self.step(Channel.EVENTS, arm)
            elif message.kind is Kind.WIRE:
                more += self.step(Channel.WIRE, self.pack(Kind.WIRE_DONE, count=message.count))
        return more


def frames_of(messages: Sequence[Message]) -> list[bytes]:
    """Frames that left the port."""
    return [
        frame
        for message in messages
        if message.kind is Kind.WIRE
        for frame in unpack_frames(message.body, message.count)
    ]


def sa_command(key: int, direction: int, **fields: Any) -> c.CreateSa:
    """CREATE_SA between HERE and THERE."""
    ends = (HERE, THERE) if direction == c.OUT else (THERE, HERE)
    command = c.CreateSa(
        key=key, salt=SALT, icv_bytes=16, spi=0x1000, family=AF_INET, saddr=ends[0],
        daddr=ends[1], direction=direction, reqid=1, selector=c.Selector(),
        replay_window=64 if direction == c.IN else 0,
    )  # fmt: skip
    return msgspec.structs.replace(command, **fields)


def policy_command(direction: int, **fields: Any) -> c.CreatePolicyRule:
    """Everything of IPv4 is to be protected with reqid 1."""
    command = c.CreatePolicyRule(
        direction=direction, selector=c.Selector(family=AF_INET), priority=5,
        action=c.ALLOW, protect=True, reqid=1,
    )  # fmt: skip
    return msgspec.structs.replace(command, **fields)
