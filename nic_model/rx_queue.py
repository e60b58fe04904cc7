# SPDX-License-Identifier: Apache-2.0
"""The receive queue: frames of a wire message pass at once into the slots that the host gave.

A frame keeps its wire credit until the host has read its slot, so a wire that grants a ring's worth
of credits loses nothing, as with pause frames; one that sends more finds no slot (NO_BUFFER). A
queue that is not in RDY has no slots.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from nic_model.asking import Asking
from nic_model.data_faults import Arrival, describe, judge_frame
from nic_model.datapath import rx_burst
from nic_model.port import Port
from nic_model.tables import RX, RX_BYTES, RX_PACKETS, Tables
from proto.frame import Kind, Message, pack
from proto.layouts import DESCRIPTOR
from proto.limits import BURST, RING_SIZE
from proto.link.dma import Dma, rx_offset, slots_of
from proto.link.ring import Producer, RingError, Stale
from proto.queue import CompletionError, QueueState
from proto.status import Drop

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.int64]


class RxQueue:
    """Frames in, received packets and wire credits out. `failed` is told of each error."""

    def __init__(
        self,
        t: Tables,
        dma: Dma,
        port: Port,
        asking: Asking,
        failed: Callable[[CompletionError], None],
    ) -> None:
        self.state = QueueState.RDY
        self.epoch = 0  # of the host
        self.counters = dict.fromkeys(("rx_delivered", "rx_lost", "rx_stale", "rx_errors"), 0)
        self._t = t
        self._dma = dma
        self._port = port
        self._asking = asking
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
        if not self._port.open:
            self._t.drops[RX, Drop.CLOSED] += message.count
            self._credit += arrival.lost + message.count
            return
        data, offsets = arrival.frames.data, arrival.frames.offsets
        take = self._take_singly if self._asking.armed else self._take
        for start in range(0, message.count, BURST):
            chosen = slice(start, start + BURST)
            take(data, offsets[chosen], arrival.frames.lengths[chosen])
        kept = self._ring.outstanding - held
        self._credit += arrival.lost + message.count - kept

    def _take_singly(self, data: Bytes, offsets: Words, lengths: Words) -> None:
        """The same, asking for faults at each frame."""
        for at in range(len(offsets)):
            one = slice(at, at + 1)
            frame = data[int(offsets[at]) : int(offsets[at]) + int(lengths[at])]
            arrival = judge_frame(self._asking, frame)
            if arrival.dropped or arrival.raw:
                self._t.totals[RX_PACKETS] += 1
                self._t.totals[RX_BYTES] += len(frame)
            if arrival.dropped:
                self._t.drops[RX, Drop.ENGINE] += 1
            elif arrival.raw:
                self._deliver_raw(frame, arrival)
            else:
                self._take(data, offsets[one], lengths[one], arrival)

    def _deliver_raw(self, frame: Bytes, arrival: Arrival) -> None:
        """A frame as it came, as if no SA were there for it."""
        if not self._room(arrival):
            self._t.drops[RX, Drop.NO_BUFFER] += 1
            return
        slot = rx_offset(self._ring.index)
        self._dma.memory[slot : slot + len(frame)] = frame
        slots, marks = slots_of(self._ring.index, 1)
        self._dma.rx_marks[slots] = marks
        self._descriptors[0] = (slot, len(frame), 0, 0, 0, 0)
        self._deliver(1, arrival)

    def _take(
        self, data: Bytes, offsets: Words, lengths: Words, arrival: Arrival | None = None
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
            self._room(arrival),
            self._descriptors,
            self._verdict,
        )
        if delivered:
            self._deliver(delivered, arrival)

    def _room(self, arrival: Arrival | None) -> int:
        """Slots that may be filled."""
        closed = self.state is not QueueState.RDY or (arrival is not None and arrival.no_buffer)
        return 0 if closed else self._ring.credits

    def _deliver(self, count: int, arrival: Arrival | None) -> None:
        for fired in arrival.described if arrival else ():
            describe(self._t, self._descriptors[0], fired)
            if fired.kind == "unwritten":
                slots, _ = slots_of(self._ring.index, 1)
                self._dma.rx_marks[slots] ^= 0x5555
        self.counters["rx_delivered"] += count
        index = self._ring.take(count)
        body = self._dma.gather(self._descriptors[:count])
        self._received.append(pack(Kind.RX, body, index, count, self.epoch))

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

    def abandon(self) -> None:
        """Nobody reads the slots any more."""
        self._release()

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
