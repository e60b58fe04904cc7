# SPDX-License-Identifier: Apache-2.0
"""TRACE-*: which callbacks the core makes, in which order, and what the user sees meanwhile."""

from host_driver.conformance import packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.probe import REFUSE


@rule("TRACE-01", "OPS-10", "STATE-32")
def test_an_accepted_sa_is_added_once_and_announced(bench: Bench) -> None:
    """NEWSA accepted: one state_add while the SA is VOID, success, one NEWSA."""
    host = bench.host()
    host.ok(texts.state(host.dev))
    assert host.order("U") == "A"
    assert host.calls()[0]["state"] == "void"
    assert host.note_names() == ["NEWSA"]


@rule("TRACE-02", "OPS-14", "STATE-25")
def test_a_refused_packet_sa_fails_with_the_errno_of_its_driver(bench: Bench) -> None:
    """The driver refuses: its errno, no notification, no delete, no free, no SA."""
    host = bench.host(driver=PROBE)
    result = host.ip(texts.state(host.dev, reqid=REFUSE | 28))
    assert (result.rc, "ENOSPC" in result.stderr) == (2, True)
    assert host.order("U") == "A"
    assert host.note_names() == []
    assert host.ok("xfrm state list") == ""


@rule("TRACE-04", "DEL-03")
def test_a_deleted_sa_is_deleted_then_freed(bench: Bench) -> None:
    """DELSA: state_delete, then state_free, success, one DELSA."""
    host = bench.host()
    host.ok(texts.state(host.dev))
    host.ok(texts.delete())
    assert host.order("U") == "A D F"
    assert host.note_names() == ["NEWSA", "DELSA"]


@rule("LIFE-05", "TX-08")
def test_the_device_protects_what_the_core_hands_over_in_clear(bench: Bench) -> None:
    """Packet mode: the packet leaves as ESP that opens to what was sent, and arrives."""
    a, b = bench.pair()
    a.ok(texts.state(a.dev))
    a.ok(texts.policy(a.dev))
    b.ok(texts.state(b.dev, dir="in"))
    b.ok(texts.policy(b.dev, dir="in"))
    packet = packets.udp()
    assert a.send([packet]) == [0]
    (sent,) = bench.frames()
    assert packets.Esp().open(sent[packets.ETHERNET_BYTES :]) == packet
    assert b.receive() == [packet]
    assert (a.mib(), b.mib()) == ({}, {})
