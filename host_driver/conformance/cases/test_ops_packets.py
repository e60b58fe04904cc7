# SPDX-License-Identifier: Apache-2.0
"""OPS-20, 21, 23, 24: totals, ESN and offload_ok, which the core asks for while traffic flows."""

import errno

import pytest

from host_driver.conformance import packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import DESTINATION
from host_driver.conformance.probe import EVENTS, NO_PACKETS
from host_driver.conformance.subject import Subject
from proto.xfrm_structs import UserExpire

PACKET = packets.udp()
UPDATE = "xdo_dev_state_update_curlft"


def contexts(host: Subject, since: int = 0, call: str = UPDATE) -> list[str]:
    """Where the core asked for totals, each time."""
    return [one["context"] for one in host.calls()[since:] if one["call"] == call]


def probed(bench: Bench, order: int = 1, more: str = "", offload: str = "packet") -> Subject:
    """A host with the probe, one outbound SA and its policy."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev, reqid=order, more=more, offload=offload))
    host.ok(texts.policy(host.dev, reqid=order))
    return host


@rule("OPS-20")
def test_checks_and_timers_ask_for_totals(bench: Bench) -> None:
    """Every expiry check, under the lock; every shot of the timer, first of all."""
    host = probed(bench, EVENTS, "limit packet-hard 9 limit time-hard 90")
    before = len(host.calls())
    host.send([PACKET])
    assert contexts(host, before) == ["lock"]
    bench.advance(2)
    assert contexts(host, before)[1:] == ["timer"]


@rule("OPS-20")
@pytest.mark.parametrize("offload", ["packet", "crypto"])
def test_what_shows_an_sa_asks_for_its_totals(bench: Bench, offload: str) -> None:
    """GETSA, a dump, a notification and the statistics file, crypto SAs included; v6.2 asks the
    driver of none of them."""
    host = probed(bench, offload=offload)
    assert contexts(host) == (["user"] if bench.latest else [])  # NEWSA is told
    for ask, context in (
        (lambda: host.ok(texts.get()), "user"),
        (lambda: host.ok("xfrm state list"), "walk"),
        (host.mib, "walk"),
    ):
        before = len(host.calls())
        ask()
        asked = contexts(host, before)
        assert set(asked) == ({context} if bench.latest else set()), context


@rule("OPS-20", profile="latest")
@pytest.mark.parametrize("dir", ["out", "in"])
def test_a_driver_writes_the_totals_of_the_device(bench: Bench, dir: str) -> None:
    """Packets and bytes so far, of this SA alone, absolute: asking twice changes nothing."""
    a, b = bench.pair()
    for host, way in ((a, "out"), (b, "in")):
        host.ok(texts.state(host.dev, dir=way))
        host.ok(texts.state(host.dev, spi=0x1001, reqid=2, dst="10.1.0.9", dir=way))
        host.ok(texts.policy(host.dev, dir=way))
    host = a if dir == "out" else b
    a.send([PACKET] * 2)
    two = totals(host)
    a.send([PACKET] * 3)
    five = totals(host)
    assert (two[0], five[0], totals(host)) == (2, 5, five)
    assert five[1] * 2 == two[1] * 5 > 0
    assert totals(host, 0x1001, "10.1.0.9") == (0, 0)


def totals(host: Subject, spi: int = 0x1000, dst: str = DESTINATION) -> tuple[int, int]:
    """Packets and bytes of an SA."""
    found = host.sa(spi, dst)
    assert found is not None
    return found.curlft.packets, found.curlft.bytes


@rule("OPS-20")
def test_an_expiry_shows_the_totals_of_the_device(bench: Bench) -> None:
    """What the driver wrote is what limits are compared with, and what EXPIRE tells."""
    host = bench.host()
    host.ok(texts.state(host.dev, more="limit packet-soft 4"))
    host.ok(texts.policy(host.dev))
    host.notes()
    told = []
    for _ in range(6):
        host.send([PACKET])
        told.append([UserExpire.unpack(note.fixed).state.curlft for note in host.notes()])
    assert [len(each) for each in told] == [0, 0, 0, 1, 0, 0]
    assert told[3][0].packets == 4
    assert told[3][0].bytes % 4 == 0 < told[3][0].bytes


@rule("OPS-21")
def test_totals_are_asked_for_under_some_lock(bench: Bench) -> None:
    """x->lock, xfrm_cfg_mutex or xfrm_state_lock is held wherever update_curlft is called; a larval
    SA and one whose delete was called are asked, too, and change nothing."""
    host = bench.host()
    host.ok(texts.policy(host.dev))
    host.send([PACKET])
    assert "proto esp spi 0x00000000" in host.ok("-s xfrm state list")
    host.ok(texts.state(host.dev, more="limit packet-hard 3"))
    host.send([PACKET] * 3)
    host.ok("xfrm state list")
    host.mib()
    assert host.expired()[-1] == "hard 0x1000"
    seen = contexts(host)
    assert set(seen) <= {"lock", "timer", "user", "walk"}
    assert {"lock", "timer"} <= set(seen)
    assert host.errors() == []


@rule("OPS-23")
def test_packet_mode_never_advances_esn(bench: Bench) -> None:
    """The device keeps the sequence numbers: no advance_esn, whatever passes, out or in."""
    a, b = bench.pair()
    a.ok(texts.state(a.dev, more=_esn(bench)))
    a.ok(texts.policy(a.dev))
    b.ok(texts.state(b.dev, dir="in", more="replay-window 64 flag esn"))
    b.ok(texts.policy(b.dev, dir="in"))
    a.send([PACKET] * 3)
    assert b.receive() == [PACKET] * 3
    assert "E" not in a.order().split() + b.order().split()


@rule("OPS-23")
def test_crypto_mode_advances_esn(bench: Bench) -> None:
    """The host keeps the numbers: the receiver's driver is told under the lock once the window
    moved, and in late kernels the sender's, too."""
    a, b = bench.pair()
    a.ok(texts.state(a.dev, offload="crypto", more=_esn(bench)))
    a.ok(texts.policy())
    b.ok(texts.state(b.dev, offload="crypto", dir="in", more="replay-window 64 flag esn"))
    b.ok(texts.policy(dir="in"))
    a.send([PACKET] * 3)
    assert b.receive() == [PACKET] * 3
    advance = "xdo_dev_state_advance_esn"
    assert contexts(b, call=advance) == ["lock"] * 3
    assert contexts(a, call=advance) == (["lock"] * 3 if bench.latest else [])
    assert (a.errors(), b.errors()) == ([], [])


