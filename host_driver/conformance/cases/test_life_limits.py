# SPDX-License-Identifier: Apache-2.0
"""LIFE-01..17: limits, and the expiry check that compares them. The probe reports every packet."""

import pytest

from host_driver.conformance import packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.probe import EVENTS, SILENT
from host_driver.conformance.subject import Subject
from proto.xfrm import XFRM_INF

PACKET = packets.udp()  # 38 bytes of IP
TIMES = ("add_expires_seconds", "use_expires_seconds")


def reporting(bench: Bench, limits: str = "", order: int = EVENTS) -> Subject:
    """A host whose driver, told so by `order`, reports each packet to the core; one outbound SA."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev, reqid=order, more=limits))
    host.ok(texts.policy(host.dev, reqid=order))
    host.notes()
    return host


def send(host: Subject, count: int) -> list[str]:
    """That many packets, each on its own; the expiries meanwhile."""
    for _ in range(count):
        host.send([PACKET])
    return host.expired()


@rule("LIFE-01")
def test_an_sa_without_limits_has_none(bench: Bench) -> None:
    """Infinite bytes and packets, 0 seconds: nothing ever expires."""
    host = reporting(bench)
    found = host.sa()
    assert found is not None
    for hardness in ("soft", "hard"):
        for what in ("byte", "packet"):
            assert getattr(found.lft, f"{hardness}_{what}_limit") == XFRM_INF
        for what in TIMES:
            assert getattr(found.lft, f"{hardness}_{what}") == 0
    assert send(host, 5) == []
    bench.advance(90)
    assert send(host, 5) == []


@rule("LIFE-01")
@pytest.mark.parametrize("hardness", ["soft", "hard"])
@pytest.mark.parametrize("word", ["byte-{} 100", "packet-{} 3", "time-{} 4", "time-use-{} 4"])
def test_each_of_the_eight_limits_expires_an_sa_by_itself(
    bench: Bench, word: str, hardness: str
) -> None:
    """Soft and hard, in bytes, packets, seconds since add and since first use."""
    host = reporting(bench, "limit " + word.format(hardness))
    assert send(host, 2) == []
    assert send(host, 1) == ([f"{hardness} 0x1000"] if "time" not in word else [])
    bench.advance(7)
    assert host.expired() == ([f"{hardness} 0x1000"] if "time" in word else [])
    assert (host.sa() is None) == (hardness == "hard")


@rule("LIFE-02")
@pytest.mark.parametrize(
    ("limit", "passing"),
    [("packet-hard 3", 3), (f"byte-hard {2 * len(PACKET)}", 2),
     (f"byte-hard {2 * len(PACKET) + 1}", 3), ("packet-hard 0", 1), ("byte-hard 0", 1)],
)  # fmt: skip
def test_a_limit_is_reached_when_the_counter_is_as_high(
    bench: Bench, limit: str, passing: int
) -> None:
    """Greater or equal: N is reached by the Nth, 0 at the first check."""
    host = reporting(bench, f"limit {limit}")
    assert send(host, passing - 1) == []
    assert send(host, 1) == ["hard 0x1000"]


@rule("LIFE-02")
def test_the_largest_number_is_never_reached(bench: Bench) -> None:
    """XFRM_INF given as a number is no limit, and the number below it is one not reached."""
    host = reporting(bench, f"limit packet-hard {XFRM_INF} limit byte-hard {XFRM_INF - 1}")
    assert send(host, 5) == []


@rule("LIFE-03")
@pytest.mark.parametrize(
    "limits", ["packet-soft 5 limit packet-hard 5", "byte-soft 900 limit byte-hard 100",
               "packet-soft 0 limit packet-hard 0", "time-soft 90 limit time-hard 10"],
)  # fmt: skip
def test_the_core_accepts_any_combination_of_limits(bench: Bench, limits: str) -> None:
    """Soft at or above hard, or 0: what a device cannot do is its driver's to say."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev, more=f"limit {limits}"))
    assert host.order("U") == "A"


@rule("LIFE-05")
def test_the_core_counts_nothing_in_packet_mode(bench: Bench) -> None:
    """Packets pass, the driver reports none: no totals, no first use, no check, no expiry."""
    host = reporting(bench, "limit packet-hard 2", SILENT)
    before = len(host.calls())
    assert host.send([PACKET] * 3) == [0, 0, 0]
    assert [call["call"] for call in host.calls()[before:]] == ["xdo_dev_offload_ok"] * 3
    found = host.sa()
    assert found is not None
    assert (found.curlft.packets, found.curlft.bytes, found.curlft.use_time) == (0, 0, 0)
    assert "lastused" not in host.ok(texts.get())
    assert host.expired() == []


