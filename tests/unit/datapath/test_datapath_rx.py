# SPDX-License-Identifier: Apache-2.0
"""The receive burst against recorded kernel ESP, and every reason it drops for."""

import json
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    PadN,
)
from scapy.layers.ipsec import AH
from scapy.packet import Raw

from proto.commands import BLOCK, IN, Selector
from proto.layouts import RxFlag
from proto.link.dma import rx_offset
from proto.status import Drop

RECORDS = sorted((Path(__file__).parents[2] / "vectors" / "esp").glob("*transport*.json"))
SPI = 0x1000


def sa_of(record: dict[str, Any]) -> dict[str, Any]:
    sa = record["sa"]
    esn, start = sa["esn"], int(sa["oseq_start"] or "0", 0)
    ports = {"encap_sport": sa["encap_dport"] or 0, "encap_dport": sa["encap_dport"] or 0}
    return {
        "key": bytes.fromhex(sa["key"]), "salt": bytes.fromhex(sa["salt"]), "spi": sa["spi"],
        "src": sa["src"], "dst": sa["dst"], "icv_bytes": sa["icv_bits"] // 8, "esn": esn,
        "seq": (sa["oseq_hi_start"] or 0) << 32 | start, "direction": IN, "replay_window": 32,
        **ports,
    }  # fmt: skip


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_kernel_esp_opens_to_the_kernels_plaintext(bench: Any, path: Path) -> None:
    record = json.loads(path.read_text())
    packets = [packet for packet in record["packets"] if packet.get("frame")]
    row = bench.sa(**sa_of(record))
    got = bench.rx([bytes.fromhex(packet["frame"]) for packet in packets])
    assert [data[14:].hex() for data in got] == [packet["plaintext_ip"] for packet in packets]
    assert all(bench.descriptors["flags"][: len(got)] == RxFlag.CRYPTO_DONE)
    assert all(bench.descriptors["handle"][: len(got)] == (7 << 24 | row))
    assert all(bench.descriptors["generation"][: len(got)] == 7)

    state = bench.state(row)
    assert state.packets == len(packets)
    assert state.bytes == sum(len(packet["payload"]) // 2 for packet in packets)
    assert bench.rx([bytes.fromhex(packet["frame"]) for packet in packets]) == [Drop.REPLAY] * len(
        packets
    )


class Peer:
    """The other end of SA 0x1000 over IPv4, with ESP of `cryptography`."""

    def __init__(self, bench: Any, **fields: Any) -> None:
        self.bench = bench
        self.row = bench.sa(direction=IN, replay_window=64, **fields)
        self.seq = 0

    def frame(
        self, inner: Any = None, *, change: int | None = None, seq: int = 0, **how: Any
    ) -> bytes:
        self.seq = seq or self.seq + 1
        clear = bytes(inner if inner is not None else IP(src="10.1.0.1", dst="10.1.0.2") / UDP())
        data = self.bench.esp(self.bench.KEY, SPI, self.seq, clear[20:], clear[9], **how)
        if change is not None:
            data = data[:change] + bytes([data[change] ^ 1]) + data[change + 1 :]
        return self.outer(data)

    def outer(self, data: bytes, **fields: Any) -> bytes:
        packet = IP(src="10.1.0.1", dst="10.1.0.2", proto=50, id=9, **fields) / Raw(data)
        return self.bench.frame(bytes(packet))


@pytest.fixture
def peer(bench: Any) -> Peer:
    return Peer(bench)


def test_replayed_damaged_and_good(bench: Any, peer: Peer) -> None:
    first = peer.frame()
    far = peer.frame(seq=200)
    assert [type(got) for got in bench.rx([first, far])] == [bytes, bytes]
    assert bench.rx([first, far]) == [Drop.REPLAY, Drop.REPLAY]
    state = bench.state(peer.row)
    assert (state.replay, state.replay_window, state.packets) == (1, 1, 2)

    forged = [peer.frame(seq=300, change=place) for place in (0 + 4, 8, 16, -1)]
    assert bench.rx(forged) == [Drop.INTEGRITY] * 4
    after = bench.state(peer.row)
    assert after.integrity_failed == 4
    assert (after.seq, after.window, after.packets) == (state.seq, state.window, 2)


def test_no_plaintext_of_a_dropped_packet_in_dma(bench: Any, peer: Peer) -> None:
    secret = IP(src="10.1.0.1", dst="10.1.0.2") / UDP() / Raw(b"a well known secret")
    bench.policy(direction=IN, action=BLOCK, protect=False)
    assert bench.rx([peer.frame(secret)]) == [Drop.POLICY_BLOCK]
    assert b"well known" not in bench.memory.tobytes()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (SPI.to_bytes(4, "big") + bytes(4), Drop.ESP_HEADER),
        (SPI.to_bytes(4, "big") + bytes(29), Drop.ESP_HEADER),
        (SPI.to_bytes(4, "big") + b"\0\0\0\1" + bytes(26), Drop.INTEGRITY),
    ],
)
def test_short_esp(bench: Any, peer: Peer, data: bytes, why: Drop) -> None:
    assert bench.rx([peer.outer(data)]) == [why]


