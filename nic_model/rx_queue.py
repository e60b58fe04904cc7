# SPDX-License-Identifier: Apache-2.0
"""The receive queue: frames of a wire message pass at once into the slots that the host gave.

A frame keeps its wire credit until the host has read its slot, so a wire that grants a ring's worth
of credits loses nothing, as with pause frames; one that sends more finds no slot (NO_BUFFER). A
queue that is not in RDY has no slots.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from nic_model.datapath import rx_burst
from nic_model.port import Port
from nic_model.tables import Tables
from proto.frame import Kind, Message, pack
from proto.layouts import DESCRIPTOR
from proto.limits import BURST, RING_SIZE
from proto.link.dma import Dma
from proto.link.ring import Producer, RingError, Stale
from proto.queue import CompletionError, QueueState


class RxQueue:
    """Frames in, received packets and wire credits out. `failed` is told of each error."""

    def __init__(
        self, t: Tables, dma: Dma, port: Port, failed: Callable[[CompletionError], None]
    ) -> None:
        self.state = QueueState.RDY
        self.epoch = 0  # of the host
        self.counters = dict.fromkeys(("rx_delivered", "rx_lost", "rx_stale", "rx_errors"), 0)
        self._t = t
        self._dma = dma
        self._port = port
        self._failed = failed
        self._ring = Producer(RING_SIZE)
        self._received: list[bytes] = []
        self._credit = 0
        self._descriptors = np.zeros(BURST, DESCRIPTOR)
        self._verdict = np.zeros(BURST, np.uint8)

    @property
    def index(self) -> int:
        """Number of the next packet."""
        return self._ring.index

    @property
    def first(self) -> int:
        """Number of the oldest packet whose slot the host has not given back."""
        return self._ring.first

    def restart(self, index: int) -> None:
        """Go on at `index` with every slot free, ready."""
        self._release()
        self._ring.restart(index)
        self.state = QueueState.RDY

    def receive(self, message: Message) -> None:
        """Take a WIRE message. Raises FrameError or RingError, and then nothing has changed."""
        arrival = self._port.arrived(message)
        self.counters["rx_lost"] += arrival.lost
        held = self._ring.outstanding
        data = arrival.data.copy()  # decrypted in place, and a message is not ours to write
        for start in range(0, message.count, BURST):
            chosen = slice(start, start + BURST)
            self._take(data, arrival.offsets[chosen], arrival.lengths[chosen])
        kept = self._ring.outstanding - held
        self._credit += arrival.lost + message.count - kept

    def _take(
        self,
        data: npt.NDArray[np.uint8],
        offsets: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
    ) -> None:
        delivered = rx_burst(
            self._t,
            data,
            offsets,
            lengths,
            len(offsets),
            self._dma.memory,
            self._port.filter,
            self._ring.index,
            self._ring.credits if self.state is QueueState.RDY else 0,
            self._descriptors,
            self._verdict,
        )
        if delivered:
            self.counters["rx_delivered"] += delivered
            index = self._ring.take(delivered)
            body = self._dma.gather(self._descriptors[:delivered])
            self._received.append(pack(Kind.RX, body, index, delivered, self.epoch))

    def done(self, message: Message) -> None:
        """The host gives slots back. Raises RingError for slots that it does not have, and then the
        queue is in ERR."""
        try:
            self._credit += self._ring.completed(message.index, message.count)
        except Stale:
            self.counters["rx_stale"] += 1
        except RingError:
            self.fail(CompletionError.LOCAL_QUEUE_OPERATION)
            raise

    def fail(self, syndrome: CompletionError) -> None:
        """Stop: no slot is filled any more."""
        if self.state is QueueState.RDY:
            self.state = QueueState.ERR
            self.counters["rx_errors"] += 1
            self._release()
            self._failed(syndrome)

    def _release(self) -> None:
        """The host will not give back what it holds: the wire gets those credits now."""
        self._credit += self._ring.outstanding
        self._ring.restart(self._ring.index)

    def wire_credits(self) -> list[bytes]:
        """The WIRE_DONE message for frames whose slots are free again, if there are any."""
        credit, self._credit = self._credit, 0
        return [pack(Kind.WIRE_DONE, count=credit, epoch=self._port.boot)] if credit else []

    def packets(self) -> list[bytes]:
        """RX messages since the last call."""
        received, self._received = self._received, []
        return received
