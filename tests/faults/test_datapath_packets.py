# SPDX-License-Identifier: Apache-2.0
"""Packets that a data path likes to get wrong: first and last numbers, odd sizes, odd headers, and
what an attacker or a broken peer seals with the right key.
"""

import errno

import pytest
from scapy.layers.inet import IP, UDP, IPOption_NOP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import Ether

from host_driver.simulate.esp import Esp, padding_as_written
from proto import netlink
from proto.xfrm import Msg
from support.esp import A6, B6, GCM, A, B, datagram, policy, template
from support.rows import row
from support.way import KINDS

KEY = bytes.fromhex("0102030405060708090a0b0c0d0e0f1011121314")
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
BOTH_MODES = pytest.mark.parametrize("mode", ["transport", "tunnel"])
IPV4_ESP = 14 + 20
UDP_IN, IPIP, TCP_IN, DUMMY = 17, 4, 6, 59


def numbers(way) -> list[int]:
    """The sequence numbers that a's card put on the wire."""
    return [int.from_bytes(frame[IPV4_ESP + 4 : IPV4_ESP + 8]) for frame in way.frames()]


def esp_frame(body: bytes, source=A, target=B) -> bytes:
    """An ESP body in IPv4 from the peer, as it would come from the wire."""
    return bytes(Ether() / IP(src=source, dst=target, proto=50, id=1) / body)


@row("F-DP-03", process=True)
@EVERY_KIND
def test_the_first_packet_has_number_one(way, target, kind) -> None:
    """RFC 4303 3.3.3; a peer with a replay window drops number 0."""
    way = way(target, kind)
    sent = way.send(3)
    assert way.arrived() == sent
    assert numbers(way) == [1, 2, 3]


@row("F-DP-04", process=True)
def test_the_last_number_without_esn_is_the_last_packet(way, target) -> None:
    way = way(target)
    way.delete_sa(hosts=[0])
    way.add_sa(out="replay-oseq 0xfffffffc", hosts=[0])
    way.a.notifications()
    way.a.send([datagram()] * 9)
    way.lab.settle()
    assert numbers(way) == [0xFFFFFFFD, 0xFFFFFFFE, 0xFFFFFFFF]
    for _ in range(20):
        if "spi 0x00001000" not in way.a.ip("xfrm state list").stdout:
            break
        way.lab.advance(0.5)
    told = [m.type for raw in way.a.notifications() for m in netlink.messages(raw)]
    assert Msg.EXPIRE in told
    way.a.send([datagram()] * 9)
    way.lab.settle()
    assert len(numbers(way)) == 3


@row("F-DP-05", process=True)
@EVERY_KIND
def test_an_sa_goes_on_where_the_user_says(way, target, kind) -> None:
    way = way(target, kind)
    way.delete_sa(hosts=[0])
    way.add_sa(out="replay-oseq 0x29", hosts=[0])
    sent = way.send(2)
    assert way.arrived() == sent
    assert numbers(way) == [0x2A, 0x2B]


@row("F-DP-08", process=True)
def test_a_packet_whose_sa_is_gone_from_the_card_does_not_leave(way, target) -> None:
    """The core chose the SA, the doorbell came when the card had it no more."""
    way = way(target)
    before = way.a.nic.counters().get("tx_drop_no_sa", 0)
    way.lab.faults.add("doorbell-after-the-sa", host=0)
    way.a.send([datagram()] * 5)
    way.delete_sa(hosts=[0])
    way.lab.advance(1)
    way.lab.settle()
    assert way.frames() == []
    assert way.a.nic.counters()["tx_drop_no_sa"] - before == 5


@row("F-DP-09", process=True)
@BOTH_MODES
def test_fragments_of_a_protected_flow_do_not_leave(way, target, mode) -> None:
    way = way(target, mode=mode)
    whole = IP(src=A, dst=B, flags=0) / UDP(sport=9, dport=10) / bytes(2000)
    errnos = way.a.send([bytes(piece) for piece in fragment(whole, fragsize=800)])
    way.lab.settle()
    assert way.frames() == []
    dropped = way.a.nic.counters().get("tx_drop_fragment", 0)
    assert dropped + sum(code != 0 for code in errnos) >= 3


