# SPDX-License-Identifier: Apache-2.0
"""What the card reports of an SA, when it reports wrong: totals never go back, nothing expires for
a reading that cannot be, and in the end the totals are those of the wire.
"""

import re

import pytest

from host_driver.lab import Lab
from support.esp import GCM, A, B, datagram, policy, state, template
from support.limited import Limited
from support.rows import row

LIMITS = "limit packet-soft 8 limit packet-hard 12"


def packets_of(host, spi: int = 0x1000) -> int:
    """`curlft.packets` of the SA, as `ip -s` shows it."""
    text = host.ip("-s xfrm state").stdout
    blocks = re.split(r"^src ", text, flags=re.MULTILINE)
    block = next(part for part in blocks if f"spi 0x{spi:08x}" in part)
    found = re.search(r"(\d+)\(bytes\), (\d+)\(packets\)", block.partition("lifetime current")[2])
    assert found, block
    return int(found[2])


def told_at(limited, until: int) -> list[tuple[int, int]]:
    """(packets sent, soft 0 or hard 1) of each expiry, one packet at a time."""
    seen = []
    for number in range(1, until + 1):
        before = len(limited.told)
        limited.send(1)
        seen += [(number, hard) for hard in limited.told[before:]]
    return seen


@row("F-LIM-07", process=True)
def test_work_that_is_forgotten_is_made_good_by_the_tick(target) -> None:
    with Limited(target, LIMITS) as limited:
        limited.lab.faults.add("event-work-lost")
        limited.lab.faults.add(site="ring.counters", kind="drop")
        for _ in range(5):
            limited.host.send([datagram()] * 3)
            limited.lab.advance(1.1)  # and no question how far the card is
        assert limited.hear() == [0, 1]
        assert len(limited.lab.wire.frames()) == 12


@pytest.fixture
def two():
    """A host with two outbound SAs, to B and to another, each behind a policy."""
    with Lab(target="sim", hosts=1, card="full", seed=3) as lab:
        (host,) = lab.hosts
        for end, spi, limits in ((B, 0x1000, LIMITS), ("10.1.0.3", 0x2000, "")):
            command = state(
                GCM, "transport", f"{limits} offload packet dev nic0 dir out", (A, end), spi
            )
            assert host.ip(command).stderr == ""
            where = template(spi)
            assert host.ip(policy("out", "offload packet dev nic0 " + where, ends=(A, end))).rc == 0
        host.notifications()
        yield lab, host


@row("F-LIM-11", lab=False)
def test_totals_of_another_sa_change_nothing(two) -> None:
    """Whose they are stands in every record and answer."""
    lab, host = two
    host.send([datagram(ends=(A, "10.1.0.3"))] * 40)
    lab.settle()
    lab.faults.add("totals-of-another-sa", match={"spi": "0x1000"})
    host.send([datagram()] * 5)
    lab.settle()
    lab.advance(5)
    assert host.notifications() == []
    assert (packets_of(host), packets_of(host, 0x2000)) == (0, 40)
    lab.faults.reset()
    lab.advance(3)
    assert (packets_of(host), packets_of(host, 0x2000)) == (5, 40)


@row("F-LIM-12")
def test_limits_that_are_set_twice_or_late_are_the_same_limits(target) -> None:
    """They count from the beginning of the SA, so nothing is added twice."""
    with Limited(target, "limit packet-soft 100 limit packet-hard 200") as limited:
        limited.lab.faults.add("limits-set-twice-or-not")
        limited.send(150)
        assert limited.told == [0]
        limited.add("limit packet-soft 300 limit packet-hard 400", verb="update")
        limited.pass_time(10)
        for _ in range(12):
            limited.send(25)
        assert limited.told == [0, 0, 1]
        assert len(limited.lab.wire.frames()) == 400


@row("F-LIM-22")
@pytest.mark.parametrize("interval", [1, 2, 3])
def test_a_torn_reading_expires_nothing(target, interval) -> None:
    with Limited(target, LIMITS) as limited:
        limited.lab.faults.add("totals-torn", interval=interval)
        told = told_at(limited, 7)
        assert told == []
        assert packets_of(limited.host) <= 7
        limited.lab.faults.reset()
        assert told_at(limited, 6) == [(1, 0), (5, 1)]
        assert len(limited.lab.wire.frames()) == 12


@row("F-LIM-23")
def test_failures_ahead_of_packets_expire_nothing(target) -> None:
    with Limited(target, LIMITS) as limited:
        limited.lab.faults.add("failures-ahead-of-packets")
        assert told_at(limited, 14) == [(8, 0), (12, 1)]
        assert len(limited.lab.wire.frames()) == 12


@row("F-LIM-24")
def test_totals_go_on_when_limits_are_replaced(target) -> None:
    with Limited(target, "limit packet-soft 1000 limit packet-hard 2000") as limited:
        for number in range(1, 6):
            limited.send(100)
            update = f"limit packet-soft {1000 + number} limit packet-hard 2000"
            limited.add(update, verb="update")
        assert packets_of(limited.host) == 500
        assert len(limited.lab.wire.frames()) == 500


@row("F-LIM-25")
def test_totals_that_begin_anew_do_not_go_back(target) -> None:
    with Limited(target, "limit packet-soft 100 limit packet-hard 200") as limited:
        limited.send(50)
        assert packets_of(limited.host) == 50
        limited.lab.faults.add("totals-begin-anew")
        seen = []
        for _ in range(6):
            limited.send(10)
            seen.append(packets_of(limited.host))
        assert seen == sorted(seen) and seen[0] >= 50
        assert seen[-1] == 110
        assert limited.told == [0]


@pytest.mark.parametrize("kind", ["lost", "stale", "torn", "backwards", "foreign", "skew"])
@pytest.mark.parametrize("source", ["record", "query"])
def test_whatever_is_reported_wrong_for_a_while(kind, source) -> None:
    """The card stops after twelve packets all the same, soft and hard are told once, in order."""
    with Limited("sim", LIMITS) as limited:
        name = limited.lab.faults.add(
            site="card.counters", kind=kind, match={"source": source}, probability=0.7
        )
        for _ in range(11):
            limited.send(1)
            limited.pass_time(1.1)
        limited.lab.faults.remove(name)
        limited.pass_time(3)
        assert packets_of(limited.host) == 11
        limited.send(5)
        limited.pass_time(3)
        assert limited.told == [0, 1]
        assert len(limited.lab.wire.frames()) == 12


@pytest.mark.parametrize(
    "kind", ["drop", "duplicate", "wrong-id", "wrong-generation", "unknown-type", "flood"]
)
def test_whatever_the_card_writes_as_events(kind) -> None:
    """INV-27, INV-51"""
    with Limited("sim", LIMITS) as limited:
        limited.lab.faults.add(site="card.events", kind=kind)
        limited.lab.faults.add(site="ring.counters", kind="drop", probability=0.5)
        for _ in range(15):
            limited.send(1)
            limited.pass_time(1.1)
        assert limited.told == [0, 1]
        assert len(limited.lab.wire.frames()) == 12
