# SPDX-License-Identifier: Apache-2.0
"""Transport, tunnels, nested ones, ESP in UDP: what leaves, what comes in, what is refused."""

import errno

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop

from support.core import Core
from support.esp import (
    A6,
    B6,
    GCM,
    SPI,
    A,
    B,
    aead,
    datagram,
    pair,
    parsed,
    policy,
    scapy_sa,
    state,
    template,
    tunnel,
)  # fmt: skip


@pytest.mark.parametrize("outer", [("10.9.0.1", "10.9.0.2"), ("fd00:9::1", "fd00:9::2")])
@pytest.mark.parametrize("inner", [(A, B), (A6, B6)])
def test_tunnels_of_both_families_in_both(outer, inner):
    a, b = tunnel(outer, inner)
    for size in (0, 3, 900):
        assert a.net.output(datagram(size, inner)) == 0
        (sent,) = a.take()
        layer = parsed(sent)
        assert (layer.src, layer.dst) == outer
        assert layer.ttl == 64 if layer.version == 4 else layer.hlim == 64
        assert b.receive(sent) == datagram(size, inner)
    assert b.moved() == {}


@pytest.mark.parametrize(
    ("tos", "extra", "outer_tos"),
    [(0xB9, "", 0xB9), (0xBB, "", 0xBA), (0xB9, "extra-flag dont-encap-dscp", 1)],
)
@pytest.mark.parametrize("outer", [("10.9.0.1", "10.9.0.2"), ("fd00:9::1", "fd00:9::2")])
def test_dscp_and_ecn_outwards(outer, tos, extra, outer_tos):
    a, _ = tunnel(outer, (A, B), extra)
    assert a.net.output(datagram(tos=tos)) == 0
    layer = parsed(a.take()[0])
    assert (layer.tos if layer.version == 4 else layer.tc) == outer_tos


@pytest.mark.parametrize(
    ("flags", "inner", "outer", "got"),
    [
        ("", 0xB9, 0xBB, 0xBB),  # congestion on the way, and the sender understands it
        ("", 0xB8, 0x03, 0xB8),  # it does not
        ("flag noecn", 0xB9, 0xBB, 0xB9),
        ("flag decap-dscp", 0xB9, 0x28, 0x29),
    ],
)
def test_dscp_and_ecn_inwards(flags, inner, outer, got):
    a, b = tunnel(("10.9.0.1", "10.9.0.2"), (A, B), flags)
    assert a.net.output(datagram(tos=inner)) == 0
    layer = IP(a.take()[0])
    layer.tos, layer.chksum = outer, None
    assert b.receive(bytes(layer)) == datagram(tos=got)


def test_nested_tunnels_and_transport():
    """Three SAs on one packet: transport, in a tunnel, in a tunnel of the other family."""
    inner, outer = ("10.5.0.1", "10.5.0.2"), ("fd00:9::1", "fd00:9::2")
    templates = (
        template(1), template(2, "tunnel", inner), template(3, "tunnel", outer),
    )  # fmt: skip
    a, b = pair(
        state(GCM, extra="replay-window 32", spi=1),
        state(GCM, "tunnel", "replay-window 32 flag af-unspec", inner, 2),
        state(GCM, "tunnel", "replay-window 32 flag af-unspec", outer, 3),
        policy("out", *templates),
        policy("in", *templates),
    )
    assert a.net.output(datagram()) == 0
    (sent,) = a.take()
    assert (IPv6(sent).src, IPv6(sent).dst) == outer
    assert b.receive(sent) == datagram()
    for spi, size in ((1, 58), (2, 112), (3, 168)):
        x = b.state(spi)
        assert (x.curlft.packets, x.curlft.bytes) == (1, size)
        assert a.state(spi).curlft.bytes == size
    assert b.moved() == a.moved() == {}

    b.add(policy("in", *templates[1:], ends=(A, B)).replace("add", "update"))
    assert a.net.output(datagram()) == 0
    assert b.receive(a.take()[0]) == datagram()  # an SA more in transport mode does no harm
    b.add(policy("in", templates[0], templates[2]).replace("add", "update"))
    assert a.net.output(datagram()) == 0
    assert b.receive(a.take()[0]) is None
    assert b.moved() == {"XfrmInTmplMismatch": 1}


