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


def test_prefix() -> None:
    rng = random.Random(3)
    for length in range(129):
        address = rng.randbytes(16)
        network = ipaddress.ip_network((address, length), strict=False)
        assert prefix(address, length) == network.network_address.packed
