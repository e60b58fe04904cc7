# SPDX-License-Identifier: Apache-2.0
"""The wire as a party: lossless under credits, recorded before faults, unmoved by bad messages."""

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_driver.lab.wire import Wire
from proto.faults import FaultSpec
from proto.frame import Kind, pack, unpack
from proto.hello import Hello
from proto.limits import BURST, FRAME_MAX_BYTES, RING_SIZE, WIRE_CREDITS
from proto.status import OffloadError
from proto.wire import esp_spi


def message(frames: list[bytes], index: int = 0) -> bytes:
    """A WIRE message written out by hand: count lengths, then the frames."""
    body = b"".join(struct.pack("<I", len(frame)) for frame in frames) + b"".join(frames)
    return pack(Kind.WIRE, body, index, len(frames))


def delivered(outputs: list[tuple[int, bytes]], port: int) -> list[bytes]:
    """The frames among outputs to a port."""
    frames = []
    for number, raw in outputs:
        got = unpack(raw)
        if number == port and got.kind is Kind.WIRE:
            lengths = struct.unpack_from(f"<{got.count}I", got.body)
            at = 4 * got.count
            for length in lengths:
                frames.append(bytes(got.body[at : at + length]))
                at += length
    return frames


def credited(outputs: list[tuple[int, bytes]], port: int) -> int:
    """The credits among outputs to a port."""
    got = [unpack(raw) for number, raw in outputs if number == port]
    return sum(one.count for one in got if one.kind is Kind.WIRE_DONE)


def hello(boot: int) -> bytes:
    return pack(Kind.HELLO, msgspec.msgpack.encode(Hello(party="card", name="c", pid=1, boot=boot)))


def frame(number: int, size: int = 60) -> bytes:
    return number.to_bytes(4) + bytes(size - 4)


def test_frames_cross_to_the_other_card_and_credits_return() -> None:
    wire = Wire(2)
    outputs = wire.step(7, [(0, message([frame(1), frame(2)]))])
    assert delivered(outputs, 1) == [frame(1), frame(2)]
    assert credited(outputs, 0) == 2
    assert [(f.data, f.time, f.src, f.dst) for f in wire.frames()] == [
        (frame(1), 7, 0, 1),
        (frame(2), 7, 0, 1),
    ]
    assert not wire.quiet()
    wire.step(8, [(1, pack(Kind.WIRE_DONE, count=2))])
    assert wire.quiet()


def test_credits_wait_until_the_other_card_has_room() -> None:
    wire = Wire(2)
    total = RING_SIZE + 10
    taken, index = 0, 0
    for size in [BURST] * (RING_SIZE // BURST):
        outputs = wire.step(0, [(0, message([frame(n) for n in range(size)], index))])
        taken += credited(outputs, 0)
        index += size
    outputs = wire.step(0, [(0, message([frame(n) for n in range(10)], index))])
    assert (taken, credited(outputs, 0), delivered(outputs, 1)) == (RING_SIZE, 0, [])
    outputs = wire.step(0, [(1, pack(Kind.WIRE_DONE, count=4))])
    assert (credited(outputs, 0), len(delivered(outputs, 1))) == (4, 4)
    assert wire.counters["from_0"] == total
    assert wire.deadline_ns() is None


def test_one_card_faces_an_open_end() -> None:
    wire = Wire(1)
    outputs = wire.step(0, [(0, message([frame(1)]))])
    assert credited(outputs, 0) == 1
    assert wire.counters["open_end"] == 1
    assert wire.quiet()
    assert wire.frames()[0].dst is None


def test_injected_frames_arrive_and_owe_nobody_a_credit() -> None:
    wire = Wire(2)
    wire.inject(0, [frame(1)])
    assert wire.deadline_ns() == 0
    outputs = wire.step(9, [])
    assert delivered(outputs, 0) == [frame(1)]
    assert credited(outputs, 0) == credited(outputs, 1) == 0
    assert wire.frames()[0].src is None
    assert wire.frames()[0].time == 9


def test_a_frame_that_no_wire_carries_is_refused_and_nothing_injected() -> None:
    wire = Wire(1)
    with pytest.raises(OffloadError, match=str(FRAME_MAX_BYTES)):
        wire.inject(0, [frame(1), bytes(FRAME_MAX_BYTES + 1)])
    assert wire.step(0, []) == []


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("drop", {}, []),
        ("duplicate", {}, [b"abcd", b"abcd"]),
        ("truncate", {"value": 3}, [b"abc"]),
        ("corrupt", {"value": 0}, [b"`bcd"]),
    ],
)
def test_faults_break_what_is_delivered_not_what_is_recorded(kind, fields, expected) -> None:
    wire = Wire(2)
    wire.faults.add(FaultSpec(site="wire", kind=kind, **fields))
    outputs = wire.step(0, [(0, message([b"abcd"]))])
    assert delivered(outputs, 1) == expected
    assert credited(outputs, 0) == 1
    assert [one.data for one in wire.frames()] == [b"abcd"]


