# SPDX-License-Identifier: Apache-2.0
"""The port: the card's side of the wire. Frames go out and come in as batches, bounded by credits.

out: the card packs only as many frames as it has credits, so nothing is lost inside
in:  every frame that came, and every frame that a gap shows as lost, gives one credit back
"""

from typing import NamedTuple

from proto.frame import Kind, Message, pack_parts
from proto.limits import MTU_DEFAULT, WIRE_CREDITS
from proto.link.ring import Consumer, Producer
from proto.wire import Frames


class Arrival(NamedTuple):
    """Frames of one message; `lost` before them."""

    frames: Frames
    lost: int


class Port:
    """Settings and credits of one port. `mac` is 6 bytes, all zero = the card has none.

    `boot` is the epoch of what goes out; what came for another boot of this card is not taken.
    A port that is not `open` delivers nothing.
    """

    def __init__(self, mac: bytes, boot: int = 0) -> None:
        self.boot = boot
        self.mac = mac
        self.configure(opened=False)
        self._out = Producer(WIRE_CREDITS)
        self._in = Consumer(WIRE_CREDITS)

    def configure(self, *, opened: bool) -> None:
        """The settings that a host finds."""
        self.open = opened
        self.mtu = MTU_DEFAULT
        self.mac_filter = False

    def restart(self, boot: int) -> None:
        """A new boot: indices and credits begin anew on both sides."""
        self.boot = boot
        self._out.restart(0)
        self._in.restart(0)

    @property
    def credits(self) -> int:
        """Frames that may go out now."""
        return self._out.credits if self.open else 0

    @property
    def index(self) -> int:
        """Number of the next frame out."""
        return self._out.index

    @property
    def filter(self) -> int:
        """The MAC to take frames for, as a big-endian number; 0 = take all."""
        return int.from_bytes(self.mac) if self.mac_filter else 0

    def batch(self, frames: Frames) -> bytes:
        """The WIRE message of as many frames as there are credits for, or fewer."""
        count = len(frames)
        return pack_parts(Kind.WIRE, frames.parts(), self._out.take(count), count, self.boot)

    def arrived(self, message: Message) -> Arrival:
        """Read a WIRE message. Raises FrameError or RingError, and then nothing has changed."""
        frames = Frames.unpack(message.body, message.count)
        return Arrival(frames, self._in.arrived(message.index, message.count))

    def refill(self, count: int) -> None:
        """The wire is done with `count` frames. Raises RingError for more than were sent."""
        self._out.refill(count)
