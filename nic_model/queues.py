# SPDX-License-Identifier: Apache-2.0
"""The card's ends of the rings: transmit queue, receive queue, counter records, and what goes out
in which order: frames, then counters, then the completions and packets that they belong to.
"""

from collections.abc import Callable

from nic_model import account, tables
from nic_model.asking import Asking
from nic_model.checks import Refused
from nic_model.counter_faults import CounterFaults
from nic_model.port import Port
from nic_model.rx_queue import RxQueue
from nic_model.tables import Tables
from nic_model.tx_queue import TxQueue
from proto.commands import SaState
from proto.events import Event, EventType
from proto.frame import INDEX_MASK, Channel, Kind, Message, pack
from proto.link.dma import Dma
from proto.queue import EDGES, CompletionError, QueueId, QueueState
from proto.status import Status, Syndrome

RECORDS_PER_MESSAGE = 4096

Output = list[tuple[Channel, bytes]]
Post = Callable[[Event, int], None]


class Queues:
    """Both queues of one card, between DMA memory and its port. `post` takes an event and the SPI
    of the SA that it is about."""

    def __init__(self, t: Tables, dma: Dma, port: Port, asking: Asking, post: Post) -> None:
        self.port = port
        self.tx = TxQueue(t, dma, port, asking)
        self.rx = RxQueue(t, dma, port, asking, self._rx_failed)
        self._asking = asking
        self._counter_faults = CounterFaults(asking, t)
        self._t = t
        self._post = post
        self._records = 0  # counter records sent so far, so that a gap shows
        self.epoch = 0

    @property
    def counters(self) -> dict[str, int]:
        """What both queues counted."""
        return self.tx.counters | self.rx.counters

    @property
    def all_counters(self) -> tuple[dict[str, int], ...]:
        """The same, to be set to 0."""
        return self.tx.counters, self.rx.counters

    def indices(self) -> dict[str, int]:
        """How far the rings have come; see commands.Fence."""
        return {
            "tx": self.tx.index,
            "tx_done": (self.tx.index - self.tx.held) & INDEX_MASK,
            "tx_state": self.tx.state,
            "rx": self.rx.index,
            "rx_done": self.rx.first,
            "rx_state": self.rx.state,
            "records": self._records,
            "wire": self.port.index,
            "queued": self.tx.queued,
        }

    def abandon(self) -> None:
        """What waits is flushed, never sent, and frames give their wire credits back."""
        self.tx.abandon()
        self.rx.abandon()

    def restart(self, epoch: int) -> None:
        """Both queues and the counter records begin at 0, empty and ready, for the host of
        `epoch`."""
        self.epoch = self.tx.epoch = self.rx.epoch = epoch
        self.tx.restart(0)
        self.rx.restart(0)
        self._records = 0

    def set_state(self, queue: int, state: int, index: int) -> int:
        """Move a queue along an edge (commands.SetQueue); returns its index. Raises Refused."""
        try:
            which, to = QueueId(queue), QueueState(state)
        except ValueError:
            raise _refused(f"queue {queue} has no state {state}") from None
        one = self.tx if which is QueueId.TX else self.rx
        if (one.state, to) not in EDGES:
            raise _refused(f"{which.name} queue goes from {one.state.name} not to {to.name}")
        if to is QueueState.ERR:
            one.fail(CompletionError.FLUSHED)
        elif to is QueueState.RDY:
            one.restart(index if which is QueueId.TX else one.index)
        else:
            one.state = to
        self._collect_events()
        return one.index

    def transmit(self, message: Message) -> None:
        """A TX message. Raises FrameError or RingError, and then the queue is in ERR."""
        try:
            self.tx.transmit(message)
        finally:
            self._collect_events()

    def receive(self, message: Message) -> None:
        """A WIRE message. Raises FrameError or RingError, and then nothing has changed."""
        self.rx.receive(message)
        self._collect_events()

    def receive_done(self, message: Message) -> None:
        """The host gives receive slots back. Raises RingError, and then the queue is in ERR."""
        self.rx.done(message)

    def wire_done(self, message: Message) -> None:
        """The wire has taken `count` frames. Raises RingError for too many."""
        self.port.refill(message.count)
        self.tx.pump()
        self._collect_events()

    def _rx_failed(self, syndrome: CompletionError) -> None:
        self._post(Event(EventType.QUEUE_ERROR, QueueId.RX, syndrome), 0)

    def _collect_events(self) -> None:
        """Name the SAs at once: a later command of this step may destroy them."""
        for row, kind in tables.drain_events(self._t):
            generation, spi = int(self._t.sa[row]["generation"]), int(self._t.sa[row]["spi"])
            self._post(Event(kind, tables.handle_of(row, generation), generation), spi)

    def flush(self) -> Output:
        """What is to be sent: frames, then counters, then completions and received packets."""
        self._collect_events()  # of what a fault let go by itself
        output = [(Channel.WIRE, message) for message in self.tx.frames()]
        output += [(Channel.WIRE, message) for message in self.rx.wire_credits()]
        output += [(Channel.RINGS, message) for message in self._counter_records()]
        output += [(Channel.RINGS, message) for message in self.tx.completions()]
        output += [(Channel.RINGS, message) for message in self.rx.packets()]
        return output

    def reported(self, handle: int, state: SaState) -> SaState:
        """What QUERY_SA answers about an SA in this state."""
        return self._counter_faults.state(handle, state) if self._asking.armed else state

    def _counter_records(self) -> list[bytes]:
        records = account.counter_records(self._t)
        messages: list[bytes] = []
        runs = [(0, records)]
        if self._asking.armed:
            runs = self._counter_faults.records(records)
        for first, run in runs:
            for start in range(0, len(run), RECORDS_PER_MESSAGE):
                part = run[start : start + RECORDS_PER_MESSAGE]
                index = self._records + first + start
                messages.append(pack(Kind.COUNTERS, part.tobytes(), index, len(part), self.epoch))
        self._records = (self._records + len(records)) & INDEX_MASK
        return messages


def _refused(text: str) -> Refused:
    return Refused(Status.BAD_PARAMETER, Syndrome.QUEUE_STATE, text)
