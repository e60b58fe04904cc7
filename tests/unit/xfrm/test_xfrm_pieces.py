# SPDX-License-Identifier: Apache-2.0
"""Long datagrams: sealed whole and cut afterwards, put together before they are opened."""

import errno

import pytest
from scapy.layers.inet import IP, defragment
from scapy.layers.inet6 import IPv6, defragment6

from host_driver.netdev import AUTH_FAILED, CRYPTO_DONE, CRYPTO_SUCCESS, SecPath
from host_driver.xfrm.snmp import ended
from host_driver.xfrm.state import OFFLOAD_PACKET
from support.esp import GCM, SPI, A, B, datagram, pair, policy, state, template, tunnel


def test_pieces_of_a_long_datagram():
    """Without DF a datagram is sealed whole and cut afterwards (TX-34); with DF it is refused."""
    a, b = pair(state(GCM, extra="replay-window 32"), policy("out", template()))
    long = datagram(4000, flags=0, id=77)
    assert a.net.output(long) == 0
    pieces = a.take()
    assert len(pieces) == 3 and all(len(piece) <= 1500 for piece in pieces)
    (whole,) = defragment([IP(piece) for piece in pieces])
    assert whole.id == 77 and len(whole) == 4064
    assert [b.receive(piece) for piece in reversed(pieces)] == [None, None, long]
    assert a.net.output(datagram(4000, flags="DF")) == -errno.EMSGSIZE
    assert a.net.output(datagram(1438, flags="DF")) == 0  # 1466: TX-32
    assert a.net.output(datagram(1439, flags="DF")) == -errno.EMSGSIZE
    assert a.state(SPI).curlft.packets == 2 and a.moved() == {}
    assert a.net.output(datagram(65500, flags=0)) == -errno.EMSGSIZE  # no IP packet is that long


def test_pieces_in_ipv6():
    outer = ("fd00:9::1", "fd00:9::2")
    a, b = tunnel(outer, (A, B))
    long = datagram(3000, flags=0, id=78)
    assert a.net.output(long) == 0
    pieces = a.take()
    assert len(pieces) == 3
    assert defragment6([IPv6(piece) for piece in pieces]).nh == 50
    assert [b.receive(piece) for piece in pieces] == [None, None, long]


def test_reassembly_is_strict():
    a, b = pair(state(GCM, extra="replay-window 32"), policy("out", template()))
    assert a.net.output(datagram(4000, flags=0, id=79)) == 0
    first, second, third = a.take()
    overlapping = IP(second)
    overlapping.frag -= 1
    overlapping.chksum = None
    for piece in (first, bytes(overlapping), second, third):
        assert b.receive(piece) is None
    assert b.below() == {"IpReasmReqds": 4, "IpReasmFails": 1}
    b.advance(31)
    assert b.below() == {"IpReasmReqds": 4, "IpReasmFails": 2, "IpReasmTimeout": 1}
    for piece in (first, second, second):
        assert b.receive(piece) is None
    b.advance(31)  # net.ipv4.ipfrag_time
    assert b.receive(third) is None
    assert b.receive(first) is None
    assert b.receive(second) == datagram(4000, flags=0, id=79)
    for number in range(200):
        assert (
            b.receive(bytes(IP(src=A, dst=B, proto=50, flags="MF", id=number) / bytes(64))) is None
        )
    assert len(b.net.reassembly) <= 64
    assert b.below() == {
        "IpReasmReqds": 4 + 3 + 3 + 200,
        "IpReasmFails": 2 + 1 + (200 - 64),
        "IpReasmTimeout": 1 + 1,
        "IpReasmOKs": 1,
    }
    assert b.receive(bytes(IP(src=A, dst=B, proto=50, flags="MF") / bytes(9))) is None
    assert b.below()["IpReasmFails"] == 140  # a piece that is not the last has whole units


@pytest.mark.parametrize(
    ("outer", "ip"), [(("192.0.2.1", "192.0.2.2"), "Ip"), (("fd00:9::1", "fd00:9::2"), "Ip6")]
)
def test_every_packet_has_one_end(outer, ip):
    """INV-30: what came in is what was delivered, what XFRM dropped and what ended below it."""
    a, b = tunnel(outer, (A, B))
    assert a.net.output(datagram(3000, flags=0, id=80)) == 0
    came = a.take() * 2
    delivered = [one for one in map(b.receive, came) if one]
    assert (len(came), len(delivered)) == (6, 1)
    assert b.moved() == {"XfrmInStateSeqError": 1}  # the second time it is a replay
    assert b.below() == {f"{ip}ReasmReqds": 6, f"{ip}ReasmOKs": 2}
    assert len(came) == len(delivered) + 1 + ended(b.below())


def test_a_damaged_header_is_counted():
    a, b = pair(state(GCM, extra="replay-window 32"), policy("out", template()))
    assert a.net.output(datagram()) == 0
    (sent,) = a.take()
    damaged = bytearray(sent)
    damaged[8] ^= 1  # time to live
    assert b.receive(bytes(damaged)) is None
    assert b.moved() == {} and b.below() == {"IpInHdrErrors": 1}
    assert b.receive(sent) == datagram() and b.moved() == {}


def test_a_device_that_says_no_is_counted():
    """RX-02, RX-03: no XfrmIn* moves; yet the packet has an end."""
    _, b = pair(state(GCM, extra="replay-window 32"), policy("out", template()))
    x = b.state(SPI)
    x.xso.type = OFFLOAD_PACKET
    assert b.receive(datagram(), sec_path=SecPath(x, CRYPTO_DONE, CRYPTO_SUCCESS)) == datagram()
    assert b.receive(datagram(), sec_path=SecPath(x, CRYPTO_DONE, AUTH_FAILED)) is None
    assert b.moved() == {} and b.below() == {"IpInDiscards": 1}
