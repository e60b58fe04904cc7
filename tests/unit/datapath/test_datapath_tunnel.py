# SPDX-License-Identifier: Apache-2.0
"""Tunnel mode: outer headers as recorded kernels write them, inner packets back byte for byte."""

import itertools
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.packet import Raw

from nic_model import tables
from proto.commands import IN, OUT, Selector
from proto.events import EventType
from proto.status import Drop
from proto.xfrm import AF_INET, AF_INET6, MODE_TRANSPORT, MODE_TUNNEL

OUTER = {4: {"src": "10.1.0.1", "dst": "10.1.0.2"}, 6: {"src": "fd00:1::1", "dst": "fd00:1::2"}}
FAMILY = {4: AF_INET, 6: AF_INET6}
INNER = {
    4: IP(src="10.9.0.1", dst="10.9.1.1", id=77, ttl=9, flags="DF"),
    6: IPv6(src="fd00:9::1", dst="fd00:9::2", fl=0x54321, hlim=9),
}
IPIP, IPV6 = 4, 41
ANY = bytes(16)
PAIRS = list(itertools.product((4, 6), (4, 6)))


def ends(version: int) -> dict[str, Any]:
    return {name: OUTER[version][name] for name in ("src", "dst")}


def template(bench: Any, version: int, **fields: Any) -> dict[str, Any]:
    values = {
        "mode": MODE_TUNNEL,
        "tmpl_family": FAMILY[version],
        "tmpl_saddr": bench.address(OUTER[version]["src"]),
        "tmpl_daddr": bench.address(OUTER[version]["dst"]),
    }
    return values | fields


def tunnel(bench: Any, outer: int, inner: int, direction: int = OUT, **fields: Any) -> int:
    """A tunnel SA and the policy for it; returns the SA's row."""
    row = bench.sa(direction=direction, mode=MODE_TUNNEL, **ends(outer), **fields)
    bench.policy(direction=direction, family=FAMILY[inner], **template(bench, outer))
    return row


def wrap(bench: Any, payload: bytes, next_header: int, *, outer: int = 4, seq: int = 1,
         tos: int = 0, **fields: Any) -> bytes:  # fmt: skip
    """A tunnel frame made by `cryptography` and scapy."""
    esp = bench.esp(bench.KEY, 0x1000, seq, payload, next_header, **fields)
    head = (
        IP(**OUTER[4], proto=50, tos=tos, id=0) if outer == 4 else IPv6(**OUTER[6], nh=50, tc=tos)
    )
    return bench.frame(bytes(head / Raw(esp)))


@pytest.mark.parametrize(("outer", "inner"), PAIRS)
@pytest.mark.parametrize("port", [0, 4500])
@pytest.mark.parametrize("icv_bytes", [8, 12, 16])
def test_an_outer_header_goes_around_and_off(
    bench: Any, outer: int, inner: int, port: int, icv_bytes: int
) -> None:
    fields = {"icv_bytes": icv_bytes, "encap_sport": port, "encap_dport": port}
    tunnel(bench, outer, inner, **fields)
    tunnel(bench, outer, inner, IN, replay_window=64, **fields)
    packets = [bytes(INNER[inner] / UDP() / bytes(size)) for size in (0, 1, 2, 3, 400)]
    frames = [bench.frame(packet) for packet in packets]
    sent = bench.tx(frames)
    for packet, data in zip(packets, sent, strict=True):
        head = (IP if outer == 4 else IPv6)(data[14:])
        assert data[:12] == frames[0][:12]
        assert data[12:14] == (b"\x08\x00" if outer == 4 else b"\x86\xdd")
        assert (head.src, head.dst) == (OUTER[outer]["src"], OUTER[outer]["dst"])
        assert len(data) == 14 + (head.len if outer == 4 else head.plen + 40)
        again = head.copy()
        if outer == 4:
            assert (head.ttl, head.id, head.flags, head.proto) == (64, 0, "DF", 17 if port else 50)
            del again.chksum
            assert IP(bytes(again)).chksum == head.chksum
        else:
            label = 0x54321 if inner == 6 else 0
            assert (head.hlim, head.fl, head.nh) == (64, label, 17 if port else 50)
        esp = bytes(data[14 + (20 if outer == 4 else 40) + (8 if port else 0) :])
        if port:
            assert (head[UDP].sport, head[UDP].dport, head[UDP].len) == (port, port, len(esp) + 8)
            del again[UDP].chksum
            expected = (IP if outer == 4 else IPv6)(bytes(again))[UDP].chksum
            assert head[UDP].chksum == (0 if outer == 4 else expected)
        opened = bench.open_esp(bench.KEY, esp, icv_bytes=icv_bytes)
        pad = -(len(packet) + 2) % 4
        assert opened == packet + bytes(range(1, pad + 1)) + bytes(
            [pad, IPIP if inner == 4 else IPV6]
        )
    assert bench.rx(sent) == frames


