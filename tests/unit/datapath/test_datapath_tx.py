# SPDX-License-Identifier: Apache-2.0
"""The transmit burst: its ESP opened by `cryptography` and scapy, and every reason it drops for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)  # fmt: skip
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.packet import Raw

from nic_model import account, tables
from proto.caps import PROFILES
from proto.commands import BLOCK, Selector
from proto.events import EventType
from proto.layouts import DESCRIPTOR, TxFlag
from proto.status import Drop

BASE = {"src": "10.1.0.1", "dst": "10.1.0.2", "id": 7, "tos": 16, "flags": "DF"}
V6 = {"src": "fd00::1", "dst": "fd00::2", "fl": 0x12345, "hlim": 9}
HOP = IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))])
ROUTE = IPv6ExtHdrRouting(addresses=["fd00::5"], segleft=0)

PACKETS = {
    "udp": IP(**BASE) / UDP(sport=5, dport=9) / b"payload",
    "udp-empty": IP(**BASE) / UDP(sport=5, dport=9),
    "tcp": IP(**BASE) / TCP(sport=5, dport=9, flags="S") / bytes(1000),
    "icmp": IP(**BASE) / ICMP() / bytes(33),
    "options": IP(**BASE, options=b"\x94\x04\0\0\x01\x01\x01\0") / UDP() / b"abc",
    "v6-udp": IPv6(**V6) / UDP(sport=5, dport=9) / b"payload!",
    "v6-icmp": IPv6(**V6) / ICMPv6EchoRequest(data=bytes(99)),
    "v6-hop": IPv6(**V6) / HOP / UDP() / b"x",
    "v6-hop-dst-route-dst": IPv6(**V6) / HOP / IPv6ExtHdrDestOpt() / ROUTE / IPv6ExtHdrDestOpt()
    / TCP() / b"xyz",
    "v6-dst": IPv6(**V6) / IPv6ExtHdrDestOpt() / UDP() / b"xy",
    "v6-atomic": IPv6(**V6) / IPv6ExtHdrFragment() / UDP() / b"xy",
}  # fmt: skip

# Bytes in front of ESP: RFC 4303 3.1.1.
PLACES = {"options": 28, "v6-hop": 48, "v6-hop-dst-route-dst": 80, "v6-dst": 40, "v6-atomic": 48}


def protect_all(bench: Any, **fields: Any) -> int:
    """A policy for each family and an SA for each, `fields` for both; returns the IPv4 row."""
    row = bench.sa(**fields)
    bench.sa(src="fd00::1", dst="fd00::2", **fields)
    bench.policy(family=2)
    bench.policy(family=10)
    return row


@pytest.mark.parametrize("name", PACKETS)
@pytest.mark.parametrize("key_bits", [128, 192, 256])
def test_both_judges_open_it_to_the_packet(bench: Any, name: str, key_bits: int) -> None:
    key = bytes(range(key_bits // 8))
    protect_all(bench, key=key)
    packet = PACKETS[name]
    clear = bytes(packet)
    (sent,) = bench.tx([bench.frame(clear)])
    assert sent[:14] == bench.frame(clear)[:14]
    place = PLACES.get(name, 20 if clear[0] >> 4 == 4 else 40)
    outer = type(packet)(sent[14:])
    assert sent[14 + place :][:8] == bytes.fromhex("0000100000000001")
    assert outer[ESP].spi == 0x1000 and outer[ESP].seq == 1

    # cryptography: payload, then padding 1 2 3.., aligned to 4, and the next header
    opened = bench.open_esp(key, sent[14 + place :])
    pad = opened[-2]
    assert pad < 4 and len(opened) % 4 == 0
    assert opened[: -pad - 2] == clear[place:]
    assert opened[-pad - 2 : -2] == bytes(range(1, pad + 1))

    # scapy: headers, lengths and checksum too
    association = SecurityAssociation(
        ESP, spi=0x1000, crypt_algo="AES-GCM", crypt_key=key + bench.SALT
    )
    length = int.from_bytes(sent[16:18] if outer.version == 4 else sent[18:20], "big")
    assert length == len(sent) - (14 if outer.version == 4 else 54)
    if outer.version == 4:
        whole = outer.copy()
        del whole.chksum
        assert IP(bytes(whole)).chksum == outer.chksum
    if name not in ("v6-hop-dst-route-dst", "v6-dst", "v6-atomic"):  # scapy places ESP by itself
        assert bytes(association.decrypt(outer)) == clear


@pytest.mark.parametrize("name", PACKETS)
@pytest.mark.parametrize("icv_bytes", [8, 12, 16])
@pytest.mark.parametrize("port", [0, 4500])
def test_what_leaves_comes_back(bench: Any, name: str, icv_bytes: int, port: int) -> None:
    fields = {"icv_bytes": icv_bytes, "encap_sport": port, "encap_dport": port, "esn": port == 0}
    protect_all(bench, **fields)
    for ends in ({}, {"src": "fd00::1", "dst": "fd00::2"}):
        bench.sa(direction=1, replay_window=64, spi=0x1000, **fields, **ends)
    data = bench.frame(bytes(PACKETS[name]))
    (sent,) = bench.tx([data])
    assert bench.rx([sent]) == [data]


def test_udp_encapsulation(bench: Any) -> None:
    """RFC 3948 2.1: checksum 0 over IPv4; over IPv6 a real one, as scapy computes it."""
    protect_all(bench, encap_sport=4500, encap_dport=4501)
    four, six = bench.tx([bench.frame(bytes(PACKETS[name])) for name in ("udp", "v6-udp")])
    outer = IP(four[14:])
    assert (outer.proto, outer[UDP].sport, outer[UDP].dport) == (17, 4500, 4501)
    assert outer[UDP].chksum == 0 and outer[UDP].len == len(four) - 34
    assert bench.open_esp(bench.KEY, four[42:])[:15] == bytes(PACKETS["udp"])[20:]

    outer = IPv6(six[14:])
    assert (outer.nh, outer[UDP].len) == (17, len(six) - 54)
    again = outer.copy()
    del again[UDP].chksum
    assert IPv6(bytes(again))[UDP].chksum == outer[UDP].chksum != 0


def test_esn_and_iv(bench: Any) -> None:
    """The high half goes into the AAD only; the IV is the whole number under the mask."""
    mask = 0x1122_3344_5566_7788
    protect_all(bench, esn=True, seq=(1 << 32) - 2, iv_mask=mask)
    frames = bench.tx([bench.frame(bytes(PACKETS["udp"]))] * 4)
    for seq, data in enumerate(frames, (1 << 32) - 1):
        assert data[38:42] == (seq & 0xFFFF_FFFF).to_bytes(4, "big")
        assert data[42:50] == (seq ^ mask).to_bytes(8, "big")
        assert bench.open_esp(bench.KEY, data[34:], high=seq >> 32)


def test_sequence_ends_without_esn(bench: Any) -> None:
    """As recorded in v4-transport-lastseq: 2^32 - 1 still leaves, then nothing."""
    row = bench.sa(seq=0xFFFF_FFFC)
    bench.policy()
    got = bench.tx([bench.frame(bytes(PACKETS["udp"]))] * 6)
    assert [data[38:42].hex() for data in got[:3]] == ["fffffffd", "fffffffe", "ffffffff"]
    assert got[3:] == [Drop.SEQUENCE_EXHAUSTED] * 3
    assert tables.drain_events(bench.t) == [(row, EventType.SEQUENCE)]
    assert bench.state(row).packets == 3


def test_a_wrapping_sequence_never_repeats_an_iv(bench: Any) -> None:
    bench.sa(seq=0xFFFF_FFFE, may_wrap=True)
    bench.policy()
    got = bench.tx([bench.frame(bytes(PACKETS["udp"]))] * 3)
    assert [data[38:42].hex() for data in got] == ["ffffffff", "00000000", "00000001"]
    assert len({data[42:50] for data in got}) == 3


@pytest.mark.parametrize("bits", [8, 32])
@pytest.mark.parametrize("limit", [1, 2, 127, 128, 129, 255, 256, 257, 1000])
def test_hard_limit_is_exact(make_bench: Callable[[str], Any], bits: int, limit: int) -> None:
    bench = make_bench(f"full:counter_bits={bits},sa_max=4,key_max=4,rule_max=4")
    soft = max(1, limit * 3 // 4)
    row = bench.sa(packets=limit, soft_packets=soft)
    bench.policy()
    events, sent = [], 0
    while sent < limit + 5:
        got = bench.tx([bench.frame(bytes(PACKETS["udp"]))] * 7)
        left = max(0, min(7, limit - sent))
        assert [isinstance(one, bytes) for one in got] == [n < left for n in range(7)]
        assert got[left:] == [Drop.HARD_LIMIT] * (7 - left)
        raised = tables.drain_events(bench.t)
        events += [(kind, sent) for _, kind in raised]
        sent += 7
    assert [kind for kind, _ in events] == [EventType.SOFT_LIMIT, EventType.HARD_LIMIT]
    assert events[0][1] == (soft - 1) // 7 * 7 and events[1][1] == (limit - 1) // 7 * 7
    state = bench.state(row)
    assert (state.packets, state.seq, state.remaining) == (limit, limit, 0)
    assert state.stopped and not state.soft_arm and not state.hard_arm


def test_byte_limit(bench: Any) -> None:
    row = bench.sa(bytes=40)
    bench.policy()
    data = bench.frame(bytes(PACKETS["udp"]))  # 15 bytes of ESP payload
    got = bench.tx([data] * 4)
    assert [isinstance(one, bytes) for one in got] == [True] * 3 + [False]
    assert got[3] == Drop.HARD_LIMIT and bench.state(row).bytes == 45
    assert tables.drain_events(bench.t) == [(row, EventType.HARD_LIMIT)]


def test_policy_decides(bench: Any) -> None:
    udp, icmp = (bench.frame(bytes(PACKETS[name])) for name in ("udp", "icmp"))
    assert bench.tx([udp]) == [udp]
    bench.policy(priority=10)
    assert bench.tx([udp]) == [Drop.NO_SA]
    bench.sa()
    bench.policy(priority=5, proto=1, action=BLOCK, protect=False)
    bench.policy(priority=4, proto=17, dport=77, dport_mask=0xFFFF, protect=False)
    (sealed, blocked) = bench.tx([udp, icmp])
    assert sealed[23] == 50 and blocked == Drop.POLICY_BLOCK
    bench.policy(priority=4, proto=17, dport=9, dport_mask=0xFFFF, protect=False)
    assert bench.tx([udp]) == [udp]


def test_protect_flag_never_lets_clear_out(bench: Any) -> None:
    frames = [bench.frame(bytes(PACKETS["udp"])), bytes(12) + b"\x08\x06" + bytes(46)]
    assert bench.tx(frames, flags=TxFlag.PROTECT) == [Drop.NO_SA] * 2
    bench.policy(protect=False)
    assert bench.tx(frames, flags=TxFlag.PROTECT) == [Drop.NO_SA] * 2
    part = bench.frame(bytes(IP(**{**BASE, "flags": "MF"}) / Raw(bytes(16))))
    assert bench.tx([part], flags=TxFlag.PROTECT) == [Drop.FRAGMENT]
    assert bench.tx([part]) == [part]


def test_what_software_sealed_is_not_sealed_again(bench: Any) -> None:
    """Policies are for clear packets, and only ESP may be beyond them (native or in UDP)."""
    protect_all(bench)
    esp = [
        bench.frame(bytes(kind(**ends) / Raw(bytes(64))))
        for kind, ends in ((IP, {**BASE, "proto": 50}), (IPv6, {**V6, "nh": 50}))
    ]
    esp += [bench.frame(bytes(IP(**BASE) / UDP(dport=4500) / Raw(esp[0][34:])))]
    esp += [bench.frame(bytes(IP(**{**BASE, "flags": 0, "frag": 8}, proto=50) / Raw(bytes(64))))]
    assert bench.tx(esp, flags=TxFlag.SEALED) == esp
    assert not set(bench.tx(esp)) & set(esp)
    assert bench.tx(esp[:1], flags=TxFlag.SEALED | TxFlag.PROTECT) != esp[:1]
    (tcp,) = bench.tx([bench.frame(bytes(PACKETS["tcp"]))], flags=TxFlag.SEALED)
    assert tcp[23] == 50 and tcp[34:38] == bytes.fromhex("00001000")


def test_choice_of_sa(bench: Any) -> None:
    """TX-13: not dying before dying, then newest; selector, SPI and addresses must fit."""
    data = bench.frame(bytes(PACKETS["udp"]))
    wildcard = bench.sa(spi=0x10, src="0.0.0.0")
    policy = bench.policy()

    def spi() -> Any:
        (sent,) = bench.tx([data])
        return sent if isinstance(sent, Drop) else int.from_bytes(sent[34:38], "big")

    assert spi() == 0x10
    old, new = bench.sa(spi=0x20), bench.sa(spi=0x30)
    bench.sa(spi=0x40, selector=Selector(family=2, proto=6))
    bench.sa(spi=0x50, reqid=2)
    bench.sa(spi=0x60, dst="10.1.0.9")
    assert spi() == 0x30
    bench.t.sa[new].dying = 1
    assert spi() == 0x20
    bench.t.sa[old].dying = 1
    assert spi() == 0x30
    bench.t.sa[new].stopped = 1
    assert spi() == 0x20
    bench.t.sa[old].stopped = 1
    assert spi() == Drop.HARD_LIMIT
    bench.steering.remove_sa(old)
    bench.steering.remove_sa(new)
    assert spi() == 0x10

    bench.steering.remove_policy(policy)
    bench.policy(spi=0x50, reqid=2)
    assert spi() == 0x50
    bench.policy(spi=0x51, reqid=2)
    assert spi() == Drop.NO_SA
    assert bench.state(wildcard).packets == 2


def test_fragments(bench: Any) -> None:
    whole = [
        IP(**{**BASE, "flags": "MF"}) / UDP() / bytes(8),
        IP(**{**BASE, "frag": 3}) / Raw(b"12345678"),
    ]
    whole[1].proto = 17
    six = [IPv6(**V6) / IPv6ExtHdrFragment(nh=17, m=1, id=1) / Raw(bytes(16))]
    frames = [bench.frame(bytes(packet)) for packet in whole + six]
    assert bench.tx(frames) == frames
    bench.policy(proto=6, action=BLOCK, protect=False)
    bench.policy(proto=17, sport=9, sport_mask=0xFFFF)
    bench.policy(family=10)
    assert bench.tx(frames) == [Drop.FRAGMENT] * 3


@pytest.mark.parametrize("mtu", [1400, 1500, 9000])
def test_mtu_counts_what_leaves(bench: Any, mtu: int) -> None:
    row = protect_all(bench)
    for header, kind in ((20, IP), (40, IPv6)):
        ends = BASE if kind is IP else V6
        room = (mtu - header - 32) // 4 * 4 - 2 - 8
        fits, large = (
            bench.frame(bytes(kind(**ends) / UDP() / bytes(n))) for n in (room, room + 1)
        )
        got = bench.tx([fits, large], mtu=mtu)
        assert mtu - 3 <= len(got[0]) - 14 <= mtu and got[1] == Drop.TOO_LONG
    assert bench.state(row).seq == 1  # nothing is used up by a packet that did not fit

    bench.policy(protect=False, saddr=bench.address("1.1.1.1"), prefixlen_s=32)
    clear = [
        bench.frame(bytes(IP(src="1.1.1.1", dst="2.2.2.2", proto=253) / Raw(bytes(n))))
        for n in (mtu - 20, mtu - 19)
    ]
    assert bench.tx(clear, mtu=mtu) == [clear[0], Drop.TOO_LONG]


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (5, 10_241),
        (65_600 - 5, 60),
        (65_600, 60),
        ((1 << 32) - 65_601, 60),
        (0, 0xFFFF),
        (65_600 - 63, 60),  # into the next mark
        (-1, 60),  # from the mark on
    ],
)
def test_a_descriptor_outside_its_slot_ends_the_burst(bench: Any, offset: int, length: int) -> None:
    descriptors = np.zeros(3, DESCRIPTOR)
    descriptors["offset"] = (4, (offset + 65_604) % (1 << 32), 2 * 65_600 + 4)
    descriptors["length"] = (60, length, 60)
    _, verdict = bench.tx_raw(descriptors)
    assert list(verdict) == [0, Drop.DESCRIPTOR, Drop.FLUSHED]


def test_a_slot_that_is_not_written_yet_is_not_read(bench: Any) -> None:
    """F-RNG-02: its mark is that of the packet before, a whole ring ago."""
    descriptors = np.zeros(1, DESCRIPTOR)
    descriptors["offset"], descriptors["length"] = 4, 60
    assert list(bench.tx_raw(descriptors)[1]) == [0]
    bench.tx_index = 1024
    assert list(bench.tx_raw(descriptors, written=False)[1]) == [Drop.DESCRIPTOR]
    bench.tx_index = (1 << 32) - 1  # the last number: its mark is 0
    descriptors["offset"] = 1023 * 65_600 + 4
    assert list(bench.tx_raw(descriptors)[1]) == [0]


def test_totals(bench: Any) -> None:
    protect_all(bench)
    frames = [bench.frame(bytes(PACKETS[name])) for name in ("udp", "icmp")]
    arp = bytes(12) + b"\x08\x06" + bytes(46)
    got = bench.tx([*frames, arp, b""])
    values = tables.counters(bench.t)
    assert values["tx_packets"] == 3 and values["tx_bytes"] == sum(len(one) for one in got[:3])
    assert values["ipsec_tx_pkts"] == 2 and values["ipsec_tx_bytes"] == 15 + 41
    assert values["tx_drop_malformed"] == 1 and sum(values.values()) == values["tx_bytes"] + 62
    (record,) = account.counter_records(bench.t)
    assert (record["handle"], record["packets"], record["bytes"]) == (7 << 24 | 1, 2, 56)
    assert not len(account.counter_records(bench.t))


def test_profiles_make_tables() -> None:
    for caps in PROFILES.values():
        assert len(tables.make_tables(caps).sa) == caps.sa_max + 1
