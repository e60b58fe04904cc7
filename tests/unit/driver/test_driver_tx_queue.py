# SPDX-License-Identifier: Apache-2.0
"""Transmit queue: slots, credits, flags; lost doorbells and completions; errors and recovery."""

import errno
from collections import Counter

import numpy as np
import pytest

from host_driver.driver.sa import Sa, SaTable
from host_driver.driver.tx_queue import TX_TIMEOUT_NS, WATCHDOG_NS, TxQueue
from host_driver.netdev import (
    SecPath,
    Skb,
)
from proto.frame import Kind, Message, unpack
from proto.layouts import COMPLETION_ERROR, DESCRIPTOR, TxFlag
from proto.limits import BURST, RING_SIZE, TXQUEUE_LEN
from proto.link.dma import Dma, tx_offset
from proto.queue import CompletionError, QueueState

MAC, PEER = b"\x02card\x00", b"\x02card\x01"
IPV4 = bytes((0x45, 0, 0, 28)) + bytes(24)
IPV6 = bytes((0x60, 0, 0, 0, 0, 8)) + bytes(42)


class Tx:
    def __init__(self) -> None:
        self.dma = Dma.anonymous()
        self.sent: list[Message] = []
        self.counters: Counter[str] = Counter()
        self.sas = SaTable()
        self.queue = TxQueue(
            self.dma, MAC, PEER, self.sas, lambda raw: self.sent.append(unpack(raw)), self.counters
        )

    def put(self, count: int, now_ns: int = 0) -> None:
        for _ in range(count):
            assert self.queue.enqueue(Skb(IPV4)) == 0
        self.queue.flush(now_ns)

    def done(self, count: int, now_ns: int = 0, *errors: tuple[int, int, int, int]) -> None:
        """The card completes the oldest `count`; errors are COMPLETION_ERROR records."""
        body = np.array(list(errors), COMPLETION_ERROR).tobytes()
        self.queue.done(Message(Kind.TX_DONE, self.queue.first, count, body), now_ns)


@pytest.fixture
def tx() -> Tx:
    return Tx()


def test_frames_stand_in_their_slots(tx) -> None:
    tx.queue.enqueue(Skb(IPV4))
    tx.queue.enqueue(Skb(IPV6, protect=True))
    assert tx.queue.flush(0)
    message = tx.sent[0]
    first, second = np.frombuffer(message.body, DESCRIPTOR)
    assert (message.index, message.count) == (0, 2)
    assert (first["offset"], first["length"], first["flags"]) == (tx_offset(0), 14 + 28, 0)
    assert (second["offset"], second["length"], second["flags"]) == (tx_offset(1), 14 + 48, 1)
    frame = tx.dma.memory[tx_offset(1) :][: 14 + 48].tobytes()
    assert frame == PEER + MAC + b"\x86\xdd" + IPV6


