# SPDX-License-Identifier: Apache-2.0
"""LIFE-20..28: the timer of an SA, which judges limits in seconds and ends what has expired."""

import pytest

from host_driver.conformance import packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.probe import EVENTS
from host_driver.conformance.subject import Subject
from proto.xfrm import Msg
from proto.xfrm_structs import UserExpire


def limited(bench: Bench, limits: list[str], driver: str | None = None, reqid: int = 1) -> Subject:
    """A host with one outbound SA of these limits and its policy."""
    host = bench.host(driver=driver)
    host.ok(texts.state(host.dev, reqid=reqid, more=" ".join(f"limit {one}" for one in limits)))
    host.ok(texts.policy(host.dev, reqid=reqid))
    host.notes()
    return host


def updates_by_timer(host: Subject) -> int:
    """How often the timer asked the driver for totals."""
    return sum(call["context"] == "timer" for call in host.calls_of("state_update_curlft"))


@rule("LIFE-20")
def test_the_timer_asks_the_driver_first(bench: Bench) -> None:
    """Each shot begins with update_curlft; a deleted SA has no shot any more."""
    host = limited(bench, ["time-hard 90"])
    assert updates_by_timer(host) == 0
    bench.advance(2)
    assert updates_by_timer(host) == 1
    host.ok(texts.delete())
    before = len(host.calls())
    bench.advance(95)
    assert host.expired() == []
    assert len(host.calls()) == before


@rule("LIFE-21", "LIFE-26")
def test_a_hard_time_counts_from_the_second_of_the_add(bench: Bench) -> None:
    """Whole seconds since add_time, however much the SA is used."""
    host = limited(bench, ["time-hard 6"])
    bench.advance(2)
    host.send([packets.udp()])
    bench.advance(2)
    assert host.expired() == []
    bench.advance(3)
    assert host.expired() == ["hard 0x1000"]
    assert host.sa() is None


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        pytest.param("time-soft", "soft", marks=rule("LIFE-22")),
        pytest.param("time-use-soft", "soft", marks=rule("LIFE-22")),
        pytest.param("time-hard", "hard", marks=rule("LIFE-21")),
        pytest.param("time-use-hard", "hard", marks=rule("LIFE-21")),
    ],
)
def test_a_time_limit_is_kept_to_the_second(bench: Bench, limit: str, told: str) -> None:
    """Seven seconds are neither six nor eight."""
    host = limited(bench, [f"{limit} 7"])
    host.send([packets.udp()])
    bench.advance(6 - bench.slack)
    assert host.expired() == []
    bench.advance(1.5 + 2 * bench.slack)
    assert host.expired() == [f"{told} 0x1000"]


@rule("LIFE-21")
def test_a_hard_use_time_counts_from_the_first_use(bench: Bench) -> None:
    """An unused SA never expires by use; a used one does, that many seconds after."""
    host = limited(bench, ["time-use-hard 4"])
    bench.advance(20)
    assert host.expired() == []
    host.send([packets.udp()])
    bench.advance(1)
    assert host.expired() == []
    bench.advance(5)
    assert host.expired() == ["hard 0x1000"]


@rule("LIFE-21")
def test_a_step_of_the_clock_does_not_kill_an_sa_whose_soft_alarm_ran(bench: Bench) -> None:
    """The alarm for the soft limit fires late: soft now, and hard that much after as planned."""
    host = limited(bench, ["time-soft 10", "time-hard 20"])
    bench.advance(2)
    bench.jump(600)
    assert host.expired() == ["soft 0x1000"]
    bench.advance(7)
    assert host.expired() == []
    bench.advance(6)
    assert host.expired() == ["hard 0x1000"]


@rule("LIFE-22", "LIFE-23")
def test_the_first_soft_limit_is_the_only_one_told(bench: Bench) -> None:
    """A dying SA skips its other soft limit; the hard one still comes."""
    host = limited(bench, ["time-soft 4", "time-use-soft 8", "time-hard 14"])
    host.send([packets.udp()])
    bench.advance(2)
    assert host.expired() == []
    bench.advance(3)
    assert host.expired() == ["soft 0x1000"]
    bench.advance(6)
    assert host.expired() == []
    bench.advance(4)
    assert host.expired() == ["hard 0x1000"]


