# SPDX-License-Identifier: Apache-2.0
"""The host's end of the event queue: interrupts in, the arming doorbell out.

    interrupt -> entries that are new -> arm: "all before this index are handled"
    poll      -> arm again: where an interrupt or a doorbell got lost, the card tells once more

Polling is for whoever has waited too long for something: a command, a completion, a heartbeat.
"""

from collections import Counter
from collections.abc import Callable

from proto.frame import Kind, Message, pack
from proto.limits import EVENT_QUEUE
from proto.link.ring import Consumer, RingError, Stale

Send = Callable[[bytes], None]


class EventQueue:
    """`send` puts framed bytes on the EVENTS channel."""

    def __init__(self, send: Send, counters: Counter[str]) -> None:
        self._send = send
        self._counters = counters
        self._consumer = Consumer(EVENT_QUEUE)
        self._epoch = 0

    @property
    def index(self) -> int:
        """Running number of the next entry."""
        return self._consumer.index

    def arrived(self, message: Message) -> int:
        """Account for an EVENTS message and arm again; how many of its first entries are not new.

        A spurious one (without entries) changes nothing, and the queue is armed as it was: arming
        would have the card tell again what is on its way. One that comes twice only arms.
        """
        known = self._account(message)
        if message.count:
            self.arm()
        else:
            self._counters["events_spurious"] += 1
        return known

    def _account(self, message: Message) -> int:
        before = self._consumer.index
        try:
            if message.count > EVENT_QUEUE:
                raise RingError(f"{message.count} events, the queue holds {EVENT_QUEUE}")
            self._counters["events_lost"] += self._consumer.arrived(message.index, message.count)
        except Stale:
            return self._again(message, before)
        except RingError:
            self._counters["events_index_unexpected"] += 1
            return message.count
        return 0

    def _again(self, message: Message, before: int) -> int:
        """An interrupt that was asked for again tells of old entries, and new ones behind them."""
        known = min(before - message.index & 0xFFFF_FFFF, message.count)
        self._counters["events_doubled"] += known
        if known < message.count:
            self._consumer.arrived(before, message.count - known)
        return known

    def arm(self) -> None:
        """All entries so far are handled; interrupt for the next."""
        self._send(pack(Kind.ARM, index=self.index, epoch=self._epoch))

    def poll(self) -> None:
        """Look whether something waits that no interrupt told of."""
        self._counters["events_polled"] += 1
        self.arm()

    def restart(self, epoch: int) -> None:
        """A card that begins at 0 in a new epoch; it has to be armed."""
        self._epoch = epoch
        self._consumer.restart(0)
