# SPDX-License-Identifier: Apache-2.0
"""Rings: slots, credits, flags; lost doorbells and completions; malformed descriptors."""

import errno
from collections import Counter

import numpy as np
import pytest

from host_driver.driver.queues import WATCHDOG_NS, RxQueue, TxQueue
from host_driver.driver.sa import Sa, SaTable
from host_driver.netdev import (
    CRYPTO_DONE,
    CRYPTO_GENERIC_ERROR,
    CRYPTO_SUCCESS,
    TRANSPORT_ESP_AUTH_FAILED,
    TUNNEL_ESP_AUTH_FAILED,
    NetDevice,
    SecPath,
    Skb,
)
from proto.frame import Kind, Message, unpack
from proto.layouts import DESCRIPTOR, RxFlag, TxFlag
from proto.limits import BUFFER_BYTES, BURST, RING_SIZE, TXQUEUE_LEN
from proto.link.dma import Dma, rx_offset, tx_offset
from proto.status import Drop
from proto.xfrm import MODE_TRANSPORT, MODE_TUNNEL

MAC, PEER = b"\x02card\x00", b"\x02card\x01"
IPV4 = b"\x45" + bytes(27)
IPV6 = b"\x60" + bytes(47)


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

    def done(self, count: int, now_ns: int = 0) -> None:
        self.queue.done(Message(Kind.TX_DONE, 0, count, b""), now_ns)


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


def test_too_many_credits_are_counted(tx) -> None:
    tx.put(3)
    tx.done(4)
    assert tx.counters["tx_done_unexpected"] == 1
    tx.done(3)
    assert tx.queue.idle


def test_a_lost_doorbell_is_rung_again_from_the_same_slots(tx) -> None:
    tx.put(300)
    assert not tx.queue.stalled(WATCHDOG_NS - 1)
    assert tx.queue.stalled(WATCHDOG_NS)
    tx.queue.confirm(arrived=256, queued=0)  # the second of two messages never came
    tx.done(256, WATCHDOG_NS + 1)
    assert tx.queue.stalled(2 * WATCHDOG_NS + 1), "something moved, so ask once more"
    tx.queue.confirm(arrived=256, queued=0)
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
    tx.queue.confirm(arrived=10, queued=0)
    tx.sent.clear()
    tx.queue.stalled(2 * WATCHDOG_NS)
    assert tx.queue.idle
    assert tx.sent == []


def test_a_slow_wire_is_no_loss(tx) -> None:
    tx.put(10)
    tx.queue.stalled(WATCHDOG_NS)
    tx.queue.confirm(arrived=10, queued=4)
    tx.queue.stalled(2 * WATCHDOG_NS)
    assert not tx.queue.idle


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
    tx.queue.confirm(arrived=6, queued=0)  # two completions got lost
    tx.queue.stalled(2 * WATCHDOG_NS)
    assert after.done


class Rx:
    def __init__(self, state) -> None:
        self.dma = Dma.anonymous()
        self.dev = NetDevice("nic0", start_xmit=lambda skb: 0)
        self.dev.up = True
        self.sas = SaTable()
        self.sas.bind(Sa(state, handle=7, generation=3))
        self.state = state
        self.sent: list[Message] = []
        self.got: list[Skb] = []
        self.counters: Counter[str] = Counter()
        self.queue = RxQueue(
            self.dma,
            self.dev,
            self.sas,
            lambda raw: self.sent.append(unpack(raw)),
            self.got.append,
            self.counters,
        )

    def arrive(self, index: int, *rows, frame: bytes = PEER + MAC + b"\x08\x00" + IPV4) -> None:
        """Rows are descriptors: offset, length, flags, syndrome, handle, generation."""
        for position in range(len(rows)):
            start = rx_offset(index + position)
            self.dma.memory[start : start + len(frame)] = np.frombuffer(frame, np.uint8)
        body = np.array(list(rows), DESCRIPTOR).tobytes()
        self.queue.arrived(Message(Kind.RX, index, len(rows), body))


@pytest.fixture
def rx(make_state) -> Rx:
    return Rx(make_state())


LENGTH = 14 + len(IPV4)


def test_a_clear_packet_and_a_decrypted_one(rx) -> None:
    rx.arrive(
        0,
        (rx_offset(0), LENGTH, 0, 0, 0, 0),
        (rx_offset(1), LENGTH, RxFlag.CRYPTO_DONE, 0, 7, 3),
    )
    clear, opened = rx.got
    assert (clear.data, clear.sec_path, clear.in_dev) == (IPV4, None, rx.dev)
    assert opened.sec_path.x is rx.state
    assert (opened.sec_path.flags, opened.sec_path.status) == (CRYPTO_DONE, CRYPTO_SUCCESS)
    assert [(message.kind, message.count) for message in rx.sent] == [(Kind.RX_DONE, 2)]


