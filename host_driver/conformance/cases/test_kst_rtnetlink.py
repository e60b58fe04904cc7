# SPDX-License-Identifier: Apache-2.0
"""KST-01..05, 08, 20, 21: the kernel's self tests of SAs on devices, and what they leave out: the
same with packet offload, and expiries that the device itself counts."""

import errno
import struct

import pytest

from host_driver.conformance import messages, packets, texts
from host_driver.conformance.bench import Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.subject import Subject
from proto.xfrm import Attr, Msg

OURS, PEERS = "192.168.123.3", "192.168.123.4"
KEY = b"1234567890123456" + b"dcba"
ALGORITHM = f"aead rfc4106(gcm(aes)) 0x{KEY.hex()} 128"
TEMPLATE = "proto esp src {src} dst {dst} spi 9 mode transport reqid 42"
ESP = packets.Esp(9, KEY)
FORMS = [pytest.param("", id="crypto"), pytest.param("packet", id="packet", marks=rule("KST-20"))]
VXLAN_PORT = 4789
ENDS = {4: ("10.1.0.1", "10.1.0.2"), 6: ("fd00:1::1", "fd00:1::2")}


def both_ways(src: str, dst: str) -> list[tuple[str, str, str]]:
    """Direction, source and destination, of what goes out and what comes in."""
    return [("out", src, dst), ("in", dst, src)]


@rule("KST-01")
def test_software_sas_and_policies_from_add_to_flush(bench: Bench) -> None:
    """Both directions are added, counted, found and told to a listener; after delete and flush
    nothing is left."""
    host = bench.host()
    src, dst = "192.168.123.1", "192.168.123.2"
    for spi, (dir, here, there) in enumerate(both_ways(src, dst), 7):
        ends = f"src {here} dst {there}"
        host.ok(f"xfrm state add {ends} proto esp spi {spi} mode transport {ALGORITHM}")
        host.ok(f"xfrm policy add {ends} dir {dir} tmpl {ends} proto esp mode transport reqid 1")
    assert host.note_names() == ["NEWSA", "NEWPOLICY"] * 2
    assert host.ok("xfrm state count").split() == ["SAD", "count", "2"]
    assert host.ok("xfrm policy count").split() == "SPD IN 1 OUT 1 FWD 0".split()
    for spi, (dir, here, there) in enumerate(both_ways(src, dst), 7):
        shown = host.ok(f"xfrm state get src {here} dst {there} proto esp spi {spi}")
        assert f"src {here} dst {there}" in shown and f"spi 0x{spi:08x}" in shown
        assert f"dir {dir}" in host.ok(f"xfrm policy get src {here} dst {there} dir {dir}")
    host.ok(f"xfrm state delete src {src} dst {dst} proto esp spi 7")
    host.ok(f"xfrm policy delete src {src} dst {dst} dir out")
    host.ok("xfrm state flush")
    host.ok("xfrm policy flush")
    assert host.note_names() == ["DELSA", "DELPOLICY", "FLUSHSA", "FLUSHPOLICY"]
    assert host.ok("xfrm state count").split() == ["SAD", "count", "0"]
    assert (host.states(), host.policies()) == ([], [])


# --- kci_test_ipsec_offload ---


def offloaded(host: Subject, form: str) -> None:
    """Two policies on networks and two SAs on the device, as the test's commands add them; in its
    packet form the policies are the device's as well."""
    mine = f"offload packet dev {host.dev}" if form else ""
    for dir, src, dst in both_ways(OURS, PEERS):
        template = TEMPLATE.format(src=src, dst=dst)
        host.ok(f"xfrm policy add dir {dir} src {src}/24 dst {dst}/24 tmpl {template} {mine}")
    for dir, src, dst in both_ways(OURS, PEERS):
        sa = f"{TEMPLATE.format(src=src, dst=dst)} {ALGORITHM} sel src {src}/24 dst {dst}/24"
        host.ok(f"xfrm state add {sa} offload {form} dev {host.dev} dir {dir}")
    if any(Attr.OFFLOAD_DEV not in note.attributes for note in host.states()):
        assert not form
        pytest.skip("this driver leaves crypto offload to the core")


@rule("KST-02", "KST-03")
@pytest.mark.parametrize("form", FORMS)
def test_each_offloaded_sa_is_listed_with_its_device(bench: Bench, form: str) -> None:
    """All adds succeed; two lines of the list name device and direction, and packet mode."""
    host = bench.host()
    offloaded(host, form)
    lines = [line.strip() for line in host.ok("xfrm state list").splitlines()]
    said = f"crypto offload parameters: dev {host.dev} dir"
    found = sorted(line for line in lines if said in line)
    assert found == [f"{said} {dir} mode {form or 'crypto'}" for dir in ("in", "out")]


