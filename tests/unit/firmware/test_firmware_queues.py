# SPDX-License-Identifier: Apache-2.0
"""Queues in error: what stops them, what becomes of what waits, and how they come back."""

import msgspec
import numpy as np
import pytest

from proto import commands as c
from proto.events import EventType
from proto.frame import Channel, Kind, Message, pack, unpack
from proto.layouts import COMPLETION_ERROR
from proto.limits import BURST, RING_SIZE, WIRE_CREDITS
from proto.queue import EDGES, CompletionError, QueueId, QueueState
from proto.status import Drop, Status, Syndrome
from tests.unit.firmware.conftest import EPOCH

# An IPv4 packet of 20 bytes in Ethernet, to nobody's SA.
FRAME = (
    bytes(12) + b"\x08\x00" + bytes.fromhex("450000140000000040fd0000" + "0a010001" + "0a010002")
)
RST, RDY, ERR = QueueState.RST, QueueState.RDY, QueueState.ERR
TX, RX = QueueId.TX, QueueId.RX
WHOLE_RING = bytes(16 * (RING_SIZE + 1))


def errors(messages: list[Message]) -> list[tuple[int, ...]]:
    """COMPLETION_ERROR records, in order."""
    return [
        tuple(map(int, one))
        for message in messages
        if message.kind is Kind.TX_DONE
        for one in np.frombuffer(message.body, COMPLETION_ERROR)
    ]


def move(card, queue: QueueId, *states: QueueState, index: int = 0) -> list[int]:
    """Move a queue through states; the indices that the card answers."""
    return [card.values(c.SetQueue(queue, state, index))["index"] for state in states]


def changed(message: tuple[Channel, bytes], *, index: int = 0, count: int = 0, body=None):
    """The same TX message with another index, count or body, and a right check."""
    channel, raw = message
    old = unpack(raw)
    body = bytes(old.body) if body is None else body
    return channel, pack(old.kind, body, old.index + index, old.count + count, old.epoch)


def test_a_descriptor_outside_its_slot_flushes_what_stands_behind_it(card, read):
    channel, raw = card.tx_message([FRAME] * 5)
    body = bytearray(unpack(raw).body)
    body[2 * 16 + 2] ^= 4  # the third offset: 2^18 bytes further
    messages = card.step(changed((channel, raw), body=bytes(body)))
    assert len(read.frames(messages)) == 2
    assert read.credits(Kind.TX_DONE, messages) == 5
    assert errors(messages) == [
        (2, 1, CompletionError.LOCAL_PROTECTION, Drop.DESCRIPTOR),
        (3, 2, CompletionError.FLUSHED, Drop.FLUSHED),
    ]
    counters = card.counters
    assert (counters["tx_drop_descriptor"], counters["tx_drop_flushed"]) == (1, 2)
    assert counters["tx_descriptors"] == counters["tx_packets"] + 3
    assert card.values(c.Fence())["tx_state"] == ERR


@pytest.mark.parametrize(
    ("change", "syndrome"),
    [
        (dict(index=RING_SIZE), CompletionError.LOCAL_QUEUE_OPERATION),
        (dict(index=1 << 30), CompletionError.LOCAL_QUEUE_OPERATION),
        (dict(count=RING_SIZE, body=WHOLE_RING), CompletionError.LOCAL_QUEUE_OPERATION),
        (dict(count=-1), CompletionError.LOCAL_LENGTH),
        (dict(count=1), CompletionError.LOCAL_LENGTH),
        (dict(body=bytes(15)), CompletionError.LOCAL_LENGTH),
        (dict(body=bytes(17)), CompletionError.LOCAL_LENGTH),
    ],
)  # fmt: skip
def test_a_doorbell_that_cannot_be_stops_the_queue(card, read, change, syndrome):
    """F-RNG-03: refused and counted, nothing is read, and the host is told."""
    good = card.tx_message([FRAME])
    messages = card.step(changed(good, **change))
    assert read.kinds(messages) == [Kind.TX_DONE]
    assert errors(messages) == [(0, 0, syndrome, Drop.NONE)]
    counters = card.counters
    assert (counters["msg_malformed"], counters["tx_errors"], counters["tx_descriptors"]) == (
        1,
        1,
        0,
    )


