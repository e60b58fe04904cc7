# SPDX-License-Identifier: Apache-2.0
"""Compiling ahead: one small card walks every kernel once, so that no packet waits for a compiler.

A kernel is compiled on its first call for the types of its arguments, and kept on disk
(nic_model.cache). So each step sends real messages through the same firmware that will run later,
never a likeness of it. The shell that calls the steps owns the clock and prints the progress.
"""

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec
import numpy as np

from nic_model.firmware import Firmware
from proto import commands as c
from proto.caps import PROFILES
from proto.frame import Channel, Kind, pack, unpack
from proto.layouts import DESCRIPTOR
from proto.link.dma import Dma, tx_offset
from proto.wire import pack_frames
from proto.xfrm import AF_INET

_ADDRESS = bytes((10, 0, 0, 1)).ljust(16, b"\0")
# An empty UDP datagram in IPv4, both checksums left out: the kernels parse it all the same.
_FRAME = bytes.fromhex("0200000000010200000000020800") + bytes.fromhex(
    "4500001c000000004011000a0a0000010a0000010001000100080000"
)


EPOCH = 1


class Step(NamedTuple):
    """`run` compiles what `name` says; a second run costs nothing."""

    name: str
    run: Callable[[], None]


class _Card:
    """A card that talks to itself: what it sends comes back to it."""

    def __init__(self) -> None:
        self._dma = Dma.private()
        self._card = Firmware("warm", PROFILES["tiny"], self._dma, random.Random(0))
        self._card.step(0, [])  # HELLO
        self._command(c.InitFunction(EPOCH))
        self._frames = pack_frames([_FRAME])

    def _command(self, command: c.Command) -> c.Reply:
        body = msgspec.msgpack.encode([0, command])
        message = pack(Kind.COMMAND, body, epoch=EPOCH)
        outputs = self._card.step(0, [(Channel.MAILBOX, message)])
        (reply,) = (raw for channel, raw in outputs if channel is Channel.MAILBOX)
        return msgspec.msgpack.decode(unpack(reply).body, type=c.Reply)

    def keys(self) -> None:
        """Expand a key."""
        self._key = self._command(c.CreateKey(bytes(16))).handle

    def rules(self) -> None:
        """An SA for each direction and a policy that protects everything."""
        for direction in (c.OUT, c.IN):
            sa = c.CreateSa(
                key=self._key, salt=bytes(4), icv_bytes=16, spi=1, family=AF_INET,
                saddr=_ADDRESS, daddr=_ADDRESS, direction=direction, reqid=1,
                selector=c.Selector(), replay_window=32,
            )  # fmt: skip
            self._command(c.CreateSaRule(self._command(sa).handle))
            policy = c.CreatePolicyRule(
                direction=direction, selector=c.Selector(family=AF_INET), priority=0,
                action=c.ALLOW, protect=True, reqid=1,
            )  # fmt: skip
            self._command(policy)

    def transmit(self) -> None:
        """One packet out; its frame is kept."""
        at = tx_offset(0)
        self._dma.memory[at : at + len(_FRAME)] = np.frombuffer(_FRAME, np.uint8)
        self._dma.tx_marks[0] = 1
        descriptor = np.zeros(1, DESCRIPTOR)
        descriptor["offset"], descriptor["length"] = at, len(_FRAME)
        message = pack(Kind.TX, self._dma.gather(descriptor), 0, 1, EPOCH)
        for channel, raw in self._card.step(0, [(Channel.RINGS, message)]):
            if channel is Channel.WIRE:
                self._frames = bytes(unpack(raw).body)

    def receive(self) -> None:
        """The same frame in."""
        message = pack(Kind.WIRE, self._frames, 0, 1, self._card.life.boot)
        self._card.step(0, [(Channel.WIRE, message)])


def steps() -> Iterator[Step]:
    """What there is to compile, in the order in which it must run."""
    card = _Card()
    yield Step("key schedule", card.keys)
    yield Step("rules", card.rules)
    yield Step("transmit path", card.transmit)
    yield Step("receive path", card.receive)
