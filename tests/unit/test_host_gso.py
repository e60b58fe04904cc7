# SPDX-License-Identifier: Apache-2.0
"""Large packets of the stack: whoever cuts them, the peer gets what scapy would have sent."""

import errno
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrRouting
from scapy.packet import Packet, Raw

from host_driver.lab import Lab
from proto.status import OffloadError
from support.segments import expected

A, B, A6, B6 = "10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"
KEY = "0x" + bytes(range(20)).hex()
MSS = 1300
PAYLOAD = bytes(index * 11 & 0xFF for index in range(4000))
HEADS: dict[str, Packet] = {
    "tcp4": IP(src=A, dst=B, id=9, flags="DF") / TCP(sport=1, dport=2, seq=77, flags="PA"),
    "udp4": IP(src=A, dst=B, id=9) / UDP(sport=1, dport=2),
    "tcp6": IPv6(src=A6, dst=B6) / TCP(sport=1, dport=2, seq=77, flags="PA"),
    "udp6": IPv6(src=A6, dst=B6) / UDP(sport=1, dport=2),
}
KINDS = ("clear", "packet", "crypto", "software")


def pieces(head: Packet) -> list[bytes]:
    """What arrives of it."""
    return expected(head, PAYLOAD, MSS)


def protect(lab: Lab, kind: str, limit: str = "") -> None:
    """SAs and policies of a kind, from the first host to the second."""
    if kind == "clear":
        return
    for host, way in zip(lab.hosts, ("out", "in"), strict=True):
        device = "" if kind == "software" else f"offload {kind} dev nic0 dir {way}"
        policy_device = "offload packet dev nic0" if kind == "packet" else ""
        for src, dst in ((A, B), (A6, B6)):
            state = (
                f"xfrm state add src {src} dst {dst} proto esp spi 0x1001 reqid 1 mode transport "
                f"aead 'rfc4106(gcm(aes))' {KEY} 128 {device} {limit if way == 'out' else ''}"
            )
            policy = (
                f"xfrm policy add src {src} dst {dst} dir {way} {policy_device} "
                "tmpl proto esp reqid 1 mode transport"
            )
            for text in (state, policy):
                done = host.ip(text)
                assert done.rc == 0, done.stderr


def delivered(lab: Lab) -> list[bytes]:
    lab.settle()
    return lab.hosts[1].receive()


