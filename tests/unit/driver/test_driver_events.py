# SPDX-License-Identifier: Apache-2.0
"""Events are hints: lost, doubled, late and foreign ones change no decision."""

import msgspec
import numpy as np
import pytest

from host_driver.driver.events import READS
from host_driver.xfrm.state import KmState
from proto import commands as c
from proto.events import Event, EventType
from proto.faults import FaultSpec
from proto.layouts import SA_COUNTERS, SA_STOPPED
from proto.limits import RECONCILE_BATCH
from proto.status import Status
from proto.xfrm_structs import LifetimeCfg

SPI = 0x1000  # of make_state


def records(*rows, spi=SPI):
    return np.array([(*row, spi) for row in rows], SA_COUNTERS)


def state(sa, packets, stopped=False, octets=0):
    return c.SaState(
        handle=sa.handle, generation=sa.generation, seq=packets, window=(), remaining=0,
        soft_remaining=0, soft_arm=False, hard_arm=False, stopped=stopped, packets=packets,
        bytes=octets, replay=0, replay_window=0, integrity_failed=0, trailer=0, selector=0,
    )  # fmt: skip


@pytest.fixture
def limited(bench, make_state):
    """An SA with a hard limit of 10 packets, and a core that expires it there."""
    x = make_state(lft=LifetimeCfg(hard_packet_limit=10))
    bench.add(x)
    bench.card.log.clear()

    def expire(x):
        bench.driver.xdo_dev_state_update_curlft(x)
        x.curlft.use_time = x.curlft.use_time or 1
        if x.curlft.packets >= x.lft.hard_packet_limit:
            x.km.state = KmState.EXPIRED

    bench.expire_hook = expire
    return x, next(iter(bench.context.sas))


def test_an_event_reads_the_card_and_asks_the_core(bench, limited) -> None:
    x, sa = limited
    bench.card.sa_state = state(sa, 10, stopped=True)
    bench.driver.handle_events([Event(EventType.HARD_LIMIT, sa.handle, sa.generation)])
    bench.run()
    assert bench.card.log == ["QuerySa"], "the card stopped by itself, it is not told again"
    assert bench.expire_calls == [x]
    assert x.curlft.packets == 10


def test_an_expired_sa_that_still_passes_is_stopped_once(bench, limited) -> None:
    x, sa = limited
    bench.card.sa_state = state(sa, 10)
    event = Event(EventType.SOFT_LIMIT, sa.handle, sa.generation)
    bench.driver.handle_events([event])
    bench.run()
    bench.driver.handle_events([event])
    bench.run()
    assert bench.card.log.count("StopSa") == 1
    assert bench.expire_calls == [x], "an expired SA does not expire again (F-LIM-20)"


def test_doubled_events_while_reading_make_one_more_read(bench, limited) -> None:
    _, sa = limited
    bench.card.sa_state = state(sa, 3)
    event = Event(EventType.SOFT_LIMIT, sa.handle, sa.generation)
    bench.driver.handle_events([event] * 50)
    bench.sched.run(bench.now_ns)
    bench.driver.handle_events([event] * 50)  # the read is on its way and may be too early
    bench.run()
    assert bench.card.log == ["QuerySa", "QuerySa"]


@pytest.mark.parametrize(
    ("event", "counter"),
    [
        (Event(EventType.HARD_LIMIT, 999, 1), "events_unknown"),
        (Event(99, 1, 1), "events_malformed"),
    ],
)
def test_foreign_events_are_counted(bench, limited, event, counter) -> None:
    bench.driver.handle_events([event])
    bench.run()
    assert bench.counters[counter] == 1
    assert bench.card.log == []


def test_a_stale_generation_is_not_ours(bench, limited) -> None:
    _, sa = limited
    bench.driver.handle_events([Event(EventType.HARD_LIMIT, sa.handle, sa.generation + 1)])
    bench.driver.handle_counters(records((sa.handle, sa.generation + 1, 10, 0, 0, 0, 0, 0, 0)))
    bench.run()
    assert bench.counters["events_unknown"] == 1
    assert bench.counters["counters_unknown"] == 1
    assert bench.expire_calls == []


def test_a_deleted_sa_is_left_alone(bench, limited) -> None:
    x, sa = limited
    bench.driver.xdo_dev_state_delete(bench.dev, x)
    bench.driver.handle_events([Event(EventType.HARD_LIMIT, sa.handle, sa.generation)])
    bench.driver.handle_counters(records((sa.handle, sa.generation, 10, 0, 0, 0, 0, 0, 0)))
    bench.run()
    assert bench.expire_calls == []
    assert "QuerySa" not in bench.card.log