def test_a_held_frame_keeps_its_credit_until_the_last_of_it_has_left() -> None:
    wire = Wire(2)
    wire.faults.add(FaultSpec(site="wire", kind="duplicate"))
    wire.faults.add(FaultSpec(site="wire", kind="delay", delay_ms=5, value=3))
    outputs = wire.step(0, [(0, message([b"abcd"]))])
    assert (delivered(outputs, 1), credited(outputs, 0)) == ([], 0)
    assert not wire.quiet()
    credits, frames = 0, []
    while (deadline := wire.deadline_ns()) is not None:
        outputs = wire.step(deadline, [])
        assert credits == 0
        credits, frames = credited(outputs, 0), frames + delivered(outputs, 1)
    assert (credits, frames) == (1, [b"abcd"] * 2)


def test_an_extended_frame_is_no_longer_than_frames_can_be() -> None:
    wire = Wire(2)
    wire.faults.add(FaultSpec(site="wire", kind="extend", value=512))
    (longest,) = delivered(wire.step(0, [(0, message([bytes(FRAME_MAX_BYTES)]))]), 1)
    assert longest == bytes(FRAME_MAX_BYTES)


def test_fragments_cost_one_credit() -> None:
    wire = Wire(2)
    wire.faults.add(FaultSpec(site="wire", kind="fragment", value=8))
    whole = ETHERNET_IPV4 + ESP_PACKET[:2] + (40).to_bytes(2) + ESP_PACKET[4:] + bytes(8)
    outputs = wire.step(0, [(0, message([whole]))])
    assert len(delivered(outputs, 1)) == 3
    assert credited(outputs, 0) == 1


ETHERNET_IPV4 = bytes(12) + b"\x08\x00"
ESP_PACKET = (
    bytes.fromhex("45000028000040004032") + bytes(10) + bytes.fromhex("00001000") + bytes(8)
)


@pytest.mark.parametrize(
    ("match", "dropped"),
    [
        ({"src": 0}, True),
        ({"src": 1}, False),
        ({"spi": "0x1000"}, True),
        ({"spi": "0x1001"}, False),
        ({"esp": 1, "dst": 1}, True),
        ({"esp": 0}, False),
    ],
)
def test_faults_choose_frames_by_facts(match, dropped) -> None:
    wire = Wire(2)
    wire.faults.add(FaultSpec(site="wire", kind="drop", match=match))
    outputs = wire.step(0, [(0, message([ETHERNET_IPV4 + ESP_PACKET]))])
    assert (delivered(outputs, 1) == []) is dropped


def test_the_spi_is_found_behind_ipv4_options_and_ipv6() -> None:
    with_option = bytes([0x46]) + ESP_PACKET[1:20] + bytes(4) + ESP_PACKET[20:]
    ipv6 = bytes([0x60, 0, 0, 0, 0, 8, 50, 64]) + bytes(32) + bytes.fromhex("0000100000000001")
    assert esp_spi(ETHERNET_IPV4 + with_option) == 0x1000
    assert esp_spi(bytes(12) + b"\x86\xdd" + ipv6) == 0x1000
    assert esp_spi(bytes(12) + b"\x86\xdd" + ipv6[:40]) is None
    assert esp_spi(bytes(12) + b"\x08\x06" + ESP_PACKET) is None
    assert esp_spi(b"") is None


def test_a_gap_is_counted_and_its_credits_are_not_lost() -> None:
    wire = Wire(2)
    outputs = wire.step(0, [(0, message([frame(1)], index=5))])
    assert wire.counters["lost"] == 5
    assert credited(outputs, 0) == 6


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"nonsense",
        pack(Kind.TX, b""),
        pack(Kind.WIRE, b"\xff" * 8, 0, 1),
        pack(Kind.WIRE, b"", 0, 1),
        pack(Kind.WIRE_DONE, count=1),
        message([frame(1)], index=WIRE_CREDITS),
    ],
)
def test_bad_messages_are_counted_and_change_nothing(raw) -> None:
    wire = Wire(2)
    assert wire.step(0, [(0, raw)]) == []
    assert wire.counters["malformed"] == 1
    assert wire.frames() == []
    assert delivered(wire.step(0, [(0, message([frame(1)]))]), 1) == [frame(1)]


