# SPDX-License-Identifier: Apache-2.0
"""The watchdog over a card: heartbeats in, heartbeats out, and what a poll makes of them.

    record    -> kept, unless it is older than the last probe; `driver.recovery` looks at it, and
                 `driver.queue_health` compares how far card and host are
    poll      -> each HEALTH_POLL_MS plus a drawn part of HEALTH_JITTER_MS: did the counter move?
                 the event queue is armed once more, which is our own heartbeat
    HEALTH_MISSES polls without a new record      reporter fw: the card may hang, or be slow
    twice as many                                 the card counts as gone (F-LIF-02)

A syndrome that is not fatal goes to reporter fw as well, once for each change.
"""

import random
from collections import Counter

from host_driver.driver.event_queue import EventQueue
from host_driver.driver.queue_health import QueueHealth
from host_driver.driver.recovery import DeviceState, Recovery
from host_driver.driver.reporter import Health, Reporter
from proto.codec import decode
from proto.frame import FrameError, Message
from proto.health import HealthRecord
from proto.limits import HEALTH_JITTER_MS, HEALTH_MISSES, HEALTH_POLL_MS

NS_PER_MS = 1_000_000


class CardHealth:
    """`rng` draws the jitter; `recovery` is told of records, and of a card that has gone."""

    def __init__(
        self,
        rng: random.Random,
        counters: Counter[str],
        events: EventQueue,
        queues: QueueHealth,
        recovery: Recovery,
    ) -> None:
        self.fw = Reporter("fw", 0)
        self.record: HealthRecord | None = None
        self._rng = rng
        self._counters = counters
        self._events = events
        self._queues = queues
        self._recovery = recovery
        self._polled: HealthRecord | None = None
        self._misses = 0
        self._poll_ns = 0

    def arrived(self, message: Message, now_ns: int) -> None:
        """A record. Malformed ones are counted."""
        try:
            record = decode(message.body, HealthRecord)
        except FrameError:
            self._counters["health_malformed"] += 1
            return
        before, self.record = self.record, record
        if not record.rfr and record.syndrome != (before.syndrome if before else 0):
            self._note_syndrome(record, now_ns)
        self._queues.heard(record)
        self._recovery.saw(record, now_ns)

    def tick(self, now_ns: int) -> None:
        """Poll, when it is time."""
        if now_ns >= self._poll_ns:
            jitter_ms = self._rng.randrange(HEALTH_JITTER_MS)
            self._poll_ns = now_ns + (HEALTH_POLL_MS + jitter_ms) * NS_PER_MS
            if self._recovery.state is DeviceState.UP:
                self._poll(now_ns)

    def deadline_ns(self) -> int:
        """When the next poll is due."""
        return self._poll_ns

    def skip(self, by_ns: int) -> None:
        """Time without heartbeats, on both sides, has passed."""
        self._poll_ns += by_ns

    def begin(self) -> None:
        """A card was taken: its heartbeats are counted from here."""
        self._misses = 0
        self._polled = None

    def _poll(self, now_ns: int) -> None:
        self._counters["health_polls"] += 1
        self._events.arm()
        moved = self.record is not self._polled
        self._polled = self.record
        self._misses = 0 if moved else self._misses + 1
        if moved and self.fw.state is Health.ERROR and self.fw.dump.get("missed"):
            self._good(now_ns)
        elif self._misses == HEALTH_MISSES:
            text = f"the health counter has not moved for {self._misses} polls"
            self.fw.report(text, now_ns, {"missed": self._misses, **dump_of(self.record)})
        elif self._misses == 2 * HEALTH_MISSES:
            self._recovery.fail(f"no sign of life for {self._misses} polls", now_ns)

    def _note_syndrome(self, record: HealthRecord, now_ns: int) -> None:
        if record.syndrome:
            text = f"health syndrome {record.syndrome:#x}, ext {record.ext_synd:#x}"
            self.fw.report(text, now_ns, dump_of(record))
        elif self.fw.state is Health.ERROR:
            self._good(now_ns)

    def _good(self, now_ns: int) -> None:
        self.fw.begin()
        self.fw.succeeded(now_ns)


def dump_of(record: HealthRecord | None) -> dict[str, int | str]:
    """A record as a reporter keeps it."""
    if record is None:
        return {}
    names = [name for name in record.__struct_fields__ if name != "rings"]
    return {name: getattr(record, name) for name in names} | record.rings
