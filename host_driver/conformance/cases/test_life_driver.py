# SPDX-License-Identifier: Apache-2.0
"""LIFE-16..37: what a driver does about limits, seen with packets through its card."""

import pytest

from host_driver.conformance import packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.subject import Subject

PACKET = packets.udp()


def outbound(bench: Bench, limits: str = "", card: str | None = None) -> Subject:
    """A host with one outbound SA of these limits and its policy."""
    host = bench.host(card=card)
    host.ok(texts.state(host.dev, more=limits))
    host.ok(texts.policy(host.dev))
    host.notes()
    return host


def esp_frames(bench: Bench) -> int:
    """How many ESP packets went over the wire; nothing else may be on it."""
    sent = bench.on_the_wire()
    assert all(packets.is_esp(packet) for packet in sent), "a packet left in clear"
    return len(sent)


@rule("LIFE-16", "LIFE-30")
def test_exactly_the_hard_limit_of_packets_leaves(bench: Bench) -> None:
    """The card counts and drops by itself; soft and hard are told, in order, each once."""
    host = outbound(bench, "limit packet-soft 3 limit packet-hard 5")
    told = []
    for _ in range(8):
        host.send([PACKET])
        told.append(host.expired())
    assert told == [[], [], ["soft 0x1000"], [], ["hard 0x1000"], [], [], []]
    assert esp_frames(bench) == 5
    assert host.sa() is None
    assert host.violations() == []


@rule("LIFE-30")
def test_a_byte_limit_ends_an_sa(bench: Bench) -> None:
    """The card counts bytes, the driver tells, and nothing leaves after the hard limit."""
    host = outbound(bench, "limit byte-soft 300 limit byte-hard 600")
    told = []
    for _ in range(60):
        host.send([PACKET])
        told += host.expired()
    assert told == ["soft 0x1000", "hard 0x1000"]
    octets = len(PACKET) - packets.header_bytes(PACKET)
    assert 600 / len(PACKET) <= esp_frames(bench) <= 600 / octets + 1


@rule("LIFE-30")
def test_an_inbound_limit_ends_an_sa(bench: Bench) -> None:
    """The card of the receiver counts, too: what comes after the hard limit is not delivered."""
    a, b = bench.pair()
    a.ok(texts.state(a.dev))
    a.ok(texts.policy(a.dev))
    b.ok(texts.state(b.dev, dir="in", more="limit packet-soft 2 limit packet-hard 3"))
    b.ok(texts.policy(b.dev, dir="in"))
    b.notes()
    for _ in range(6):
        a.send([PACKET])
    assert b.receive() == [PACKET] * 3
    assert b.expired() == ["soft 0x1000", "hard 0x1000"]
    assert b.sa() is None


@rule("LIFE-32")
def test_the_card_drops_by_itself_before_anybody_knows(bench: Bench) -> None:
    """Events are lost, the SA is still valid for the core: no packet past the limit leaves."""
    host = outbound(bench, "limit packet-hard 4")
    bench.deafen()
    assert host.send([PACKET] * 9) == [0] * 9
    assert esp_frames(bench) == 4


@rule("LIFE-32")
def test_the_card_drops_by_itself_at_a_limit_of_bytes(bench: Bench) -> None:
    """The same for bytes: what is past the limit does not leave."""
    octets = len(PACKET) - packets.header_bytes(PACKET)
    host = outbound(bench, f"limit byte-hard {4 * octets}")
    bench.deafen()
    assert host.send([PACKET] * 9) == [0] * 9
    assert 2 <= esp_frames(bench) <= 5


@rule("LIFE-18")
def test_traffic_of_an_expired_sa_stops(bench: Bench) -> None:
    """A limit that the SA had passed already when it was set: expired at the next look, dropped
    from then on, and the driver asked under the lock."""
    host = outbound(bench)
    for _ in range(5):
        host.send([PACKET])
    host.ok(texts.state(host.dev, verb="update", more="limit packet-hard 3"))
    host.send([PACKET])
    assert host.expired() == ["hard 0x1000"]
    before = esp_frames(bench)
    host.send([PACKET] * 3)
    assert esp_frames(bench) == before
    checks = [call for call in host.calls() if call["context"] == "lock"]
    assert {call["call"] for call in checks} == {"xdo_dev_state_update_curlft"}
    assert host.violations() == []


