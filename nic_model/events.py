# SPDX-License-Identifier: Apache-2.0
"""The event queue: entries wait in a bounded ring until the host has handled them.

    post   an entry is written; an equal one that no interrupt has told of yet stands for both
    flush  armed and something is there: the interrupt, one message with all entries; disarmed
    arm    the host handled all before `index` and wants to hear of the next

An interrupt that got lost leaves the entries where they are: arming again, which is what every poll
of the host does, tells of them once more (F-RNG-13). Where the ring is full an event is lost, and
one OVERRUN entry behind the others says so (F-RNG-12).
"""

from collections import deque

import msgspec

from nic_model.asking import Asking, number
from nic_model.event_log import EventLog
from proto.events import Event, EventType
from proto.frame import INDEX_MASK, Channel, Kind, Message, pack
from proto.link.ring import RingError, distance

SITE, SITE_INTERRUPT = "card.events", "card.interrupt"

OVERRUN = Event(EventType.OVERRUN, 0, 0)

Output = list[tuple[Channel, bytes]]


class EventQueue:
    """`size` entries, and room for OVERRUN. `overran`: the ring was full since the last restart.

    `log` has every event as it was raised, whatever ring and faults then made of its entry.
    """

    def __init__(self, size: int, asking: Asking) -> None:
        self.counters = dict.fromkeys(
            ("events_raised", "events_coalesced", "events_overrun", "events_index_unexpected"), 0
        )
        self._size = size
        self._asking = asking
        self.log = EventLog()
        self.restart(0)

    def restart(self, epoch: int, index: int = 0) -> None:
        """Empty, disarmed, the next entry being number `index`, for the host of `epoch`."""
        self._epoch = epoch
        self._entries: deque[Event] = deque()  # written, and not handled by the host
        self._told = 0  # so many of them an interrupt told of
        self._fresh: set[Event] = set()  # those that none ever told of
        self._first = index & INDEX_MASK
        self._armed = False
        self._lost = False  # since the last OVERRUN entry
        self.overran = False

    @property
    def index(self) -> int:
        """Number of the next entry."""
        return (self._first + len(self._entries)) & INDEX_MASK

    def post(self, event: Event, spi: int = 0) -> None:
        """Write an entry, unless it would say nothing new or finds no room."""
        self.log.note(self._asking.now_ns, event, spi)
        if self._asking.armed:
            self._post_broken(event)
        else:
            self._write(event)

    def _write(self, event: Event, *, merge: bool = True) -> None:
        if merge and any(
            self._entries[at] == event for at in range(self._told, len(self._entries))
        ):
            self.counters["events_coalesced"] += 1
        elif len(self._entries) >= self._size:
            self.counters["events_overrun"] += 1
            self._lost = True
            self.overran = True
        else:
            self.counters["events_raised"] += 1
            self._entries.append(event)
            self._fresh.add(event)

    def _post_broken(self, event: Event) -> None:
        """The same, and what faults make of it."""
        name = EventType(event.type).name
        copies = 1
        for fired in self._asking.fire(SITE, type=name, handle=event.handle):
            match fired.kind:
                case "drop":
                    copies = 0
                case "duplicate":
                    copies += number(fired, 1)
                case "wrong-id":
                    event = msgspec.structs.replace(event, handle=event.handle ^ 0x5555)
                case "wrong-generation":
                    event = msgspec.structs.replace(event, generation=event.generation - 1)
                case "unknown-type":
                    event = msgspec.structs.replace(event, type=number(fired, 99))
                case "flood":
                    for other in range(number(fired, 4096)):
                        self._write(Event(event.type, other, 0))
        for copy in range(copies):
            self._write(event, merge=copy == 0)

    def arm(self, message: Message) -> None:
        """The host's doorbell. One from the past arms as well. Raises RingError beyond the ring."""
        done = distance(message.index, self._first)
        if done > len(self._entries):
            self.counters["events_index_unexpected"] += 1
            raise RingError(f"event {message.index} was never written")
        for _ in range(done):
            self._entries.popleft()
        if done >= 0:
            self._first = message.index
            self._told = 0
        self._armed = True

    def flush(self) -> Output:
        """The interrupt, where one is due."""
        if self._lost and OVERRUN not in self._entries:
            self.log.note(self._asking.now_ns, OVERRUN)
            self._entries.append(OVERRUN)
            self._lost = False
        if not self._armed or not self._entries:
            return []
        self._armed = False
        self._told = len(self._entries)
        self._fresh.clear()
        body = msgspec.msgpack.encode(list(self._entries))
        interrupts = [pack(Kind.EVENTS, body, self._first, self._told, self._epoch)]
        for fired in self._asking.fire(SITE_INTERRUPT) if self._asking.armed else ():
            match fired.kind:
                case "lost":
                    interrupts = []
                case "duplicate":
                    interrupts *= 2
                case "spurious":
                    empty = msgspec.msgpack.encode([])
                    interrupts.insert(0, pack(Kind.EVENTS, empty, self._first, 0, self._epoch))
        return [(Channel.EVENTS, interrupt) for interrupt in interrupts]