# Of each bit what the recorded kernels do: v4-tunnel-tos has inner TOS 0xb9, and 0xb9 or, without
# DSCP, 0x01 outside; CE becomes ECT(0) (RFC 3168 9.1.1).
@pytest.mark.parametrize(
    ("inner", "flags", "outer"),
    [
        (0xB9, {}, 0xB9),
        (0xB9, {"dont_encap_dscp": True}, 0x01),
        (0xB9, {"noecn": True}, 0xB8),
        (0xBB, {}, 0xBA),
        (0xBB, {"noecn": True}, 0xB8),
        (0xBB, {"noecn": True, "dont_encap_dscp": True}, 0x00),
        (0x02, {}, 0x02),
        (0xFC, {}, 0xFC),
    ],
)
@pytest.mark.parametrize(("outside", "inside"), PAIRS)
def test_dscp_and_ecn_outward(
    bench: Any, outside: int, inside: int, inner: int, flags: dict[str, bool], outer: int
) -> None:
    tunnel(bench, outside, inside, **flags)
    packet = INNER[inside].copy()
    setattr(packet, "tos" if inside == 4 else "tc", inner)
    (sent,) = bench.tx([bench.frame(bytes(packet / UDP()))])
    assert (IP(sent[14:]).tos if outside == 4 else IPv6(sent[14:]).tc) == outer


@pytest.mark.parametrize(
    ("inner", "flags", "df"),
    [
        (4, {}, True),
        (6, {}, True),
        (4, {"nopmtudisc": True}, False),
        (6, {"nopmtudisc": True}, False),
        (None, {}, False),
    ],
)
def test_a_packet_that_routers_may_cut_has_an_id(
    bench: Any, inner: Any, flags: Any, df: Any
) -> None:
    version = inner or 4
    tunnel(bench, 4, version, **flags)
    packet = INNER[version].copy()
    if inner is None:
        packet.flags = ""
    heads = [IP(data[14:]) for data in bench.tx([bench.frame(bytes(packet / UDP()))] * 100)]
    assert {bool(head.flags.DF) for head in heads} == {df}
    assert len({head.id for head in heads}) == (1 if df else 100)
    assert not df or heads[0].id == 0


# (outer, inner) -> inner: RFC 3168 9.1.1 with a mark only where the inner packet understands it.
@pytest.mark.parametrize(
    ("outer", "inner", "flags", "after"),
    [
        (0x03, 0x00, {}, 0x00),
        (0x03, 0x01, {}, 0x03),
        (0x03, 0x02, {}, 0x03),
        (0x03, 0x03, {}, 0x03),
        (0x03, 0x02, {"noecn": True}, 0x02),
        (0x01, 0x02, {}, 0x02),
        (0xB8, 0x00, {}, 0x00),
        (0xB8, 0x00, {"decap_dscp": True}, 0xB8),
        (0xBB, 0x45, {"decap_dscp": True}, 0xBB),
        (0xBB, 0x45, {"decap_dscp": True, "noecn": True}, 0xB9),
    ],
)
@pytest.mark.parametrize(("outside", "inside"), PAIRS)
def test_dscp_and_ecn_inward(
    bench: Any, outside: int, inside: int, outer: int, inner: int, flags: Any, after: int
) -> None:
    tunnel(bench, outside, inside, IN, **flags)
    packet, expected = INNER[inside].copy(), INNER[inside].copy()
    name = "tos" if inside == 4 else "tc"
    setattr(packet, name, inner)
    setattr(expected, name, after)
    number = IPIP if inside == 4 else IPV6
    frame = wrap(bench, bytes(packet / UDP() / b"x"), number, outer=outside, tos=outer)
    assert bench.rx([frame]) == [bench.frame(bytes(expected / UDP() / b"x"))]


def test_a_damaged_inner_checksum_is_not_made_whole(bench: Any) -> None:
    tunnel(bench, 4, 4, IN)
    packet = bytearray(bytes(INNER[4] / UDP()))
    packet[1] = 2
    (got,) = bench.rx([wrap(bench, bytes(packet), IPIP, tos=3)])
    assert got[15] == 3
    del (right := IP(got[14:])).chksum
    assert IP(bytes(right)).chksum != IP(got[14:]).chksum


