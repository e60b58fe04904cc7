# SPDX-License-Identifier: Apache-2.0
"""Events of limits are lost, doubled, late, or of an SA that is gone: the limits hold."""

import pytest

from support.esp import GCM, datagram
from support.limited import Limited
from support.rows import row

LIMITS = "limit packet-soft 300 limit packet-hard 500"
COUNTERS_LOST = {"site": "ring.counters", "kind": "drop"}
OTHER_KEY = "aead 'rfc4106(gcm(aes))' 0x1112131415161718191a1b1c1d1e1f2021222324 128"


@row("F-LIM-01", process=True)
def test_a_soft_event_is_lost(target):
    """Told all the same, by counters or by the next look; the hard limit is the card's business."""
    with Limited(target, LIMITS) as sa:
        sa.lab.faults.add("soft-event-lost")
        sa.lab.faults.add(**COUNTERS_LOST)
        sa.send(350)
        sa.until([0])
        sa.send(350)
        sa.until([0, 1])
        assert sa.left() == 500


@row("F-LIM-02", process=True)
def test_a_hard_event_is_lost(target):
    with Limited(target, LIMITS) as sa:
        sa.lab.faults.add("hard-event-lost")
        sa.lab.faults.add(**COUNTERS_LOST)
        sa.send(300)
        sa.until([0])
        sa.send(400)
        assert sa.left() == 500
        sa.until([0, 1])
        assert sa.gone()
        sa.send(5)
        assert sa.left() == 500


@row("F-LIM-03")
def test_an_event_comes_when_its_sa_is_deleted(target):
    with Limited(target, LIMITS) as sa:
        sa.lab.faults.add("event-late", match={"type": "SOFT_LIMIT"})
        sa.lab.faults.add(**COUNTERS_LOST)
        sa.host.send([datagram()] * 310)
        sa.lab.advance(0.5)
        sa.delete()
        before = sa.counters("driver_events_unknown")
        assert sa.pass_time(30) == []
        assert sa.counters("driver_events_unknown") == [before[0] + 1]
        assert sa.gone()


@row("F-LIM-04")
def test_an_event_comes_when_its_handle_means_another_sa(target):
    """The card uses the row again; the generation says that the event is not of the new SA."""
    with Limited(target, LIMITS, card="sa_max=1,key_max=1") as sa:
        sa.lab.faults.add("event-of-another-life", match={"type": "SOFT_LIMIT"})
        sa.lab.faults.add(**COUNTERS_LOST)
        sa.host.send([datagram()] * 310)
        sa.lab.advance(0.5)
        sa.delete()
        sa.add(LIMITS, algorithm=OTHER_KEY)
        sa.host.send([datagram()] * 10)
        before = sa.counters("driver_events_unknown")
        assert sa.pass_time(30) == []
        assert sa.counters("driver_events_unknown") == [before[0] + 1]
        sa.lab.faults.reset()
        for count in (300, 300):
            sa.send(count)
        sa.until([0, 1])
        assert sa.sequence() == [*range(1, 311), *range(1, 501)]


@row("F-LIM-05", process=True, once=True)
@pytest.mark.parametrize("bits", [8, 32])
def test_events_come_many_times(target, bits):
    with Limited(target, LIMITS, bits=bits) as sa:
        sa.lab.faults.add("events-doubled")
        for count in (300, 150, 150):
            sa.send(count)
        sa.until([0, 1])
        sa.pass_time(3)
        assert sa.told == [0, 1]
        assert sa.left() == 500
        assert sa.gone()


@row("F-LIM-06", process=True)
def test_both_limits_are_passed_before_anybody_looks(target):
    """Hard is tested before soft (LIFE-14): nobody is told of a soft limit after the hard one."""
    with Limited(target, LIMITS) as sa:
        sa.lab.faults.add("events-together")
        sa.lab.faults.add(**COUNTERS_LOST)
        sa.send(700)
        sa.until([1])
        sa.pass_time(3)
        assert sa.told == [1]
        assert sa.left() == 500
        assert sa.gone()


@row("F-LIM-08")
def test_nobody_comes_to_the_events_for_twenty_seconds(target):
    """Rounds are the card's: it stops at the limit to the packet, and the user learns of it."""
    with Limited(target, LIMITS) as sa:
        sa.lab.faults.add("events-twenty-seconds-late")
        sa.lab.faults.add(**COUNTERS_LOST, times=50)
        sa.lab.faults.add(site="card.command", kind="delay", match={"opcode": "QuerySa"},
                          delay_ms=20_000, times=3)  # fmt: skip
        sa.host.send([datagram()] * 700)
        sa.lab.advance(5)
        assert sa.left() == 500
        sa.until([1], seconds=60)
        assert sa.gone()


@row("F-LIM-10", process=True)
def test_a_read_of_the_counters_is_not_answered(target):
    with Limited(target, LIMITS) as sa:
        sa.lab.faults.add("read-not-answered")
        sa.lab.faults.add(**COUNTERS_LOST)
        sa.send(400)
        sa.until([0])
        sa.send(300)
        sa.until([0, 1])
        assert sa.left() == 500


@row("F-LIM-29")
@pytest.mark.parametrize("events", ["kept", "lost"])
def test_a_delete_meets_the_hard_event(target, events):
    """One delete, whoever was first; the user's DELSA or the EXPIRE, and never two frees."""
    with Limited(target, LIMITS) as sa:
        sa.lab.faults.add("hard-event-lost" if events == "lost" else "hard-event-late")
        sa.host.send([datagram()] * 700)
        sa.host.ip("xfrm state delete src 10.1.0.1 dst 10.1.0.2 proto esp spi 0x1000")
        sa.pass_time(10)
        calls = [entry["call"] for entry in sa.host.trace()]
        assert calls.count("xdo_dev_state_delete") == calls.count("xdo_dev_state_free") == 1
        assert sa.gone()
        assert sa.left() == 500


@row("F-LIM-09")
def test_events_are_doubled_where_the_sequence_number_wraps(target):
    """The high half is the card's, and rises once: the judge opens what leaves with it."""
    from host_driver.simulate.esp import Esp

    key = bytes.fromhex("0102030405060708090a0b0c0d0e0f1011121314")
    more = "flag esn replay-oseq 0xfffffff0 replay-oseq-hi 2"
    with Limited(target, LIMITS, more=more) as sa:
        sa.lab.faults.add("wrap-told-twice")
        sa.send(60)
        packets = [frame.data[14:] for frame in sa.lab.wire.frames()]
        assert sa.sequence() == [*range(0xFFFFFFF1, 1 << 32), *range(45)]
        for packet, number in zip(packets, sa.sequence(), strict=True):
            high = 2 if number > 1 << 31 else 3
            assert Esp(0x1000, key, high=high).open(packet) == datagram()
    assert GCM.split()[2] == f"0x{key.hex()}"