@rule("LIFE-31")
@pytest.mark.parametrize("limits", ["", " limit time-hard 9000"])
def test_without_a_driver_that_asks_no_packet_limit_fires(bench: Bench, limits: str) -> None:
    """1000 packets over a hard limit of 10: nothing happens; the timer compares only times."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev, more="limit packet-hard 10" + limits))
    host.ok(texts.policy(host.dev))
    assert host.send([PACKET] * 1000) == [0] * 1000
    bench.advance(5)
    found = host.sa()
    assert found is not None
    assert found.curlft.packets == 1000
    assert host.expired() == []


@rule("LIFE-33")
def test_a_limit_wider_than_the_counter_is_kept_in_rounds(bench: Bench) -> None:
    """A card that counts in 4 bits: 50 packets pass, soft is told at 30, nothing before."""
    host = outbound(bench, "limit packet-soft 30 limit packet-hard 50", "full:counter_bits=4")
    told: list[tuple[int, str]] = []
    for count in range(1, 61):
        host.send([PACKET])
        told += [(count, what) for what in host.expired()]
    assert told == [(30, "soft 0x1000"), (50, "hard 0x1000")]
    assert esp_frames(bench) == 50


@rule("LIFE-33")
@pytest.mark.parametrize("limit", ["byte-hard 100", "packet-hard 3"])
def test_a_limit_that_no_event_told_is_found(bench: Bench, limit: str) -> None:
    """The driver reads an SA with limits now and then: a lost event delays the hard expiry only."""
    host = outbound(bench, f"limit {limit}")
    bench.deafen()
    host.send([PACKET] * 20)
    bench.lab.advance(3)
    assert host.expired() == ["hard 0x1000"]
    assert host.sa() is None


@rule("LIFE-35")
def test_soft_and_hard_found_at_once_are_a_hard_expiry(bench: Bench) -> None:
    """The driver hears of nothing until both limits are passed: hard only (LIFE-14)."""
    host = outbound(bench, "limit packet-soft 2 limit packet-hard 4")
    bench.deafen()
    host.send([PACKET] * 6)
    bench.lab.advance(3)
    assert host.expired() == ["hard 0x1000"]


@rule("LIFE-36")
def test_totals_never_go_back(bench: Bench) -> None:
    """Each look shows all packets so far, also past the width of the card's counter."""
    host = outbound(bench, "limit packet-hard 9000", "full:counter_bits=4")
    before, octets = 0, 0
    for count in (1, 8, 9, 40, 41):
        host.send([PACKET] * (count - before))
        before = count
        if not bench.latest:  # what is shown is what the driver had said last (DUMP-03)
            bench.lab.advance(1.2)
        found = host.sa()
        assert found is not None
        assert found.curlft.packets == count
        assert found.curlft.bytes > octets
        octets = found.curlft.bytes


@rule("LIFE-36")
def test_an_update_resets_no_total(bench: Bench) -> None:
    """UPDSA, whatever it makes of the driver's objects: counting goes on."""
    host = outbound(bench)
    host.send([PACKET] * 3)
    before = host.sa()
    host.ok(texts.state(host.dev, verb="update", more="limit packet-hard 90"))
    after = host.sa()
    host.send([PACKET] * 2)
    later = host.sa()
    assert before and after and later
    assert after.curlft == before.curlft
    assert after.lft.hard_packet_limit == 90
    assert later.curlft.packets == 5
    assert later.curlft.bytes * 3 == before.curlft.bytes * 5


@rule("LIFE-37")
def test_higher_limits_of_an_update_hold(bench: Bench) -> None:
    """The driver is told nothing; still no packet is dropped, nor an expiry told, by the old."""
    host = outbound(bench, "limit packet-soft 3 limit packet-hard 4")
    host.send([PACKET] * 2)
    higher = "limit packet-soft 8 limit packet-hard 9"
    host.ok(texts.state(host.dev, verb="update", more=higher))
    host.notes()
    for _ in range(5):
        host.send([PACKET])
    assert host.expired() == []
    assert esp_frames(bench) == 7
    for _ in range(4):
        host.send([PACKET])
    assert host.expired() == ["soft 0x1000", "hard 0x1000"]
    assert esp_frames(bench) == 9
