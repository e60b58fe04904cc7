# SPDX-License-Identifier: Apache-2.0
"""TRACE-01..13: which callbacks the core makes for SAs, and what the user sees meanwhile."""

import errno

import pytest

from host_driver.conformance import layouts, messages, packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.probe import EVENTS, REFUSE
from host_driver.conformance.subject import Subject
from proto.xfrm import Group

PACKET = packets.udp()


def offered(bench: Bench, more: str = "", driver: str | None = None, reqid: int = 1) -> Subject:
    """A host with one outbound SA; its notification was read."""
    host = bench.host(driver=driver)
    host.ok(texts.state(host.dev, more=more, reqid=reqid))
    assert host.note_names() == ["NEWSA"]
    return host


def acquiring(bench: Bench, driver: str | None = None) -> Subject:
    """A host with an offloaded policy and no SA, whose packet has just asked for one."""
    host = bench.host(driver=driver)
    host.ok(texts.policy(host.dev))
    host.notes()
    assert host.send([PACKET]) == [0]  # taken, and gone (ACQ-20)
    assert host.mib() == {"XfrmOutNoStates": 1}
    return host


def larval(bench: Bench, order: str) -> str:
    """`(l)` as it is shown: only late kernels mark a larval SA for the driver (ACQ-02)."""
    return order if bench.latest else order.replace("(l)", "")


@rule("TRACE-01", "STATE-32")
def test_an_accepted_sa_is_added_once_and_announced(bench: Bench) -> None:
    """NEWSA accepted: one state_add, success, one NEWSA."""
    host = bench.host()
    host.ok(texts.state(host.dev))
    assert host.order("U") == "A"
    assert host.note_names() == ["NEWSA"]


@rule("TRACE-02", "STATE-25")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EBUSY, errno.EOPNOTSUPP])
def test_a_refused_packet_sa_fails_with_the_errno_of_its_driver(bench: Bench, code: int) -> None:
    """The driver refuses: its errno, no notification, no delete, no free, no SA."""
    host = bench.host(driver=PROBE)
    attributes = host.offload()
    assert host.request(messages.new_sa(reqid=REFUSE | code, attributes=attributes)).errno == code
    assert host.order("U") == "A"
    assert host.note_names() == []
    assert host.sa() is None


@rule("TRACE-03")
def test_a_duplicate_is_offered_then_deleted_and_freed(bench: Bench) -> None:
    """NEWSA with an identity in use: add, delete, free of the new one; EEXIST; the old SA lives."""
    host = offered(bench)
    before = host.sa()
    result = host.ip(texts.state(host.dev, reqid=2, key=bytes(20)))
    assert (result.rc, "File exists" in result.stderr) == (2, True)
    assert host.order("U", numbered=True) == "A1 A2 D2 F2"
    assert host.note_names() == []
    assert host.sa() == before


@rule("TRACE-04", "DEL-03")
def test_a_deleted_sa_is_deleted_then_freed(bench: Bench) -> None:
    """DELSA: state_delete, then state_free, success, one DELSA."""
    host = offered(bench)
    host.ok(texts.delete())
    assert host.order("U") == "A D F"
    assert host.note_names() == ["DELSA"]


@rule("TRACE-05")
def test_a_flush_deletes_all_then_frees_all(bench: Bench) -> None:
    """FLUSHSA with three SAs: three deletes, later three frees; one FLUSHSA, no DELSA."""
    host = bench.host()
    for spi in (0x1000, 0x1001, 0x1002):
        host.ok(texts.state(host.dev, spi=spi))
    host.notes()
    host.ok("xfrm state flush")
    assert host.order("U") == "A A A D D D F F F"
    assert host.note_names() == ["FLUSHSA"]


@rule("TRACE-06")
@pytest.mark.parametrize("limit", ["byte-hard 50", "packet-hard 3"])
def test_a_hard_limit_deletes_and_frees(bench: Bench, limit: str) -> None:
    """The device reaches a hard limit, its driver has the core look: delete, free; one EXPIRE with
    hard = 1 and no DELSA."""
    host = offered(bench, f"limit {limit}")
    host.ok(texts.policy(host.dev))
    host.notes()
    for _ in range(3):
        host.send([PACKET])
    bench.advance(1)
    assert host.order("U", "K") == "A pA D F"
    notes = host.notes()
    assert [note.name for note in notes] == ["EXPIRE"]
    assert messages.expiries(notes) == ["hard 0x1000"]


@rule("TRACE-06", "OPS-20")
def test_each_step_of_a_hard_expiry_asks_for_totals(bench: Bench) -> None:
    """Update by the check, update by the timer, delete, late kernels once more for the message,
    free."""
    host = offered(bench, "limit byte-hard 76", PROBE, EVENTS)
    host.ok(texts.policy(host.dev, reqid=EVENTS))
    host.send([PACKET])
    before = len(host.calls())
    host.send([PACKET])
    shown = host.order("K", since=before)
    assert shown == ("U U D U F" if bench.latest else "U U D F")