def _esn(bench: Bench) -> str:
    """An outbound SA of v6.2 has no direction, and with ESN it needs a window."""
    return "flag esn" if bench.latest else "replay-window 64 flag esn"


@rule("OPS-24")
def test_the_driver_is_asked_for_each_packet(bench: Bench) -> None:
    """offload_ok in the packet path, once a packet, and only for one that the core would send."""
    host = probed(bench)
    assert host.send([PACKET] * 3) == [0] * 3
    assert contexts(host, call="xdo_dev_offload_ok") == ["data"] * 3
    host.send([packets.udp(bytes(1460))])
    assert len(contexts(host, call="xdo_dev_offload_ok")) == 3


@rule("OPS-24")
def test_what_the_driver_refuses_is_dropped(bench: Bench) -> None:
    """offload_ok says no: EHOSTUNREACH, XfrmOutError, and nothing on the wire, in clear or not."""
    host = probed(bench, NO_PACKETS)
    assert host.send([PACKET]) == [errno.EHOSTUNREACH]
    assert host.mib() == {"XfrmOutError": 1}
    assert bench.frames() == []


@rule("OPS-24")
def test_a_driver_answers_offload_ok_without_sleeping(bench: Bench) -> None:
    """The driver under test, for packets that any device can take: yes, at once."""
    host = bench.host()
    host.ok(texts.state(host.dev))
    host.ok(texts.policy(host.dev))
    assert host.send([PACKET] * 2) == [0, 0]
    answers = [call["result"] for call in host.calls_of("offload_ok")]
    assert answers in ([], [True, True])  # a driver may leave it out
    assert host.errors() == []
    assert bench.spis() == [0x1000, 0x1000]
