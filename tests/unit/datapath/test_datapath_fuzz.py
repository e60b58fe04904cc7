# SPDX-License-Identifier: Apache-2.0
"""Random, truncated and damaged frames: never a crash, never a byte past the frame, all counted.

The bench itself asserts that every frame passes or has exactly one drop counted.
"""

import random
import struct
from collections import Counter
from typing import Any

import numpy as np
import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting

from nic_model import packet, tables
from proto.layouts import TxFlag
from proto.status import Drop
from proto.xfrm import MODE_TUNNEL

FRAMES = 10_000
TUNNEL = {
    "mode": MODE_TUNNEL, "tmpl_family": 2,
    "tmpl_saddr": bytes((192, 0, 2, 1)).ljust(16, b"\0"),
    "tmpl_daddr": bytes((192, 0, 2, 2)).ljust(16, b"\0"),
}  # fmt: skip
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


@pytest.fixture
def tunnelled(bench: Any) -> Any:
    """A tunnel for everything, both ways and for both families inside."""
    ends = {"src": "192.0.2.1", "dst": "192.0.2.2"}
    bench.sa(mode=MODE_TUNNEL, **ends)
    bench.sa(direction=1, mode=MODE_TUNNEL, decap_dscp=True, **ends)
    for family, direction in ((2, 1), (2, 2), (10, 1), (10, 2)):
        bench.policy(family=family, direction=direction, **TUNNEL)
    return bench


def test_garbage_into_a_tunnel(tunnelled: Any) -> None:
    rng = random.Random(4)
    verdicts: Counter[Any] = Counter()
    for _ in range(FRAMES // 500):
        frames = [damaged(rng, SEEDS) for _ in range(500)]
        got = tunnelled.tx(frames)
        for data, sent in zip(frames, got, strict=True):
            verdicts[sent if isinstance(sent, Drop) else "sent"] += 1
            if not isinstance(sent, Drop) and sent != data:  # and what is sealed opens to it
                opened = tunnelled.open_esp(tunnelled.KEY, sent[34:])
                assert data[14:].startswith(opened[: -opened[-2] - 2])
            elif sent == data:
                assert data[12:14] not in (b"\x08\x00", b"\x86\xdd")
    assert set(verdicts) == {"sent", Drop.MALFORMED, Drop.FRAGMENT}
    assert min(verdicts.values()) > 20


def test_garbage_out_of_a_tunnel(tunnelled: Any) -> None:
    """Sealed well, and of all sorts inside: delivered as a whole packet, or dropped."""
    rng = random.Random(5)
    verdicts: Counter[Any] = Counter()
    for round_ in range(FRAMES // 500):
        frames = []
        for number in range(500):
            inner = damaged(rng, SEEDS)[14:]
            nxt = rng.choice((4, 4, 41, 41, 59, rng.randrange(256)))
            pad = None if rng.randrange(8) else rng.randrange(256)
            sealed = tunnelled.esp(
                tunnelled.KEY, 0x1000, round_ * 500 + number, inner, nxt, pad=pad
            )
            outer = IP(src="192.0.2.1", dst="192.0.2.2", proto=50, tos=rng.randrange(256))
            frames.append(tunnelled.frame(bytes(outer / sealed)))
        for got in tunnelled.rx(frames):
            verdicts[got if isinstance(got, Drop) else "delivered"] += 1
            if not isinstance(got, Drop):
                four = got[12:14] == b"\x08\x00"
                said = int.from_bytes(got[16:18] if four else got[18:20], "big")
                assert len(got) == 14 + said + (0 if four else 40)
    expected = {Drop.MALFORMED, Drop.FRAGMENT, Drop.MODE, Drop.TRAILER, Drop.DUMMY}
    assert set(verdicts) == {"delivered", *expected}
    assert min(verdicts.values()) > 20


def test_garbage_for_crypto_offload(bench: Any) -> None:
    """Nothing of it leaves but ESP of the SA with payload and ICV replaced."""
    rng = random.Random(6)
    row = bench.sa(crypto=True)
    bench.sa(crypto=True, direction=1)
    clear = struct.pack(">IIQ", 0x1000, 1, 1) + b"known text" + b"\0\x11" + bytes(16)
    good = bench.frame(bytes(IP(src="10.1.0.1", dst="10.1.0.2", proto=50) / clear))
    verdicts: Counter[Any] = Counter()
    for _ in range(FRAMES // 500):
        frames = [damaged(rng, (*SEEDS, good, good, good)) for _ in range(500)]
        for sent in bench.tx(frames, flags=TxFlag.CRYPTO, row=row):
            verdicts[sent if isinstance(sent, Drop) else "sent"] += 1
            assert isinstance(sent, Drop) or b"known text" not in sent
        for got in bench.rx(frames):
            verdicts["received" if not isinstance(got, Drop) else got] += 1
    assert {"sent", "received", Drop.CRYPTO, Drop.MALFORMED} <= set(verdicts)


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