@rule("KST-04")
@pytest.mark.parametrize("form", FORMS)
def test_pings_use_the_sa_on_the_device(bench: Bench, form: str) -> None:
    """Three echo requests: two SAs on the device, three packets of the outbound one, sealed with
    the key and SPI that were given."""
    host = bench.host()
    offloaded(host, form)
    pings = [
        packets.ip(struct.pack(">BBHHH", 8, 0, 0, 1, n) + bytes(56), 1, OURS, PEERS)
        for n in range(3)
    ]
    for ping in pings:
        assert host.send([ping]) == [0]
    assert host.census()["sas"] == 2
    left = bench.on_the_wire()
    assert [ESP.open(packet) for packet in left] == pings
    out, into = (host.sa(9, dst) for dst in (PEERS, OURS))
    assert out is not None and into is not None
    assert into.curlft.packets == 0
    if bench.latest or not form:  # v6.2 does not ask the device before it shows an SA (DUMP-02)
        assert out.curlft.packets == 3


@rule("KST-05")
@pytest.mark.parametrize("form", FORMS)
def test_a_flush_leaves_no_sa_on_the_device(bench: Bench, form: str) -> None:
    """state flush: the device has no SA."""
    host = bench.host()
    offloaded(host, form)
    assert host.census()["sas"] == 2
    host.ok("xfrm state flush")
    assert host.census().get("sas", 0) == 0
    assert host.order("U", "K", "pA").split() == ["A", "A", "D", "D", "F", "F"]


# --- ipsec_vxlan.py ---


@rule("KST-08")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("inner", [4, 6])
def test_vxlan_passes_over_offloaded_sas(bench: Bench, inner: int, outer: int, form: str) -> None:
    """VXLAN between two hosts whose policies protect its port: every packet arrives as it was sent,
    none is in clear on the wire, and no drop is counted."""
    hosts = bench.pair()
    src, dst = ENDS[outer]
    for host, dir in zip(hosts, ("out", "in"), strict=True):
        host.ok(texts.state(host.dev, src=src, dst=dst, dir=dir, offload=form))
        host.ok(
            texts.policy(
                host.dev if form else None, src=src, dst=dst, dir=dir,
                more=f"proto udp dport {VXLAN_PORT}",
            )
        )  # fmt: skip
        if Attr.OFFLOAD_DEV not in host.states()[0].attributes:
            pytest.skip("this driver leaves crypto offload to the core")
    here, there = (end.replace("1.0", "7.0").replace(":1::", ":7::") for end in ENDS[inner])
    sent = []
    for number in range(3):
        frame = packets.frame(packets.udp(b"%d" % number, src=here, dst=there), b"\x02inner")
        vxlan = struct.pack(">II", 0x0800_0000, 7 << 8) + frame
        sent.append(packets.udp(vxlan, dport=VXLAN_PORT, src=src, dst=dst))
    assert hosts[0].send(sent) == [0] * 3
    assert hosts[1].receive() == sent
    assert bench.spis() == [0x1000] * 3
    assert [name for name in hosts[0].counters() if "drop" in name] == []


# --- what no self test has: expiry that the device counts ---


@rule("KST-21")
@pytest.mark.parametrize(
    ("limit", "hardness"),
    [("packet-soft 2", "soft"), ("byte-soft 1500", "soft"), ("packet-hard 2", "hard"),
     ("byte-hard 1500", "hard")],
)  # fmt: skip
def test_the_device_tells_of_a_limit(bench: Bench, limit: str, hardness: str) -> None:
    """Counted on the device alone, and no time passes: the second packet is told as EXPIRE, soft
    or hard, once; with the hard one the SA is gone."""
    host = bench.host()
    host.ok(texts.state(host.dev, more=f"limit {limit}"))
    host.ok(texts.policy(host.dev))
    packet = packets.udp(bytes(1000))
    assert host.send([packet]) == [0]
    assert host.expired() == []
    assert host.send([packet]) == [0]
    assert host.expired() == [f"{hardness} 0x1000"]
    assert host.send([packet]) == [0]
    assert [line for line in host.expired() if line.endswith("0x1000")] == []
    gone = host.request(messages.request(Msg.GETSA, messages.sa_id())).errno
    assert gone == (errno.ESRCH if hardness == "hard" else 0)