def test_credits_bound_the_ring_and_the_queue_bounds_the_rest(tx) -> None:
    for _ in range(RING_SIZE // 256):
        tx.put(256)
    tx.put(TXQUEUE_LEN)
    assert sum(message.count for message in tx.sent) == RING_SIZE
    assert max(message.count for message in tx.sent) == BURST
    assert tx.queue.space() == 0
    assert tx.queue.enqueue(Skb(IPV4)) == errno.ENOBUFS
    tx.done(1)
    assert tx.queue.flush(0)
    assert tx.queue.space() == 1
    assert not tx.queue.idle


def test_what_is_no_ip_packet_is_refused(tx) -> None:
    assert tx.queue.enqueue(Skb(b"")) == errno.EPROTO
    assert tx.queue.enqueue(Skb(b"\x10abc")) == errno.EPROTO


def test_a_completion_of_what_was_never_sent_stops_the_queue(tx) -> None:
    """F-RNG-07: nothing is freed, and nothing new goes out."""
    tx.put(3)
    tx.done(4)
    assert tx.counters["tx_done_unexpected"] == 1
    assert tx.queue.state is QueueState.ERR
    assert tx.queue.outstanding == 3
    tx.put(1)
    assert sum(message.count for message in tx.sent) == 3


def test_a_completion_that_comes_twice_frees_nothing_twice(tx) -> None:
    tx.put(300)
    again = Message(Kind.TX_DONE, 0, 100, b"")
    for _ in range(3):
        tx.queue.done(again, 0)
    assert (tx.queue.outstanding, tx.counters["tx_done_stale"]) == (200, 2)
    tx.queue.done(Message(Kind.TX_DONE, 0, 0, b""), 0)
    assert (tx.queue.outstanding, tx.counters["tx_done_stale"]) == (200, 3)
    assert tx.queue.state is QueueState.RDY


def test_the_next_completion_heals_a_lost_one(tx) -> None:
    tx.put(10)
    tx.queue.done(Message(Kind.TX_DONE, 6, 4, b""), 0)
    assert (tx.queue.outstanding, tx.counters["tx_done_lost"]) == (0, 6)


def test_a_lost_doorbell_is_rung_again_from_the_same_slots(tx) -> None:
    tx.put(300)
    assert not tx.queue.stalled(WATCHDOG_NS - 1)
    assert tx.queue.stalled(WATCHDOG_NS)
    tx.queue.confirm(arrived=256, done=0)  # the second of two messages never came
    tx.done(256, WATCHDOG_NS + 1)
    assert tx.queue.stalled(2 * WATCHDOG_NS + 1), "something moved, so ask once more"
    tx.queue.confirm(arrived=256, done=256)
    tx.sent.clear()
    assert tx.queue.stalled(3 * WATCHDOG_NS + 1)
    again = tx.sent[0]
    assert (again.index, again.count) == (256, 44)
    assert np.frombuffer(again.body, DESCRIPTOR)[0]["offset"] == tx_offset(256)
    tx.done(44)
    assert tx.queue.idle


def test_lost_credits_are_taken_back(tx) -> None:
    tx.put(10)
    tx.queue.stalled(WATCHDOG_NS)
    tx.queue.confirm(arrived=10, done=10)
    tx.sent.clear()
    tx.queue.stalled(2 * WATCHDOG_NS)
    assert tx.queue.idle
    assert tx.sent == []


def test_a_slow_wire_is_no_loss_but_not_for_ever(tx) -> None:
    tx.put(10)
    for second in range(1, TX_TIMEOUT_NS // WATCHDOG_NS):
        assert tx.queue.stalled(second * WATCHDOG_NS)
        tx.queue.confirm(arrived=10, done=6)
    assert (tx.queue.outstanding, tx.queue.state) == (4, QueueState.RDY)
    tx.queue.stalled(TX_TIMEOUT_NS)
    assert (tx.queue.state, tx.counters["tx_timeouts"]) == (QueueState.ERR, 1)
    assert "15 s" in tx.queue.error


@pytest.mark.parametrize(("arrived", "done"), [(11, 0), (10, 11), (1 << 31, 0), (5, 0xFFFF_FFFF)])
def test_an_answer_that_cannot_be_stops_the_queue(tx, arrived, done) -> None:
    tx.put(10)
    tx.queue.stalled(WATCHDOG_NS)
    tx.queue.confirm(arrived, done)
    tx.queue.stalled(2 * WATCHDOG_NS)
    assert (tx.queue.state, tx.counters["tx_index_unexpected"]) == (QueueState.ERR, 1)
    assert tx.queue.outstanding == 10


def test_an_error_completion_stops_the_queue_and_the_rest_is_flushed(tx) -> None:
    tx.put(10)
    tx.done(
        10, 0, (4, 1, CompletionError.LOCAL_PROTECTION, 16), (5, 5, CompletionError.FLUSHED, 21)
    )
    assert tx.queue.state is QueueState.ERR
    assert tx.queue.error == "packet 4: local_protection"
    assert (tx.counters["tx_errors"], tx.counters["tx_flushed"]) == (1, 5)
    assert tx.queue.outstanding == 0


def test_a_cut_error_record_is_an_error(tx) -> None:
    tx.put(1)
    tx.queue.done(Message(Kind.TX_DONE, 0, 1, bytes(7)), 0)
    assert tx.queue.state is QueueState.ERR


def test_what_the_card_never_saw_is_dropped_and_not_sent_again(tx) -> None:
    tx.put(10)
    drained = tx.queue.drained()
    tx.queue.fail("a test")
    tx.put(5)
    tx.queue.recovered(arrived=7)
    assert (tx.counters["tx_drop_reset"], tx.queue.outstanding) == (3, 0)
    assert drained.done
    tx.sent.clear()
    assert tx.queue.flush(0)
    assert [(message.index, message.count) for message in tx.sent] == [(10, 5)]


def test_indices_wrap(tx) -> None:
    """F-RNG-15: 2^32 - 3 is followed by 2^32 - 2, 2^32 - 1, 0."""
    tx.queue._producer.restart((1 << 32) - 3)
    for _ in range(4):
        tx.put(2)
    assert [message.index for message in tx.sent] == [(1 << 32) - 3, (1 << 32) - 1, 1, 3]
    assert [tx.dma.tx_marks[slot] for slot in (1021, 1022, 1023, 0, 1)] == [
        (1 << 32) - 2, (1 << 32) - 1, 0, 1, 2,
    ]  # fmt: skip
    tx.queue.done(Message(Kind.TX_DONE, (1 << 32) - 3, 5, b""), 0)
    assert tx.queue.outstanding == 3
    tx.queue.confirm(arrived=5, done=5)
    tx.queue.stalled(WATCHDOG_NS)
    assert tx.queue.idle


@pytest.mark.parametrize("gone", [False, True])
def test_a_descriptor_names_the_crypto_sa(tx, make_state, gone) -> None:
    """Of one that is gone since it names none, and the card drops the packet."""
    sa = Sa(make_state(), handle=5, generation=3, crypto=True)
    tx.sas.bind(sa)
    esp = b"\x45" + bytes(60)
    assert tx.queue.enqueue(Skb(esp, sec_path=SecPath(sa.x, 0, 0))) == 0
    sa.deleted = True  # by the core; what it accepted before still goes out
    if gone:
        tx.sas.unbind(sa)
    tx.queue.flush(0)
    (row,) = np.frombuffer(tx.sent[0].body, DESCRIPTOR)
    assert (row["flags"], row["length"]) == (TxFlag.CRYPTO, 14 + len(esp))
    assert (row["handle"], row["generation"]) == ((0, 0) if gone else (5, 3))


def test_drained_is_said_when_the_card_has_all(tx) -> None:
    assert tx.queue.drained().done
    tx.put(3)
    assert tx.queue.enqueue(Skb(IPV4)) == 0
    before = tx.queue.drained()
    tx.done(3)
    assert not before.done
    tx.put(2)
    after = tx.queue.drained()
    tx.done(1)
    assert before.done and not after.done
    tx.queue.stalled(WATCHDOG_NS)
    tx.queue.confirm(arrived=6, done=6)  # two completions got lost
    tx.queue.stalled(2 * WATCHDOG_NS)
    assert after.done
