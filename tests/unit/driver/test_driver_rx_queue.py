# SPDX-License-Identifier: Apache-2.0
"""Receive queue: descriptors, lost and doubled messages, what stops it and what does not."""

from collections import Counter

import numpy as np
import pytest

from host_driver.driver.rx_queue import LOST_NS, RxQueue
from host_driver.driver.sa import Sa, SaTable
from host_driver.netdev import (
    CRYPTO_DONE,
    CRYPTO_GENERIC_ERROR,
    CRYPTO_SUCCESS,
    TRANSPORT_ESP_AUTH_FAILED,
    TUNNEL_ESP_AUTH_FAILED,
    NetDevice,
    Skb,
)
from host_driver.xfrm.state import ReplayEsn
from proto.commands import IN
from proto.frame import Kind, Message, unpack
from proto.layouts import DESCRIPTOR, RX_HIGH_SHIFT, RxFlag
from proto.limits import RING_SIZE, SLOT_BYTES
from proto.link.dma import Dma, rx_offset, slots_of
from proto.queue import QueueState
from proto.status import Drop
from proto.xfrm import MODE_TRANSPORT, MODE_TUNNEL, STATE_ESN
from proto.xfrm_structs import ReplayStateEsn

MAC, PEER = b"\x02card\x00", b"\x02card\x01"
IPV4 = bytes((0x45, 0, 0, 28)) + bytes(8) + bytes((10, 0, 0, 1, 10, 0, 0, 2)) + bytes(8)
ESP = IPV4[:9] + b"\x32" + IPV4[10:20] + bytes.fromhex("0000100000000001")
IPV6 = bytes((0x60, 0, 0, 0, 0, 8)) + bytes(42)


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

    def arrive(
        self,
        index: int,
        *rows,
        frame: bytes = PEER + MAC + b"\x08\x00" + IPV4,
        written: bool = True,
    ) -> None:
        """Rows are descriptors: offset, length, flags, syndrome, handle, generation. Not `written`:
        the payload is still on its way."""
        if written:
            slots, marks = slots_of(index, len(rows))
            self.dma.rx_marks[slots] = marks
        for position in range(len(rows)):
            start = rx_offset(index + position)
            self.dma.memory[start : start + len(frame)] = np.frombuffer(frame, np.uint8)
        body = np.array(list(rows), DESCRIPTOR).tobytes()
        self.queue.arrived(Message(Kind.RX, index, len(rows), body))


@pytest.fixture
def rx(make_state) -> Rx:
    return Rx(make_state(direction=IN))


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


def test_a_clear_packet_of_a_policy_that_the_card_has_lost_is_dropped(rx) -> None:
    rx.queue._unenforced = lambda packet: packet == IPV4
    rx.arrive(0, (rx_offset(0), LENGTH, 0, 0, 0, 0))
    assert rx.got == [] and rx.counters["rx_drop_policy_missing"] == 1
    assert [(message.kind, message.count) for message in rx.sent] == [(Kind.RX_DONE, 1)]


@pytest.mark.parametrize(
    ("row", "counter"),
    [
        ((rx_offset(0), 14, 0, 0, 0, 0), "rx_malformed"),
        ((rx_offset(0), LENGTH - 1, 0, 0, 0, 0), "rx_length"),
        ((rx_offset(0), LENGTH + 1, 0, 0, 0, 0), "rx_length"),
        ((rx_offset(0), LENGTH, 0, 11, 0, 0), "rx_error_status"),
        ((rx_offset(0), LENGTH, RxFlag.CRYPTO_DONE, 0, 8, 3), "rx_drop_sadb_miss"),
        ((rx_offset(0), LENGTH, RxFlag.CRYPTO_DONE, 0, 7, 4), "rx_drop_sadb_miss"),
    ],
)
def test_bad_packets_are_counted_and_credited(rx, row, counter) -> None:
    rx.arrive(0, row)
    assert rx.got == []
    assert +rx.counters == Counter({counter: 1})
    assert rx.sent[0].count == 1
    assert rx.queue.state is QueueState.RDY


