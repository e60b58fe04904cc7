# SPDX-License-Identifier: Apache-2.0
"""INV-01..05, 07, 11: what holds of calls and references after any life, drawn from the seed."""

import itertools
from collections import defaultdict
from typing import Any

from host_driver.conformance import packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.probe import SLEEP
from host_driver.conformance.workload import Workload
from proto.xfrm import Attr

STEPS = 120
# INV-07: where km.state may be at the next call of an SA that was in a state at this one.
NEXT = {
    "void": {"void", "acq", "valid", "expired", "dead"},
    "acq": {"acq", "expired", "dead"},
    "valid": {"valid", "expired", "dead"},
    "expired": {"expired", "dead"},
    "dead": {"dead"},
}


def lives(calls: list[dict[str, Any]], kind: str) -> dict[int, list[dict[str, Any]]]:
    """The calls for each object of a kind (`state` or `policy`), of adds only those accepted."""
    found = defaultdict(list)
    for call in calls:
        if f"_{kind}_" in call["call"] or (kind == "state" and "offload_ok" in call["call"]):
            found[call["object"]].append(call)
    return {
        number: [call for call in life if not call["call"].endswith("_add") or call["result"] == 0]
        for number, life in found.items()
    }


def letters(life: list[dict[str, Any]]) -> str:
    """Adds, deletes and frees of one object in order, as "ADF"."""
    ends = {"_add": "A", "_delete": "D", "_free": "F"}
    return "".join(
        mark for call in life for end, mark in ends.items() if call["call"].endswith(end)
    )


def odd(found: dict[int, str], allowed: set[str]) -> dict[int, str]:
    """Those whose life is not among the allowed ones; "" is an object that no driver took."""
    return {number: life for number, life in found.items() if life and life not in allowed}


@rule("INV-01")
def test_whatever_a_driver_took_is_deleted_and_freed(bench: Bench) -> None:
    """After everything was taken back every SA had one free for its add, and at most one delete;
    v6.2 frees what UPDSA offered without a delete."""
    life = Workload(bench, "INV-01").run(STEPS).drain()
    found = {number: letters(one) for number, one in lives(life.host.calls(), "state").items()}
    assert any(found.values()), life.log
    assert odd(found, {"ADF"} if bench.latest else {"ADF", "AF"}) == {}, life.log


@rule("INV-02")
def test_nothing_is_called_after_its_end(bench: Bench) -> None:
    """No second delete of a handle, no add after a delete, no call of any kind after the free."""
    life = Workload(bench, "INV-02").run(STEPS).drain()
    calls = life.host.calls()
    for kind in ("state", "policy"):
        for one in lives(calls, kind).values():
            marks = letters(one)
            assert marks.count("D") <= 1 and "A" not in marks[1:], (one, life.log)
            freed = [call["call"].endswith("_free") for call in one]
            assert not any(freed[:-1]), (one, life.log)
    live: set[int] = set()
    for call in calls:
        if call["call"] == "xdo_dev_state_delete" and not call.get("acquire") and call["handle"]:
            assert call["handle"] not in live, (call, life.log)
            live.add(call["handle"])
        if call["call"] == "xdo_dev_state_free":
            live.discard(call["handle"])


@rule("INV-03")
def test_every_policy_is_deleted_and_freed(bench: Bench) -> None:
    """One delete and one free for every policy that was taken; v6.2 may leave out the delete."""
    life = Workload(bench, "INV-03", known_leaks=bench.latest).run(STEPS).drain()
    found = {number: letters(one) for number, one in lives(life.host.calls(), "policy").items()}
    assert any(found.values()), life.log
    assert odd(found, {"ADF"} if bench.latest else {"ADF", "AF"}) == {}, life.log


@rule("INV-04")
def test_nobody_holds_the_device_in_the_end(bench: Bench) -> None:
    """References to the device are back where they began, after a life and after several."""
    life = Workload(bench, "INV-04", known_leaks=bench.latest)
    base = life.host.refcnt()
    most = 0
    for _ in range(3):
        most = max(most, life.run(STEPS // 3).host.refcnt())
        assert life.drain().host.refcnt() == base, life.log
    assert most > base, life.log
    assert life.host.census() == {}, life.log


@rule("INV-05")
def test_nothing_is_left_of_a_device_that_is_gone(bench: Bench) -> None:
    """Once NETDEV_UNREGISTER is over no SA and no policy names the device, and none can be added
    to it."""
    life = Workload(bench, "INV-05").run(STEPS)
    host = life.host
    host.ip("xfrm state flush")
    host.ok(texts.state(host.dev, spi=0x9000))
    host.ip("xfrm policy flush")
    host.ok(texts.policy(host.dev))
    host.link(unregister=True)
    kept = [
        note.name for note in host.states() + host.policies() if Attr.OFFLOAD_DEV in note.attributes
    ]
    assert kept == [], life.log
    assert host.ip(texts.state(host.dev, spi=0x9001)).rc != 0
    assert host.ip(texts.policy(host.dev)).rc != 0


@rule("INV-07")
def test_an_sa_never_comes_back(bench: Bench) -> None:
    """km.state goes from VOID to ACQ or VALID, from there by EXPIRED or at once to DEAD, and no way
    back, as every call for the SA shows it."""
    life = Workload(bench, "INV-07").run(STEPS).drain()
    seen = set()
    for one in lives(life.host.calls(), "state").values():
        states = [call["state"] for call in one]
        for before, after in itertools.pairwise(states):
            assert after in NEXT[before], (states, life.log)
        seen |= set(states)
    assert {"valid", "dead"} <= seen, life.log


@rule("INV-11")
def test_no_callback_waits_where_it_must_not(bench: Bench) -> None:
    """A fence around each call stops whatever would block there: it had nothing to stop."""
    life = Workload(bench, "INV-11").run(STEPS).drain()
    assert life.host.violations() == [], life.log
    assert life.host.errors() == [], life.log


@rule("INV-11")
def test_the_fence_stops_what_waits(bench: Bench) -> None:
    """A driver that sleeps for a placeholder, in the packet's path, is stopped there; where it may
    sleep, it sleeps."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev, reqid=SLEEP))
    assert host.violations() == []
    host.ok("xfrm state flush")
    host.ok(texts.policy(host.dev, reqid=SLEEP))
    host.send([packets.udp()])
    assert host.violations() == ["OPS-11"]
    assert host.ok("xfrm state list") == ""