@pytest.mark.parametrize("ends", [(A, B), (A6, B6)])
def test_udp_encapsulation(ends):
    any_end = "::" if ":" in ends[0] else "0.0.0.0"
    a, b = pair(
        state(GCM, extra=f"replay-window 32 encap espinudp 5500 4500 {any_end}", ends=ends),
        policy("out", template(), ends=ends),
    )
    assert a.net.output(datagram(ends=ends)) == 0
    (sent,) = a.take()
    layer = parsed(sent)[UDP]
    assert (layer.sport, layer.dport) == (5500, 4500)
    rebuilt = parsed(sent)
    rebuilt[UDP].chksum = None
    assert layer.chksum == (0 if "." in ends[0] else parsed(bytes(rebuilt))[UDP].chksum)
    assert b.receive(sent) == datagram(ends=ends)

    family = IPv6 if ":" in ends[0] else IP
    outer = family(src=ends[0], dst=ends[1]) / UDP(sport=5500, dport=4500)
    for body, delivered in ((b"\xff", False), (bytes(4) + b"IKE message", True), (b"short", True)):
        got = b.receive(bytes(outer / body))
        assert (got is not None) == delivered
    assert b.moved() == {}
    assert b.receive(bytes(outer / b"\0\0\x99\x99 nobody's")) is None
    assert b.moved() == {"XfrmInNoStates": 1}
    assert b.below() == {"UdpInDatagrams" if family is IP else "Udp6InDatagrams": 1}  # keepalive


def test_headers_in_front_of_esp_stay():
    options = IP(src=A, dst=B, options=b"\x07\x07\x04\0\0\0\0\0") / UDP(sport=9, dport=10) / b"x"
    a, b = pair(state(GCM, extra="replay-window 32"), policy("out", template()))
    assert a.net.output(bytes(options)) == 0
    (sent,) = a.take()
    assert IP(sent).options and IP(sent).proto == 50
    assert b.receive(sent) == bytes(options)

    chain = IPv6(src=A6, dst=B6) / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / UDP() / b"y"
    a, b = pair(
        state(GCM, extra="replay-window 32", ends=(A6, B6)),
        policy("out", template(), ends=(A6, B6)),
    )
    assert a.net.output(bytes(chain)) == 0
    (sent,) = a.take()
    assert sent[6] == 0 and IPv6(sent)[IPv6ExtHdrHopByHop].nh == 60
    assert b.receive(sent) == bytes(chain)


def test_a_piece_gets_no_transport_mode():
    """RFC 4303 3.3.4: and it never goes in clear."""
    a, _ = pair(state(GCM), policy("out", template()))
    assert a.net.output(datagram(64, flags="MF")) == -errno.EINVAL
    assert a.take() == [] and a.moved() == {"XfrmOutStateModeError": 1}


def test_other_modes_are_dropped():
    a, _ = pair(
        state(GCM, "beet", "flag af-unspec"), policy("out", template(mode="beet", ends=(A, B)))
    )
    assert a.net.output(datagram()) == -errno.EINVAL
    assert a.take() == [] and a.moved() == {"XfrmOutStateModeError": 1}


def test_no_way_to_the_end_of_a_tunnel():
    outer = ("10.9.0.1", "99.1.1.1")
    a, _ = tunnel(outer, (A, B))
    route = a.devices.route
    a.devices.route = lambda daddr: None if daddr[0] == 99 else route(daddr)
    assert a.net.output(datagram()) == -errno.ENETUNREACH
    assert a.take() == [] and a.moved() == {"XfrmOutBundleGenError": 1}


def test_what_a_tunnel_brings_needs_policy_and_selector():
    outer = ("10.9.0.1", "10.9.0.2")
    a, b = tunnel(outer, (A, B))
    b.add(f"xfrm policy delete src {A} dst {B} dir in")
    assert a.net.output(datagram()) == 0
    assert b.receive(a.take()[0]) is None
    assert b.moved() == {"XfrmInNoPols": 1}

    theirs = scapy_sa("AES-GCM", 20, None, 0, False, tunnel_header=IP(src=outer[0], dst=outer[1]))
    c = Core()
    c.add(state(aead("rfc4106(gcm(aes))", 20, 128), "tunnel", "replay-window 32", outer))
    c.add(policy("in", template(mode="tunnel", ends=outer), ends=(A6, B6)))
    inner6 = theirs.encrypt(IPv6(datagram(ends=(A6, B6))), seq_num=1)
    assert c.receive(bytes(inner6)) is None  # the SA's selector got the outer family
    assert c.moved() == {"XfrmInStateMismatch": 1}
    transport = scapy_sa("AES-GCM", 20, None, 0, False)
    icmp = transport.encrypt(IP(src=outer[0], dst=outer[1]) / ICMP(), seq_num=2)
    assert c.receive(bytes(icmp)) is None
    assert c.moved() == {"XfrmInStateModeError": 1}
    assert c.state(SPI).curlft.packets == 2  # both were authentic, and are counted


def test_a_seventh_sa_is_too_many():
    core = Core()
    nested = datagram()
    for spi in range(1, 8):
        core.add(state(GCM, "tunnel", "flag af-unspec", ends=(A, B), spi=spi))
    one, _ = pair()
    for spi in range(1, 8):
        one.add(state(GCM, "tunnel", "flag af-unspec", ends=(A, B), spi=spi))
        one.add(policy("out", template(spi, "tunnel", (A, B))).replace("add", "update"))
        assert one.net.output(nested) == 0
        (nested,) = one.take()
    assert core.receive(nested) is None
    assert core.moved() == {"XfrmInBufferError": 1}