def test_what_follows_the_inner_packet_is_padding(bench: Any) -> None:
    """TFC padding (RFC 4303 2.7): counted, as recorded in v4-tunnel-tfcpad, and cut off."""
    row = tunnel(bench, 4, 4, IN)
    packet = bytes(INNER[4] / UDP() / b"abc")
    assert bench.rx([wrap(bench, packet.ljust(256, b"\0"), IPIP)]) == [bench.frame(packet)]
    assert bench.state(row).bytes == 256


@pytest.mark.parametrize(
    ("payload", "next_header", "why"),
    [
        (bytes(INNER[4] / UDP()), 6, Drop.MODE),
        (bytes(INNER[4] / UDP()), 50, Drop.MODE),
        (bytes(INNER[4] / UDP()), IPV6, Drop.MODE),
        (bytes(INNER[6] / UDP()), IPIP, Drop.MODE),
        (bytes(INNER[4] / UDP())[:19], IPIP, Drop.MODE),
        (bytes(INNER[6] / UDP())[:39], IPV6, Drop.MODE),
        (b"", IPIP, Drop.MODE),
        (bytes(INNER[4] / UDP())[:27], IPIP, Drop.MALFORMED),
        (bytes(INNER[6] / UDP())[:47], IPV6, Drop.MALFORMED),
        (bytes(INNER[4] / UDP()), 59, Drop.DUMMY),
    ],
)
def test_what_is_no_inner_packet_is_dropped(
    bench: Any, payload: bytes, next_header: int, why: Drop
) -> None:
    row = tunnel(bench, 4, 4, IN)
    bench.policy(direction=IN, family=AF_INET6, **template(bench, 4))
    assert bench.rx([wrap(bench, payload, next_header)]) == [why]
    assert bench.state(row).packets == 1


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, None),
        ({"tmpl_saddr": bytes(16)}, None),
        ({"tmpl_daddr": bytes(16)}, None),
        ({"reqid": 0}, None),
        ({"reqid": 2}, Drop.TEMPLATE),
        ({"spi": 0x1000}, None),
        ({"spi": 0x1001}, Drop.TEMPLATE),
        ({"tmpl_saddr": bytes([10, 1, 0, 9]).ljust(16, b"\0")}, Drop.TEMPLATE),
        ({"tmpl_daddr": bytes([10, 1, 0, 9]).ljust(16, b"\0")}, Drop.TEMPLATE),
        (
            {"tmpl_family": AF_INET6, "tmpl_saddr": bytes(16), "tmpl_daddr": bytes(16)},
            Drop.TEMPLATE,
        ),
        ({"mode": MODE_TRANSPORT}, Drop.TEMPLATE),
    ],
)
def test_the_in_policy_asks_for_mode_and_outer_addresses(
    bench: Any, changes: Any, why: Any
) -> None:
    bench.sa(direction=IN, mode=MODE_TUNNEL)
    bench.policy(direction=IN, **{**template(bench, 4), **changes})
    packet = bytes(INNER[4] / UDP())
    assert bench.rx([wrap(bench, packet, IPIP)]) == [why or bench.frame(packet)]


def test_a_transport_sa_does_not_satisfy_a_tunnel_policy(bench: Any) -> None:
    bench.sa(direction=IN)
    bench.policy(direction=IN, **template(bench, 4))
    inner = bytes(UDP() / b"abc")
    assert bench.rx([wrap(bench, inner, 17)]) == [Drop.TEMPLATE]


@pytest.mark.parametrize(
    ("selector", "why"),
    [
        (Selector(), None),
        (Selector(family=AF_INET, daddr=bytes([10, 9]).ljust(16, b"\0"), prefixlen_d=16), None),
        (Selector(family=AF_INET, daddr=bytes([10, 1]).ljust(16, b"\0"), prefixlen_d=16), "no"),
        (Selector(family=AF_INET, proto=6), "no"),
        (Selector(family=AF_INET6), "no"),  # a cross-family tunnel without `flag af-unspec`
    ],
)
def test_the_selector_is_about_the_inner_packet(bench: Any, selector: Any, why: Any) -> None:
    packet = bench.frame(bytes(INNER[4] / UDP()))
    tunnel(bench, 4, 4, IN, selector=selector)
    tunnel(bench, 4, 4, selector=selector)
    received = bench.rx([wrap(bench, packet[14:], IPIP)])
    assert received == [Drop.SELECTOR if why else packet]
    (sent,) = bench.tx([packet])
    assert sent == Drop.NO_SA if why else isinstance(sent, bytes)