@pytest.fixture(params=["full", "full:segmentation=no"], ids=["card cuts", "host cuts"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with Lab(hosts=2, card=request.param) as lab:
        yield lab


@pytest.mark.parametrize("kind", KINDS)
def test_the_peer_gets_every_piece(lab: Lab, kind: str) -> None:
    protect(lab, kind)
    for head in HEADS.values():
        assert lab.hosts[0].send([bytes(head / Raw(PAYLOAD))], gso_size=MSS) == [0]
        assert delivered(lab) == pieces(head)
    clear = [frame for frame in lab.wire.frames() if PAYLOAD[:64] in frame.data]
    assert bool(clear) == (kind == "clear")


@pytest.mark.parametrize("kind", KINDS)
def test_many_at_once(lab: Lab, kind: str) -> None:
    """The first teaches the flow table, and the others pass as bursts."""
    protect(lab, kind)
    large = [bytes(head / Raw(PAYLOAD)) for head in HEADS.values()] * 8
    assert lab.hosts[0].send(large, gso_size=MSS) == [0] * len(large)
    assert delivered(lab) == [one for head in HEADS.values() for one in pieces(head)] * 8
    assert lab.hosts[0].generate(large[:4], 20, gso_size=MSS)["accepted"] == 20
    assert delivered(lab) == [one for head in HEADS.values() for one in pieces(head)] * 5


def test_a_device_that_does_not_cut_any_more_leaves_it_to_the_host() -> None:
    with Lab(hosts=2) as lab:
        protect(lab, "packet")
        host = lab.hosts[0]
        large = [bytes(HEADS["tcp4"] / Raw(PAYLOAD))] * 8
        for sent in (0, len(pieces(HEADS["tcp4"])) - 1):
            before = host.nic.counters()["tx_descriptors"]
            host.send(large, gso_size=MSS)
            assert delivered(lab) == pieces(HEADS["tcp4"]) * 8
            assert host.nic.counters()["tx_descriptors"] - before == len(large) * (1 + sent)
            host.set_link(segmentation=False)


@pytest.mark.parametrize(("card", "dev"), [("full:segmentation=no", "nic0"), ("full", "lo")])
def test_no_card_learns_to_cut(card: str, dev: str) -> None:
    with Lab(card=card) as lab, pytest.raises(OffloadError) as refused:
        lab.hosts[0].set_link(dev, segmentation=True)
    assert refused.value.errno == errno.EOPNOTSUPP


def test_a_card_in_the_place_of_one_that_cut_is_not_asked_to() -> None:
    with Lab(hosts=2) as lab:
        host, large = lab.hosts[0], [bytes(HEADS["udp4"] / Raw(PAYLOAD))] * 9
        host.send(large, gso_size=MSS)
        assert delivered(lab) == pieces(HEADS["udp4"]) * 9
        host.nic.kill()
        host.nic.restart("full:segmentation=no")
        lab.settle()
        assert host.send(large, gso_size=MSS) == [0] * 9
        assert delivered(lab) == pieces(HEADS["udp4"]) * 9


def test_a_large_packet_that_waited_for_an_sa_goes_whole_or_not_at_all() -> None:
    with Lab(hosts=2) as lab:
        host, head = lab.hosts[0], HEADS["udp4"]
        host.sysctl("net.core.xfrm_larval_drop", 0)
        tmpl = "tmpl proto esp reqid 1 mode transport"
        assert host.ip(f"xfrm policy add src {A} dst {B} dir out {tmpl}").rc == 0
        assert host.send([bytes(head / Raw(bytes(3000)))], gso_size=20) == [0]
        assert delivered(lab) == []
        for end in lab.hosts:
            done = end.ip(
                f"xfrm state add src {A} dst {B} proto esp spi 0x1001 reqid 1 mode transport "
                f"aead 'rfc4106(gcm(aes))' {KEY} 128"
            )
            assert done.rc == 0
        lab.advance(10)
        assert b"".join(packet[28:] for packet in delivered(lab)) == bytes(3000)


def test_of_pieces_that_are_fragmented_none_is_lost() -> None:
    """Software ESP makes two packets of each that just fits."""
    with Lab(hosts=2) as lab:
        protect(lab, "software")
        large = bytes(IP(src=A, dst=B, flags=0) / UDP(sport=1, dport=2) / Raw(bytes(40 * 1472)))
        assert lab.hosts[0].send([large] * 14, gso_size=1472) == [0] * 14
        assert [len(packet) for packet in delivered(lab)] == [1500] * 14 * 40


def test_small_ones_stay_whole(lab: Lab) -> None:
    small = [bytes(head / Raw(PAYLOAD[:100])) for head in HEADS.values()] * 3
    assert lab.hosts[0].send(small, gso_size=MSS) == [0] * len(small)
    assert delivered(lab) == small


def test_what_cannot_be_cut_is_refused_and_the_others_go(lab: Lab) -> None:
    good = bytes(HEADS["udp4"] / Raw(PAYLOAD))
    bad = [
        bytes(IP(src=A, dst=B, proto=47) / Raw(PAYLOAD)),
        bytes(IP(src=A, dst=B, flags="MF") / UDP() / Raw(PAYLOAD)),
        good + b"behind it",
        good[:-1],
        bytes(IP(src=A, dst=B, options=b"\x83\x07\x04" + bytes(5)) / UDP() / Raw(PAYLOAD)),
        bytes(IPv6(src=A6, dst=B6) / IPv6ExtHdrRouting(addresses=["fd00::3"]) / UDP()
              / Raw(PAYLOAD)),
        b"",
    ]  # fmt: skip
    for burst in (1, 3):
        errnos = lab.hosts[0].send([good, *bad, good] * burst, gso_size=MSS)
        assert errnos == [0, *[errno.EINVAL] * len(bad), 0] * burst
        assert delivered(lab) == pieces(HEADS["udp4"]) * 2 * burst
    for size in (-1, 1 << 16, 1 << 32, (1 << 64) - 1):
        for packet in (good, pieces(HEADS["udp4"])[0]):
            assert lab.hosts[0].send([packet] * 9, gso_size=size) == [errno.EINVAL] * 9
    assert delivered(lab) == []


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_that_do_not_fit_are_refused(lab: Lab, kind: str) -> None:
    protect(lab, kind)
    large = bytes(HEADS["tcp4"] / Raw(PAYLOAD))
    for count in (1, 9):
        assert lab.hosts[0].send([large] * count, gso_size=1461) == [errno.EMSGSIZE] * count
    assert delivered(lab) == [] and not lab.wire.frames()


def test_more_pieces_than_a_card_makes_are_made_by_the_host() -> None:
    with Lab(hosts=2) as lab:
        protect(lab, "packet")
        payload = bytes(257 * 8)
        whole = bytes(HEADS["udp4"] / Raw(payload))
        assert lab.hosts[0].send([whole], gso_size=8) == [0]
        assert [packet[28:] for packet in delivered(lab)] == [bytes(8)] * 257


@pytest.mark.parametrize("kind", KINDS)
def test_a_queue_that_is_full_of_pieces_is_waited_for(lab: Lab, kind: str) -> None:
    """60 times 31 pieces, and a queue of 1000."""
    protect(lab, kind)
    large = bytes(HEADS["udp4"] / Raw(bytes(31 * 100)))
    for count in (7, 60):
        assert lab.hosts[0].send([large] * count, gso_size=100) == [0] * count
        assert len(delivered(lab)) == 31 * count
    assert lab.hosts[0].generate([large], 60, gso_size=100)["accepted"] == 60
    assert len(delivered(lab)) == 31 * 60


def test_more_pieces_than_a_queue_could_take_are_refused(lab: Lab) -> None:
    large = bytes(HEADS["udp4"] / Raw(bytes(501)))
    for count in (1, 9):
        assert lab.hosts[0].send([large] * count, gso_size=1) == [errno.EINVAL] * count


def test_the_longest(lab: Lab) -> None:
    """What fits a descriptor is the card's; an IP packet may be a little longer."""
    for size in (65_521 - 40, 0xFFFF - 40):
        payload = bytes(size)
        whole = bytes(HEADS["tcp4"].copy() / Raw(payload))
        assert lab.hosts[0].send([whole], gso_size=MSS) == [0]
        assert sum(len(packet) - 40 for packet in delivered(lab)) == size


def test_a_hard_limit_is_exact_among_pieces() -> None:
    with Lab(hosts=2) as lab:
        protect(lab, "packet", "limit packet-hard 6")
        large = [bytes(HEADS["udp4"] / Raw(PAYLOAD))] * 2
        assert lab.hosts[0].send(large, gso_size=MSS) == [0, 0]
        assert delivered(lab) == (pieces(HEADS["udp4"]) * 2)[:6]
        assert lab.hosts[0].nic.counters()["tx_drop_hard_limit"] == 2


@pytest.mark.parametrize(
    "fault",
    [
        {"site": "card.seal", "kind": "corrupt-icv", "interval": 2},
        {"site": "card.tx", "kind": "stall", "delay_ms": 20, "times": 2},
        {"site": "card.tx", "kind": "drop", "interval": 2},
    ],
    ids=lambda fault: fault["kind"],
)
def test_under_faults_nothing_leaves_in_clear_or_twice(fault: dict[str, object]) -> None:
    with Lab(hosts=2) as lab:
        protect(lab, "packet")
        large = [bytes(HEADS["tcp4"] / Raw(PAYLOAD))] * 40
        with lab.faults.inject(**fault):
            lab.hosts[0].send(large, gso_size=MSS)
            got = delivered(lab)
        frames = [frame.data for frame in lab.wire.frames()]
        assert len({frame[34:42] for frame in frames}) == len(frames)
        assert {frame[23] for frame in frames} == {50}
        whole = 160 if fault["kind"] == "stall" else 80
        assert len(got) == whole and set(got) <= set(pieces(HEADS["tcp4"]))
