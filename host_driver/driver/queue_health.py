# SPDX-License-Identifier: Apache-2.0
"""What got lost on rings and event queue is found, and a queue in error comes back (reporters tx
and rx).

    stalled, polled   Fence, and each heartbeat: how far the card is -> doorbells rung again,
                      completions and packets that got lost made good, events asked for once more
    in error          SetQueue ERR (unless the card is there) -> the rest is flushed -> RST -> RDY

A recovery waits for the grace period after the last one; one that failed is tried again after
TX_TIMEOUT_MS. Meanwhile the queue stands still: nothing leaves on another way.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from host_driver.driver.event_queue import EventQueue
from host_driver.driver.mailbox import Mailbox
from host_driver.driver.records import Records
from host_driver.driver.reporter import Health, Reporter
from host_driver.driver.rx_queue import RxQueue
from host_driver.driver.tx_queue import TxQueue
from host_driver.sleep import Sleep, wait
from proto.commands import Fence, SetQueue
from proto.events import Event, EventType
from proto.health import FunctionState, HealthRecord
from proto.limits import FLUSH_TIMEOUT_MS, QUEUE_GRACE_MS, TX_TIMEOUT_MS
from proto.link.ring import distance
from proto.queue import QueueId, QueueState
from proto.status import OffloadError


class QueueHealth:
    """Watches both queues, event queue and counter records of one card."""

    def __init__(
        self,
        tx: TxQueue,
        rx: RxQueue,
        events: EventQueue,
        records: Records,
        mailbox: Mailbox,
        spawn: Callable[[Sleep[Any]], None],
        counters: Counter[str],
    ) -> None:
        self.tx = Reporter("tx", QUEUE_GRACE_MS, TX_TIMEOUT_MS)
        self.rx = Reporter("rx", QUEUE_GRACE_MS, TX_TIMEOUT_MS)
        self._queues: dict[QueueId, TxQueue | RxQueue] = {QueueId.TX: tx, QueueId.RX: rx}
        self._reporters = {QueueId.TX: self.tx, QueueId.RX: self.rx}
        self._tx = tx
        self._rx = rx
        self._events = events
        self._records = records
        self._mailbox = mailbox
        self._spawn = spawn
        self._counters = counters
        self._timeouts = 0
        self._asking = False
        self._agreed: dict[str, int] = {}
        self._now_ns = 0

    def tick(self, now_ns: int) -> None:
        """Called in every step."""
        self._now_ns = now_ns
        if self._tx.stalled(now_ns):
            self.poll()
        if self._counters["mailbox_timeouts"] != self._timeouts:  # F-CTL-03
            self._timeouts = self._counters["mailbox_timeouts"]
            self._events.poll()
        for number, queue in self._queues.items():
            reporter = self._reporters[number]
            if queue.state is QueueState.ERR and reporter.state is Health.HEALTHY:
                dump: dict[str, int | str] = {"index": queue.index, "error": queue.error}
                reporter.report(queue.error, now_ns, dump)
            if reporter.due(now_ns):
                reporter.begin()
                self._spawn(self._recover(number))

    def deadline_ns(self) -> int | None:
        """When `tick` has something to do."""
        deadlines = [self._tx.deadline_ns()]
        deadlines += [
            reporter.next_ns
            for reporter in self._reporters.values()
            if reporter.state is Health.ERROR
        ]
        return min((ns for ns in deadlines if ns is not None), default=None)

    @property
    def idle(self) -> bool:
        """No queue has to be recovered."""
        return self._tx.state is QueueState.RDY and self._rx.state is QueueState.RDY

    def take_events(self, events: list[Event]) -> list[Event]:
        """QUEUE_ERROR is a hint like any other: the card is asked. Returns the other events."""
        others = [event for event in events if event.type != EventType.QUEUE_ERROR]
        if len(others) < len(events):
            self._counters["events_queue_error"] += len(events) - len(others)
            self.poll()
        return others

    def poll(self) -> None:
        """Ask the card how far it is; one question at a time."""
        if not self._asking:
            self._asking = True
            self._spawn(self._ask())

    def _ask(self) -> Sleep[None]:
        try:
            reply = yield from self._mailbox.execute(Fence())
        finally:
            self._asking = False
        self.confirm(reply.values)

    def confirm(self, fence: Mapping[str, int]) -> None:
        """What a Fence answered: compare it with what arrived here."""
        if not {"tx", "tx_done", "rx", "rx_done", "events", "records"} <= fence.keys():
            return
        self._tx.confirm(fence["tx"], fence["tx_done"])
        self._rx.confirm(fence["rx"], fence["rx_done"], self._now_ns)
        self._records.confirm(fence["records"], self._now_ns)
        if distance(fence["events"], self._events.index) > 0:
            self._events.poll()
        for number, name in ((QueueId.TX, "tx_state"), (QueueId.RX, "rx_state")):
            if fence.get(name) == QueueState.ERR:
                self._queues[number].fail("the card has stopped it")
        ours = self._indices()
        if ours["tx_done"] == ours["tx"] and ours.items() <= fence.items():
            self._agreed = ours

    def heard(self, record: HealthRecord) -> None:
        """A heartbeat tells the same, of its own epoch; but its states may be older than the end of
        a recovery, so errors are left to completions and events."""
        if record.epoch == self._tx.epoch and record.state == FunctionState.ACTIVE:
            self.confirm({name: of for name, of in record.rings.items() if "state" not in name})

    @property
    def settled(self) -> bool:
        """Whether the card has said that nothing is missing since anything moved last."""
        return self.idle and self._agreed == self._indices()

    def _indices(self) -> dict[str, int]:
        tx, rx = self._tx.index, self._rx.index
        ours = {"tx": tx, "tx_done": self._tx.first, "rx": rx, "rx_done": rx}
        return ours | {"events": self._events.index, "records": self._records.index}

    def restart(self, epoch: int) -> None:
        """A card that begins at 0 in a new epoch: nothing of the old one comes any more."""
        self._tx.restart(epoch)
        self._rx.restart(epoch)
        self._events.restart(epoch)
        self._records.restart()

    def reporters(self) -> list[dict[str, Any]]:
        """Both reporters, as `devlink health show` would say it."""
        return [self.tx.describe(), self.rx.describe()]

    def _recover(self, number: QueueId) -> Sleep[None]:
        reporter, queue = self._reporters[number], self._queues[number]
        try:
            if queue.state is QueueState.ERR:
                yield from self._reset(number)
        except OffloadError as error:
            queue.fail(error.text)
            reporter.failed(error.text, self._now_ns)
        else:
            self._counters[f"{reporter.name}_recover"] += 1
            reporter.succeeded(self._now_ns)

    def _reset(self, number: QueueId) -> Sleep[None]:
        """ERR -> RST -> RDY on both sides. Raises OffloadError."""
        execute, name = self._mailbox.execute, number.name.lower()
        state = (yield from execute(Fence())).values[f"{name}_state"]
        if state == QueueState.RDY:
            yield from execute(SetQueue(number, QueueState.ERR))
        index = (yield from execute(Fence())).values[name]
        if number is QueueId.TX:
            yield from self._flushed(index)
        if state != QueueState.RST:
            yield from execute(SetQueue(number, QueueState.RST))
        if number is QueueId.RX:
            self._rx.recovered(index)  # ready to receive before the card is ready to send
        yield from execute(SetQueue(number, QueueState.RDY, self._tx.index))
        if number is QueueId.TX:
            self._tx.recovered(index)

    def _flushed(self, arrived: int) -> Sleep[None]:
        """Wait for the completions that are on their way, at most FLUSH_TIMEOUT_MS."""
        until_ns = self._now_ns + FLUSH_TIMEOUT_MS * 1_000_000
        while distance(arrived, self._tx.first) > 0 and self._now_ns < until_ns:
            progress = self._tx.progress
            progress.deadline_ns = until_ns
            yield from wait(progress)