@rule("LIFE-10")
def test_the_check_asks_the_driver_for_its_totals_first(bench: Bench) -> None:
    """update_curlft under the lock, and what it wrote is what is compared: absolute totals."""
    host = reporting(bench, "limit packet-soft 2")
    before = len(host.calls())
    assert send(host, 1) == []
    offload_ok, update = host.calls()[before:]
    assert (offload_ok["call"], update["call"]) == (
        "xdo_dev_offload_ok",
        "xdo_dev_state_update_curlft",
    )
    assert update["context"] == "lock"
    assert send(host, 1) == ["soft 0x1000"]
    found = host.sa()
    assert found is not None
    assert (found.curlft.packets, found.curlft.bytes) == (2, 2 * len(PACKET))


@rule("LIFE-11")
def test_the_first_check_sets_the_time_of_first_use(bench: Bench) -> None:
    """use_time is 0, then the wall-clock second of the first check, then stays."""
    host = reporting(bench)
    unused = host.sa()
    bench.advance(3)
    send(host, 1)
    first = host.sa()
    bench.advance(3)
    send(host, 1)
    later = host.sa()
    assert unused and first and later
    assert unused.curlft.use_time == 0
    assert 3 <= first.curlft.use_time - first.curlft.add_time <= 5
    assert later.curlft.use_time == first.curlft.use_time


@rule("LIFE-12", "LIFE-20")
def test_a_hard_limit_makes_the_sa_expired_and_its_timer_delete_it(bench: Bench) -> None:
    """-EINVAL and EXPIRED, nothing else; then the timer, due at once: update, delete, EXPIRE."""
    host = reporting(bench, "limit packet-hard 1")
    before = len(host.calls())
    assert send(host, 1) == ["hard 0x1000"]
    assert host.counters()["driver_probe_expired"] == 1
    seen = [(call["call"][8:], call["context"], call["state"]) for call in host.calls()[before:]]
    assert seen[:4] == [
        ("offload_ok", "data", "valid"),
        ("state_update_curlft", "lock", "valid"),
        ("state_update_curlft", "timer", "expired"),
        ("state_delete", "timer", "dead"),
    ]
    assert [call for call, *_ in seen[4:] if call != "state_update_curlft"] == ["state_free"]


@rule("LIFE-13")
def test_a_soft_limit_is_told_and_changes_nothing_else(bench: Bench) -> None:
    """EXPIRE with hard = 0, the check returns 0, the SA lives on."""
    host = reporting(bench, "limit packet-soft 2")
    assert send(host, 2) == ["soft 0x1000"]
    assert "driver_probe_expired" not in host.counters()
    assert host.sa() is not None
    assert host.send([PACKET]) == [0]
    assert host.order("U", "K") == "A pA"


@rule("LIFE-14")
def test_one_look_that_passes_both_limits_is_a_hard_expiry_only(bench: Bench) -> None:
    """Hard is tested before soft, so no soft EXPIRE is ever sent."""
    host = reporting(bench, "limit packet-soft 2 limit packet-hard 4")
    host.send([PACKET] * 5)
    assert host.expired() == ["hard 0x1000"]


@rule("LIFE-15")
def test_a_soft_limit_is_told_once_until_an_update(bench: Bench) -> None:
    """The SA stays dying; UPDSA clears that, and the limit is told again."""
    host = reporting(bench, "limit packet-soft 2")
    assert send(host, 6) == ["soft 0x1000"]
    host.ok(texts.state(host.dev, verb="update", reqid=EVENTS, more="limit packet-soft 9"))
    assert send(host, 2) == []
    assert send(host, 3) == ["soft 0x1000"]


@rule("LIFE-17")
def test_checks_of_an_expired_sa_are_harmless(bench: Bench) -> None:
    """-EINVAL again each time, and still one deletion and one EXPIRE."""
    host = reporting(bench, "limit packet-hard 1")
    host.send([PACKET] * 3)
    assert host.counters()["driver_probe_expired"] == 3
    assert host.expired() == ["hard 0x1000"]
    assert host.order("U", "K") == "A pA D F"