@row("F-DP-10", process=True)
@pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])
def test_headers_that_the_card_is_not_given_do_not_leave(way, target, v6) -> None:
    """TX-23: no offload, and in packet mode nothing else either."""
    way = way(target, v6=v6)
    if v6:
        odd = IPv6(src=A6, dst=B6) / IPv6ExtHdrDestOpt() / UDP(sport=9, dport=10) / b"odd"
    else:
        odd = IP(src=A, dst=B, options=[IPOption_NOP()] * 4) / UDP(sport=9, dport=10) / b"odd"
    assert all(way.a.send([bytes(odd)] * 3))
    way.lab.settle()
    assert way.frames() == []
    sent = way.send(2)
    assert way.arrived() == sent


@row("F-DP-12", process=True)
@EVERY_KIND
@pytest.mark.parametrize("ability", [True, False], ids=["card cuts", "host cuts"])
def test_a_large_packet_is_cut_by_whoever_can(way, target, kind, ability) -> None:
    way = way(target, kind)
    way.a.set_link(segmentation=ability)
    large = bytes(IP(src=A, dst=B, id=5) / UDP(sport=1, dport=2) / bytes(4000))
    assert way.a.send([large], gso_size=1300) == [0]
    sizes = [len(packet) for packet in way.arrived()]
    assert sizes == [1328, 1328, 1328, 128]
    assert max(len(frame) for frame in way.frames()) <= 14 + 1500
    assert way.drops() == {}


@row("F-DP-13", process=True)
@EVERY_KIND
@BOTH_MODES
def test_every_small_packet_is_padded_right(way, target, kind, mode) -> None:
    """RFC 4303 2.4: to four bytes, with 1, 2, 3; the judge opens each."""
    way = way(target, kind, mode=mode)
    sent = [datagram(size, id=1000 + size) for size in range(20)]
    assert not any(way.a.send(sent))
    assert way.arrived() == sent
    judge = Esp(0x1000, KEY)
    for frame in way.frames():
        inside = judge.open_body(frame[IPV4_ESP:])
        assert padding_as_written(inside)
        assert len(inside.padding) < 4
        assert len(frame[IPV4_ESP:]) % 4 == 0


@row("F-DP-14", process=True)
@EVERY_KIND
@BOTH_MODES
def test_the_longest_packet_that_fits_leaves_and_no_longer_one(way, target, kind, mode) -> None:
    """The MTU is meant for the packet with ESP around it."""
    way = way(target, kind, mode=mode)
    sizes = range(1380, 1473)
    fits = []
    for size in sizes:
        (code,) = way.a.send([datagram(size, flags="DF")])
        assert code in (0, errno.EMSGSIZE)
        fits += [size] if code == 0 else []
    assert fits == list(sizes[: len(fits)])
    assert [len(packet) for packet in way.arrived()] == [size + 28 for size in fits]
    longest = max(len(frame) for frame in way.frames()) - 14
    assert 1500 - 4 < longest <= 1500  # ESP grows by four bytes


@row("F-DP-17", process=True)
@EVERY_KIND
def test_a_forged_number_moves_no_window(way, target, kind) -> None:
    way = way(target, kind)
    first = way.send(1)
    assert way.arrived() == first
    frame = bytearray(way.frames()[0])
    for number in (40, 1000, 0xFFFFFFFF):
        frame[IPV4_ESP + 4 : IPV4_ESP + 8] = number.to_bytes(4)
        way.inject(bytes(frame))
    assert way.arrived() == []
    sent = way.send(5)
    assert way.arrived() == sent


