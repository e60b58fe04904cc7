# SPDX-License-Identifier: Apache-2.0
"""CONST-*: defaults and constants, each by what it makes the core do."""

import errno
import struct

from host_driver.conformance import layouts, messages, packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import alloc_spi, new_sa, request
from proto.xfrm import Attr, Msg


@rule("CONST-01")
def test_a_larval_sa_has_30_seconds(bench: Bench) -> None:
    """xfrm_acq_expires: what ALLOCSPI makes expires hard after 30 s."""
    host = bench.host()
    (note,) = host.request(alloc_spi()).notes
    assert layouts.LIFETIME_CFG.read(layouts.USERSA_INFO.read(note.fixed).lft).hard_add == 30


@rule("CONST-01")
def test_a_larval_sa_is_gone_after_30_seconds(bench: Bench) -> None:
    """xfrm_acq_expires: after 29 s the larval SA of an acquire is there, after 31 s it is not."""
    host = bench.host()
    host.ok(texts.policy())
    host.send([packets.udp()])
    bench.advance(29)
    assert len(host.states()) == 1
    bench.advance(2)
    assert host.states() == []


@rule("CONST-02")
def test_a_packet_does_not_wait_for_its_sa(bench: Bench) -> None:
    """xfrm_larval_drop is 1: the packet is gone and counted, its sender hears of no error."""
    host = bench.host()
    host.ok(texts.policy())
    assert host.send([packets.udp()]) == [0]
    assert host.mib() == {"XfrmOutNoStates": 1}


@rule("CONST-03", "CONST-04")
def test_event_thresholds_of_an_sa(bench: Bench) -> None:
    """xfrm_aevent_etime is 10 tenths of a second, xfrm_aevent_rseqth 2 packets."""
    host = bench.host()
    assert host.request(new_sa()).errno == 0
    id = layouts.AEVENT_ID.make(sa_id=messages.sa_id(), flags=9)
    (note,) = host.request(request(Msg.GETAE, id)).notes
    assert note.attributes[Attr.ETIMER_THRESH] == struct.pack("<I", 10)
    assert note.attributes[Attr.REPLAY_THRESH] == struct.pack("<I", 2)


@rule("CONST-05")
def test_a_soft_limit_of_a_policy_is_repeated(bench: Bench) -> None:
    """XFRM_KM_TIMEOUT: POLEXPIRE comes again after 30 s, and not before."""
    host = bench.host()
    host.ok(texts.policy(more="limit time-soft 2"))
    host.notes()
    for seconds, wanted in ((3, 1), (28, 0), (2, 1), (27, 0), (3, 1)):
        bench.advance(seconds)
        assert host.expired() == ["soft policy"] * wanted, seconds


@rule("CONST-06")
def test_the_first_shot_of_a_timer(bench: Bench) -> None:
    """The timer of an SA fires one second after it was inserted: only then the driver is asked."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev))
    if bench.target == "sim":
        bench.advance(0.9)
    assert [call for call in host.calls() if call["context"] == "timer"] == []
    bench.advance(1)
    shots = [call["call"] for call in host.calls() if call["context"] == "timer"]
    assert shots == ["xdo_dev_state_update_curlft"]


@rule("CONST-07")
def test_how_many_packets_are_held(bench: Bench) -> None:
    """Without xfrm_larval_drop packets wait for their SA: while more than 100 do, no other one."""
    host = bench.host()
    host.sysctl("larval_drop", 0)
    host.ok(texts.policy())
    errnos = host.send([packets.udp(n.to_bytes(2)) for n in range(103)])
    assert errnos == [0] * 101 + [errno.EAGAIN] * 2
    assert host.mib() == {}
    host.ok(texts.state())
    bench.advance(1)
    esp = packets.Esp()
    sent = [esp.open(packet) for packet in bench.on_the_wire()]
    assert sent == [packets.udp(n.to_bytes(2)) for n in range(101)]


@rule("CONST-08")
def test_how_long_packets_are_held(bench: Bench) -> None:
    """The wait doubles from a tenth of a second: an SA that comes after 26 s is found half a minute
    later, and what has waited for a minute or more is given up."""
    host = bench.host()
    host.sysctl("larval_drop", 0)
    host.sysctl("acq_expires", 1000)
    for dst in ("10.1.0.2", "10.1.0.3"):
        host.ok(texts.policy(dst=dst))
        host.send([packets.udp(dst=dst)])
    bench.advance(26)
    host.ok(texts.state())
    bench.advance(2)
    assert bench.frames() == []
    bench.advance(32)
    assert len(bench.frames()) == 1
    bench.advance(160)
    host.ok(texts.state(dst="10.1.0.3"))
    bench.advance(110)
    assert len(bench.frames()) == 1


@rule("CONST-09")
def test_which_selectors_are_exact(bench: Bench) -> None:
    """Prefixes of 32 and 32 bits in IPv4, of 128 and 128 in IPv6."""
    host = bench.host()
    (note,) = host.request(request(Msg.GETSPDINFO, bytes(4))).notes
    assert (note.attributes[3], note.attributes[4]) == (b"\x20\x20", b"\x80\x80")


@rule("CONST-10")
def test_packets_without_policy_pass(bench: Bench) -> None:
    """Accept is the default in all three directions."""
    host = bench.host()
    (note,) = host.request(request(Msg.GETDEFAULT, bytes(3))).notes
    assert note.fixed == b"\2\2\2"
    assert host.send([packets.udp()]) == [0]