@pytest.mark.parametrize(
    ("row", "counter"),
    [
        ((rx_offset(1), LENGTH, 0, 0, 0, 0), "rx_malformed"),
        ((0, LENGTH, 0, 0, 0, 0), "rx_malformed"),
        ((rx_offset(0), 14, 0, 0, 0, 0), "rx_malformed"),
        ((rx_offset(0), BUFFER_BYTES + 1, 0, 0, 0, 0), "rx_malformed"),
        ((rx_offset(0), LENGTH, 0, 11, 0, 0), "rx_error_status"),
        ((rx_offset(0), LENGTH, RxFlag.CRYPTO_DONE, 0, 8, 3), "rx_drop_sadb_miss"),
        ((rx_offset(0), LENGTH, RxFlag.CRYPTO_DONE, 0, 7, 4), "rx_drop_sadb_miss"),
    ],
)
def test_bad_descriptors_are_counted_and_credited(rx, row, counter) -> None:
    rx.arrive(0, row)
    assert rx.got == []
    assert +rx.counters == Counter({counter: 1})
    assert rx.sent[0].count == 1


@pytest.mark.parametrize(
    ("syndrome", "mode", "status"),
    [
        (0, MODE_TRANSPORT, CRYPTO_SUCCESS),
        (Drop.INTEGRITY, MODE_TRANSPORT, TRANSPORT_ESP_AUTH_FAILED),
        (Drop.INTEGRITY, MODE_TUNNEL, TUNNEL_ESP_AUTH_FAILED),
        (99, MODE_TUNNEL, CRYPTO_GENERIC_ERROR),
    ],
)
def test_what_crypto_offload_found_becomes_the_status(rx, syndrome, mode, status) -> None:
    """OBJ-32: the packet is delivered either way, and the host counts."""
    rx.state.props.mode = mode
    rx.arrive(0, (rx_offset(0), LENGTH, RxFlag.CRYPTO, syndrome, 7, 3))
    (skb,) = rx.got
    assert (skb.data, skb.sec_path.x) == (IPV4, rx.state)
    assert (skb.sec_path.flags, skb.sec_path.status) == (CRYPTO_DONE, status)


def test_what_an_unknown_crypto_sa_opened_is_not_delivered(rx) -> None:
    rx.arrive(
        0,
        (rx_offset(0), LENGTH, RxFlag.CRYPTO, 0, 7, 4),
        (rx_offset(1), LENGTH, RxFlag.CRYPTO, Drop.INTEGRITY, 6, 3),
    )
    assert rx.got == [] and rx.counters["rx_drop_sadb_miss"] == 2


def test_frames_that_are_not_ip(rx) -> None:
    rx.arrive(0, (rx_offset(0), LENGTH, 0, 0, 0, 0), frame=PEER + MAC + b"\x08\x06" + IPV4)
    rx.arrive(1, (rx_offset(1), LENGTH, 0, 0, 0, 0), frame=PEER + MAC + b"\x86\xdd" + IPV4)
    assert rx.counters["rx_not_ip"] == 2


def test_a_device_that_is_down_receives_nothing(rx) -> None:
    rx.dev.up = False
    rx.arrive(0, (rx_offset(0), LENGTH, 0, 0, 0, 0))
    assert rx.counters["rx_device_down"] == 1


def test_gaps_give_their_credits_back(rx) -> None:
    rx.arrive(5, (rx_offset(5), LENGTH, 0, 0, 0, 0))
    assert rx.counters["rx_lost"] == 5
    assert rx.sent[0].count == 6
    rx.queue.lost(Message(Kind.RX, 6, 10, b""))
    assert rx.queue.index == 16
    assert rx.sent[1].count == 10


def test_a_doubled_message_is_refused(rx) -> None:
    rx.arrive(0, (rx_offset(0), LENGTH, 0, 0, 0, 0))
    rx.arrive(0, (rx_offset(0), LENGTH, 0, 0, 0, 0))
    assert len(rx.got) == 1
    assert rx.counters["rx_index_unexpected"] == 1
    assert len(rx.sent) == 1


@pytest.mark.parametrize("body", [b"", bytes(15), bytes(17)])
def test_a_truncated_body_is_counted_and_credited(rx, body) -> None:
    rx.queue.arrived(Message(Kind.RX, 0, 1, body))
    assert rx.counters["rx_malformed"] == 1
    assert rx.sent[0].count == 1
