# SPDX-License-Identifier: Apache-2.0
"""TRACE-14..20: which callbacks the core makes for policies and with a device, and what is told."""

import pytest

from host_driver.conformance import texts
from host_driver.conformance.bench import Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import DESTINATION, SOURCE
from host_driver.conformance.subject import Subject


def both_ways(bench: Bench) -> Subject:
    """A host with an offloaded policy out and one in; their notifications were read."""
    host = bench.host()
    host.ok(texts.policy(host.dev))
    host.ok(texts.policy(host.dev, src=DESTINATION, dst=SOURCE, dir="in"))
    assert host.note_names() == ["NEWPOLICY", "NEWPOLICY"]
    return host


@rule("TRACE-14", "NDEV-04")
@pytest.mark.parametrize("going", ["down", "unregister"])
def test_a_device_that_goes_takes_its_objects_along(bench: Bench, going: str) -> None:
    """Two SAs and two policies of a device: late kernels delete and free each SA, then each policy;
    v6.2 frees policies without delete, and SAs last. Nobody is told."""
    host = both_ways(bench)
    host.ok(texts.state(host.dev))
    host.ok(texts.state(host.dev, spi=0x2000, src=DESTINATION, dst=SOURCE, dir="in"))
    host.notes()
    before = len(host.calls())
    if going == "down":
        host.link(up=False)
    else:
        host.link(unregister=True)
    late, early = "D F D F pD pF pD pF", "D D pF pF F F"
    assert host.order("U", since=before) == (late if bench.latest else early)
    assert host.note_names() == []
    assert host.ok("xfrm state list") == host.ok("xfrm policy list") == ""


@rule("TRACE-15")
def test_an_accepted_policy_is_added_once_and_announced(bench: Bench) -> None:
    """NEWPOLICY accepted: one policy_add, success, one NEWPOLICY."""
    host = bench.host()
    host.ok(texts.policy(host.dev))
    assert host.order() == "pA"
    assert host.note_names() == ["NEWPOLICY"]


@rule("TRACE-16")
def test_a_duplicate_policy_is_offered_then_deleted(bench: Bench) -> None:
    """NEWPOLICY with an identity in use: add and delete of the new one, late kernels free it as
    well; EEXIST, no notification, the old policy stays."""
    host = bench.host()
    host.ok(texts.policy(host.dev, priority=5))
    host.notes()
    result = host.ip(texts.policy(host.dev, priority=9))
    assert (result.rc, "File exists" in result.stderr) == (2, True)
    late, early = "pA1 pA2 pD2 pF2", "pA1 pA2 pD2"
    assert host.order(numbered=True) == (late if bench.latest else early)
    assert host.note_names() == []
    assert "priority 5" in host.ok("xfrm policy list")


@rule("TRACE-17")
def test_a_replaced_policy_goes_after_the_new_one_came(bench: Bench) -> None:
    """UPDPOLICY: add of the new one, (late kernels) delete and free of the old one; UPDPOLICY."""
    host = bench.host()
    host.ok(texts.policy(host.dev, priority=5))
    host.notes()
    host.ok(texts.policy(host.dev, verb="update", priority=9))
    late, early = "pA1 pA2 pD1 pF1", "pA1 pA2 pF1"
    assert host.order(numbered=True) == (late if bench.latest else early)
    assert host.note_names() == ["UPDPOLICY"]
    assert "priority 9" in host.ok("xfrm policy list")


@rule("TRACE-18")
@pytest.mark.parametrize("by", ["selector", "index"])
def test_a_deleted_policy_is_deleted_then_freed(bench: Bench, by: str) -> None:
    """DELPOLICY: (late kernels) policy_delete, then policy_free; one DELPOLICY."""
    host = bench.host()
    host.ok(texts.policy(host.dev, more="index 9"))
    host.notes()
    host.ok(texts.policy_delete() if by == "selector" else "xfrm policy delete index 9 dir out")
    assert host.order() == ("pA pD pF" if bench.latest else "pA pF")
    assert host.note_names() == ["DELPOLICY"]


@rule("TRACE-19")
def test_an_expired_policy_is_deleted_then_freed(bench: Bench) -> None:
    """Hard time limit of a policy: delete, free; POLEXPIRE with hard = 1, no DELPOLICY."""
    host = bench.host()
    host.ok(texts.policy(host.dev, more="limit time-hard 3"))
    host.notes()
    bench.advance(2)
    assert host.order() == "pA"
    bench.advance(3)
    assert host.order() == "pA pD pF"
    assert host.expired() == ["hard policy"]


@rule("TRACE-20")
def test_a_flush_of_policies_ends_one_after_another(bench: Bench) -> None:
    """FLUSHPOLICY: each deleted (late kernels) and freed; one FLUSHPOLICY, no DELPOLICY."""
    host = both_ways(bench)
    host.ok("xfrm policy flush")
    assert host.order() == ("pA pA pD pF pD pF" if bench.latest else "pA pA pF pF")
    assert host.note_names() == ["FLUSHPOLICY"]
