# SPDX-License-Identifier: Apache-2.0
"""TRAP-*: mistakes that kernels and drivers have made with packets, limits and overlaps."""

import errno
import struct
from typing import Any

import pytest

from host_driver.conformance import messages, packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.policies import block
from host_driver.conformance.subject import Subject
from proto.xfrm import Msg

PACKET = packets.udp()
ENCAP = "encap espinudp 4500 4500 0.0.0.0"
TUNNEL = ("192.0.2.1", "192.0.2.2")
TUNNEL6 = ("2001:db8::1", "2001:db8::2")


def outbound(bench: Bench, more: str = "", **how: Any) -> Subject:
    """A host with one packet-offload SA out, and its policy."""
    host = bench.host(**how)
    host.ok(texts.state(host.dev, more=more))
    host.ok(texts.policy(host.dev))
    return host


@rule("TRAP-04", profile="latest")
def test_a_dump_asks_the_driver_first(bench: Bench) -> None:
    """What the card has counted is in the next dump, although no limit and no event is there."""
    host = outbound(bench)
    host.send([PACKET] * 3)
    shown = host.sa()
    assert shown is not None and shown.curlft.packets == 3


@rule("TRAP-14", profile="latest")
def test_encapsulated_packets_leave(bench: Bench) -> None:
    """UDP encapsulation is no reason to refuse a packet of an offloaded SA."""
    host = outbound(bench, ENCAP)
    assert host.send([PACKET]) == [0]
    (sent,) = bench.on_the_wire()
    ports = struct.unpack_from(">HH", sent, 20)
    assert (packets.protocol(sent), ports, host.mib()) == (packets.UDP, (4500, 4500), {})


@rule("TRAP-16", profile="latest")
def test_drops_of_the_card_reach_the_statistics(bench: Bench) -> None:
    """A wrong ICV and a replay, dropped by the card, show in the SA's statistics."""
    host = bench.host()
    host.ok(texts.state(host.dev, dir="in"))
    sealed = packets.Esp().seal(PACKET, 5)
    broken = packets.broken(sealed)
    for packet in (sealed, broken[:24] + b"\0\0\0\x06" + broken[28:], sealed):
        bench.arrive(packet)
    host.settle()
    shown = host.sa()
    assert shown is not None
    assert (shown.stats.integrity_failed, shown.stats.replay) == (1, 1)


@rule("TRAP-20")
def test_another_route_is_no_way_around_the_device(bench: Bench) -> None:
    """A packet whose route leaves through another device than its SA's is dropped in `latest`;
    v6.2 let it out there in clear."""
    host = bench.host(driver=PROBE)
    here, there = "127.0.0.1", "127.0.0.2"
    host.ok(texts.state(host.dev, src=here, dst=there))
    host.ok(texts.policy(host.dev, src=here, dst=there))
    packet = packets.udp(src=here, dst=there)
    sent = host.send([packet])
    if bench.latest:
        assert (sent, host.mib()) == ([errno.EHOSTUNREACH], {"XfrmOutError": 1})
    else:
        assert (sent, host.mib()) == ([0], {})
    assert bench.on_the_wire() == []


