# SPDX-License-Identifier: Apache-2.0
"""Clocks jump, machines sleep, timers are late: nothing ends early, and nothing lives too long."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from host_driver.lab import Lab
from proto import netlink
from proto.clock import NS, RealClock
from proto.limits import COMMAND_TIMEOUT_MS, RECONCILE_INTERVAL_MS
from proto.xfrm import Msg
from proto.xfrm_structs import UserExpire
from support.esp import GCM, datagram, policy, state, template
from support.rows import row

OUT = "offload packet dev nic0 dir out"
ALL_ONES = (1 << 64) - 1


@contextmanager
def lab_with(target: str, limits: str) -> Iterator[Lab]:
    """One host with a policy that protects what it sends, and an SA for that with these limits."""
    with Lab(target=target, hosts=1, card="full", seed=3) as lab:
        where = f"offload packet dev nic0 {template()}"
        for command in (state(GCM, extra=f"{limits} {OUT}"), policy("out", where)):
            assert lab.hosts[0].ip(command).stderr == ""
        lab.hosts[0].notifications()
        yield lab


def expires(host) -> list[tuple[bool, int]]:
    """(hard, packets counted) of every EXPIRE message since the last look."""
    messages = [
        UserExpire.unpack(message.payload)
        for raw in host.notifications()
        for message in netlink.messages(raw)
        if message.type == Msg.EXPIRE
    ]
    return [(bool(message.hard), message.state.curlft.packets) for message in messages]


def sas(host) -> int:
    return host.ip("xfrm state list").stdout.count("spi 0x00001000")


@row("F-TIM-01", lab=False)
def test_a_clock_of_a_lab_does_not_follow_the_wall_clock(monkeypatch) -> None:
    clock = RealClock()
    wall_ns = time.time_ns()
    assert abs(clock.now_ns() - wall_ns) < NS
    for hours in (1, -1, 24 * 365, -24 * 365):
        before_ns = clock.now_ns()
        monkeypatch.setattr(time, "time_ns", lambda hours=hours: wall_ns + hours * 3600 * NS)
        assert 0 <= clock.now_ns() - before_ns < NS


@row("F-TIM-02", process=True, once=True)
@pytest.mark.parametrize("tick_ms", [10, 300])
def test_no_timeout_is_shorter_for_a_coarse_tick(target, tick_ms) -> None:
    with lab_with(target, "limit time-hard 3") as lab:
        (host,) = lab.hosts
        lab.advance(0.123)
        lab.faults.add("timers-coarse", value=tick_ms)
        lab.faults.add(site="card.command", kind="silent", match={"opcode": "QUERY_CENSUS"},
                       times=2, name="mute")  # fmt: skip
        host.nic.census()
        asked = [entry["time_ns"] for entry in lab.faults.log() if entry["name"] == "mute"]
        again_ns = asked[1] - asked[0]
        assert again_ns >= COMMAND_TIMEOUT_MS * 1_000_000
        if target == "sim":
            assert again_ns <= (COMMAND_TIMEOUT_MS + tick_ms) * 1_000_000
    if target == "sim":  # and an SA does not end before its time
        with lab_with(target, "limit time-hard 3") as lab:
            lab.faults.add("timers-coarse", value=tick_ms)
            lab.advance(2.99)
            assert sas(lab.hosts[0]) == 1
            lab.advance(0.01 + tick_ms / 1000)
            assert sas(lab.hosts[0]) == 0


@row("F-TIM-03", process=True)
def test_no_sa_outlives_a_suspend(target) -> None:
    with lab_with(target, "limit time-soft 1800 limit time-hard 3600") as lab:
        (host,) = lab.hosts
        assert host.send([datagram()]) == [0]
        lab.settle()
        before = len(lab.wire.frames())
        with lab.faults.inject("host-suspended", value=3601):
            lab.advance(1)
            assert expires(host) == [(True, 1)]
        assert sas(host) == 0
        host.send([datagram()])
        lab.settle()
        assert len(lab.wire.frames()) == before
        assert host.nic.census()["sas"] == 0


@row("F-TIM-03")
def test_a_suspend_within_the_lifetime_warns_and_ends_nothing(target) -> None:
    with lab_with(target, "limit time-soft 1800 limit time-hard 3600") as lab:
        (host,) = lab.hosts
        with lab.faults.inject("host-suspended", value=1801):
            lab.advance(1)
        assert [hard for hard, _ in expires(host)] == [False]
        assert sas(host) == 1


@row("F-TIM-04")
def test_a_late_poll_overshoots_by_no_more_than_it_is_late_and_says_so(target) -> None:
    with lab_with(target, "limit packet-soft 10 limit packet-hard 1000") as lab:
        (host,) = lab.hosts
        lab.faults.add(site="events", kind="drop")
        lab.faults.add(site="ring.counters", kind="drop")
        lab.faults.add("card-clock-drifts", value=1000)  # no heartbeat tells of it before the poll
        lab.faults.add("poll-late")
        lab.advance(1)  # the last heartbeat in time
        host.send([datagram()] * 10)
        told, packets = [], 10
        for _ in range(12):
            lab.advance(RECONCILE_INTERVAL_MS / 1000)
            told = expires(host)
            if told:
                break
            host.send([datagram()])
            packets += 1
        assert [(False, packets)] == told
        assert 17 <= packets <= 21


@row("F-TIM-04")
def test_a_hard_limit_needs_no_poll(target) -> None:
    with lab_with(target, "limit packet-hard 5") as lab:
        (host,) = lab.hosts
        lab.faults.add(site="events", kind="drop")
        lab.faults.add("poll-late", delay_ms=3_600_000)
        host.send([datagram()] * 20)
        lab.settle()
        assert len(lab.wire.frames()) == 5
        lab.advance(60)
        host.send([datagram()] * 5)
        lab.settle()
        assert len(lab.wire.frames()) == 5


@row("F-TIM-05", process=True, once=True)
@pytest.mark.parametrize("seconds", [ALL_ONES, ALL_ONES - 1, 1 << 63, 1 << 32])
def test_seconds_beyond_all_time_are_no_limit(target, seconds) -> None:
    with lab_with(target, f"limit time-hard {seconds} limit time-use-hard {seconds}") as lab:
        (host,) = lab.hosts
        host.send([datagram()])
        lab.advance(2)
        assert (sas(host), expires(host)) == (1, [])
        host.set_clock_forward(20 * 365 * 86_400)
        lab.advance(2)
        assert (sas(host), expires(host)) == (1, [])
        assert host.send([datagram()]) == [0]
        lab.settle()
        assert len(lab.wire.frames()) == 2


@row("F-TIM-06")
@pytest.mark.parametrize("percent", [-75, -10, 50, 150, 400])
def test_a_card_whose_clock_drifts_is_not_taken_for_dead(target, percent) -> None:
    with lab_with(target, "") as lab:
        (host,) = lab.hosts
        before = host.nic.health()
        lab.faults.add("card-clock-drifts", value=percent)
        lab.advance(120)
        after = host.nic.health()
        assert after["boot"] == before["boot"]
        beats = after["counter"] - before["counter"]
        assert beats == pytest.approx(120 * 100 / (100 + percent), abs=3)
        assert {one["error"] for one in host.nic.reporters()} == {0}
        assert sas(host) == 1
