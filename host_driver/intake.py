# SPDX-License-Identifier: Apache-2.0
"""Messages of a host's card and lab: each to its room, once faults have had their way with it.

Between host and card only messages of the present epoch count, also when a fault lets go late what
it has held: what is left of an earlier probe is counted and dropped.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from host_driver.driver.edge import opcode_fact
from proto.events import Event, EventType
from proto.frame import OF_AN_EPOCH, Channel, FrameError, Kind, Message, unpack

if TYPE_CHECKING:
    from host_driver.host import Host

OVERRUN = Event(EventType.OVERRUN, 0, 0)


class Intake:
    """What a host does with each kind of message."""

    def __init__(self, host: "Host") -> None:
        self._host = host
        self._handlers: dict[tuple[Channel, Kind], Callable[[Message, bytes], None]] = {
            (Channel.MAILBOX, Kind.REPLY): self._reply,
            (Channel.MAILBOX, Kind.CLOSED): lambda *_: host.recovery.closed(host.now_ns()),
            (Channel.MAILBOX, Kind.OPENED): lambda *_: host.recovery.opened(),
            (Channel.EVENTS, Kind.EVENTS): self._events,
            (Channel.EVENTS, Kind.HEALTH): lambda one, _: host.health.arrived(one, host.now_ns()),
            (Channel.RINGS, Kind.TX_DONE): self._tx_done,
            (Channel.RINGS, Kind.RX): self._receive,
            (Channel.RINGS, Kind.COUNTERS): self._sa_counters,
            (Channel.CONTROL, Kind.CONTROL): host.queries.asked,
        }

    def take(self, channel: Channel, raw: bytes) -> None:
        """One message. Bad ones are counted."""
        try:
            message = unpack(raw)
        except FrameError:
            self._host.counters["messages_malformed"] += 1
            return
        handler = self._handlers.get((channel, message.kind))
        if handler is None:
            self._host.counters["messages_unexpected"] += 1
        elif message.kind not in OF_AN_EPOCH or self._is_current(message):
            handler(message, raw)

    def _is_current(self, message: Message) -> bool:
        if message.epoch == self._host.epoch:
            return True
        self._host.counters["messages_stale"] += 1
        return False

    def _then(self, handler: Callable[[Message], None]) -> Callable[[Message], None]:
        """The handler of a message that a fault may have held for long."""

        def late(message: Message) -> None:
            if self._is_current(message):
                handler(message)

        return late if self._host.faults.armed else handler

    def _reply(self, message: Message, raw: bytes) -> None:
        host = self._host
        command = host.mailbox.command_of(message.body) if host.faults.armed else None
        host.edge.reply(raw, message, command, self._then(self._replied))

    def _replied(self, message: Message) -> None:
        host, announced = self._host, True
        if host.faults.armed:
            facts = opcode_fact(host.mailbox.command_of(message.body))
            announced = not host.faults.fire("mailbox.interrupt", facts, host.now_ns())
        host.mailbox.replied(message.body, announced)

    def _events(self, message: Message, raw: bytes) -> None:
        host, counters = self._host, self._host.counters
        lost = counters["events_lost"] + counters["events_malformed"]
        host.edge.events(message, host.events.arrived(message), self._happened)
        if lost != counters["events_lost"] + counters["events_malformed"]:
            self.read_everything()

    def _happened(self, events: list[Event]) -> None:
        if others := self._host.queue_health.take_events(events):
            self._host.driver_hook("handle_events", others)

    def _tx_done(self, message: Message, raw: bytes) -> None:
        host = self._host
        done = self._then(lambda one: host.tx.done(one, host.now_ns()))
        host.edge.arrived(raw, message, done)

    def _receive(self, message: Message, raw: bytes) -> None:
        host = self._host
        if not host.edge.arrived(raw, message, self._then(host.rx.arrived)):
            host.rx.lost(message)

    def _sa_counters(self, message: Message, raw: bytes) -> None:
        self._host.edge.arrived(raw, message, self._then(self._host.records.arrived))

    def count_sas(self, records: npt.NDArray[np.void]) -> None:
        """Counter records, for the driver; an SA that they end does not wait for the packets of
        others that came with them."""
        self._host.driver_hook("handle_counters", records)
        self._host.run_core_timers()

    def read_everything(self) -> None:
        """Something got lost: the driver finds out what."""
        self._host.driver_hook("handle_events", [OVERRUN])
