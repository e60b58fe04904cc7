# SPDX-License-Identifier: Apache-2.0
"""TX-05..08, TX-20..25 and TX-40..46: from the chosen SA to the device, and what is asked there."""

import errno
import struct

import pytest

from host_driver.conformance import packets, texts
from host_driver.conformance.bench import BARE, PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import DESTINATION, SOURCE
from host_driver.conformance.packets import Esp
from host_driver.conformance.probe import NO_PACKETS
from host_driver.conformance.subject import Subject

PACKET = packets.udp()
ENCAP = "encap espinudp 4500 4500 0.0.0.0"
LOCAL = "127.0.0.1", "127.0.0.2"  # a route that leaves through another device, the loopback
REFUSED = [errno.EHOSTUNREACH]
OUT_ERROR = {"XfrmOutError": 1}


def outbound(bench: Bench, driver: str | None = None, **sa: str | int) -> Subject:
    """A host with a packet-offload SA out and its policy."""
    host = bench.host(driver=driver)
    host.ok(texts.state(host.dev, **sa))  # type: ignore[arg-type]
    host.ok(texts.policy(host.dev, reqid=int(sa.get("reqid", 1))))
    host.notes()
    return host


@rule("TX-05")
def test_a_driver_that_says_no(bench: Bench) -> None:
    """offload_ok false: the packet is freed, EHOSTUNREACH, XfrmOutError."""
    host = outbound(bench, PROBE, reqid=NO_PACKETS)
    assert host.send([PACKET]) == REFUSED
    assert (host.mib(), bench.on_the_wire()) == (OUT_ERROR, [])


@rule("TX-05")
def test_the_core_leaves_the_whole_transform_to_the_device(bench: Bench) -> None:
    """The driver is asked once a packet; the core's sequence number does not move, and the wire has
    the device's own."""
    host = outbound(bench)
    assert host.send([PACKET] * 3) == [0, 0, 0]
    assert host.order("U", "A", "pA") in ("K K K", "")  # a driver without the callback is not asked
    assert "oseq 0x0" in host.ok(texts.get())
    numbers = [struct.unpack_from(">I", packet, 24)[0] for packet in bench.on_the_wire()]
    assert numbers == [1, 2, 3]


@rule("TX-05")
def test_a_chain_of_hardware_sas(bench: Bench) -> None:
    """v6.2 asks the driver for each SA of the chain; `latest` lets none but the last be in
    hardware. Nothing leaves in clear."""
    host = bench.host(driver=PROBE)
    ends = f"src {SOURCE} dst {DESTINATION} proto esp"
    for reqid in (1, 2):
        host.ok(texts.state(host.dev, spi=reqid << 12, reqid=reqid))
    host.ok(
        f"xfrm policy add src {SOURCE} dst {DESTINATION} dir out tmpl {ends} reqid 1 mode transport"
        f" tmpl {ends} reqid 2 mode transport offload packet dev {host.dev}"
    )
    sent = host.send([PACKET])
    asked = [call["spi"] for call in host.calls_of("offload_ok")]
    if bench.latest:
        assert (sent, asked, host.mib()) == (REFUSED, [], OUT_ERROR)
    else:
        assert (sent, asked, host.mib()) == ([0], ["0x1000", "0x2000"], {})
    assert bench.on_the_wire() == []


@rule("TX-07")
def test_only_the_device_stops_an_sa_that_the_core_believes_in(bench: Bench) -> None:
    """Past its hard limit, which no event has told: the core passes every packet on, the card
    drops."""
    host = outbound(bench, more="limit packet-hard 4")
    bench.deafen()
    assert host.send([PACKET] * 9) == [0] * 9
    assert [Esp().open(packet) for packet in bench.on_the_wire()] == [PACKET] * 4
    assert host.mib() == {}


@rule("TX-08")
def test_the_device_finds_the_sa_by_itself(bench: Bench) -> None:
    """Two policies of one pair of hosts, two reqids: the packet tells the card neither."""
    host = bench.host()
    for port in (1, 2):
        host.ok(texts.state(host.dev, spi=port << 12, reqid=port))
        host.ok(texts.policy(host.dev, reqid=port, more=f"proto udp dport {port}"))
    host.send([packets.udp(dport=port) for port in (1, 2, 2, 1)])
    assert bench.spis() == [0x1000, 0x2000, 0x2000, 0x1000]


@rule("TX-20", profile="v6.2")
@rule("TX-23", profile="latest")
def test_without_offload_ok_the_core_decides_alone(bench: Bench) -> None:
    """A driver without the callback: what fits passes, what is too long does not."""
    host = outbound(bench, BARE)
    assert host.send([packets.udp(bytes(1438), flags=0)]) == [0]
    assert host.send([packets.udp(bytes(1439), flags=0)]) == REFUSED
    assert host.mib() == OUT_ERROR


