# SPDX-License-Identifier: Apache-2.0
"""The card's ends of the rings: descriptors in, bursts through the kernels, credits back.

TX: descriptors wait in a queue, in order. `pump` takes bursts off it while the wire gives credits;
    a lost doorbell (gap in the index) waits in its place too, so that credits return in order.
RX: frames of a wire message pass at once into the receive slots that the host gave. A frame keeps
    its wire credit until the host has read its slot, so a wire that grants a ring's worth of
    credits loses nothing, as with pause frames; one that sends more finds no slot (NO_BUFFER).

What a step produced goes out by `flush`, counters before the completions they belong to.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nic_model import tables
from nic_model.datapath import rx_burst, tx_burst
from nic_model.port import Port
from nic_model.tables import Tables
from proto.events import Event
from proto.frame import INDEX_MASK, Channel, FrameError, Kind, Message, pack
from proto.layouts import DESCRIPTOR
from proto.limits import BURST, FRAME_MAX_BYTES, RING_SIZE
from proto.link.dma import Dma
from proto.link.ring import Consumer, Producer, RingError

RECORDS_PER_MESSAGE = 4096

Output = list[tuple[Channel, bytes]]


@dataclass(slots=True)
class _Waiting:
    """Descriptors of one message, `lost` ring positions before them; `index` is their first."""

    index: int
    lost: int
    descriptors: npt.NDArray[np.void]


class Queues:
    """Transmit and receive ring of one card, between DMA memory and its port."""

    def __init__(self, t: Tables, dma: Dma, port: Port) -> None:
        self.port = port
        self.events: list[Event] = []
        self.counters = dict.fromkeys(("tx_descriptors", "tx_lost", "rx_delivered", "rx_lost"), 0)
        self._t = t
        self._dma = dma
        self._tx = Consumer(RING_SIZE)
        self._rx = Producer(RING_SIZE)
        self._waiting: deque[_Waiting] = deque()
        self._done = 0  # transmit credits to give back
        self._records = 0  # counter records sent so far, so that a gap shows
        self._output: Output = []
        self._received: Output = []
        self._out = np.zeros(BURST * FRAME_MAX_BYTES, np.uint8)
        self._out_length = np.zeros(BURST, np.int64)
        self._verdict = np.zeros(BURST, np.uint8)
        self._descriptors = np.zeros(BURST, DESCRIPTOR)

    @property
    def queued(self) -> int:
        """Transmit descriptors that wait for wire credits."""
        return sum(len(waiting.descriptors) for waiting in self._waiting)

    def indices(self) -> dict[str, int]:
        """How far the rings have come; see commands.Fence."""
        return {
            "tx": self._tx.index,
            "rx": self._rx.index,
            "wire": self.port.index,
            "queued": self.queued,
        }

    def transmit(self, message: Message) -> None:
        """Queue a TX message. Raises FrameError or RingError, and then nothing has changed."""
        if not message.count:
            raise FrameError("a TX message without descriptors")
        before = self._tx.index
        lost = self._tx.arrived(message.index, message.count)
        try:
            held = sum(one.lost + len(one.descriptors) for one in self._waiting) + self._done
            if held + lost + message.count > RING_SIZE:
                raise RingError(f"{message.count} descriptors come without credits")
            descriptors = self._dma.scatter(message.body, message.count).copy()
        except ValueError:
            self._tx.index = before
            raise
        self._waiting.append(_Waiting(message.index, lost, descriptors))
        self.counters["tx_descriptors"] += message.count
        self.counters["tx_lost"] += lost
        self.pump()

    def pump(self) -> None:
        """Send what waits, as far as the wire gives credits."""
        while self._waiting and self.port.credits:
            first = self._waiting[0]
            count = min(BURST, self.port.credits, len(first.descriptors))
            self._send(first.index, first.descriptors[:count])
            self._done += first.lost + count
            first.lost = 0
            first.index += count
            first.descriptors = first.descriptors[count:]
            if not len(first.descriptors):
                self._waiting.popleft()

    def _send(self, index: int, descriptors: npt.NDArray[np.void]) -> None:
        count = len(descriptors)
        sent = tx_burst(
            self._t,
            self._dma.memory,
            index,
            descriptors,
            count,
            self.port.mtu,
            self._out,
            FRAME_MAX_BYTES,
            self._out_length,
            self._verdict,
        )
        self._collect_events()
        if sent:
            batch = self.port.batch(self._out, FRAME_MAX_BYTES, self._out_length[:count])
            self._output.append((Channel.WIRE, batch))

    def receive(self, message: Message) -> None:
        """Take a WIRE message. Raises FrameError or RingError, and then nothing has changed."""
        arrival = self.port.arrived(message)
        self.counters["rx_lost"] += arrival.lost
        held = self._rx.outstanding
        data = arrival.data.copy()  # decrypted in place, and a message is not ours to write
        for start in range(0, message.count, BURST):
            chosen = slice(start, start + BURST)
            self._take(data, arrival.offsets[chosen], arrival.lengths[chosen])
        kept = self._rx.outstanding - held
        self._wire_credit(arrival.lost + message.count - kept)

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
            self.port.filter,
            self._rx.index,
            self._rx.credits,
            self._descriptors,
            self._verdict,
        )
        self._collect_events()
        if delivered:
            self.counters["rx_delivered"] += delivered
            index = self._rx.take(delivered)
            body = self._dma.gather(self._descriptors[:delivered])
            self._received.append((Channel.RINGS, pack(Kind.RX, body, index, delivered)))

    def receive_done(self, message: Message) -> None:
        """The host has read `count` receive slots. Raises RingError for too many."""
        self._rx.refill(message.count)
        self._wire_credit(message.count)

    def _wire_credit(self, count: int) -> None:
        if count:
            self._output.append((Channel.WIRE, pack(Kind.WIRE_DONE, count=count)))

    def wire_done(self, message: Message) -> None:
        """The wire has taken `count` frames. Raises RingError for too many."""
        self.port.refill(message.count)
        self.pump()

    def _collect_events(self) -> None:
        """Name the SAs at once: a later command of this step may destroy them."""
        for row, kind in tables.drain_events(self._t):
            generation = int(self._t.sa[row]["generation"])
            self.events.append(Event(kind, tables.handle_of(row, generation), generation))

    def flush(self) -> Output:
        """What is to be sent: frames, then counters, then completions and received packets."""
        output, self._output = self._output, []
        records = tables.counter_records(self._t, tables.drain_touched(self._t))
        records = records[records["generation"] != 0]  # 0: destroyed since
        for start in range(0, len(records), RECORDS_PER_MESSAGE):
            part = records[start : start + RECORDS_PER_MESSAGE]
            body = part.tobytes()
            output.append((Channel.RINGS, pack(Kind.COUNTERS, body, self._records, len(part))))
            self._records = (self._records + len(part)) & INDEX_MASK
        if self._done:
            output.append((Channel.RINGS, pack(Kind.TX_DONE, count=self._done)))
            self._done = 0
        output += self._received
        self._received = []
        return output