@pytest.mark.parametrize("size", [0, 7])
def test_esp_without_a_whole_header_is_the_hosts(bench: Any, peer: Peer, size: int) -> None:
    """It names no SA: the host counts XfrmInHdrError."""
    frame = peer.outer(bytes(size))
    assert bench.rx([frame]) == [frame]


def test_trailer(bench: Any, peer: Peer) -> None:
    dummy = bench.esp(bench.KEY, SPI, 900, b"noise", 59)
    assert bench.rx([peer.frame(pad=200), peer.outer(dummy)]) == [Drop.TRAILER, Drop.DUMMY]
    state = bench.state(peer.row)
    assert (state.trailer, state.seq, state.packets) == (1, 900, 2)


def test_clear_packet_is_rebuilt(bench: Any, peer: Peer) -> None:
    """Trailing Ethernet padding goes, IPv4 options and all other fields stay."""
    header = {"src": "10.1.0.1", "dst": "10.1.0.2", "id": 9, "tos": 8, "ttl": 3}
    header["options"] = b"\x94\4\0\0"
    raw = bytes(IP(**header) / UDP() / b"x")
    data = bench.esp(bench.KEY, SPI, 1, raw[24:], 17)
    outer = IP(**header, proto=50) / Raw(data)
    (got,) = bench.rx([bench.frame(bytes(outer)) + bytes(30)])
    assert got == bench.frame(raw)


def test_a_broken_ip_checksum_is_not_mended(bench: Any, peer: Peer) -> None:
    data = bytearray(peer.frame())
    data[14 + 8] ^= 1  # TTL
    assert bench.rx([bytes(data)]) == [Drop.MALFORMED]


def test_esp_of_no_sa_goes_up_as_it_is(bench: Any, peer: Peer) -> None:
    other = bench.frame(
        bytes(IP(src="10.1.0.1", dst="10.1.0.2", proto=50) / Raw(bytes([0, 0, 9, 9]) + bytes(40)))
    )
    assert bench.rx([other]) == [other]
    assert bench.descriptors["flags"][0] == 0 and bench.descriptors["handle"][0] == 0


def test_stopped_sa(bench: Any, peer: Peer) -> None:
    bench.t.sa[peer.row].stopped = 1
    assert bench.rx([peer.frame()]) == [Drop.HARD_LIMIT]


def test_limits_count_received_packets(bench: Any) -> None:
    peer = Peer(bench, packets=3)
    got = bench.rx([peer.frame() for _ in range(5)])
    assert [type(one) for one in got[:3]] == [bytes] * 3
    assert got[3:] == [Drop.HARD_LIMIT] * 2


def test_selector_is_bound_to_the_sa(bench: Any) -> None:
    peer = Peer(bench, selector=Selector(family=2, proto=17, dport=53, dport_mask=0xFFFF))
    base = IP(src="10.1.0.1", dst="10.1.0.2", id=9)
    frames = [
        peer.frame(base / UDP(dport=53)), peer.frame(base / UDP(dport=54)),
        peer.frame(base / TCP(dport=53)), peer.frame(base / ICMP()),
    ]  # fmt: skip
    got = bench.rx(frames)
    assert got[0] == bench.frame(bytes(base / UDP(dport=53)))
    assert got[1:] == [Drop.SELECTOR] * 3
    assert bench.state(peer.row).selector == 3


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        ({}, None),
        ({"spi": SPI}, None),
        ({"spi": 0x999}, Drop.TEMPLATE),
        ({"reqid": 2}, Drop.TEMPLATE),
        ({"action": BLOCK, "protect": False}, Drop.POLICY_BLOCK),
        ({"protect": False}, None),
        ({"dport": 9, "dport_mask": 0xFFFF, "reqid": 2}, None),
    ],
)
def test_in_policy(bench: Any, peer: Peer, policy: dict[str, Any], why: Drop | None) -> None:
    bench.policy(direction=IN, **policy)
    (got,) = bench.rx([peer.frame()])
    assert got == why if why else isinstance(got, bytes)


