# SPDX-License-Identifier: Apache-2.0
"""Large packets: what the card makes of one, and what the host makes of it, against scapy's."""

from typing import Any

import numpy as np
import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting
from scapy.packet import Packet, Raw

from host_driver import gso
from proto.layouts import DESCRIPTOR, TxFlag
from proto.link.dma import tx_offset
from proto.status import Drop
from support.segments import expected

ETHERNET = bytes.fromhex("020000000002020000000001")
PAYLOAD = bytes(index * 7 & 0xFF for index in range(5000))
MSS = 1200

HEADS: dict[str, Packet] = {
    "tcp4": IP(src="10.1.0.1", dst="10.1.0.2", id=0xFFFE) / TCP(
        sport=1000, dport=2000, seq=0xFFFF_FF00, flags="CFPA", options=[("NOP", None)] * 4),
    "udp4": IP(src="10.1.0.1", dst="10.1.0.2", id=7, options=b"\x01" * 4) / UDP(
        sport=1000, dport=2000),
    "tcp6": IPv6(src="fd00::1", dst="fd00::2") / TCP(sport=1000, dport=2000, seq=5, flags="A"),
    "udp6": IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrHopByHop() / UDP(sport=1, dport=2),
    "way over": IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrRouting(
        addresses=["fd00::3"], segleft=0) / UDP(sport=1, dport=2),
}  # fmt: skip


def framed(packet: bytes) -> bytes:
    return ETHERNET + (b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet


def large(bench: Any, packet: bytes, mss: int, flags: int = 0, room: int = 256) -> Any:
    frame = framed(packet)
    at = tx_offset(bench.tx_index)
    bench.memory[at : at + len(frame)] = np.frombuffer(frame, np.uint8)
    descriptors = np.zeros(1, DESCRIPTOR)
    descriptors[0] = (at, len(frame), flags | TxFlag.SEGMENT, 0, mss, 0)
    return bench.tx_raw(descriptors, room=room)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("size", [1, MSS - 1, MSS, MSS + 1, 5000])
def test_every_piece_is_what_scapy_makes(bench: Any, name: str, size: int) -> None:
    head, payload = HEADS[name], PAYLOAD[:size]
    whole = bytes(head / Raw(payload))
    pieces = expected(head, payload, MSS)
    sent, verdict = large(bench, whole, MSS)
    assert sent == [framed(piece) for piece in pieces] and list(verdict) == [0]
    assert gso.segment(whole, MSS) == pieces
    assert gso.longest(whole, MSS) == max(map(len, pieces))


def test_64_kib(bench: Any) -> None:
    payload = bytes(65_521 - 28)
    whole = bytes(HEADS["udp4"].copy() / Raw(payload[4:]))
    sent, _ = large(bench, whole, 1400)
    assert len(whole) == 65_521 and len(sent) == 47
    assert sent == [framed(piece) for piece in expected(HEADS["udp4"], payload[4:], 1400)]


def test_no_payload_is_one_packet(bench: Any) -> None:
    whole = bytes(HEADS["tcp4"])
    sent, _ = large(bench, whole, MSS)
    assert sent == [framed(whole)] and gso.segment(whole, MSS) == [whole]


def test_each_piece_is_sealed_with_a_number_of_its_own(bench: Any) -> None:
    row = bench.sa()
    bench.policy()
    pieces = expected(HEADS["tcp4"], PAYLOAD, MSS)
    sent, _ = large(bench, bytes(HEADS["tcp4"] / Raw(PAYLOAD)), MSS, TxFlag.PROTECT)
    assert len(sent) == len(pieces) and int(bench.t.sa[row]["seq"]) == len(pieces)
    assert [int.from_bytes(frame[38:42]) for frame in sent] == list(range(1, len(pieces) + 1))
    for frame, piece in zip(sent, pieces, strict=True):
        clear = bench.open_esp(bench.KEY, frame[34:])
        assert clear.startswith(piece[20:])


def test_a_limit_ends_it_between_two_pieces(bench: Any) -> None:
    bench.sa(packets=2)
    bench.policy()
    sent, verdict = large(bench, bytes(HEADS["tcp4"] / Raw(PAYLOAD)), MSS, TxFlag.PROTECT)
    assert len(sent) == 2 and list(verdict) == [Drop.HARD_LIMIT] and bench.dropped == 3


def test_it_waits_for_room_for_all_of_it(bench: Any) -> None:
    whole = bytes(HEADS["udp4"] / Raw(PAYLOAD))
    sent, verdict = large(bench, whole, MSS, room=4)
    assert not sent and not len(verdict) and bench.tx_index == 0
    sent, verdict = large(bench, whole, MSS, room=5)
    assert len(sent) == 5 and list(verdict) == [0]


@pytest.mark.parametrize(
    ("packet", "mss", "flags", "drop"),
    [
        (bytes(HEADS["udp4"] / Raw(PAYLOAD)), 0, 0, Drop.DESCRIPTOR),
        (bytes(HEADS["udp4"] / Raw(PAYLOAD)), 19, 0, Drop.DESCRIPTOR),  # 264 pieces
        (bytes(HEADS["udp4"] / Raw(PAYLOAD)), MSS, TxFlag.CRYPTO, Drop.DESCRIPTOR),
        (bytes(HEADS["udp4"] / Raw(bytes(9700))), 9650, 0, Drop.TOO_LONG),
        (bytes(IP(src="10.1.0.1", dst="10.1.0.2", proto=47) / Raw(PAYLOAD)), MSS, 0,
         Drop.MALFORMED),
        (bytes(IP(src="10.1.0.1", dst="10.1.0.2", flags="MF") / UDP() / Raw(PAYLOAD)), MSS, 0,
         Drop.MALFORMED),
        (bytes(IP(src="10.1.0.1", dst="10.1.0.2") / TCP(dataofs=4) / Raw(PAYLOAD)), MSS, 0,
         Drop.MALFORMED),
        (bytes(IP(src="10.1.0.1", dst="10.1.0.2") / TCP(dataofs=15)), MSS, 0, Drop.MALFORMED),
        (bytes(IP(src="10.1.0.1", dst="10.1.0.2", proto=6) / Raw(bytes(19))), MSS, 0,
         Drop.MALFORMED),
        (bytes(IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrRouting(addresses=["fd00::3"])
               / UDP() / Raw(PAYLOAD)), MSS, 0, Drop.MALFORMED),
        *((bytes(IP(src="10.1.0.1", dst="10.1.0.2", options=options + bytes(-len(options) % 4))
                 / UDP() / Raw(PAYLOAD)), MSS, 0, Drop.MALFORMED)
          for options in (b"\x83\x07\x04" + bytes(4), b"\x01\x89\x07\x04" + bytes(4), b"\x44",
                          b"\x44\x01")),
    ],
)  # fmt: skip
def test_what_cannot_be_cut_is_refused(
    bench: Any, packet: bytes, mss: int, flags: int, drop: Drop
) -> None:
    sent, verdict = large(bench, packet, mss, flags)
    assert not sent and list(verdict) == [drop]
    if drop is Drop.MALFORMED:
        assert not gso.can_be_cut(packet, mss)


def test_a_piece_longer_than_the_mtu_is_dropped(bench: Any) -> None:
    sent, verdict = large(bench, bytes(HEADS["udp4"] / Raw(PAYLOAD)), 1480)
    assert [len(frame) for frame in sent] == [14 + 24 + 8 + 560] and list(verdict) == [
        Drop.TOO_LONG
    ]