@rule("TRAP-22")
def test_headers_that_hardware_cannot_skip(bench: Bench) -> None:
    """`latest` refuses IPv4 options for every device; v6.2 left them to the driver."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev))
    host.ok(texts.policy(host.dev))
    sent = host.send([packets.with_option(PACKET)])
    assert (sent == [errno.EHOSTUNREACH]) is bench.latest
    assert ("XfrmOutError" in host.mib()) is bench.latest
    assert [packet for packet in bench.on_the_wire() if not packets.is_esp(packet)] == []


@rule("TRAP-30", profile="latest")
@pytest.mark.parametrize("six_in_four", [False, True])
def test_tunnels_across_families(bench: Bench, six_in_four: bool) -> None:
    """IPv4 in an IPv6 tunnel, and IPv6 in an IPv4 one, arrive as they were sent."""
    outer, inner = (TUNNEL, TUNNEL6) if six_in_four else (TUNNEL6, TUNNEL)
    for host, dir in zip(bench.pair(), ("out", "in"), strict=True):
        more = "flag af-unspec"
        host.ok(
            texts.state(host.dev, dir=dir, mode="tunnel", src=outer[0], dst=outer[1], more=more)
        )
        selected = texts.policy(
            host.dev, dir=dir, mode="tunnel", ends=outer, src=inner[0], dst=inner[1]
        )
        host.ok(selected)
    a, b = bench.subjects
    packet = packets.udp(src=inner[0], dst=inner[1])
    assert a.send([packet]) == [0]
    assert b.receive() == [packet]
    (sent,) = bench.on_the_wire()
    assert packets.Esp().open(sent, tunnel=True) == packet


@rule("TRAP-32")
def test_a_clear_packet_against_an_offloaded_policy(bench: Bench) -> None:
    """The core of `latest` leaves it to the device, here to none, so it is delivered; v6.2 also
    judges it."""
    host = bench.host(driver=PROBE)
    host.ok(texts.policy(host.dev, dir="in"))
    bench.arrive(PACKET)
    received = host.receive()
    if bench.latest:
        assert (received, host.mib()) == ([PACKET], {})
    else:
        assert (received, host.mib()) == ([], {"XfrmInTmplMismatch": 1})


@rule("TRAP-37")
def test_a_software_sa_hides_hardware_ones_until_the_next(bench: Bench) -> None:
    """No kernel has mended it: a software SA added to hardware ones alone stands in front of them,
    and their policy finds none. What is added to hardware afterwards is found again."""
    host = outbound(bench)
    host.ok(texts.state(spi=0x2000))
    host.send([PACKET])
    assert (bench.on_the_wire(), host.mib()) == ([], {"XfrmOutNoStates": 1})
    host.ok(texts.state(host.dev, spi=0x3000))
    host.send([PACKET])
    assert bench.spis() == [0x3000]


@rule("TRAP-39")
def test_the_order_of_adding_decides_between_hardware_and_software(bench: Bench) -> None:
    """Hardware of priority 100, then software of 50: software. The other way round: hardware."""
    for software_last in (True, False):
        host = bench.host(driver=PROBE)
        host.ok("xfrm policy flush")
        hardware, software = texts.policy(host.dev, priority=100), block(1, 50)
        for command in (hardware, software) if software_last else (software, hardware):
            host.ok(command)
        sent = host.send([PACKET])
        assert sent == ([errno.EPERM] if software_last else [0]), "EPERM is the software policy's"


@rule("TRAP-40")
def test_without_an_event_no_limit_fires(bench: Bench) -> None:
    """A driver that never calls xfrm_state_check_expire never expires an SA by packets."""
    host = outbound(bench, "limit packet-hard 2", driver=PROBE)
    host.notes()
    for _ in range(5):
        host.send([PACKET])
    assert host.expired() == []
    assert host.sa() is not None


@rule("TRAP-44")
def test_packets_on_their_way_outlive_a_delete(bench: Bench) -> None:
    """An SA that is deleted behind a burst: what leaves is ESP, and nothing is left on the card."""
    host = outbound(bench)
    host.raw.send([PACKET] * 64)
    host.ok(texts.delete())
    host.send([PACKET])
    sent = bench.on_the_wire()
    assert len(sent) <= 64
    for packet in sent:
        assert packets.Esp().open(packet) == PACKET
    assert [call for call in host.calls() if "error" in call] == []
    host.ok("xfrm policy flush")
    assert host.census() == {}


@rule("TRAP-46")
def test_one_look_past_both_limits_is_a_hard_one(bench: Bench) -> None:
    """Where nothing told of the soft limit in time, only the hard expiry is reported."""
    host = outbound(bench, "limit packet-soft 2 limit packet-hard 4")
    host.notes()
    bench.deafen()
    host.send([PACKET] * 6)
    bench.lab.faults.reset()
    bench.lab.advance(2)  # the driver looks by itself, in real time too
    assert host.expired() == ["hard 0x1000"]


@rule("TRAP-47")
def test_a_counter_that_wraps_counts_on(bench: Bench) -> None:
    """A card with 8-bit counters keeps a limit of 300 exactly."""
    host = outbound(
        bench, "limit packet-soft 290 limit packet-hard 300", card="full:counter_bits=8"
    )
    host.notes()
    told = []
    for _ in range(32):
        host.send([PACKET] * 10)
        told += host.expired()
    assert (told, len(bench.on_the_wire())) == (["soft 0x1000", "hard 0x1000"], 300)


@rule("TRAP-48")
def test_a_new_sa_may_have_the_spi_of_one_that_is_going(bench: Bench) -> None:
    """Deleted and added again at once: the late free takes nothing from the new SA."""
    host = outbound(bench)
    again = messages.new_sa(messages.sa_info(), host.offload(4))
    deleted = messages.request(Msg.DELSA, messages.sa_id())
    for reply in host.together([deleted, again]):
        assert reply.errno == 0
    host.settle()
    host.send([PACKET] * 3)
    sent = bench.on_the_wire()
    assert [packets.Esp().open(packet) for packet in sent] == [PACKET] * 3
    assert host.census()["sas"] == 1


@rule("TRAP-49")
def test_ike_passes_a_catch_all_policy_by_an_offloaded_bypass(bench: Bench) -> None:
    """A bypass policy for UDP 500, offloaded and of better priority, lets IKE out in clear."""
    host = bench.host()
    host.ok(texts.state(host.dev))
    host.ok(texts.policy(host.dev, src="0.0.0.0/0", dst="0.0.0.0/0", priority=100))
    bypass = "xfrm policy add src 0.0.0.0/0 dst 0.0.0.0/0 proto udp dport 500 dir out priority 1"
    host.ok(f"{bypass} offload packet dev {host.dev}")
    ike = packets.udp(dport=500)
    assert host.send([ike, PACKET]) == [0, 0]
    clear, sealed = bench.on_the_wire()
    assert (clear, packets.Esp().open(sealed)) == (ike, PACKET)


@rule("TRAP-50")
def test_neighbour_discovery_passes_by_an_offloaded_bypass(bench: Bench) -> None:
    """The same for ICMPv6 under an IPv6 catch-all policy."""
    host = bench.host()
    host.ok(texts.policy(host.dev, src="::/0", dst="::/0", priority=100, ends=("::", "::")))
    bypass = "xfrm policy add src ::/0 dst ::/0 proto ipv6-icmp type 135 dir out priority 1"
    host.ok(f"{bypass} offload packet dev {host.dev}")
    here, there = "fd00:1::1", "fd00:1::2"
    solicitation = packets.ip(b"\x87\0" + bytes(22), 58, here, there)
    host.send([solicitation, packets.udp(src=here, dst=there)])
    assert bench.on_the_wire() == [solicitation]


@rule("TRAP-56")
def test_policy_and_sa_of_different_reqid_do_not_meet(bench: Bench) -> None:
    """With the document's example (reqid 7 and 10000) no packet leaves, least of all in clear."""
    host = bench.host()
    host.ok(texts.state(host.dev, reqid=7))
    host.ok(texts.policy(host.dev, reqid=10000))
    host.send([PACKET])
    assert (bench.on_the_wire(), host.mib()) == ([], {"XfrmOutNoStates": 1})


@rule("TRAP-21")
def test_what_does_not_fit_is_refused(bench: Bench) -> None:
    """A tunnel packet too long for its path is refused, not sent in pieces or in clear."""
    host = bench.host()
    host.ok(texts.state(host.dev, mode="tunnel", src=TUNNEL[0], dst=TUNNEL[1]))
    host.ok(texts.policy(host.dev, mode="tunnel", ends=TUNNEL))
    assert host.send([packets.udp(bytes(1430), flags=0)]) == [errno.EHOSTUNREACH]
    assert host.send([packets.udp(bytes(1430))]) == [errno.EMSGSIZE], (
        "with DF the sender hears of the MTU"
    )
    assert (bench.on_the_wire(), host.mib()) == ([], {"XfrmOutError": 1})