@row("F-DP-18", process=True)
@BOTH_MODES
@pytest.mark.parametrize("pad", [1, 9, 200, 255])
def test_a_pad_length_beyond_the_payload_is_dropped(way, target, mode, pad) -> None:
    way = way(target, mode=mode)
    following = IPIP if mode == "tunnel" else UDP_IN
    body = Esp(0x1000, KEY).sealed(bytes((pad, following)), 1)
    way.inject(esp_frame(body))
    assert way.arrived() == []
    assert way.drops() == {"rx_drop_trailer": 1, "XfrmInHdrError": 1} or way.drops() == {
        "rx_drop_trailer": 1
    }


@row("F-DP-19", process=True)
@EVERY_KIND
@BOTH_MODES
def test_a_dummy_packet_is_discarded(way, target, kind, mode) -> None:
    """RFC 4303 2.6, and the numbers behind it are taken."""
    way = way(target, kind, mode=mode)
    judge = Esp(0x1000, KEY)
    way.inject(esp_frame(judge.body(bytes(40), DUMMY, 1)))
    inner = datagram() if mode == "tunnel" else datagram()[20:]
    way.inject(esp_frame(judge.body(inner, IPIP if mode == "tunnel" else UDP_IN, 2)))
    assert [packet[20:] for packet in way.arrived()] == [datagram()[20:]]


@row("F-DP-20", process=True)
@pytest.mark.parametrize("kind", ["packet", "software"])
@pytest.mark.parametrize("following", [TCP_IN, UDP_IN, 41, 0])
def test_a_tunnel_carries_ip_packets_of_its_next_header_only(way, target, kind, following) -> None:
    way = way(target, kind, mode="tunnel")
    way.inject(esp_frame(Esp(0x1000, KEY).body(datagram(), following, 1)))
    assert way.arrived() == []
    assert sum(way.drops().values()) >= 1


@row("F-DP-21", process=True)
@EVERY_KIND
@pytest.mark.parametrize("high", [6, 8, 0])
def test_a_wrong_high_half_is_never_accepted(way, target, kind, high) -> None:
    """ESN: the packet says the low half only, and the ICV is over both (RFC 4303 2.2.1)."""
    way = way(target, kind, window=64, esn=True)
    way.delete_sa(hosts=[1])
    dir = KINDS[kind].format(dir="in")
    way.ip(way.b, f"xfrm state add src {A} dst {B} proto esp spi 0x1000 reqid 4096 mode transport "
           f"{GCM} flag esn replay-window 64 replay-seq 0x500 replay-seq-hi 7 {dir}")  # fmt: skip
    inner = datagram()[20:]
    for number in range(0x501, 0x520):
        way.inject(esp_frame(Esp(0x1000, KEY, high=high).body(inner, UDP_IN, number)))
    assert way.arrived() == []
    assert sum(way.drops().values()) >= 31
    way.inject(esp_frame(Esp(0x1000, KEY, high=7).body(inner, UDP_IN, 0x501)))
    assert [packet[20:] for packet in way.arrived()] == [inner]


@row("F-DP-22", process=True)
@pytest.mark.parametrize("error", [1, 500, -25])
def test_an_inner_packet_whose_length_is_not_true_is_dropped(way, target, error) -> None:
    """Too long for what was decrypted, or too short for its own header."""
    way = way(target, mode="tunnel")
    inner = bytearray(datagram(5))
    inner[2:4] = (len(inner) + error).to_bytes(2)
    inner = bytes(IP(bytes(inner), chksum=None)) if error < 0 else bytes(inner)
    way.inject(esp_frame(Esp(0x1000, KEY).body(inner, IPIP, 1)))
    assert way.arrived() == []
    assert sum(way.drops().values()) >= 1


@row("F-DP-25", process=True)
def test_fragments_of_esp_meet_the_replay_check_of_the_host(way, target) -> None:
    """Software puts them together; what comes twice is delivered once."""
    way = way(target, "software")
    sent = way.send(1, size=400)
    assert way.arrived() == sent
    pieces = [bytes(Ether() / piece) for piece in fragment(IP(way.frames()[0][14:]), fragsize=160)]
    assert len(pieces) > 2
    way.inject(*pieces)
    assert way.arrived() == []
    assert way.drops()["XfrmInStateSeqError"] == 1