def test_descriptors_without_credits_stop_the_queue_and_flush_it(card, read):
    for _ in range(WIRE_CREDITS // BURST):
        card.tx([FRAME] * BURST)
    assert card.tx([FRAME] * RING_SIZE) == []  # the wire is full
    messages = card.step((Channel.RINGS, pack(Kind.TX, bytes(16), card.tx_index, 1, epoch=EPOCH)))
    assert read.frames(messages) == []
    assert read.credits(Kind.TX_DONE, messages) == RING_SIZE
    assert sum(count for _, count, *_ in errors(messages)) == RING_SIZE
    assert card.counters["tx_drop_flushed"] == RING_SIZE
    assert card.values(c.Fence())["queued"] == 0


def test_a_doubled_doorbell_is_no_error(card, read):
    message = card.tx_message([FRAME])
    assert len(read.frames(card.step(message, message))) == 1
    counters = card.counters
    assert (counters["tx_stale"], counters["tx_errors"], counters["msg_malformed"]) == (1, 0, 0)


def test_a_stopped_queue_flushes_what_arrives_and_comes_back_by_its_edges(card, read):
    move(card, TX, ERR)
    messages = card.tx([FRAME] * 3)
    assert read.frames(messages) == []
    assert errors(messages) == [(0, 3, CompletionError.FLUSHED, Drop.FLUSHED)]
    assert move(card, TX, RST, RDY, index=7) == [3, 7]
    old = changed(card.tx_message([FRAME]), index=-1)
    assert card.step(old) == []  # a doorbell from before, late
    card.tx_index = 7
    assert len(read.frames(card.tx([FRAME]))) == 1
    counters = card.counters
    assert (counters["tx_stale"], counters["tx_drop_flushed"]) == (1, 3)


@pytest.mark.parametrize("queue", QueueId)
@pytest.mark.parametrize("start", QueueState)
@pytest.mark.parametrize("to", QueueState)
def test_no_edge_but_those_of_the_table(card, queue, start, to):
    move(card, queue, *{RDY: (), ERR: (ERR,), RST: (ERR, RST)}[start])
    reply = card.command(c.SetQueue(queue, to, 0))
    if (start, to) in EDGES:
        assert reply.status == Status.OK
    else:
        assert (reply.status, reply.syndrome) == (Status.BAD_PARAMETER, Syndrome.QUEUE_STATE)
        assert f"from {start.name} not to {to.name}" in reply.text
        assert card.values(c.Fence())[f"{queue.name.lower()}_state"] == start


@pytest.mark.parametrize(("queue", "state"), [(2, 0), (0, 3), (-1, 1)])
def test_unknown_queues_and_states_are_refused(card, queue, state):
    assert card.command(c.SetQueue(queue, state, 0)).syndrome == Syndrome.QUEUE_STATE


@pytest.mark.parametrize("first", [(1 << 32) - 3, (1 << 32) - RING_SIZE, 0xFFFF, (1 << 24) - 2])
def test_indices_wrap(card, read, first):
    """F-RNG-15, through both queues."""
    move(card, TX, ERR, RST, RDY, index=first)
    card.tx_index = first
    done = []
    for _ in range(4):
        sent = card.tx([FRAME] * 2)
        assert len(read.frames(sent)) == 2
        done += [(m.index, m.count) for m in sent if m.kind is Kind.TX_DONE]
        card.tx_index %= 1 << 32
    assert done == [((first + n) % (1 << 32), 2) for n in (0, 2, 4, 6)]
    assert card.values(c.Fence())["tx"] == (first + 8) % (1 << 32)

    card.firmware.queues.rx.restart(first)
    got = [message for _ in range(4) for message in card.rx([FRAME] * 2)]
    assert [m.index for m in read.of(Kind.RX, got)] == [d[0] for d in done]
    assert len(card.received(got)) == 8
    card.rx_index = first
    assert read.credits(Kind.WIRE_DONE, card.rx_done(8)) == 8


def test_slots_that_the_host_never_had_stop_the_receive_queue(card, read):
    """The wire gets its credits, the host hears of it, frames count as NO_BUFFER meanwhile."""
    card.rx([FRAME] * 3)
    messages = card.rx_done(4)
    assert read.credits(Kind.WIRE_DONE, messages) == 3
    assert [(e.type, e.handle) for e in read.events(messages)] == [(EventType.QUEUE_ERROR, RX)]
    lost = card.rx([FRAME] * 2)
    assert (read.of(Kind.RX, lost), read.credits(Kind.WIRE_DONE, lost)) == ([], 2)
    assert card.counters["rx_drop_no_buffer"] == 2
    assert move(card, RX, RST, RDY) == [3, 3]
    assert len(card.received(card.rx([FRAME]))) == 1
    card.rx_index = 3
    assert read.credits(Kind.WIRE_DONE, card.rx_done(1)) == 1


def test_slots_given_back_twice_are_free_once(card, read):
    card.rx([FRAME] * 3)
    done = (Channel.RINGS, pack(Kind.RX_DONE, index=0, count=2, epoch=EPOCH))
    assert read.credits(Kind.WIRE_DONE, card.step(done, done)) == 2
    again = (Channel.RINGS, pack(Kind.RX_DONE, index=3, count=0, epoch=EPOCH))
    assert read.credits(Kind.WIRE_DONE, card.step(again)) == 1
    counters = card.counters
    assert (counters["rx_stale"], counters["rx_errors"]) == (1, 0)


def test_a_reset_of_both_queues_begins_at_0_with_nothing(card, read):
    card.tx([FRAME] * 3)
    card.rx([FRAME] * 3)
    card.firmware.queues.restart(0)
    card.tx_index = card.rx_index = 0
    assert len(read.frames(card.tx([FRAME]))) == 1
    assert len(card.received(card.rx([FRAME]))) == 1
    fence = card.values(c.Fence())
    assert (fence["tx"], fence["rx"], fence["rx_done"]) == (1, 1, 0)


def test_set_queue_travels(card):
    command = c.SetQueue(1, 2, 3)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(command), type=c.AnyCommand) == command
