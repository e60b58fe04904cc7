# SPDX-License-Identifier: Apache-2.0
"""Engines that no card here may have: they give a number twice, or forget to encrypt.

Their frames are made by hand, with the key of the SA, as such a card would send them; the other
card, and whoever watches the wire, must find out.
"""

import struct

import pytest
from scapy.layers.inet import IP, UDP, IPOption_NOP
from scapy.layers.l2 import Ether

from host_driver.simulate.esp import Esp
from support.accounts import Accounts
from support.esp import A, B, datagram
from support.inside import party
from support.rows import row
from support.scene import Scene
from support.scene import datagram as numbered
from support.way import KINDS

KEY = bytes.fromhex("0102030405060708090a0b0c0d0e0f1011121314")
SPI, ESP, UDP_IN = 0x1000, 50, 17
ESP_AT, IV_AT, TEXT_AT, ICV_BYTES = 34, 42, 50, 16
REPLAYED, FORGED = "XfrmInStateSeqError", "XfrmInStateProtoError"
OF_THE_CARD = {REPLAYED: "rx_drop_replay", FORGED: "rx_drop_integrity"}  # with packet offload
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


def frame(body: bytes) -> bytes:
    return bytes(Ether() / IP(src=A, dst=B, proto=ESP, id=1) / body)


def counted(kind: str, name: str, count: int) -> dict[str, int]:
    """What the receiver counts: the core always, the card where it is the card's to look."""
    return dict.fromkeys((name, OF_THE_CARD[name]) if kind == "packet" else (name,), count)


def numbers(frames: list[bytes]) -> list[int]:
    return [int.from_bytes(one[ESP_AT + 4 : ESP_AT + 8]) for one in frames]


@row("F-DP-01", process=True)
@EVERY_KIND
def test_a_number_that_comes_twice_is_taken_once(way, target, kind) -> None:
    """Authentic, other packets, and other IVs besides: the window alone tells."""
    way = way(target, kind)
    sent = way.send(2)
    assert way.arrived() == sent
    engine = Esp(SPI, KEY)
    for iv in range(100, 103):
        body = engine.body(datagram(iv)[20:], UDP_IN, 2, struct.pack(">Q", iv))
        way.inject(frame(body))
    assert way.arrived() == []
    assert way.drops() == counted(kind, REPLAYED, 3)
    sent = way.send(1)
    assert way.arrived() == sent, "number 3 is still free"


@row("F-DP-01")
def test_a_card_seals_no_number_that_it_has_sealed(way, target) -> None:
    """With crypto offload the host counts, and the card checks: once that count was wrong, number
    and IV no longer belong together, and nothing leaves before there is another SA."""
    way = way(target, "crypto")
    way.send(3)
    way.lab.settle()
    (x,) = [x for x in party(way.lab, "host0").net.sad if x.id.spi == SPI]
    accounts = Accounts(way.a)
    for last in (2, 1, 0, 3, 4):
        x.replay.oseq = last
        way.send(1)
        way.lab.settle()
    assert accounts.unsent() == {"tx_drop_crypto": 5}
    assert numbers(way.frames()) == [1, 2, 3]
    way.delete_sa()
    way.add_sa(spi=SPI + 1)
    way.b.receive()
    sent = way.send(2)
    assert way.arrived() == sent


@row("F-DP-01", lab=False)
def test_the_wire_tells_a_number_that_comes_twice() -> None:
    scene = Scene()
    scene.protected()
    out, _ = scene.pair()
    assert scene.exchange(out, 1, 2) == []
    again = scene.sealed(out, 2, numbered(7), iv=bytes(7) + b"\x07")
    found = scene.step(clear=[numbered(7)], sent=[again])
    assert any("0x2" in one.text for one in found), found


@row("F-DP-02", process=True)
def test_card_and_software_feed_one_sa_from_one_counter(way, target) -> None:
    """With crypto offload IP options are for the software, and the card seals the others."""
    way = way(target, "crypto")
    accounts = Accounts(way.a)
    packets = [
        bytes(IP(src=A, dst=B, id=number, options=options) / UDP(dport=9) / b"feed")
        for number in range(0, 40, 2)
        for options in ([IPOption_NOP()] * 4, [])
    ]
    assert not any(way.a.send(packets))
    assert way.arrived() == packets
    assert accounts["ipsec_tx_pkts"] == 20, "half of them were the card's"
    # Behind IP options the ESP header stands four bytes further on.
    at = [14 + 4 * (one[14] & 15) for one in way.frames()]
    heads = [one[first : first + 16] for one, first in zip(way.frames(), at, strict=True)]
    assert [int.from_bytes(head[4:8]) for head in heads] == list(range(1, 41))
    assert len({head[8:] for head in heads}) == 40, "and no IV twice"


@row("F-DP-07", process=True)
@EVERY_KIND
def test_what_has_esp_around_it_and_is_clear_is_not_delivered(way, target, kind) -> None:
    """A header, an IV and the packet as it was, with zeros behind it or an ICV that would do."""
    way = way(target, kind)
    clear = datagram()[20:]
    header = struct.pack(">IIQ", SPI, 1, 1)
    trailer = bytes((1, 2, 2, UDP_IN))
    sealed = Esp(SPI, KEY).body(clear, UDP_IN, 1)
    for icv in (bytes(ICV_BYTES), sealed[-ICV_BYTES:]):
        way.inject(frame(header + clear + trailer + icv))
    assert way.arrived() == []
    assert way.drops() == counted(kind, FORGED, 2)
    way.inject(frame(sealed))
    assert [one[20:] for one in way.arrived()] == [clear], "the number is still free"


@row("F-DP-07", lab=False)
def test_the_wire_tells_what_is_clear_behind_an_esp_header() -> None:
    scene = Scene()
    scene.protected()
    out, _ = scene.pair()
    assert scene.exchange(out, 1, 2) == []
    packet = numbered(3)
    sealed = scene.sealed(out, 3, packet)
    leak = sealed[:TEXT_AT] + packet[20:] + bytes(len(sealed) - TEXT_AT - len(packet[20:]))
    assert scene.step(clear=[packet], sent=[leak])
