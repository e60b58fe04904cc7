# SPDX-License-Identifier: Apache-2.0
"""Fragments as routers make them, put together again by scapy."""

import pytest
from scapy.layers.inet import IP, UDP, IPOption_NOP, defragment, fragment
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from host_driver.lab.fragments import fragments

ETHER = bytes(Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02", type=0x800))


def packet(size: int, **how) -> bytes:
    return bytes(IP(src="10.0.0.1", dst="10.0.0.2", id=77, **how) / UDP() / bytes(range(size)))


@pytest.mark.parametrize("size", [8, 64, 71, 1000])
def test_the_pieces_are_those_of_scapy(size) -> None:
    whole = packet(200)
    expected = [bytes(piece) for piece in fragment(IP(whole), size // 8 * 8)]
    assert [piece[14:] for piece in fragments(ETHER + whole, size)] == expected


def test_pieces_of_pieces_and_options_still_make_the_packet() -> None:
    whole = packet(255, options=[IPOption_NOP()] * 4, flags="DF")
    pieces = [part for piece in fragments(ETHER + whole, 120) for part in fragments(piece, 16)]
    assert len(pieces) > 12
    (joined,) = defragment([IP(piece[14:]) for piece in pieces])
    assert bytes(joined)[24:] == whole[24:]


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        ETHER,
        ETHER + packet(40)[:19],
        ETHER + b"\x41" + packet(40)[1:],
        bytes(Ether(dst="02:00:00:00:00:01") / IPv6() / UDP() / bytes(200)),
        ETHER + packet(20),
    ],
)
def test_what_is_no_ipv4_or_fits_stays_whole(frame) -> None:
    assert fragments(frame, 64) == [frame]


def test_padding_behind_the_packet_is_not_carried_on() -> None:
    pieces = fragments(ETHER + packet(20) + bytes(18), 8)
    assert b"".join(piece[34:] for piece in pieces) == packet(20)[20:]
