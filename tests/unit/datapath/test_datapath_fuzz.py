# SPDX-License-Identifier: Apache-2.0
"""Random, truncated and damaged frames: never a crash, never a byte past the frame, all counted.

The bench itself asserts that every frame passes or has exactly one drop counted.
"""

import random
from typing import Any

import numpy as np
import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting

from nic_model import packet, tables
from proto.status import Drop

FRAMES = 10_000
EXTENSIONS = IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting(addresses=["::1"])
SEEDS = (
    bytes(12) + b"\x08\x00" + bytes(IP(src="10.1.0.1", dst="10.1.0.2") / UDP(dport=9) / b"abcdef"),
    bytes(12) + b"\x08\x00" + bytes(IP(options=b"\1" * 8) / TCP()),
    bytes(12) + b"\x86\xdd" + bytes(IPv6() / EXTENSIONS / UDP()),
)


def damaged(rng: random.Random, seeds: tuple[bytes, ...]) -> bytes:
    """A frame cut, flipped or all random, with a type that gets it parsed."""
    data = bytearray(rng.choice(seeds))
    kind = rng.randrange(3)
    if kind == 0:
        return bytes(data[: rng.randrange(len(data) + 1)])
    if kind == 1:
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(12, len(data))] = rng.choice(
                (0, 1, 43, 44, 50, 60, 255, rng.randrange(256))
            )
        return bytes(data)
    return bytes(data[:14]) + rng.randbytes(rng.randrange(120))


@pytest.fixture
def busy(bench: Any) -> Any:
    """Both directions protected, so that every path is walked."""
    for family, ends in ((2, {}), (10, {"src": "::", "dst": "::1"})):
        bench.sa(**ends)
        bench.sa(direction=1, replay_window=64, **ends)
        bench.sa(direction=1, spi=2, encap_sport=9, encap_dport=9, **ends)
        bench.policy(family=family)
        bench.policy(family=family, direction=1, proto=6)
    return bench


def test_garbage_out(busy: Any) -> None:
    rng = random.Random(1)
    verdicts = set()
    for _ in range(FRAMES // 500):
        got = busy.tx([damaged(rng, SEEDS) for _ in range(500)])
        verdicts |= {one for one in got if isinstance(one, Drop)}
    assert {Drop.MALFORMED, Drop.FRAGMENT, Drop.NO_SA} <= verdicts


def test_garbage_in(busy: Any) -> None:
    rng = random.Random(2)
    good = busy.frame(bytes(IP(src="10.1.0.1", dst="10.1.0.2", proto=50) / busy.esp(
        busy.KEY, 0x1000, 1, bytes(40), 17)))  # fmt: skip
    verdicts = set()
    for _ in range(FRAMES // 500):
        got = busy.rx([damaged(rng, (*SEEDS, good, good)) for _ in range(500)])
        verdicts |= {one for one in got if isinstance(one, Drop)}
    assert {Drop.MALFORMED, Drop.FRAGMENT, Drop.INTEGRITY, Drop.CLEAR_TEXT} <= verdicts
    assert all(busy.state(row).packets <= 1 for row in range(1, busy.rows + 1))


def test_every_flip_of_an_esp_frame_is_caught(busy: Any) -> None:
    """A flip behind the Ethernet header is refused, or makes it a packet for no SA of the card."""
    clear = SEEDS[0][14:]
    sealed = busy.esp(busy.KEY, 0x1000, 1, clear[20:], 17)
    frame = busy.frame(bytes(IP(src="10.1.0.1", dst="10.1.0.2", proto=50) / sealed))
    for bit in range(14 * 8, len(frame) * 8):
        broken = bytearray(frame)
        broken[bit // 8] ^= 1 << bit % 8
        (got,) = busy.rx([bytes(broken)])
        assert isinstance(got, Drop) or got == bytes(broken), bit
    assert isinstance(busy.rx([frame])[0], bytes)


def test_parse_looks_only_at_its_frame() -> None:
    """What lies behind the frame in the buffer changes no result."""
    rng = random.Random(3)
    p = np.zeros(2, tables.PACKET_ROW)
    for _ in range(3000):
        data = damaged(rng, SEEDS)
        results = []
        for row, fill in enumerate((0, 255)):
            buf = np.full(10_240, fill, np.uint8)
            buf[: len(data)] = np.frombuffer(data, np.uint8)
            p[row] = 0
            results.append(packet.parse(buf, len(data), p[row]))
        assert results[0] == results[1]
        assert results[0] or p[0] == p[1]
        if not results[0] and p[0].family:
            assert 14 < p[0].place <= p[0].upper <= p[0].end <= len(data)
