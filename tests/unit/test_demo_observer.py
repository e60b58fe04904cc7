# SPDX-License-Identifier: Apache-2.0
"""The demo's judge must be right, and must notice what is wrong: judged with scapy's own ESP."""

from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.layers.l2 import Ether

from host_driver.demo import LAN_PCAP
from host_driver.demo.cast import A4, A6, B4, B6, Keys, ends_of, recorded, without_key
from host_driver.demo.observer import Observer
from host_driver.demo.page import Page, beside

CLEAR4 = IP(src=A4, dst=B4, ttl=64) / UDP(sport=7, dport=8) / b"four"
CLEAR6 = IPv6(src=A6, dst=B6) / UDP(sport=7, dport=8) / b"sixsix"


def sealed(sa, clear, number: int, iv: bytes) -> bytes:
    """An Ethernet frame with what scapy makes of a packet."""
    scapy_sa = SecurityAssociation(ESP, spi=sa.spi, crypt_algo="AES-GCM", crypt_key=sa.key)
    return bytes(Ether() / scapy_sa.encrypt(clear.copy(), seq_num=number, iv=iv))


@pytest.fixture
def sas():
    return Keys(1).first_four()


@pytest.fixture
def observer(sas):
    judge = Observer()
    judge.learn(sas)
    return judge


def test_opens_what_scapy_sealed(observer, sas):
    frames = [
        sealed(sas[0], CLEAR4, 1, bytes(8)),
        sealed(sas[0], CLEAR4, 2, bytes(7) + b"\1"),
        sealed(sas[2], CLEAR6, 1, bytes(8)),
        bytes(Ether() / CLEAR4),
    ]
    inside, clear = observer.judge(frames)
    assert inside == [bytes(CLEAR4), bytes(CLEAR4), bytes(CLEAR6)]
    assert clear == [bytes(CLEAR4)]
    assert observer.in_clear_although_covered(clear) == 1
    assert observer.complaints == []
    assert observer.opened == {sas[0].spi: 2, sas[2].spi: 1}


@pytest.mark.parametrize(
    ("number", "iv", "flip", "complaint"),
    [
        (2, bytes(7) + b"\1", None, None),
        (3, bytes(7) + b"\1", None, "number 3 where 2 was due"),
        (2, bytes(8), None, "the IV was used before"),
        (2, bytes(7) + b"\1", -1, "the ICV is wrong"),
        (2, bytes(7) + b"\1", 52, "the ICV is wrong"),
        (2, bytes(7) + b"\1", 37, "belongs to no SA"),
    ],
    ids=["good", "gap", "iv", "icv", "ciphertext", "spi"],
)
def test_notices(observer, sas, number, iv, flip, complaint):
    observer.judge([sealed(sas[0], CLEAR4, 1, bytes(8))])
    frame = bytearray(sealed(sas[0], CLEAR4, number, iv))
    if flip is not None:
        frame[flip] ^= 0x40
    observer.judge([bytes(frame)])
    assert len(observer.complaints) == (complaint is not None)
    assert complaint is None or complaint in observer.complaints[0]


def test_the_recording_is_shared_out_by_sender():
    traffic = recorded(LAN_PCAP)
    for host, own in enumerate(({A4, A6}, {B4, B6})):
        sources = {ends_of(packet)[0] for packet in traffic.sent[host]}
        assert own <= sources
        assert not sources & ({A4, A6, B4, B6} - own)


def test_keys_are_not_shown(sas):
    for sa in sas:
        assert sa.key.hex() not in repr(sa)
        assert sa.key.hex() in sa.add("out")
        assert sa.key.hex() not in without_key(sa.add("out", "limit packet-hard 9"))


def test_a_false_claim_is_printed_and_kept():
    lines: list[str] = []
    page = Page(lines.append)
    page.expect("one", 1, 1)
    page.expect("two", 1, 2)
    assert [claim.what for claim in page.failed] == ["two"]
    assert lines == ["   [ok] one: 1", "   [FAILED] two: 1, expected 2"]


def test_dumps_stand_side_by_side():
    lines = beside(bytes(20), bytes([255] * 40), ("a", "b"), rows=2).splitlines()
    assert lines[0].split() == ["a", "b"]
    assert lines[1].count("00 ") >= 15
    assert lines[1].count("ff") == 16
    assert lines[2].count("ff") == 16
    assert lines[3].split() == ["...", "0", "more", "bytes", "...", "8", "more", "bytes"]


def test_files_of_the_demo_are_in_the_package():
    assert Path(LAN_PCAP).is_file()
