# SPDX-License-Identifier: Apache-2.0
"""Which packets can come from an SA, and which ESP only the card may open."""

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP
from scapy.packet import Raw

from host_driver.driver.provenance import esp_of, opened_by, should_be_open
from host_driver.driver.sa import Sa, SaTable
from proto.commands import IN, OUT
from proto.xfrm import AF_INET, MODE_TUNNEL
from proto.xfrm_structs import EncapTmpl, XfrmSelector

A, B, C, D = ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4")


def address(text: str) -> bytes:
    return bytes(map(int, text.split("."))) + bytes(12)


def udp(src: str = A, dst: str = B, dport: int = 7) -> bytes:
    return bytes(IP(src=src, dst=dst) / UDP(sport=5, dport=dport) / b"data")


def esp(spi: int = 0x1000, dst: str = B, **ip) -> bytes:
    return bytes(IP(src=A, dst=dst, **ip) / ESP(spi=spi, seq=1, data=bytes(40)))


def in_udp(dport: int, spi: int = 0x1000) -> bytes:
    return bytes(
        IP(src=A, dst=B) / UDP(sport=4500, dport=dport) / ESP(spi=spi, seq=1, data=bytes(40))
    )


@pytest.fixture
def sas() -> SaTable:
    return SaTable()


@pytest.fixture
def bind(sas, make_state):
    """Bind an inbound SA to B; keywords change the state."""

    def make(src: str = A, spi: int = 0x1000, *, crypto: bool = False, **changes) -> Sa:
        x = make_state(spi, IN, **changes)
        x.props.saddr = address(src) if src else bytes(16)
        sa = Sa(x, handle=len(sas) + 1, generation=1, crypto=crypto)
        sas.bind(sa)
        return sa

    return make


def test_a_transport_packet_has_the_addresses_of_its_sa(sas, bind) -> None:
    sa = bind()
    assert opened_by(sas, sa, udp())
    assert not opened_by(sas, sa, udp(dst=C))
    assert not opened_by(sas, sa, bytes(IPv6(src="::1", dst="::2") / UDP()))


def test_a_packet_from_the_peer_of_another_sa_is_not_of_this_one(sas, bind) -> None:
    sa, other = bind(A), bind(C, 0x2000)
    assert not opened_by(sas, sa, udp(src=C))
    assert opened_by(sas, other, udp(src=C))
    assert opened_by(sas, sa, udp(src=D)), "nobody else's"
    sas.unbind(other)
    assert opened_by(sas, sa, udp(src=C))


def test_an_sa_without_a_source_takes_all(sas, bind) -> None:
    sa, _ = bind(""), bind(C, 0x2000)
    assert opened_by(sas, sa, udp(src=C))


@pytest.mark.parametrize("mode", [0, MODE_TUNNEL])
def test_the_selector_counts_in_both_modes(sas, bind, mode) -> None:
    sa = bind()
    sa.x.sel = XfrmSelector(
        daddr=address(B), family=AF_INET, prefixlen_d=32, proto=17, dport=7, dport_mask=0xFFFF
    )
    sa.x.props.mode = mode
    assert opened_by(sas, sa, udp())
    assert not opened_by(sas, sa, udp(dport=8))
    fragment = bytes(IP(src=A, dst=B, flags="MF", proto=17) / Raw(bytes(16)))
    assert opened_by(sas, sa, fragment), "its ports are not known"


def test_an_outbound_sa_opens_nothing(sas, make_state) -> None:
    assert not opened_by(sas, Sa(make_state(0x1000, OUT), 1, 1), udp())


def test_esp_of_crypto_offload_carries_its_spi(sas, bind) -> None:
    sa = bind(crypto=True)
    assert esp_of(sa, esp())
    assert esp_of(sa, in_udp(4500))
    assert not esp_of(sa, esp(0x2000))
    assert not esp_of(sa, esp(dst=C))
    assert not esp_of(sa, b"\x45")


def test_whole_esp_of_a_packet_sa_is_the_cards_to_open(sas, bind) -> None:
    assert not should_be_open(sas, esp())
    sa = bind()
    assert should_be_open(sas, esp())
    assert not should_be_open(sas, udp())
    assert not should_be_open(sas, esp(0x2000))
    assert not should_be_open(sas, esp(flags="MF"))
    assert not should_be_open(sas, bytes(IP(src=A, dst=B, proto=50) / Raw(esp()[20:27])))
    assert not should_be_open(sas, in_udp(4500)), "the core says XfrmInStateMismatch"
    sa.x.encap = EncapTmpl(2, 4500, 4500)
    assert should_be_open(sas, in_udp(4500))
    assert not should_be_open(sas, in_udp(4501))
    assert not should_be_open(sas, esp())
    sa.deleted = True
    assert not should_be_open(sas, in_udp(4500))


def test_esp_of_a_crypto_sa_may_come_as_it_is(sas, bind) -> None:
    bind(crypto=True)
    assert not should_be_open(sas, esp())