@row("F-DP-26", process=True)
def test_a_flood_of_unknown_spis_is_counted_and_stops_nothing(way, target) -> None:
    way = way(target)
    flood = [
        esp_frame(Esp(0x7000 + at % 99, KEY).body(bytes(60), UDP_IN, at)) for at in range(3000)
    ]
    for first in range(0, len(flood), 250):
        way.inject(*flood[first : first + 250])
    sent = way.send(20)
    assert way.arrived() == sent
    assert way.drops() == {"XfrmInNoStates": 3000}
    assert way.b.nic.census()["sas"] == 1


@row("F-DP-28", process=True)
def test_keepalives_and_ike_beside_esp_in_udp_are_not_decrypted(way, target) -> None:
    """RFC 3948 2.2 and 2.3: one byte 0xff, or four zero bytes where an SPI would stand."""
    way = way(target)
    way.delete_sa(hosts=[1])
    way.ip(way.b, f"xfrm state add src {A} dst {B} proto esp spi 0x1000 reqid 4096 mode transport "
           f"{GCM} replay-window 32 encap espinudp 4500 4500 0.0.0.0 "
           "offload packet dev nic0 dir in")  # fmt: skip
    way.ip(way.b, policy("in", "offload packet dev nic0", ends=(A, B)).replace(
        "dir in", "proto udp dport 4500 dir in"))  # fmt: skip
    port = IP(src=A, dst=B) / UDP(sport=4500, dport=4500)
    ike = bytes(Ether() / port / (bytes(4) + b"IKE_SA_INIT"))
    way.inject(ike, bytes(Ether() / port / b"\xff"))
    delivered = way.arrived()
    assert ike[14:] in delivered
    assert {packet[28:] for packet in delivered} <= {ike[42:], b"\xff"}
    assert not {name for name in way.drops() if name.startswith("rx_drop_")} - {
        "rx_drop_clear_text"
    }
    body = Esp(0x1000, KEY).body(datagram()[20:], UDP_IN, 1)
    way.inject(bytes(Ether() / port / body))
    assert [packet[20:] for packet in way.arrived()] == [datagram()[20:]]


@row("F-DP-29", process=True)
def test_ports_of_a_policy_are_those_inside(way, target) -> None:
    """Clear traffic of the port is refused, of other ports taken; protected traffic passes."""
    way = way(target)
    way.ip(way.b, f"xfrm policy delete src {A} dst {B} dir in")
    where = "offload packet dev nic0 " + template(ends=(A, B))
    way.ip(way.b, policy("in", where).replace("dir in", "proto udp dport 10 dir in"))
    sent = way.send(3)
    assert way.arrived() == sent
    clear = [
        bytes(Ether() / IP(src=A, dst=B) / UDP(sport=9, dport=port) / b"x") for port in (10, 11)
    ]
    way.inject(*clear)
    assert way.arrived() == [clear[1][14:]]


@row("F-DP-30", process=True)
def test_the_counters_of_the_card_tell_who_did_the_work(way, target) -> None:
    """They move with each packet that the card protects, and stand still where software does it."""

    def counted() -> int:
        return way.a.nic.counters()["ipsec_tx_pkts"]

    way = way(target)
    before = counted()
    way.send(25)
    way.lab.settle()
    assert counted() - before == len(way.frames()) == 25
    assert "offload" in way.a.ip("xfrm state list").stdout
    for host in (way.a, way.b):
        for table in ("state", "policy"):
            way.ip(host, f"xfrm {table} flush")
    way.kind, before = "software", counted()
    way.add_sa()
    way.ip(way.a, policy("out", template(ends=(A, B))))
    way.send(25)
    way.lab.settle()
    assert (counted() - before, len(way.frames())) == (0, 50)
    assert "offload" not in way.a.ip("xfrm state list").stdout
