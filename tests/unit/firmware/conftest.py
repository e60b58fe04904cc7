# SPDX-License-Identifier: Apache-2.0
"""A driver for tests: packed messages into one Firmware, its answers taken apart."""

import itertools
import random
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import pytest

from nic_model.firmware import Firmware
from proto import commands as c
from proto.caps import parse_card
from proto.events import Event
from proto.frame import Channel, Kind, Message, pack, unpack
from proto.layouts import DESCRIPTOR, SA_COUNTERS
from proto.link.dma import Dma, rx_offset, slots_of, tx_offset
from proto.wire import pack_frames, unpack_frames
from proto.xfrm import AF_INET, AF_INET6

KEY = bytes(range(0x40, 0x60))
SALT = b"salt"
A4, B4 = bytes((10, 1, 0, 1)), bytes((10, 1, 0, 2))
A6, B6 = (
    bytes.fromhex("fd000001") + bytes(11) + b"\1",
    bytes.fromhex("fd000001") + bytes(11) + b"\2",
)


EPOCH = 0x5EED  # of the host


class Card:
    """One firmware, and the host's and the wire's side of its channels.

    Credits are given back only by `rx_done` and `wire_done`, so that tests can hold them. Events
    are handled at once unless `handles_events` is taken back.
    """

    KEY, SALT = KEY, SALT
    handles_events = True

    def __init__(
        self, card: str = "full", *, seed: int = 1, shared: bool = True, mac: bytes = bytes(6)
    ) -> None:
        self.dma = Dma.anonymous() if shared else Dma.private()
        self.host_dma = self.dma if shared else Dma.private()
        self.firmware = Firmware("card0", parse_card(card), self.dma, random.Random(seed), mac)
        self.tx_index = self.rx_index = self.wire_index = 0
        self._tokens = itertools.count(1_000)
        self.log: list[Message] = []  # everything that the card ever sent
        self.firmware.step(0, [])
        self.make(c.InitFunction(EPOCH))
        self.arm(0)

    def token(self) -> int:
        """One that was not given yet."""
        return next(self._tokens)

    def arm(self, index: int) -> list[Message]:
        """All events before `index` are handled."""
        return self.step((Channel.EVENTS, pack(Kind.ARM, index=index, epoch=EPOCH)))

    def step(self, *inputs: tuple[Channel, bytes | bytearray]) -> list[Message]:
        """One step; the messages come with channel and header checked."""
        channels = {
            Kind.REPLY: Channel.MAILBOX, Kind.EVENTS: Channel.EVENTS, Kind.COUNTERS: Channel.RINGS,
            Kind.HEALTH: Channel.EVENTS,
            Kind.TX_DONE: Channel.RINGS, Kind.RX: Channel.RINGS,
            Kind.WIRE: Channel.WIRE, Kind.WIRE_DONE: Channel.WIRE,
        }  # fmt: skip
        messages = []
        for channel, raw in self.firmware.step(0, inputs):
            message = unpack(raw)
            assert channels[message.kind] is channel
            messages.append(message)
        self.log += messages
        for message in of(Kind.EVENTS, messages) if self.handles_events else []:
            messages += self.arm(message.index + message.count)
        return messages

    def command(self, command: c.Command, token: int | None = None) -> c.Reply:
        """Run one command, by default with a token of its own, and return its reply."""
        token = self.token() if token is None else token
        body = msgspec.msgpack.encode(c.Request(token, command))
        replies = of(
            Kind.REPLY, self.step((Channel.MAILBOX, pack(Kind.COMMAND, body, epoch=EPOCH)))
        )
        assert len(replies) == 1
        reply = msgspec.msgpack.decode(replies[0].body, type=c.Reply)
        assert reply.token == token
        return reply

    def make(self, command: c.Command) -> int:
        """A command that must succeed; returns the handle."""
        reply = self.command(command)
        assert reply.status == 0, reply.text
        return reply.handle

    def values(self, command: c.Command) -> dict[str, int]:
        reply = self.command(command)
        assert reply.status == 0, reply.text
        return reply.values

    @property
    def census(self) -> dict[str, int]:
        return self.values(c.QueryCensus())

    @property
    def counters(self) -> dict[str, int]:
        return self.values(c.QueryCounters())

    def sa(self, key: int, direction: int = c.OUT, family: int = AF_INET, **fields) -> c.CreateSa:
        """CREATE_SA from A to B; any field can be given."""
        source, target = (A4, B4) if family == AF_INET else (A6, B6)
        command = c.CreateSa(
            key=key, salt=SALT, icv_bytes=16, spi=0x1000, family=family,
            saddr=source.ljust(16, b"\0"), daddr=target.ljust(16, b"\0"), direction=direction,
            reqid=1, selector=c.Selector(), replay_window=32 if direction == c.IN else 0,
        )  # fmt: skip
        return msgspec.structs.replace(command, **fields)

    def policy(self, direction: int = c.OUT, family: int = AF_INET, **fields) -> c.CreatePolicyRule:
        """CREATE_POLICY_RULE that protects everything of the family with reqid 1."""
        command = c.CreatePolicyRule(
            direction=direction, selector=c.Selector(family=family), priority=0,
            action=c.ALLOW, protect=True, reqid=1,
        )  # fmt: skip
        return msgspec.structs.replace(command, **fields)

    def protect(self, direction: int = c.OUT, family: int = AF_INET, **fields) -> int:
        """Key, SA, rule and policy; returns the SA's handle."""
        sa = self.make(self.sa(self.make(c.CreateKey(KEY)), direction, family, **fields))
        self.make(c.CreateSaRule(sa))
        self.make(self.policy(direction, family))
        return sa

    def tx_message(self, frames: Sequence[bytes], flags: int = 0) -> tuple[Channel, bytes]:
        """Write frames to their DMA slots and describe them."""
        descriptors = np.zeros(len(frames), DESCRIPTOR)
        for number, frame in enumerate(frames):
            offset = tx_offset(self.tx_index + number)
            self.host_dma.memory[offset : offset + len(frame)] = np.frombuffer(frame, np.uint8)
            descriptors[number]["offset"] = offset
            descriptors[number]["length"] = len(frame)
            descriptors[number]["flags"] = flags
        slots, marks = slots_of(self.tx_index, len(frames))
        self.host_dma.tx_marks[slots] = marks
        body = self.host_dma.gather(descriptors)
        message = pack(Kind.TX, body, self.tx_index, len(frames), epoch=EPOCH)
        self.tx_index += len(frames)
        return Channel.RINGS, message

    def tx(self, frames: Sequence[bytes], flags: int = 0) -> list[Message]:
        return self.step(self.tx_message(frames, flags))

    def wire_message(self, frames: Sequence[bytes]) -> tuple[Channel, bytes]:
        message = pack(
            Kind.WIRE, pack_frames(frames), self.wire_index, len(frames), self.firmware.life.boot
        )
        self.wire_index += len(frames)
        return Channel.WIRE, message

    def rx(self, frames: Sequence[bytes]) -> list[Message]:
        return self.step(self.wire_message(frames))

    def rx_done(self, count: int) -> list[Message]:
        first, self.rx_index = self.rx_index, self.rx_index + count
        return self.step((Channel.RINGS, pack(Kind.RX_DONE, index=first, count=count, epoch=EPOCH)))

    def wire_done(self, count: int) -> list[Message]:
        return self.step(
            (Channel.WIRE, pack(Kind.WIRE_DONE, count=count, epoch=self.firmware.life.boot))
        )

    def received(self, messages: list[Message]) -> list[tuple[np.void, bytes]]:
        """Descriptor and frame of every received packet; slots are checked."""
        packets = []
        for message in of(Kind.RX, messages):
            for number, one in enumerate(self.host_dma.scatter(message.body, message.count)):
                offset, length = int(one["offset"]), int(one["length"])
                assert offset == rx_offset(message.index + number)
                packets.append((one, self.host_dma.memory[offset : offset + length].tobytes()))
        return packets