@given(st.binary(max_size=200))
def test_random_bytes_never_stop_the_wire(raw) -> None:
    wire = Wire(2)
    wire.step(0, [(0, raw), (1, raw)])
    assert delivered(wire.step(0, [(1, message([frame(1)]))]), 0) == [frame(1)]


def test_the_record_is_bounded_and_says_what_it_dropped() -> None:
    wire = Wire(1, record_frames=3)
    wire.step(0, [(0, message([frame(n) for n in range(5)]))])
    assert [int.from_bytes(one.data[:4]) for one in wire.frames()] == [2, 3, 4]
    assert wire.counters["record_dropped"] == 2
    assert wire.recorded == 5
    assert [one.data for one in wire.frames(start=4)] == [frame(4)]


def test_a_message_without_frames_is_malformed() -> None:
    for wire in (Wire(1), Wire(2)):
        assert wire.step(0, [(0, pack(Kind.WIRE))] * 3) == []
        assert wire.counters["malformed"] == 3 and wire.recorded == 0


def test_of_a_batch_the_record_lets_go_one_by_one() -> None:
    wire = Wire(2, record_frames=4)
    for first in range(0, 9, 3):
        wire.step(first, [(0, message([frame(n) for n in range(first, first + 3)], first))])
    wire.step(9, [(0, message([frame(9)], 9))])
    assert [f.data for f in wire.frames()] == [frame(n) for n in range(6, 10)]
    assert (wire.recorded, wire.counters["record_dropped"]) == (10, 6)
    for start in range(12):
        kept = range(max(start, 6), 10)
        assert [f.data for f in wire.frames(start)] == [frame(n) for n in kept]
    assert [f.time for f in wire.frames()] == [6, 6, 6, 9]


def test_a_card_that_starts_again_begins_at_zero_and_gets_no_credits_of_the_dead() -> None:
    wire = Wire(2)
    wire.step(0, [(0, hello(11)), (1, hello(21))])
    old = unpack(message([frame(1)] * 3))
    first = pack(Kind.WIRE, old.body, 0, 3, 11)
    wire._ports[1].leaving.credits = 0  # card 1 takes nothing for now
    assert wire.step(1, [(0, first)]) == []

    wire.step(2, [(0, hello(12))])
    stale = [(0, first), (0, pack(Kind.WIRE_DONE, count=1, epoch=11))]
    assert wire.step(3, stale) == []
    assert wire.counters["stale"] == 2
    assert len(wire.frames()) == 3

    wire.step(4, [(0, pack(Kind.WIRE, old.body, 0, 3, 12))])
    assert wire.index(0) == 3
    assert (wire.counters["lost"], wire.counters["malformed"]) == (0, 0)
    wire._ports[1].leaving.credits = RING_SIZE
    outputs = wire.step(5, [])
    assert len(delivered(outputs, 1)) == 6
    assert credited(outputs, 0) == 3
    assert {unpack(raw).epoch for port, raw in outputs if port == 1} == {21}
    assert {unpack(raw).epoch for port, raw in outputs if port == 0} == {12}


def test_frames_for_a_card_that_starts_again_wait_for_it() -> None:
    wire = Wire(2)
    wire.step(0, [(0, hello(11)), (1, hello(21))])
    wire._ports[1].leaving.credits = 0
    body = unpack(message([frame(1)])).body
    wire.step(1, [(0, pack(Kind.WIRE, body, 0, 1, 11))])
    outputs = wire.step(2, [(1, hello(22))])
    assert delivered(outputs, 1) == [frame(1)]
    assert {unpack(raw).epoch for port, raw in outputs if port == 1} == {22}


def test_a_hello_of_another_protocol_is_malformed() -> None:
    wire = Wire(1)
    bad = msgspec.structs.replace(Hello(party="card", name="c", pid=1, boot=5), protocol=99)
    wire.step(0, [(0, pack(Kind.HELLO, msgspec.msgpack.encode(bad))), (0, pack(Kind.HELLO))])
    assert wire.counters["malformed"] == 2
    assert wire._ports[0].boot == 0


def test_a_wire_that_forgets_goes_on_counting() -> None:
    wire = Wire(1)
    wire.step(0, [(0, message([frame(n) for n in range(3)]))])
    wire.forget()
    assert wire.frames() == [] and wire.recorded == 3
    wire.step(0, [(0, message([frame(3)], index=3))])
    assert [one.data for one in wire.frames(wire.recorded - 1)] == [frame(3)]
