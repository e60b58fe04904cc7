# SPDX-License-Identifier: Apache-2.0
"""The card's event queue: arming, coalescing, overrun, and entries that wait until handled."""

import msgspec
import pytest

from nic_model.asking import Asking
from nic_model.events import EventQueue
from proto.events import Event, EventType
from proto.faults import FaultSpec
from proto.frame import Kind, Message, unpack
from proto.limits import EVENT_LOG
from proto.link.ring import RingError

SOFT, HARD = EventType.SOFT_LIMIT, EventType.HARD_LIMIT
OVERRUN = Event(EventType.OVERRUN, 0, 0)


def event(handle: int, kind: EventType = SOFT, generation: int = 1) -> Event:
    return Event(kind, handle, generation)


def arm(queue: EventQueue, index: int) -> None:
    queue.arm(Message(Kind.ARM, index, 0, b""))


def told(queue: EventQueue) -> tuple[int, list[Event]] | None:
    """Index and entries of the interrupt, None without one."""
    output = queue.flush()
    if not output:
        return None
    ((_, raw),) = output
    message = unpack(raw)
    events = msgspec.msgpack.decode(message.body, type=list[Event])
    assert message.count == len(events)
    return message.index, events


@pytest.fixture
def queue() -> EventQueue:
    queue = EventQueue(4, Asking())
    arm(queue, 0)
    return queue


def test_an_entry_interrupts_once_and_then_waits_to_be_armed(queue):
    assert told(queue) is None
    queue.post(event(1))
    assert told(queue) == (0, [event(1)])
    queue.post(event(2))
    assert told(queue) is None
    arm(queue, 1)
    assert told(queue) == (1, [event(2)])
    arm(queue, 2)
    assert told(queue) is None


def test_an_unarmed_queue_is_silent():
    queue = EventQueue(4, Asking())
    queue.post(event(1))
    assert told(queue) is None
    arm(queue, 0)
    assert told(queue) == (0, [event(1)])


def test_a_lost_interrupt_is_told_again_to_whoever_polls(queue):
    """F-RNG-13: the same entries at the same index, so the host can tell them apart."""
    queue.post(event(1))
    told(queue)
    queue.post(event(2))
    arm(queue, 0)
    assert told(queue) == (0, [event(1), event(2)])


def test_equal_entries_that_nobody_was_told_of_are_one(queue):
    """F-SEC-15: a flood of one event takes one entry."""
    told(queue)
    for _ in range(1000):
        queue.post(event(1))
        queue.post(event(1, HARD))
        queue.post(event(1, generation=2))
    assert told(queue) == (0, [event(1), event(1, HARD), event(1, generation=2)])
    assert queue.counters["events_coalesced"] == 3 * 999
    assert queue.counters["events_overrun"] == 0


def test_what_happens_again_after_it_was_told_is_told_again(queue):
    queue.post(event(1))
    told(queue)
    queue.post(event(1))
    arm(queue, 1)
    assert told(queue) == (1, [event(1)])


def test_a_full_ring_says_once_that_something_is_lost():
    queue = EventQueue(4, Asking())
    arm(queue, 0)
    assert not queue.overran
    for handle in range(7):
        queue.post(event(handle))
    assert told(queue) == (0, [*map(event, range(4)), OVERRUN])
    assert (queue.counters["events_raised"], queue.counters["events_overrun"]) == (4, 3)
    assert queue.overran
    queue.post(event(8))
    assert told(queue) is None
    arm(queue, 5)
    assert told(queue) == (5, [OVERRUN])
    arm(queue, 6)
    queue.post(event(9))
    assert told(queue) == (6, [event(9)])


def test_entries_are_bounded_however_long_nobody_reads():
    queue = EventQueue(4, Asking())
    for handle in range(10_000):
        queue.post(event(handle))
        queue.flush()
    arm(queue, 0)
    assert told(queue) == (0, [*map(event, range(4)), OVERRUN])


@pytest.mark.parametrize("index", [1, 5, 1 << 20, (1 << 31) - 1])
def test_entries_that_were_never_written_cannot_be_handled(queue, index):
    with pytest.raises(RingError):
        arm(queue, index)
    queue.post(event(1))
    assert told(queue) == (0, [event(1)])
    assert queue.counters["events_index_unexpected"] == 1


def test_a_doorbell_from_the_past_only_arms(queue):
    queue.post(event(1))
    told(queue)
    arm(queue, 1)
    arm(queue, 0)
    assert told(queue) is None
    queue.post(event(2))
    assert told(queue) == (1, [event(2)])


def test_the_index_wraps():
    """F-RNG-15"""
    queue = EventQueue(4, Asking())
    queue.restart(0, (1 << 32) - 2)
    for handle in range(4):
        queue.post(event(handle))
    arm(queue, (1 << 32) - 1)
    assert told(queue) == ((1 << 32) - 1, [event(1), event(2), event(3)])
    arm(queue, 1)
    assert told(queue) == (1, [event(3)])
    assert queue.index == 2


def test_the_log_has_what_was_raised_whatever_the_ring_made_of_it():
    """Equal entries, those without room, and those that a fault takes away stand in it, too."""
    asking = Asking()
    queue = EventQueue(2, asking)
    for asking.now_ns, handle in ((10, 1), (20, 1), (30, 2), (40, 3)):
        queue.post(event(handle), 0x1000 + handle)
    asking.table.add(FaultSpec(site="card.events", kind="drop"))
    asking.now_ns = 50
    queue.post(event(4, HARD, generation=7), 0x1004)
    arm(queue, 0)
    assert told(queue) == (0, [event(1), event(2), OVERRUN])
    assert queue.log.entries() == [
        (10, 1, 1, 1, 0x1001), (20, 1, 1, 1, 0x1001), (30, 1, 2, 1, 0x1002),
        (40, 1, 3, 1, 0x1003), (50, 2, 4, 7, 0x1004), (50, 4, 0, 0, 0),
    ]  # fmt: skip
    assert queue.log.entries(4) == [(50, 2, 4, 7, 0x1004), (50, 4, 0, 0, 0)]
    assert queue.log.entries(6) == []


def test_the_log_outlives_the_host_and_is_bounded():
    queue = EventQueue(4, Asking())
    for handle in range(EVENT_LOG + 10):
        queue.post(event(handle))
    queue.restart(1)
    assert len(queue.log.entries()) == EVENT_LOG
    assert queue.log.entries()[0].handle == 10
    assert [raised.handle for raised in queue.log.entries(EVENT_LOG + 8)] == [
        EVENT_LOG + 8, EVENT_LOG + 9,
    ]  # fmt: skip
    assert queue.log.added == EVENT_LOG + 10
    queue.log.clear()
    assert (queue.log.entries(), queue.log.added) == ([], 0)