def test_counters_alone_find_the_limit(bench, limited) -> None:
    x, sa = limited
    row = (sa.handle, sa.generation, 10, 640, 10, 1, 2, 3, SA_STOPPED)
    bench.driver.handle_counters(records(row))
    assert bench.expire_calls == [x]
    assert (x.curlft.packets, x.curlft.bytes, x.stats.integrity_failed) == (10, 640, 3)


def test_first_use_is_reported_without_limits(bench, make_state) -> None:
    """Nobody else would set use_time of a packet-offload SA (LIFE-05, F-LIM-27)."""
    x = make_state()
    bench.add(x)
    sa = next(iter(bench.context.sas))
    bench.expire_hook = lambda x: setattr(x.curlft, "use_time", 1)
    for packets in (0, 1, 2):
        bench.driver.handle_counters(
            records((sa.handle, sa.generation, packets, 0, packets, *[0] * 4))
        )
    assert bench.expire_calls == [x]


def test_a_state_in_the_making_does_not_expire(bench, limited) -> None:
    x, sa = limited
    x.km.state = KmState.VOID
    bench.driver.handle_counters(records((sa.handle, sa.generation, 10, 0, 10, *[0] * 4)))
    assert bench.expire_calls == []


def test_the_tick_finds_what_no_event_told(bench, limited) -> None:
    x, sa = limited
    assert bench.driver.needs_reconcile()
    bench.card.sa_state = state(sa, 10, stopped=True)
    bench.driver.reconcile()
    bench.run()
    assert x.km.state == KmState.EXPIRED


def test_the_tick_leaves_unlimited_sas_alone_and_sees_new_limits(bench, make_state) -> None:
    x = make_state()
    bench.add(x)
    assert not bench.driver.needs_reconcile()
    x.lft = LifetimeCfg(hard_byte_limit=100)
    bench.driver.xdo_dev_state_update_curlft(x)
    assert bench.driver.needs_reconcile()
    bench.free(x)
    assert not bench.driver.needs_reconcile()


def test_the_tick_goes_round_in_batches_and_overrun_reads_all(bench, make_state) -> None:
    for spi in range(1, RECONCILE_BATCH + 45):
        bench.add(make_state(spi, lft=LifetimeCfg(hard_byte_limit=100)))
    bench.card.log.clear()
    bench.driver.reconcile()
    bench.run()
    assert bench.card.log == ["QuerySa"] * RECONCILE_BATCH
    bench.driver.reconcile()
    bench.run()
    asked = {cmd.handle for cmd in bench.card.commands if isinstance(cmd, c.QuerySa)}
    assert len(asked) == RECONCILE_BATCH + 44
    bench.card.log.clear()
    bench.driver.handle_events([Event(EventType.OVERRUN, 0, 0)])
    bench.run()
    assert len(bench.card.log) == RECONCILE_BATCH + 44


def test_a_reply_about_another_sa_is_refused(bench, limited) -> None:
    """F-LIM-11: whose it is stands in the answer."""
    _, sa = limited
    bench.card.sa_state = msgspec.structs.replace(state(sa, 10), handle=sa.handle + 1)
    bench.driver.reconcile()
    bench.run()
    assert bench.counters["query_stale"] == 1
    assert bench.expire_calls == []


def test_totals_of_another_sa_are_refused(bench, limited) -> None:
    """F-LIM-11: the same of a counter record."""
    _, sa = limited
    row = (sa.handle, sa.generation, 10, 0, 10, 0, 0, 0, SA_STOPPED)
    bench.driver.handle_counters(records(row, spi=SPI + 1))
    assert bench.counters["counters_unknown"] == 1
    assert bench.expire_calls == []
    assert (sa.totals.packets, sa.totals.stopped) == (0, False)


def record(sa, packets, seq=None, octets=0, failures=(0, 0, 0), flags=0):
    seq = packets if seq is None else seq
    return records((sa.handle, sa.generation, packets, octets, seq, *failures, flags))