def test_clear_packets(bench: Any) -> None:
    udp = bench.frame(bytes(IP(src="10.1.0.1", dst="10.1.0.2") / UDP(dport=9)))
    icmp = bench.frame(bytes(IP(src="10.1.0.1", dst="10.1.0.2") / ICMP()))
    arp = bytes(12) + b"\x08\x06" + bytes(46)
    v6 = bench.frame(bytes(IPv6() / UDP()))
    assert bench.rx([udp, icmp, arp, v6]) == [udp, icmp, arp, v6]

    bench.policy(direction=IN, proto=17)
    bench.policy(direction=IN, proto=1, action=BLOCK, protect=False)
    assert bench.rx([udp, icmp, arp, v6]) == [Drop.CLEAR_TEXT, Drop.POLICY_BLOCK, arp, v6]
    bench.policy(direction=IN, proto=17, protect=False)  # the newest of one priority wins
    assert bench.rx([udp]) == [udp]


def test_fragments(bench: Any, peer: Peer) -> None:
    """ESP is not opened in pieces; clear ones pass only where no policy could ask for more."""
    base = {"src": "10.1.0.1", "dst": "10.1.0.2"}
    esp = [peer.outer(bytes(64), flags="MF"), peer.outer(bytes(64), frag=5)]
    assert bench.rx(esp) == esp

    udp = [
        bench.frame(bytes(IP(**base, proto=17, flags="MF") / Raw(bytes(16)))),
        bench.frame(bytes(IP(**base, proto=17, frag=2) / Raw(bytes(16)))),
    ]
    assert bench.rx(udp) == udp
    bench.policy(direction=IN, proto=17, dport=4242, dport_mask=0xFFFF)
    assert bench.rx(udp) == [Drop.FRAGMENT] * 2
    bench.policy(direction=IN, proto=17, protect=False, sport=1, sport_mask=0xFFFF)
    assert bench.rx(udp) == [Drop.FRAGMENT] * 2
    bench.policy(direction=IN, proto=17, protect=False)
    assert bench.rx(udp) == udp


def test_fragment_whose_protocol_is_hidden(bench: Any) -> None:
    packet = (
        IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrFragment(offset=4, nh=60) / Raw(bytes(32))
    )
    assert bench.rx([bench.frame(bytes(packet))]) == [Drop.FRAGMENT]


def test_udp_encapsulation_takes_only_its_own(bench: Any) -> None:
    """RFC 3948: IKE (four zero bytes), keepalives and ESP without UDP are not for this SA."""
    row = bench.sa(direction=IN, replay_window=64, encap_sport=4500, encap_dport=4500)
    base = IP(src="10.1.0.1", dst="10.1.0.2", id=9)
    inner = base / UDP(dport=9) / b"hello"
    data = bench.esp(bench.KEY, SPI, 1, bytes(inner)[20:], 17)
    tunnel = UDP(sport=777, dport=4500, chksum=0)
    good, ike, alive, foreign, short = (
        bench.frame(bytes(base / tunnel / Raw(body)))
        for body in (data, bytes(4) + data[4:], b"\xff", b"\1\2\3\4" + data[4:], data[:8])
    )
    plain = bench.frame(bytes(IP(bytes(base / Raw(data)))))
    plain = plain[:23] + b"\x32" + plain[24:]
    same = [ike, alive, foreign, short, plain]
    assert bench.rx([good, *same]) == [bench.frame(bytes(inner)), *same]
    assert bench.state(row).packets == 1
    pieces = bench.frame(bytes(IP(src="10.1.0.1", dst="10.1.0.2", flags="MF") / tunnel / Raw(data)))
    assert bench.rx([pieces]) == [Drop.FRAGMENT]
    bench.steering.remove_sa(row)
    assert bench.rx([good]) == [good]


