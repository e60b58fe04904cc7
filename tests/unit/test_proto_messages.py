# SPDX-License-Identifier: Apache-2.0
"""proto: frame header, ring accounting, DMA memory, wire batches, commands."""

import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto import commands, frame
from proto.frame import FrameError, Kind
from proto.layouts import DESCRIPTOR
from proto.limits import BUFFER_BYTES, DMA_BYTES, MARK_BYTES, RING_SIZE, RX_OFFSET, TX_BUFFER_BYTES
from proto.link.dma import Dma, rx_offset, tx_offset
from proto.link.ring import Consumer, Producer, RingError
from proto.wire import Frames, pack_frames, unpack_frames


def test_frame_header_bytes():
    raw = frame.pack(Kind.WIRE, b"abc", index=0x01020304, count=5, epoch=0x0A0B0C0D)
    header = "4e58 03 30 04030201 05000000 00000000 03000000 0d0c0b0a"
    assert raw == bytes.fromhex(header) + b"abc"
    message = frame.unpack(raw)
    assert message[:3] == (Kind.WIRE, 0x01020304, 5)
    assert message.epoch == 0x0A0B0C0D
    assert bytes(message.body) == b"abc"


@pytest.mark.parametrize(
    ("offset", "value", "text"),
    [
        (0, b"\0", "magic"),
        (2, b"\x09", "version"),
        (3, b"\xff", "kind"),
        (12, b"\x01", "check"),
        (16, b"\x09", "body"),
    ],
)
def test_frame_refuses_every_wrong_field(offset, value, text):
    raw = bytearray(frame.pack(Kind.TX, b"abc"))
    raw[offset : offset + 1] = value
    with pytest.raises(FrameError, match=text):
        frame.unpack(bytes(raw))


@pytest.mark.parametrize("kind", [k for k in Kind if 16 <= k < 48])
def test_no_flipped_bit_between_host_and_card_goes_unnoticed(kind):
    raw = frame.pack(kind, bytes(range(40)), index=7, count=3)
    assert frame.unpack(raw).index == 7
    for bit in range(len(raw) * 8):
        broken = bytearray(raw)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FrameError):
            frame.unpack(broken)


@given(st.binary(max_size=64))
def test_frame_random_bytes_are_refused(raw):
    if raw[:2] != struct.pack("<H", frame.MAGIC):
        with pytest.raises(FrameError):
            frame.unpack(raw)


def test_producer_and_consumer_agree_over_the_index_wrap():
    producer, consumer = Producer(8), Consumer(8)
    producer.index = consumer.index = 0xFFFF_FFFE
    first = producer.take(4)
    assert first == 0xFFFF_FFFE
    assert producer.index == 2
    assert consumer.arrived(first, 4) == 0
    assert consumer.index == 2
    assert producer.outstanding == 4
    producer.refill(4)
    assert producer.credits == 8


def test_consumer_counts_a_lost_message():
    producer, consumer = Producer(8), Consumer(8)
    producer.take(3)
    assert consumer.arrived(producer.take(2), 2) == 3


def test_ring_refuses_doubled_messages_and_foreign_credits():
    producer, consumer = Producer(8), Consumer(8)
    first = producer.take(2)
    consumer.arrived(first, 2)
    with pytest.raises(RingError):
        consumer.arrived(first, 2)
    with pytest.raises(RingError):
        producer.refill(3)


def test_dma_slots_do_not_overlap_and_fill_the_region():
    offsets = sorted(
        [tx_offset(i) for i in range(RING_SIZE)] + [rx_offset(i) for i in range(RING_SIZE)]
    )
    tx = range(MARK_BYTES, RX_OFFSET, TX_BUFFER_BYTES)
    assert offsets == [*tx, *range(RX_OFFSET + MARK_BYTES, DMA_BYTES, BUFFER_BYTES)]
    assert tx_offset(RING_SIZE + 3) == tx_offset(3)


