# SPDX-License-Identifier: Apache-2.0
"""Long datagrams: sealed whole and cut afterwards, put together before they are opened."""

import errno

from scapy.layers.inet import IP, defragment
from scapy.layers.inet6 import IPv6, defragment6

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
    b.advance(31)
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