def test_clear_udp_to_an_esp_port_is_judged(bench: Any) -> None:
    """Its first four bytes need not be an SPI: without an SA it is a clear packet."""
    bench.sa(spi=7, direction=IN, encap_sport=4500, encap_dport=4500)
    bench.sa(spi=8, direction=IN)
    base = IP(src="10.1.0.1", dst="10.1.0.2")
    unknown, native_sa = (
        bench.frame(bytes(base / UDP(sport=9, dport=4500) / Raw(spi.to_bytes(4, "big") * 15)))
        for spi in (0x1234, 8)
    )
    native = bench.frame(bytes(IP(src="10.1.0.1", dst="10.1.0.2", proto=50) / Raw(b"\1" * 60)))
    frames = [unknown, native_sa, native]
    assert bench.rx(frames) == frames
    bench.policy(direction=IN)
    assert bench.rx(frames) == [Drop.CLEAR_TEXT, Drop.CLEAR_TEXT, native]
    bench.policy(direction=IN, protect=False, action=BLOCK)
    assert bench.rx(frames) == [Drop.POLICY_BLOCK, Drop.POLICY_BLOCK, native]
    bench.policy(direction=IN, protect=False)
    assert bench.rx(frames) == frames


def test_ah_is_judged_as_ah(bench: Any) -> None:
    """What stands behind AH is not what the policies see; the host reads it alike."""
    ah = AH(nh=17, payloadlen=4, spi=1, seq=1, icv=bytes(12))
    data = bench.frame(bytes(IPv6(src="fd00::1", dst="fd00::2", nh=51) / ah / UDP(dport=9)))
    bench.policy(direction=IN, family=10, proto=17)
    assert bench.rx([data]) == [data]
    bench.policy(direction=IN, family=10, proto=51)
    assert bench.rx([data]) == [Drop.CLEAR_TEXT]


def test_udp_to_port_0_is_no_esp(bench: Any, peer: Peer) -> None:
    """An SA without UDP has port 0, which must not make a clear packet look like ESP."""
    bench.policy(direction=IN)
    clear = IP(src="10.1.0.1", dst="10.1.0.2") / UDP(dport=0) / Raw(b"\1" * 60)
    assert bench.rx([bench.frame(bytes(clear))]) == [Drop.CLEAR_TEXT]


def test_ipv6_extension_headers_around_esp(bench: Any) -> None:
    """Hop-by-hop stays in front; destination options inside ESP come back behind it."""
    bench.sa(direction=IN, src="fd00::1", dst="fd00::2", replay_window=64)
    hop = IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))])
    inner = IPv6(src="fd00::1", dst="fd00::2") / hop / IPv6ExtHdrDestOpt() / UDP(dport=9) / b"abc"
    raw = bytes(inner)
    data = bench.esp(bench.KEY, SPI, 1, raw[48:], 60)
    outer = IPv6(src="fd00::1", dst="fd00::2") / hop / Raw(data)
    outer[IPv6ExtHdrHopByHop].nh = 50
    assert bench.rx([bench.frame(bytes(outer))]) == [bench.frame(raw)]


def test_credits_and_slots(bench: Any) -> None:
    frames = [bytes(12) + b"\x08\x06" + bytes([n]) * 46 for n in range(5)]
    bench.rx_index = 1022
    assert bench.rx(frames, credits=3) == frames[:3] + [Drop.NO_BUFFER] * 2
    assert list(bench.descriptors["offset"][:3]) == [rx_offset(n) for n in (1022, 1023, 0)]
    assert bench.rx(frames, credits=0) == [Drop.NO_BUFFER] * 5


def test_mac_filter(bench: Any) -> None:
    mine, other, group = (bytes.fromhex(mac) for mac in ("020000000002", "020000000003", "ff" * 6))
    frames = [mac + bytes(6) + b"\x08\x06" + bytes(46) for mac in (mine, other, group)]
    assert bench.rx(frames, mac=0x0200_0000_0002) == [frames[0], Drop.MAC_FILTER, frames[2]]
