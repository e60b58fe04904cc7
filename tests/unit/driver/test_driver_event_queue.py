# SPDX-License-Identifier: Apache-2.0
"""The host's end of the event queue: whatever the card announces, it is counted and armed again."""

from collections import Counter

import pytest

from host_driver.driver.event_queue import EventQueue
from proto.frame import Kind, Message, unpack
from proto.limits import EVENT_QUEUE


@pytest.fixture
def queue():
    sent: list[bytes] = []
    made = EventQueue(sent.append, Counter())
    made.sent = sent
    made.arrived(Message(Kind.EVENTS, 0, 9, b""))
    return made


@pytest.mark.parametrize(("index", "count"), [(0, 0xFFFF), (8, EVENT_QUEUE + 1), (9, 0x8000)])
def test_more_events_than_the_queue_holds_are_none(queue, index, count):
    assert queue.arrived(Message(Kind.EVENTS, index, count, b"")) == count
    assert queue.index == 9
    assert queue._counters["events_index_unexpected"] == 1
    assert unpack(queue.sent[-1]).kind is Kind.ARM


def test_old_entries_with_new_ones_behind_them(queue):
    assert queue.arrived(Message(Kind.EVENTS, 7, 5, b"")) == 2
    assert queue.index == 12
    assert queue._counters["events_doubled"] == 2
