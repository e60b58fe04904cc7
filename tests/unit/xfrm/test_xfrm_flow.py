# SPDX-License-Identifier: Apache-2.0
"""Flow decoding against scapy's packets, and selector prefixes against `ipaddress`."""

import ipaddress
import random
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import GRE, GRE_PPTP
from scapy.packet import Raw

from host_driver.xfrm.flow import decode, prefix

V4, V6 = {"src": "10.1.0.1", "dst": "10.1.0.2"}, {"src": "fd00::1", "dst": "fd00::2"}


@pytest.mark.parametrize(
    ("packet", "proto", "ports"),
    [
        (IP(**V4) / UDP(sport=7, dport=9), 17, (7, 9)),
        (IP(**V4, options=[IPOption_NOP()]) / TCP(sport=80, dport=1), 6, (80, 1)),
        (IP(**V4) / ICMP(type=8, code=3), 1, (8, 3)),
        (IP(**V4, flags="MF") / UDP(sport=7, dport=9), 17, (0, 0)),
        (IP(**V4, frag=5, proto=17) / (b"x" * 40), 17, (0, 0)),
        (IPv6(**V6) / UDP(sport=7, dport=9), 17, (7, 9)),
        (IPv6(**V6) / ICMPv6EchoRequest(), 58, (128, 0)),
        (
            IPv6(**V6) / IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting() / IPv6ExtHdrDestOpt()
            / TCP(sport=5, dport=6),
            6, (5, 6),
        ),
        (IPv6(**V6) / IPv6ExtHdrFragment(m=1) / UDP(sport=7, dport=9), 17, (0, 0)),
        (IPv6(**V6) / IPv6ExtHdrFragment() / UDP(sport=7, dport=9), 17, (7, 9)),
        # The kernel's decode ends at AH, and so does the card's.
        (IPv6(**V6, nh=51) / AH(nh=17, payloadlen=4, icv=bytes(12)) / UDP(dport=9), 51, (0, 0)),
        (IP(**V4, proto=51) / AH(nh=17, payloadlen=4, icv=bytes(12)) / UDP(dport=9), 51, (0, 0)),
        (IPv6(**V6, nh=59), 59, (0, 0)),
        (IP(**V4) / GRE(), 47, (0, 0)),
        (IP(**V4) / GRE(key_present=1, key=5), 47, (0, 5)),
        (IP(**V4) / GRE(chksum_present=1, key_present=1, key=0x0001_0002), 47, (1, 2)),
        (IPv6(**V6) / GRE(key_present=1, seqnum_present=1, key=0xFFFF_FFFE), 47, (65535, 65534)),
        (IP(**V4) / GRE_PPTP(payload_len=9, call_id=4), 47, (0, 4)),
        (IP(**V4) / GRE(key_present=1, key=5, version=2), 47, (0, 0)),
        (IP(**V4, flags="MF") / GRE(key_present=1, key=5), 47, (0, 0)),
    ],
)  # fmt: skip
def test_decode(packet: Any, proto: int, ports: tuple[int, int]) -> None:
    raw = bytes(packet)
    flow = decode(raw)
    assert flow is not None
    assert (flow.proto, (flow.sport, flow.dport)) == (proto, ports)
    assert flow.address(flow.saddr) == ipaddress.ip_address(packet.src).packed
    assert flow.address(flow.daddr) == ipaddress.ip_address(packet.dst).packed
    assert all(decode(raw[:cut]) is None for cut in range(len(raw)))


@pytest.mark.parametrize("data", [b"\x20\0\x08", b"\x20\0\x08\0\0\0\0", b"\xa0\0\x08\0" + bytes(7)])
def test_a_gre_header_that_ends_before_its_key(data: bytes) -> None:
    assert decode(bytes(IP(**V4, proto=47) / Raw(data))) is None


def test_prefix() -> None:
    rng = random.Random(3)
    for length in range(129):
        address = rng.randbytes(16)
        network = ipaddress.ip_network((address, length), strict=False)
        assert prefix(address, length) == network.network_address.packed
