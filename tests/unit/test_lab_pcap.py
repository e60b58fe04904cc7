# SPDX-License-Identifier: Apache-2.0
"""The pcap reader against files that scapy wrote, damaged ones, and the recording of the demo."""

import struct
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.utils import RawPcapWriter, rdpcap

from host_driver.demo import LAN_PCAP
from host_driver.lab.pcap import ip_packet, read_pcap
from proto.status import OffloadError

FRAMES = [
    bytes(Ether(src="02:00:00:00:00:01") / IP(src="10.0.0.1", dst="10.0.0.2") / ICMP() / bytes(40)),
    bytes(Ether() / ARP()),
    bytes(Ether() / IPv6(src="fd00::1", dst="fd00::2") / UDP(sport=1, dport=2) / b"hello"),
]
STAMP_NS = 1_795_335_726_444_708_000


def write(path: Path, frames: list[bytes], *, endianness: str = "<", nano: bool = False) -> Path:
    writer = RawPcapWriter(str(path), linktype=1, endianness=endianness, nano=nano, sync=True)
    writer.write_header(None)
    for frame in frames:
        fraction = STAMP_NS % 10**9 // (1 if nano else 1000)
        writer.write_packet(frame, sec=STAMP_NS // 10**9, usec=fraction)
    writer.close()
    return path


@pytest.mark.parametrize("nano", [False, True])
@pytest.mark.parametrize("endianness", ["<", ">"])
def test_reads_what_scapy_writes(tmp_path: Path, endianness: str, nano: bool) -> None:
    recording = read_pcap(write(tmp_path / "a.pcap", FRAMES, endianness=endianness, nano=nano))
    assert [record.data for record in recording] == FRAMES
    assert {record.time_ns for record in recording} == {STAMP_NS}
    assert len(recording) == 3
    assert recording.skipped_bytes == 0


def test_gives_ip_packets_without_padding(tmp_path: Path) -> None:
    padded = FRAMES[2] + bytes(18)
    recording = read_pcap(write(tmp_path / "a.pcap", [FRAMES[0], FRAMES[1], padded]))
    assert recording.packets() == [FRAMES[0][14:], FRAMES[2][14:]]


@pytest.mark.parametrize(
    "frame",
    [b"", bytes(14), FRAMES[1], FRAMES[0][:30], FRAMES[0][:-1], FRAMES[2][:40], FRAMES[2][:-1]],
)
def test_what_is_no_whole_ip_packet_is_none(frame: bytes) -> None:
    assert ip_packet(frame) is None


def test_a_file_cut_anywhere_keeps_the_whole_records(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.pcap", FRAMES).read_bytes()
    ends = [24]
    for frame in FRAMES:
        ends.append(ends[-1] + 16 + len(frame))
    for cut in range(24, len(whole)):
        (tmp_path / "cut.pcap").write_bytes(whole[:cut])
        recording = read_pcap(tmp_path / "cut.pcap")
        kept = sum(end <= cut for end in ends[1:])
        assert [record.data for record in recording] == FRAMES[:kept]
        assert recording.skipped_bytes == cut - ends[kept]


def test_a_record_that_was_overwritten_half_way_is_not_believed(tmp_path: Path) -> None:
    first, second, third = (struct.pack("<IIII", 9, 9, len(f), len(f)) + f for f in FRAMES)
    header = write(tmp_path / "a.pcap", []).read_bytes()
    (tmp_path / "a.pcap").write_bytes(header + first[:50] + third + second[10:] + first + third)
    recording = read_pcap(tmp_path / "a.pcap")
    assert [record.data for record in recording] == [FRAMES[0], FRAMES[2]]
    assert recording.skipped_bytes == 50 + len(third) + len(second) - 10


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x0a\x0d\x0d\x0a" + bytes(40), "pcapng"),
        (b"", "no pcap file"),
        (b"\xd4\xc3\xb2\xa1", "no pcap file"),
        (b"#!/bin/sh" + bytes(40), "no pcap file"),
        (b"\xd4\xc3\xb2\xa1" + bytes(16) + b"\x7f\0\0\0", "link type 127"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, data: bytes, text: str) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(OffloadError) as refusal:
        read_pcap(tmp_path / "x")
    assert refusal.value.errno == 22
    assert text in refusal.value.text


@pytest.mark.filterwarnings("ignore:.*truncated")
def test_the_demo_recording() -> None:
    """scapy stops at the damaged place; up to there both agree, and behind it packets are whole."""
    recording = read_pcap(LAN_PCAP)
    believed = [bytes(packet) for packet in rdpcap(str(LAN_PCAP), count=6)]
    assert [record.data for record in recording.records[:6]] == believed
    assert len(recording.packets()) == len(recording) > 2600
    for packet in recording.packets():
        parsed = IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)
        checksum = parsed[1].chksum if hasattr(parsed[1], "chksum") else None
        if checksum is not None and packet[0] >> 4 == 4:
            del parsed[1].chksum
            assert type(parsed)(bytes(parsed))[1].chksum == checksum