def test_the_template_chooses_the_sa(bench: Any) -> None:
    """TX-10: its addresses, family and mode; TX-13 among several."""
    packet = bench.frame(bytes(INNER[4] / UDP()))

    def spi() -> Any:
        (sent,) = bench.tx([packet])
        return sent if isinstance(sent, Drop) else int.from_bytes(sent[34:38], "big")

    bench.policy(**template(bench, 4))
    bench.sa(spi=0x10)  # transport mode, between the gateways
    bench.sa(spi=0x11, mode=MODE_TUNNEL, src="10.1.0.9")
    bench.sa(spi=0x12, mode=MODE_TUNNEL, dst="10.1.0.9")
    bench.sa(spi=0x13, mode=MODE_TUNNEL, src="10.9.0.1", dst="10.9.1.1")  # the packet's own
    bench.sa(spi=0x14, mode=MODE_TUNNEL, reqid=2)
    bench.sa(spi=0x15, mode=MODE_TUNNEL, **ends(6))
    assert spi() == Drop.NO_SA
    old = bench.sa(spi=0x20, mode=MODE_TUNNEL)
    assert spi() == 0x20
    new = bench.sa(spi=0x30, mode=MODE_TUNNEL)
    assert spi() == 0x30
    bench.t.sa[new].dying = 1
    assert spi() == 0x20
    bench.t.sa[old].stopped = bench.t.sa[new].stopped = 1
    assert spi() == Drop.HARD_LIMIT


def test_a_transport_policy_takes_no_tunnel_sa(bench: Any) -> None:
    bench.sa(mode=MODE_TUNNEL)
    bench.policy()
    packet = bench.frame(bytes(IP(**OUTER[4]) / UDP()))
    assert bench.tx([packet]) == [Drop.NO_SA]


@pytest.mark.parametrize(("outer", "inner"), PAIRS)
@pytest.mark.parametrize("port", [0, 4500])
def test_the_outer_header_counts_for_the_mtu(bench: Any, outer: int, inner: int, port: int) -> None:
    """TX-32: 1446, 1426, and 8 less in UDP, for an ICV of 16 bytes on a link of 1500."""
    row = tunnel(bench, outer, inner, encap_sport=port, encap_dport=port)
    longest = (1446 if outer == 4 else 1426) - (8 if port else 0)
    room = longest - (28 if inner == 4 else 48)
    fits, large = (bench.frame(bytes(INNER[inner] / UDP() / bytes(n))) for n in (room, room + 1))
    got = bench.tx([fits, large])
    assert 1497 <= len(got[0]) - 14 <= 1500 and got[1] == Drop.TOO_LONG
    assert bench.state(row).seq == 1


def test_limits_and_counts_are_of_inner_packets(bench: Any) -> None:
    row = tunnel(bench, 4, 4, packets=3, soft_packets=2)
    packet = bytes(INNER[4] / UDP() / b"0123456789")
    got = bench.tx([bench.frame(packet)] * 5)
    assert got[3:] == [Drop.HARD_LIMIT] * 2
    assert bench.state(row).bytes == 3 * len(packet)
    assert tables.drain_events(bench.t) == [
        (row, EventType.SOFT_LIMIT),
        (row, EventType.HARD_LIMIT),
    ]


def test_replay_and_esn_are_those_of_any_sa(bench: Any) -> None:
    high = 0x1234
    row = tunnel(bench, 4, 4, IN, esn=True, replay_window=64, seq=high << 32 | 0xFFFF_FFFE)
    packet = bytes(INNER[4] / TCP())
    first, second = (
        wrap(bench, packet, IPIP, seq=seq, esn=True)
        for seq in (high << 32 | 0xFFFF_FFFF, high + 1 << 32 | 1)
    )
    good = bench.frame(packet)
    assert bench.rx([first, second, first, second]) == [good, good, Drop.REPLAY, Drop.REPLAY]
    assert bench.state(row).seq == high + 1 << 32 | 1


def test_inner_fragments_meet_no_protect_policy(bench: Any) -> None:
    """As in transport mode: whether its ports are the policy's nobody can see."""
    tunnel(bench, 4, 6)
    part = INNER[6] / IPv6ExtHdrFragment(nh=17, m=1, id=1) / Raw(bytes(16))
    assert bench.tx([bench.frame(bytes(part))]) == [Drop.FRAGMENT]


def test_nested_esp_is_left_to_the_host(bench: Any) -> None:
    tunnel(bench, 4, 4, IN)
    inside = bytes(INNER[4].copy() / Raw(bench.esp(bench.KEY, 0x9999, 1, b"secret", 17)))
    inside = bytes(IP(src="10.9.0.1", dst="10.9.1.1", proto=50) / Raw(inside[20:]))
    assert bench.rx([wrap(bench, inside, IPIP)]) == [bench.frame(inside)]