@pytest.mark.parametrize(
    "row",
    [
        (rx_offset(1), LENGTH, 0, 0, 0, 0),
        (0, LENGTH, 0, 0, 0, 0),
        (rx_offset(0), SLOT_BYTES + 1, 0, 0, 0, 0),
    ],
)
def test_a_descriptor_outside_its_slot_stops_the_queue(rx, row) -> None:
    """F-RNG-11: what stands behind it is flushed, and nothing is read beyond a slot."""
    rx.arrive(0, row, (rx_offset(1), LENGTH, 0, 0, 0, 0))
    assert rx.got == [] and rx.queue.state is QueueState.ERR
    assert +rx.counters == Counter({"rx_malformed": 1, "rx_flushed": 1})


def test_a_completion_before_its_payload_is_not_consumed(rx) -> None:
    """F-RNG-05, F-RNG-06: the slot still holds an older packet."""
    rx.arrive(0, (rx_offset(0), LENGTH, 0, 0, 0, 0), written=False)
    assert rx.got == [] and rx.queue.state is QueueState.ERR
    assert rx.counters["rx_not_written"] == 1


def test_a_stopped_queue_reads_nothing_until_it_is_recovered(rx) -> None:
    rx.queue.fail("a test")
    rx.arrive(0, (rx_offset(0), LENGTH, 0, 0, 0, 0))
    assert (rx.got, rx.sent) == ([], [])
    rx.queue.recovered(5)  # the card had delivered five
    assert rx.counters["rx_drop_reset"] == 5
    rx.arrive(4, (rx_offset(4), LENGTH, 0, 0, 0, 0))  # an old one, late
    assert (rx.got, rx.counters["rx_stale"]) == ([], 1)
    rx.arrive(5, (rx_offset(5), LENGTH, 0, 0, 0, 0))
    assert len(rx.got) == 1


def test_an_index_beyond_the_ring_stops_the_queue(rx) -> None:
    rx.arrive(RING_SIZE, (rx_offset(0), LENGTH, 0, 0, 0, 0))
    assert rx.queue.state is QueueState.ERR
    assert (rx.queue.index, rx.counters["rx_index_unexpected"]) == (0, 1)


def test_what_the_card_sent_and_never_came_is_lost_after_a_while(rx) -> None:
    rx.queue.confirm(produced=3, done=0, now_ns=0)
    rx.queue.confirm(produced=3, done=0, now_ns=LOST_NS - 1)
    assert rx.queue.index == 0
    rx.queue.confirm(produced=3, done=0, now_ns=LOST_NS)
    assert (rx.queue.index, rx.counters["rx_lost"]) == (3, 3)
    assert [(message.index, message.count) for message in rx.sent] == [(3, 0)]


def test_slots_that_the_card_does_not_know_to_be_free_are_given_back_again(rx) -> None:
    rx.arrive(0, (rx_offset(0), LENGTH, 0, 0, 0, 0))
    rx.queue.confirm(produced=1, done=1, now_ns=0)
    assert len(rx.sent) == 1
    rx.queue.confirm(produced=1, done=0, now_ns=0)
    assert [(message.index, message.count) for message in rx.sent[1:]] == [(1, 0)]


def test_receive_indices_wrap(rx) -> None:
    """F-RNG-15"""
    last = (1 << 32) - 1
    rx.queue.recovered(last)
    rx.arrive(last, *((rx_offset(last + n), LENGTH, 0, 0, 0, 0) for n in range(2)))
    rx.arrive(1, (rx_offset(1), LENGTH, 0, 0, 0, 0))
    assert (len(rx.got), rx.queue.index) == (3, 2)
    assert rx.counters["rx_lost"] == rx.counters["rx_not_written"] == 0


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
    frame = PEER + MAC + b"\x08\x00" + ESP
    rx.arrive(0, (rx_offset(0), LENGTH, RxFlag.CRYPTO, syndrome, 7, 3), frame=frame)
    (skb,) = rx.got
    assert (skb.data, skb.sec_path.x) == (ESP, rx.state)
    assert (skb.sec_path.flags, skb.sec_path.status) == (CRYPTO_DONE, status)