@rule("LIFE-22")
@pytest.mark.parametrize("limits", [["time-soft 4", "time-use-soft 9"],
                                    ["time-soft 9", "time-use-soft 4"]])  # fmt: skip
def test_the_nearest_soft_limit_comes_first(bench: Bench, limits: list[str]) -> None:
    """Whichever of add and use is nearer, and never the other one."""
    host = limited(bench, limits)
    host.send([packets.udp()])
    bench.advance(2)
    assert host.expired() == []
    bench.advance(4)
    assert host.expired() == ["soft 0x1000"]
    bench.advance(8)
    assert host.expired() == []


@rule("LIFE-23")
def test_after_the_soft_limit_the_timer_runs_for_the_hard_one(bench: Bench) -> None:
    """Soft, then hard, each at its second."""
    host = limited(bench, ["time-soft 3", "time-hard 8"])
    bench.advance(5)
    assert host.expired() == ["soft 0x1000"]
    assert host.sa() is not None
    bench.advance(4)
    assert host.expired() == ["hard 0x1000"]


@rule("LIFE-24")
def test_an_expired_sa_is_deleted_in_the_driver_then_told(bench: Bench) -> None:
    """The usual delete, state_free behind it, one EXPIRE with hard = 1."""
    host = limited(bench, ["time-hard 3"])
    bench.advance(4)
    assert host.order("U") == "A pA D F"
    assert host.note_names() == ["EXPIRE"]
    assert "sas" not in host.census()


@rule("LIFE-25")
@pytest.mark.parametrize("limits", [[], ["packet-hard 9", "byte-soft 5000"]])
def test_the_core_does_not_poll(bench: Bench, limits: list[str]) -> None:
    """One shot a second after the add; without a time limit there is none after it."""
    host = limited(bench, limits, PROBE)
    bench.advance(60)
    assert updates_by_timer(host) == 1


@rule("LIFE-26")
def test_add_times_are_seconds_of_one_clock(bench: Bench) -> None:
    """SAs made seconds apart have add_times that many whole seconds apart."""
    host = bench.host()
    host.ok(texts.state(host.dev))
    bench.advance(10)
    host.ok(texts.state(host.dev, spi=0x1001))
    first, second = host.sa(), host.sa(0x1001)
    assert first and second
    assert 10 <= second.curlft.add_time - first.curlft.add_time <= 12
    assert first.curlft.add_time > 1_000_000_000  # seconds since 1970, not since the start


@rule("LIFE-26")
def test_time_asleep_counts(bench: Bench) -> None:
    """An SA whose hard time passed while nothing ran expires at once afterwards."""
    host = limited(bench, ["time-hard 60"])
    bench.advance(2)
    bench.jump(58)
    assert host.expired() == ["hard 0x1000"]


@rule("LIFE-27")
def test_a_hard_expire_shows_the_sa_as_it_died(bench: Bench) -> None:
    """EXPIRE carries limits and last totals, the SA is gone from the dump, no DELSA follows."""
    host = limited(bench, ["packet-soft 2", "packet-hard 3"], PROBE, EVENTS)
    packet = packets.udp()
    for _ in range(3):
        host.send([packet])
    notes = host.notes()
    assert [note.type for note in notes] == [Msg.EXPIRE, Msg.EXPIRE]
    last = UserExpire.unpack(notes[-1].fixed)
    assert last.hard == 1
    assert (last.state.lft.hard_packet_limit, last.state.curlft.packets) == (3, 3)
    assert last.state.curlft.bytes == 3 * len(packet)
    assert host.ok("xfrm state list") == ""


@rule("LIFE-28")
def test_a_soft_expired_sa_is_never_deleted_for_that(bench: Bench) -> None:
    """It is the key manager's to replace; the kernel leaves it."""
    host = limited(bench, ["time-soft 2", "packet-soft 1"])
    host.send([packets.udp()])
    bench.advance(120)
    assert host.expired() == ["soft 0x1000"]
    assert host.sa() is not None
    assert host.order("U", "K") == "A pA"
