# SPDX-License-Identifier: Apache-2.0
"""ACQ-20..23: what becomes of packets while their SA is missing."""

import errno

import pytest

from host_driver.conformance import packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.packets import Esp
from host_driver.conformance.probe import REFUSE
from host_driver.conformance.subject import Subject

PACKET = packets.udp()
HELD = 101


def wanting(bench: Bench, *, larval_drop: int, driver: str | None = None, **policy: int) -> Subject:
    """A host with an offloaded outbound policy and no SA."""
    host = bench.host(driver=driver)
    host.sysctl("larval_drop", larval_drop)
    host.ok(texts.policy(host.dev, **policy))  # type: ignore[arg-type]
    return host


def opened(bench: Bench) -> list[bytes]:
    """The clear packets that went over the wire under ESP."""
    return [Esp().open(packet) for packet in bench.on_the_wire()]


@rule("ACQ-20")
def test_packets_vanish_and_their_sender_hears_of_nothing(bench: Bench) -> None:
    """xfrm_larval_drop 1: counted, accepted, gone; no SA that comes later brings them back."""
    host = bench.host()
    host.ok(texts.policy(host.dev))
    assert host.send([PACKET] * 2) == [0, 0]
    assert host.mib() == {"XfrmOutNoStates": 2}
    host.ok(texts.state(host.dev))
    bench.advance(3)
    assert bench.frames() == []


@rule("ACQ-21")
def test_held_packets_go_out_in_order_when_their_sa_is_there(bench: Bench) -> None:
    """xfrm_larval_drop 0: nothing is counted, and all leave protected."""
    host = wanting(bench, larval_drop=0)
    sent = [packets.udp(bytes((number,))) for number in range(5)]
    assert host.send(sent) == [0] * 5
    bench.advance(2)
    assert bench.frames() == []
    host.ok(texts.state(host.dev))
    bench.advance(5)
    assert opened(bench) == sent
    assert host.mib() == {}


@rule("ACQ-21")
def test_a_full_queue_takes_no_more(bench: Bench) -> None:
    """The first ones are kept, and the senders of the others hear EAGAIN."""
    host = wanting(bench, larval_drop=0)
    errnos = host.send([PACKET] * (HELD + 9))
    assert errnos == [0] * HELD + [errno.EAGAIN] * 9
    host.ok(texts.state(host.dev))
    bench.advance(3)
    assert len(opened(bench)) == HELD


@rule("ACQ-21")
def test_held_packets_are_tried_after_a_tenth_of_a_second_then_twice_as_long(bench: Bench) -> None:
    """Each try asks for an SA anew: at 0.1, 0.3, 0.7, 1.5 seconds."""
    host = wanting(bench, larval_drop=0, driver=PROBE, reqid=REFUSE | errno.ESRCH)

    def tries() -> int:
        return len(host.calls_of("state_add"))

    host.send([PACKET])
    assert tries() == 1
    bench.lab.advance(1.1)
    assert tries() == 4
    bench.lab.advance(1.0)
    assert tries() == 5


@rule("ACQ-21")
def test_held_packets_are_given_up_when_the_wait_has_passed_a_minute(bench: Bench) -> None:
    """Which is the eleventh, of 102 seconds; an SA that comes then finds nothing to send."""
    host = wanting(bench, larval_drop=0)
    host.send([PACKET])
    bench.advance(225)
    host.ok(texts.state(host.dev))
    bench.advance(110)
    assert bench.frames() == []


@rule("ACQ-22")
def test_a_packet_that_may_not_wait_is_refused(bench: Bench) -> None:
    """What leaves the queue is not held again: without an SA of its own it is counted and gone."""
    host = wanting(bench, larval_drop=0)
    with_sa, without = packets.udp(dport=5000), packets.udp(dport=6000)
    assert host.send([with_sa, without]) == [0, 0]
    host.ok(texts.state(host.dev, more="sel proto udp dport 5000"))
    bench.advance(3)
    assert opened(bench) == [with_sa]
    assert host.mib() == {"XfrmOutNoStates": 1}
    bench.advance(3)
    assert host.mib() == {"XfrmOutNoStates": 1}


@rule("ACQ-23")
@pytest.mark.parametrize("larval_drop", [0, 1])
def test_without_a_key_manager_packets_fare_the_same(bench: Bench, larval_drop: int) -> None:
    """Nobody listens: dropped and counted, or held until an SA comes unasked."""
    host = wanting(bench, larval_drop=larval_drop)
    host.listen()
    assert host.send([PACKET] * 2) == [0, 0]
    assert host.mib() == ({"XfrmOutNoStates": 2} if larval_drop else {})
    host.ok(texts.state(host.dev))
    bench.advance(3)
    assert opened(bench) == ([] if larval_drop else [PACKET] * 2)