@rule("TX-20", profile="v6.2")
@rule("TX-23", profile="latest")
def test_offload_ok_is_asked_last(bench: Bench) -> None:
    """Not for a packet that the core's own tests refuse."""
    host = outbound(bench, PROBE)
    host.send([PACKET])
    assert host.order("U").endswith("pA K")
    host.send([packets.udp(bytes(1439), flags=0)])
    assert host.order("U").endswith("pA K")


@rule("TX-20", "TX-21", "TX-40", profile="v6.2")
def test_v6_2_sends_in_clear_through_another_device(bench: Bench) -> None:
    """The route leaves through another device than the SA's: nothing in the core compares them, not
    before and not after the check, and the packet goes out as it is."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev, src=LOCAL[0], dst=LOCAL[1]))
    host.ok(texts.policy(host.dev, src=LOCAL[0], dst=LOCAL[1]))
    packet = packets.udp(src=LOCAL[0], dst=LOCAL[1])
    assert host.send([packet]) == [0]
    assert host.receive() == [packet]
    assert (host.mib(), bench.on_the_wire()) == ({}, [])


@rule("TX-23", profile="latest")
def test_the_route_s_device_must_be_the_sa_s(bench: Bench) -> None:
    """Else the packet is dropped, and the driver is not asked."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev, src=LOCAL[0], dst=LOCAL[1]))
    host.ok(texts.policy(host.dev, src=LOCAL[0], dst=LOCAL[1]))
    assert host.send([packets.udp(src=LOCAL[0], dst=LOCAL[1])]) == REFUSED
    assert (host.receive(), host.mib()) == ([], OUT_ERROR)
    assert "K" not in host.order()


@rule("TX-20", profile="v6.2")
@rule("TX-23", profile="latest")
def test_crypto_offload_is_left_out_where_the_route_differs(bench: Bench) -> None:
    """In crypto mode a packet for another device is protected in software, in either kernel."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev, offload="crypto", src=LOCAL[0], dst=LOCAL[1]))
    host.ok(texts.policy(src=LOCAL[0], dst=LOCAL[1]))
    packet = packets.udp(src=LOCAL[0], dst=LOCAL[1])
    assert host.send([packet]) == [0]
    assert "K" not in host.order()
    found = host.sa(dst=LOCAL[1])
    assert found is not None and found.curlft.packets


def with_extension(packet: bytes) -> bytes:
    """An IPv6 packet with a destination options header of padding."""
    head = bytearray(packet[:40])
    head[4:6], head[6] = (len(packet) - 32).to_bytes(2), 60
    return bytes(head) + bytes((packet[6], 0, 1, 4, 0, 0, 0, 0)) + packet[40:]


@rule("TX-23", profile="latest")
@pytest.mark.parametrize("six", [False, True])
def test_headers_that_devices_do_not_step_over(bench: Bench, six: bool) -> None:
    """IPv4 options and IPv6 extension headers: false, whatever the driver would say."""
    here, there = ("fd00:1::1", "fd00:1::2") if six else (SOURCE, DESTINATION)
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev, src=here, dst=there))
    host.ok(texts.policy(host.dev, src=here, dst=there))
    plain = packets.udp(src=here, dst=there)
    odd = with_extension(plain) if six else packets.with_option(plain)
    assert host.send([plain, odd]) == [0, errno.EHOSTUNREACH]
    assert host.order("U").count("K") == 1
    assert host.mib() == OUT_ERROR


@rule("TX-23", "RX-15", profile="latest")
@pytest.mark.parametrize("six_inside", [False, True])
def test_the_packet_s_own_family_is_looked_at(bench: Bench, six_inside: bool) -> None:
    """A tunnel across families: headers are judged by the packet inside, on both ends."""
    six, four = ("2001:db8::1", "2001:db8::2"), ("192.0.2.1", "192.0.2.2")
    outer, inner = (four, six) if six_inside else (six, four)
    pair = bench.pair()
    for host, dir in zip(pair, ("out", "in"), strict=True):
        more = "flag af-unspec"
        host.ok(
            texts.state(host.dev, dir=dir, mode="tunnel", src=outer[0], dst=outer[1], more=more)
        )
        host.ok(
            texts.policy(host.dev, dir=dir, mode="tunnel", src=inner[0], dst=inner[1], ends=outer)
        )
    a, b = pair
    plain = packets.udp(src=inner[0], dst=inner[1])
    odd = with_extension(plain) if six_inside else packets.with_option(plain)
    assert a.send([plain, odd]) == [0, errno.EHOSTUNREACH]
    assert (b.receive(), b.mib()) == ([plain], {})


@rule("TX-22", profile="latest")
@pytest.mark.parametrize("offload", ["packet", "crypto"])
def test_udp_encapsulation_is_no_obstacle(bench: Bench, offload: str) -> None:
    """An encapsulated SA is used in hardware: the driver's answer decides."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev, offload=offload, reqid=NO_PACKETS, more=ENCAP))
    host.ok(texts.policy(host.dev if offload == "packet" else None, reqid=NO_PACKETS))
    host.send([PACKET])
    assert "K" in host.order()