@pytest.mark.parametrize(
    ("packets", "seq", "octets", "why"),
    [
        (4, 4, 0, "backwards"),
        (5, 4, 0, "backwards"),
        (5 | 1 << 32, 5, 0, "torn"),
        (6, 5, 0, "torn"),
        (6, 6, 7 * 65_535, "torn"),
        (5 | 1 << 32, 5 | 1 << 32, 0, "jump"),
    ],
)
def test_a_reading_that_cannot_be_is_read_again(bench, limited, packets, seq, octets, why) -> None:
    """F-LIM-22: what is known stays, and the card is asked."""
    x, sa = limited
    bench.driver.handle_counters(record(sa, 5, octets=100))
    bench.card.sa_state = state(sa, 6, octets=120)
    bench.driver.handle_counters(record(sa, packets, seq, octets or 100))
    assert (sa.totals.packets, sa.totals.bytes) == (5, 100)
    bench.run()
    assert bench.counters[f"counters_{why}"] == 1
    assert bench.card.log == ["QuerySa"]
    assert (sa.totals.packets, sa.totals.bytes) == (6, 120)
    assert x.km.state == KmState.VALID


def test_a_card_that_goes_on_saying_what_cannot_be_is_asked_three_times(bench, limited) -> None:
    x, sa = limited
    bench.card.sa_state = msgspec.structs.replace(state(sa, 5), packets=5 | 1 << 32)
    bench.driver.handle_events([Event(EventType.SOFT_LIMIT, sa.handle, sa.generation)])
    bench.run()
    assert bench.card.log == ["QuerySa"] * READS
    assert (sa.totals.packets, x.km.state) == (0, KmState.VALID)


def test_a_jump_that_another_reading_confirms_was_none_of_torn_halves(bench, limited) -> None:
    x, sa = limited
    bench.card.sa_state = state(sa, 5 | 1 << 32)
    bench.driver.handle_events([Event(EventType.HARD_LIMIT, sa.handle, sa.generation)])
    bench.run()
    assert bench.card.log[:2] == ["QuerySa"] * 2
    assert (sa.totals.packets, x.km.state) == (5 | 1 << 32, KmState.EXPIRED)


def test_failure_counts_of_32_bits_wrap(bench, limited) -> None:
    """F-LIM-21: and an older record takes nothing back."""
    _, sa = limited
    last = (1 << 32) - 1
    for replay in (1 << 30, 1 << 31, 3 << 30, last, 4, last):
        bench.driver.handle_counters(record(sa, 1, failures=(0, replay, 0)))
    assert sa.totals.replay == last + 5


def test_an_sa_that_the_card_has_stopped_expires_whatever_is_counted(bench, limited) -> None:
    """F-LIM-08: reported, not hung; but one reading may be older than new limits."""
    x, sa = limited
    bench.card.sa_state = state(sa, 3, stopped=True)
    bench.driver.reconcile()
    bench.run()
    assert bench.expired == []
    bench.driver.reconcile()
    bench.run()
    assert bench.expired == [x]


def test_a_stop_that_fails_is_tried_until_it_works(bench, limited) -> None:
    """F-LIM-17"""
    _, sa = limited
    bench.card.refuse["StopSa"] = [Status.INTERNAL_ERROR, Status.OBJECT_BUSY]
    bench.card.sa_state = state(sa, 10)
    bench.driver.handle_events([Event(EventType.HARD_LIMIT, sa.handle, sa.generation)])
    bench.run()
    for _ in range(5):
        bench.wait_ms(1000)
    assert bench.card.log.count("StopSa") == 3


@pytest.mark.parametrize("kind", ["lost", "delay"])
def test_work_that_is_forgotten_or_late_is_made_good(bench, limited, kind) -> None:
    """F-LIM-07"""
    x, sa = limited
    bench.context.faults.add(FaultSpec(site="host.work", kind=kind, times=1, delay_ms=20_000))
    bench.card.sa_state = state(sa, 10, stopped=True)
    bench.driver.handle_events([Event(EventType.HARD_LIMIT, sa.handle, sa.generation)])
    bench.run()
    assert (bench.card.log, x.km.state) == ([], KmState.VALID)
    if kind == "lost":
        bench.driver.reconcile()
        bench.run()
    else:
        bench.wait_ms(20_000)
    assert x.km.state == KmState.EXPIRED


def test_a_reply_about_another_generation_is_refused(bench, limited) -> None:
    _, sa = limited
    bench.card.sa_state = msgspec.structs.replace(state(sa, 10), generation=sa.generation + 1)
    bench.driver.reconcile()
    bench.run()
    assert bench.counters["query_stale"] == 1
    assert bench.expire_calls == []