@rule("TRACE-07")
def test_a_soft_limit_asks_for_totals_and_is_told(bench: Bench) -> None:
    """Update by the check, late kernels once more for the message; EXPIRE with hard = 0."""
    host = offered(bench, "limit byte-soft 76", PROBE, EVENTS)
    host.ok(texts.policy(host.dev, reqid=EVENTS))
    host.send([PACKET])
    before = len(host.calls())
    host.notes()
    host.send([PACKET])
    assert host.order("K", since=before) == ("U U" if bench.latest else "U")
    notes = host.notes()
    assert ([note.name for note in notes], messages.expiries(notes)) == (
        ["EXPIRE"],
        ["soft 0x1000"],
    )


@rule("TRACE-08")
def test_an_update_offers_the_driver_an_object_of_its_own(bench: Bench) -> None:
    """UPDSA of a VALID SA: add of a new object, (late kernels) its delete, its free; UPDSA is told,
    and the SA in the driver stays."""
    host = offered(bench)
    host.ok(texts.state(host.dev, verb="update", more="limit packet-hard 7"))
    offered_again = "A2 D2 F2" if bench.latest else "A2 F2"
    assert host.order("U", numbered=True) == f"A1 {offered_again}"
    assert host.note_names() == ["UPDSA"]
    found = host.sa()
    assert found is not None and found.lft.hard_packet_limit == 7


@rule("TRACE-09")
def test_an_update_of_no_sa_leaves_nothing(bench: Bench) -> None:
    """UPDSA where no SA is: add, delete, free; ESRCH, no notification."""
    host = bench.host()
    result = host.ip(texts.state(host.dev, verb="update"))
    assert (result.rc, "No such process" in result.stderr) == (2, True)
    assert host.order("U") == "A D F"
    assert host.note_names() == []
    assert host.census() == {}


@rule("TRACE-10")
def test_a_new_sa_takes_the_place_of_the_larval_one(bench: Bench) -> None:
    """NEWSA for what an acquire waits for: add, then delete and free of the larval SA."""
    host = acquiring(bench)
    host.notes()
    host.ok(texts.state(host.dev))
    assert host.order("U", numbered=True) == larval(bench, "pA1 A2(l) A3 D2(l) F2(l)")
    assert host.note_names() == ["NEWSA"]
    assert host.ok("xfrm state list").count("proto esp") == 1


@rule("TRACE-10")
def test_an_update_completes_the_larval_sa(bench: Bench) -> None:
    """ALLOCSPI for the acquire, then UPDSA: add, then delete and free of the larval SA."""
    host = acquiring(bench)
    (acquire,) = host.notes()
    seq = layouts.USER_ACQUIRE.read(acquire.fixed).seq
    assert host.request(messages.alloc_spi(0x1000, seq=seq)).errno == 0
    host.ok(texts.state(host.dev, verb="update"))
    assert host.order("U", numbered=True) == larval(bench, "pA1 A2(l) A3 D2(l) F2(l)")
    assert host.note_names() == ["UPDSA"]


@rule("TRACE-11")
def test_an_acquire_adds_a_larval_sa(bench: Bench) -> None:
    """A packet for an offloaded policy without SA: state_add of a larval one, one ACQUIRE."""
    host = acquiring(bench)
    assert host.order("U") == larval(bench, "pA A(l)")
    assert host.note_names() == ["ACQUIRE"]
    assert host.send([PACKET]) == [0]
    assert host.order("U") == larval(bench, "pA A(l)")
    assert host.note_names() == []


@rule("TRACE-12")
def test_an_unanswered_acquire_times_out(bench: Bench) -> None:
    """After acq_expires seconds: delete and free of the larval SA, EXPIRE with hard = 1."""
    host = bench.host()
    host.sysctl("acq_expires", 5)
    host.ok(texts.policy(host.dev))
    host.send([PACKET])
    host.notes()
    bench.advance(4)
    assert host.order("U") == larval(bench, "pA A(l)")
    bench.advance(2)
    assert host.order("U") == larval(bench, "pA A(l) D(l) F(l)")
    assert host.expired() == ["hard 0x0"]


@rule("TRACE-13")
def test_an_acquire_that_nobody_takes_is_forgotten_at_once(bench: Bench) -> None:
    """The key manager's socket is full: add and delete of the larval SA, late kernels free it as
    well; nothing is told, and the packet is gone."""
    host = bench.host()
    host.ok(texts.policy(host.dev))
    host.listen(*Group, room=0)
    assert host.send([PACKET]) == [0]
    assert host.order("U") == ("pA A(l) D(l) F(l)" if bench.latest else "pA A D")
    assert host.mib() == {"XfrmOutNoStates": 1}
    assert host.ok("xfrm state list") == ""
    assert bench.frames() == []
