# SPDX-License-Identifier: Apache-2.0
"""What parse finds in frames that scapy built, and what it refuses."""

import struct
from typing import Any

import numpy as np
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.sctp import SCTP
from scapy.packet import Raw

from nic_model import packet, tables
from proto.status import Drop

ROUTE = IPv6ExtHdrRouting(addresses=["fd00::9"])
IPV4, IPV6 = 0x0800, 0x86DD


def parse(data: bytes, kind: int | None = None) -> tuple[int, Any]:
    """The verdict on `data` in an Ethernet frame of type `kind`, and what was found."""
    kind = kind or (IPV4 if data[0] >> 4 == 4 else IPV6)
    frame = bytes(12) + kind.to_bytes(2, "big") + data
    p = np.zeros(1, tables.PACKET_ROW)[0]
    return packet.parse(np.frombuffer(bytearray(frame), np.uint8), len(frame), p), p


@pytest.mark.parametrize(
    ("built", "proto", "sport", "dport"),
    [
        (IP() / UDP(sport=7, dport=65535), 17, 7, 65535),
        (IP() / TCP(sport=1, dport=2), 6, 1, 2),
        (IP() / SCTP(sport=3, dport=4), 132, 3, 4),
        (IP(proto=33) / Raw(struct.pack(">HHQ", 5, 6, 0)), 33, 5, 6),
        (IP(proto=136) / Raw(struct.pack(">HHQ", 5, 6, 0)), 136, 5, 6),
        (IP() / ICMP(type=8, code=0), 1, 8, 0),
        (IP() / ICMP(type=3, code=4), 1, 3, 4),
        (IP(proto=253) / Raw(bytes(9)), 253, 0, 0),
        (IP(proto=253), 253, 0, 0),
        (IPv6() / UDP(sport=7, dport=8), 17, 7, 8),
        (IPv6() / ICMPv6EchoRequest(), 58, 128, 0),
        (IPv6() / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / UDP(sport=7, dport=8), 17, 7, 8),
        (IPv6(nh=59), 59, 0, 0),
        (IPv6(nh=51) / Raw(bytes(40)), 51, 0, 0),
    ],
)
def test_flow(built: Any, proto: int, sport: int, dport: int) -> None:
    verdict, p = parse(bytes(built))
    assert (verdict, p.proto, p.sport, p.dport, p.fragment) == (0, proto, sport, dport, 0)
    assert p.end == 14 + len(bytes(built))


def test_addresses() -> None:
    _, p = parse(bytes(IP(src="1.2.3.4", dst="5.6.7.8") / UDP()))
    assert (p.family, p.src_hi, p.src_lo) == (2, 0x01020304 << 32, 0)
    assert (p.dst_hi, p.dst_lo) == (0x05060708 << 32, 0)
    _, p = parse(bytes(IPv6(src="1:2:3:4:5:6:7:8", dst="fe80::1") / UDP()))
    assert (p.family, p.src_hi, p.src_lo) == (10, 0x0001000200030004, 0x0005000600070008)
    assert (p.dst_hi, p.dst_lo) == (0xFE80 << 48, 1)


@pytest.mark.parametrize(
    ("built", "place", "upper"),
    [
        (IP() / UDP(), 20, 20),
        (IP(options=b"\1" * 12) / UDP(), 32, 32),
        (IPv6() / UDP(), 40, 40),
        (IPv6() / IPv6ExtHdrHopByHop() / UDP(), 48, 48),
        (IPv6() / IPv6ExtHdrDestOpt() / UDP(), 40, 48),
        (IPv6() / IPv6ExtHdrDestOpt() / ROUTE / UDP(), 72, 72),
        (IPv6() / ROUTE / IPv6ExtHdrDestOpt() / UDP(), 64, 72),
        (IPv6() / IPv6ExtHdrHopByHop() / ROUTE / IPv6ExtHdrFragment() / UDP(), 80, 80),
    ],
)
def test_place_of_esp(built: Any, place: int, upper: int) -> None:
    """RFC 4303 3.1.1; the byte that names ESP is the next header of what stands in front of it."""
    data = bytes(built)
    verdict, p = parse(data)
    assert (verdict, p.place - 14, p.upper - 14) == (0, place, upper)
    assert data[p.upper_nh - 14] == 17
    assert data[p.place_nh - 14] == (17 if place == upper else 60)


@pytest.mark.parametrize(
    ("built", "kind"),
    [
        (IP(flags="DF") / UDP(), packet.WHOLE),
        (IP(flags="MF") / UDP(), packet.FIRST),
        (IP(frag=1, proto=17) / Raw(b"x"), packet.LATER),
        (IPv6() / IPv6ExtHdrFragment() / UDP(), packet.WHOLE),
        (IPv6() / IPv6ExtHdrFragment(m=1) / UDP(), packet.FIRST),
        (IPv6() / IPv6ExtHdrFragment(offset=1, nh=17) / Raw(b"x"), packet.LATER),
        (IPv6() / IPv6ExtHdrFragment(offset=1, nh=60) / Raw(bytes(8)), packet.UNKNOWN),
        (IPv6() / IPv6ExtHdrFragment(m=1, nh=60) / Raw(b"\x11\x09" + bytes(6)), packet.UNKNOWN),
    ],
)
def test_fragments(built: Any, kind: int) -> None:
    verdict, p = parse(bytes(built))
    assert (verdict, p.fragment) == (0, kind)


@pytest.mark.parametrize(
    ("kind", "built"),
    [
        (IPV4, IP(options=b"\1" * 4) / UDP()),
        (IPV6, IPv6() / IPv6ExtHdrHopByHop() / UDP()),
    ],
)
def test_every_truncation_is_malformed(kind: int, built: Any) -> None:
    data = bytes(built)
    assert parse(data, kind)[0] == 0
    assert {parse(data[:n], kind)[0] for n in range(len(data))} == {Drop.MALFORMED}


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (IPV4, b"\x35" + bytes(IP() / UDP())[1:]),
        (IPV4, b"\x44" + bytes(IP() / UDP())[1:]),
        (IPV4, bytes(IP(len=19) / UDP())),
        (IPV4, bytes(IP(proto=17) / Raw(b"abc"))),
        (IPV4, bytes(IP(proto=1) / Raw(b"a"))),
        (IPV4, bytes(IPv6() / UDP())),
        (IPV6, bytes(IP() / UDP() / bytes(20))),
        (IPV6, bytes(IPv6() / IPv6ExtHdrDestOpt(nh=0) / IPv6ExtHdrHopByHop() / UDP())),
        (IPV6, bytes(IPv6(nh=60) / Raw(b"\x11\x01" + bytes(6)))),
        (IPV6, bytes(IPv6(nh=0))),
    ],
)
def test_malformed(kind: int, data: bytes) -> None:
    assert parse(data, kind)[0] == Drop.MALFORMED


def test_other_types_are_left_alone() -> None:
    verdict, p = parse(bytes(46), 0x0806)
    assert (verdict, p.family) == (0, 0)


@pytest.mark.parametrize("length", range(0, 40))
def test_checksum_is_rfc_1071(length: int) -> None:
    data = bytes(range(7, 7 + length))
    words = struct.unpack(f">{(length + 1) // 2}H", data + bytes(length % 2))
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    buf = np.frombuffer(bytearray(data + b"\xff"), np.uint8)
    assert packet.fold(packet.add_words(buf, 0, length, 0)) == total ^ 0xFFFF
