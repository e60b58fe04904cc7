# SPDX-License-Identifier: Apache-2.0
"""Captures, read back by scapy's own reader; key files in the form that Wireshark documents."""

import csv
import io
import stat

import pytest
from scapy.utils import RawPcapNgReader

from host_driver.lab.pcapng import (
    LINKTYPE_ETHERNET,
    LINKTYPE_RAW,
    EspKey,
    PcapngWriter,
    write_esp_keys,
)
from proto.status import OffloadError

NOW_NS = 1_669_507_200_123_456_789
INTERFACES = [("host0", LINKTYPE_RAW), ("wire", LINKTYPE_ETHERNET)]


def read(packets):
    """Write and read back: (linktype, interface, time_ns, data, comment) of each packet."""
    file = io.BytesIO()
    writer = PcapngWriter(file, INTERFACES)
    for packet in packets:
        writer.packet(*packet)
    file.seek(0)
    rows = []
    for data, meta in RawPcapNgReader(file):
        time_ns = (meta.tshigh << 32 | meta.tslow) * (1_000_000_000 // meta.tsresol)
        comments = meta.comments or [None]
        rows.append((meta.linktype, meta.ifname, time_ns, data, comments[0]))
    return rows


def test_every_packet_comes_back_with_time_interface_and_comment():
    rows = read([
        (0, NOW_NS, b"\x45" + bytes(19), "clear, out"),
        (1, NOW_NS + 1, b"\xff" * 61, "sent by card0"),
        (1, NOW_NS + 2, b"\x01" * 14, ""),
    ])  # fmt: skip
    assert rows == [
        (101, b"host0", NOW_NS, b"\x45" + bytes(19), b"clear, out"),
        (1, b"wire", NOW_NS + 1, b"\xff" * 61, b"sent by card0"),
        (1, b"wire", NOW_NS + 2, b"\x01" * 14, None),
    ]


@pytest.mark.parametrize("size", range(14, 22))
def test_padding_is_not_part_of_the_packet(size):
    assert read([(1, NOW_NS, b"\xab" * size, "x" * size)])[0][3] == b"\xab" * size


def test_blocks_are_whole_words_that_end_with_their_length():
    file = io.BytesIO()
    PcapngWriter(file, INTERFACES).packet(1, NOW_NS, b"\xab" * 15, "odd")
    raw, at = file.getvalue(), 0
    while at < len(raw):
        length = int.from_bytes(raw[at + 4 : at + 8], "little")
        assert length % 4 == 0
        assert raw[at + length - 4 : at + length] == raw[at + 4 : at + 8]
        at += length
    assert at == len(raw)


KEY = EspKey("10.0.0.1", "10.0.0.2", 0x1000, bytes(range(20)), 16)


def test_the_key_file_has_wiresharks_fields_and_is_for_its_owner_only(tmp_path):
    path = tmp_path / "esp_sa"
    write_esp_keys(path, [KEY, EspKey("fd00::1", "fd00::2", 1, bytes(36), 8)])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    rows = list(csv.reader(path.read_text().splitlines()))
    assert rows[0] == [
        "IPv4", "10.0.0.1", "10.0.0.2", "0x00001000", "AES-GCM with 16 octet ICV [RFC4106]",
        "0x000102030405060708090a0b0c0d0e0f10111213", "NULL", "",
    ]  # fmt: skip
    assert rows[1][:5] == [
        "IPv6", "fd00::1", "fd00::2", "0x00000001", "AES-GCM with 8 octet ICV [RFC4106]",
    ]  # fmt: skip


def test_a_key_file_is_never_written_into_one_that_is_there(tmp_path):
    path = tmp_path / "esp_sa"
    path.write_text("mine")
    with pytest.raises(OffloadError, match="exists"):
        write_esp_keys(path, [KEY])
    assert path.read_text() == "mine"


def test_keys_are_not_in_repr():
    assert "0102" not in repr(KEY)
    assert "160 bits" in repr(KEY)