def _descriptors(*packets):
    descriptors = np.zeros(len(packets), DESCRIPTOR)
    for index, packet in enumerate(packets):
        descriptors[index]["offset"] = tx_offset(index)
        descriptors[index]["length"] = len(packet)
    return descriptors


@pytest.mark.parametrize("shared", [True, False])
def test_dma_carries_packets_on_both_kinds_of_link(shared):
    here = Dma.anonymous() if shared else Dma.private()
    there = here if shared else Dma.private()
    packets = [b"first", b"second packet"]
    descriptors = _descriptors(*packets)
    for descriptor, packet in zip(descriptors, packets, strict=True):
        offset = int(descriptor["offset"])
        here.memory[offset : offset + len(packet)] = np.frombuffer(packet, np.uint8)
    body = here.gather(descriptors)
    assert len(body) == 32 + (0 if shared else 18)
    arrived = there.scatter(body, 2)
    assert (arrived == descriptors).all()
    for descriptor, packet in zip(arrived, packets, strict=True):
        offset = int(descriptor["offset"])
        assert there.memory[offset : offset + len(packet)].tobytes() == packet


def test_dma_refuses_what_does_not_fit():
    inline = Dma.private()
    body = inline.gather(_descriptors(b"12345"))
    with pytest.raises(FrameError, match="descriptors"):
        inline.scatter(body, 9)
    with pytest.raises(FrameError, match="packet bytes"):
        inline.scatter(body[:-1], 1)
    outside = _descriptors(b"12345")
    outside[0]["offset"] = DMA_BYTES - 2
    with pytest.raises(FrameError, match="ends at byte"):
        Dma.anonymous().scatter(outside.tobytes(), 1)


@pytest.mark.parametrize("make", [Dma.anonymous, Dma.private])
def test_released_memory_holds_no_packet_any_more(make):
    dma = make()
    dma.memory[:] = 0x5A
    dma.release()
    assert not dma.memory.any()


def test_dma_file_is_private_and_its_size_is_checked(tmp_path):
    path = tmp_path / "dma"
    one = Dma.create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    two = Dma.open(path)
    one.memory[7] = 42
    assert two.memory[7] == 42
    with pytest.raises(FileExistsError):
        Dma.create(path)
    with path.open("ab") as file:
        file.write(b"x")
    with pytest.raises(FrameError, match="bytes long"):
        Dma.open(path)


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=10))
def test_wire_batches_round_trip(frames):
    assert unpack_frames(pack_frames(frames), len(frames)) == frames


def test_wire_batch_layout_and_refusals():
    body = pack_frames([b"ab", b"c"])
    assert body == bytes.fromhex("02000000 01000000") + b"abc"
    for bad, count in ((body[:-1], 2), (body + b"x", 2), (body, 9), (b"", 0)):
        with pytest.raises(FrameError):
            Frames.unpack(bad, count)


@pytest.mark.parametrize(
    "command",
    [
        commands.QueryCaps(),
        commands.CreateKey(key=b"k" * 16),
        commands.DestroyKey(handle=3),
        commands.CreateSa(
            key=1, salt=b"salt", icv_bytes=16, spi=0x1000, family=2, saddr=bytes(16),
            daddr=bytes(16), direction=commands.OUT, reqid=1, selector=commands.Selector(),
        ),
        commands.CreatePolicyRule(
            direction=commands.OUT, selector=commands.Selector(), priority=0, action=0, protect=True
        ),
        commands.Fence(),
    ],
)  # fmt: skip
def test_commands_survive_the_mailbox_and_hide_keys(command):
    request = commands.Request(7, command)
    raw = msgspec.msgpack.encode(request)
    assert msgspec.msgpack.decode(raw, type=commands.Request) == request
    assert "kkkk" not in repr(request)
    assert "salt" not in repr(request)


def test_an_unknown_command_does_not_decode():
    raw = msgspec.msgpack.encode([1, ["FormatDisk"]])
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(raw, type=commands.Request)