@rule("TX-22", profile="latest")
def test_software_encapsulates_what_is_not_offloaded(bench: Bench) -> None:
    """Without offload the check says no, and software makes the packet."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(more=ENCAP))
    host.ok(texts.policy())
    assert host.send([PACKET]) == [0]
    (sent,) = bench.on_the_wire()
    assert (packets.protocol(sent), sent[20:24]) == (packets.UDP, struct.pack(">HH", 4500, 4500))
    assert host.order() == ""


@rule("TX-24", profile="latest")
@pytest.mark.parametrize("six", [False, True])
def test_a_tunnel_packet_too_long_for_its_path(bench: Bench, six: bool) -> None:
    """Refused, and nothing leaves: IPv4 that must not be cut with EMSGSIZE for its sender, IPv6
    with EHOSTUNREACH and XfrmOutError."""
    here, there = ("fd00:1::1", "fd00:1::2") if six else (SOURCE, DESTINATION)
    host = bench.host()
    host.ok(texts.state(host.dev, mode="tunnel", src=here, dst=there))
    host.ok(texts.policy(host.dev, mode="tunnel", src=here, dst=there, ends=(here, there)))
    longest = 1426 - 48 if six else 1446 - 28
    fits, too_long = (packets.udp(bytes(n), src=here, dst=there) for n in (longest, longest + 1))
    errnos = host.send([fits, too_long])
    assert errnos == [0, errno.EHOSTUNREACH if six else errno.EMSGSIZE]
    assert host.mib() == (OUT_ERROR if six else {})
    assert [Esp().open(packet, tunnel=True) for packet in bench.on_the_wire()] == [fits]


@rule("TX-25")
def test_a_transport_packet_too_long_is_dropped_without_a_word(bench: Bench) -> None:
    """One that could be cut: no ICMP comes back, only the drop."""
    host = outbound(bench)
    assert host.send([packets.udp(bytes(1439), flags=0)]) == REFUSED
    assert (host.receive(), bench.on_the_wire(), host.mib()) == ([], [], OUT_ERROR)


@rule("TX-42")
@pytest.mark.parametrize("six_outside", [False, True])
def test_the_device_fills_the_ethernet_header_of_a_tunnel_packet(
    bench: Bench, six_outside: bool
) -> None:
    """Addresses of the two cards, and the type of the outer packet, whatever is inside."""
    ends = ("2001:db8::1", "2001:db8::2") if six_outside else ("192.0.2.1", "192.0.2.2")
    a, b = bench.pair()
    a.ok(texts.state(a.dev, mode="tunnel", src=ends[0], dst=ends[1], more="flag af-unspec"))
    a.ok(texts.policy(a.dev, mode="tunnel", ends=ends))
    assert a.send([PACKET]) == [0]
    (frame,) = bench.frames()
    assert frame[:12] == b.mac + a.mac
    assert frame[12:14] == (b"\x86\xdd" if six_outside else b"\x08\0")
    assert Esp().open(frame[14:], tunnel=True) == PACKET


@rule("TX-46")
def test_success_moves_no_counter_of_the_core(bench: Bench) -> None:
    """Neither a packet that left nor one that the card dropped at a hard limit: those the device's
    own counters show."""
    host = outbound(bench, more="limit packet-hard 3")
    host.send([PACKET] * 3)
    assert host.mib() == {}
    bench.deafen()
    host.ok("xfrm state flush")
    host.ok(texts.state(host.dev, more="limit packet-hard 3"))
    host.send([PACKET] * 5)
    assert host.mib() == {}
    dropped = {name: n for name, n in host.counters().items() if "drop" in name}
    assert sum(dropped.values()) >= 2, dropped


@rule("TX-46")
def test_a_packet_without_sa_at_the_device_counts_there(bench: Bench) -> None:
    """The core is sure of an SA that the card does not have: the card drops, its counters tell."""
    host = outbound(bench, PROBE)
    assert host.send([PACKET]) == [0]
    assert (host.mib(), bench.on_the_wire()) == ({}, [])
    assert any("drop" in name for name in host.counters()), host.counters()