def test_a_number_that_the_card_took_for_another_one_is_a_wrong_icv(rx) -> None:
    """REPLAY-08: 1 lies behind a window of 32 up to 40, so it is one of the next cycle."""
    rx.state.props.flags = STATE_ESN
    rx.state.replay_esn = ReplayEsn(ReplayStateEsn(1, 0, 40, 0, 7, 32), [0])
    frame = PEER + MAC + b"\x08\x00" + ESP
    flags = [RxFlag.CRYPTO | high << RX_HIGH_SHIFT for high in (7, 8, 8 + 64)]
    rows = [(rx_offset(n), LENGTH, one & 255, 0, 7, 3) for n, one in enumerate(flags)]
    rx.arrive(0, *rows, frame=frame)
    assert [skb.sec_path.status for skb in rx.got] == [
        TRANSPORT_ESP_AUTH_FAILED, CRYPTO_SUCCESS, CRYPTO_SUCCESS
    ]  # fmt: skip


def test_what_an_unknown_crypto_sa_opened_is_not_delivered(rx) -> None:
    rx.arrive(
        0,
        (rx_offset(0), LENGTH, RxFlag.CRYPTO, 0, 7, 4),
        (rx_offset(1), LENGTH, RxFlag.CRYPTO, Drop.INTEGRITY, 6, 3),
    )
    assert rx.got == [] and rx.counters["rx_drop_sadb_miss"] == 2


def test_a_packet_that_cannot_be_of_its_sa_is_not_delivered(rx) -> None:
    """F-DP-24; `test_driver_provenance` tells which those are."""
    other = PEER + MAC + b"\x08\x00" + IPV4[:19] + b"\x09" + IPV4[20:]
    rx.arrive(0, (rx_offset(0), LENGTH, RxFlag.CRYPTO_DONE, 0, 7, 3), frame=other)
    rx.arrive(1, (rx_offset(1), LENGTH, RxFlag.CRYPTO, 0, 7, 3))
    assert rx.got == [] and rx.counters["rx_drop_provenance"] == 2


def test_esp_that_the_card_should_have_opened_is_not_delivered(rx) -> None:
    rx.arrive(0, (rx_offset(0), LENGTH, 0, 0, 0, 0), frame=PEER + MAC + b"\x08\x00" + ESP)
    assert rx.got == [] and rx.counters["rx_drop_not_opened"] == 1


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
    rx.queue.lost(Message(Kind.RX, 6, 10, b""))
    assert rx.queue.index == 16
    assert [message.index + message.count for message in rx.sent] == [6, 16]


def test_a_doubled_message_changes_nothing(rx) -> None:
    rx.arrive(0, (rx_offset(0), LENGTH, 0, 0, 0, 0))
    rx.arrive(0, (rx_offset(0), LENGTH, 0, 0, 0, 0))
    assert len(rx.got) == 1
    assert rx.counters["rx_stale"] == 1
    assert len(rx.sent) == 1


@pytest.mark.parametrize("body", [b"", bytes(15), bytes(17)])
def test_a_truncated_body_is_counted_and_stops_the_queue(rx, body) -> None:
    rx.queue.arrived(Message(Kind.RX, 0, 1, body))
    assert rx.counters["rx_malformed"] == 1
    assert rx.queue.state is QueueState.ERR


def test_a_message_without_packets_stops_the_queue(rx) -> None:
    rx.queue.arrived(Message(Kind.RX, 0, 0, b""))
    assert rx.queue.state is QueueState.ERR