def of(kind: Kind, messages: list[Message]) -> list[Message]:
    """The messages of one kind."""
    return [message for message in messages if message.kind is kind]


class Read:
    """How tests take messages apart."""

    of = staticmethod(of)

    @staticmethod
    def kinds(messages: list[Message]) -> list[Kind]:
        return [message.kind for message in messages]

    @staticmethod
    def frames(messages: list[Message]) -> list[bytes]:
        return [f for m in of(Kind.WIRE, messages) for f in unpack_frames(m.body, m.count)]

    @staticmethod
    def counters(messages: list[Message]) -> list[np.void]:
        return [
            one for m in of(Kind.COUNTERS, messages) for one in np.frombuffer(m.body, SA_COUNTERS)
        ]

    @staticmethod
    def events(messages: list[Message]) -> list[Event]:
        found: list[Event] = []
        for message in of(Kind.EVENTS, messages):
            events = msgspec.msgpack.decode(message.body, type=list[Event])
            assert message.count == len(events)
            found += events
        return found

    @staticmethod
    def credits(kind: Kind, messages: list[Message]) -> int:
        return sum(message.count for message in of(kind, messages))


@pytest.fixture
def new_card() -> Callable[..., Card]:
    return Card


@pytest.fixture
def card() -> Card:
    return Card()


@pytest.fixture(scope="module")
def shared_card() -> Card:
    """One card for all examples of a property; each example cleans up behind itself."""
    return Card()


@pytest.fixture
def read() -> type[Read]:
    return Read


@pytest.fixture(params=[AF_INET, AF_INET6], ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)
