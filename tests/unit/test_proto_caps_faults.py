# SPDX-License-Identifier: Apache-2.0
"""proto: card profiles and overrides, the fault table, the clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.caps import parse_card
from proto.clock import NS, RealClock, VirtualClock
from proto.faults import FaultSpec, FaultTable
from proto.status import STATUS_ERRNO, OffloadError, Status


def test_profiles_are_what_their_cards_can_do():
    assert parse_card("cx6dx").key_bits == (128, 256)
    assert parse_card("cx6dx").icv_bytes == (16,)
    assert parse_card("cx6dx").replay_windows == (32, 64, 128, 256)
    assert parse_card("tiny").sa_max == 4
    assert not parse_card("crypto-only").packet
    assert parse_card("full").replay_window_max == 4096


def test_overrides_change_one_card():
    card = parse_card("full:counter_bits=8,sa_max=16,event_queue=4,esn=no,icv_bytes=12/16")
    assert (card.counter_bits, card.sa_max, card.event_queue) == (8, 16, 4)
    assert card.icv_bytes == (12, 16)
    assert not card.esn
    assert parse_card("full").counter_bits == 32


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cx5", "cx6dx"),
        ("full:colour=3", "sa_max"),
        ("full:name=x", "unknown"),
        ("full:sa_max=many", "sa_max"),
        ("full:sa_max=0", "1..2"),
        ("full:esn=maybe", "esn"),
        ("full:counter_bits=33", "4..32"),
        ("full:replay_window_max=5000", "4096"),
        ("full:key_bits=64", "256"),
        ("full:icv_bytes=4/16", "12"),
        ("full:event_queue=4096", "1023"),
    ],
)
def test_a_bad_card_says_what_is_wrong(text, says):
    with pytest.raises(OffloadError, match=says) as caught:
        parse_card(text)
    assert caught.value.errno == 22


def _apply(count=10, at="events", facts=None, **spec):
    table = FaultTable()
    table.add(FaultSpec(**{"site": "events", "kind": "drop", **spec}))
    results = [table.apply(at, bytes([i, i]), facts or {}) for i in range(count)]
    return table, results


def test_times_and_skip_bound_the_firings():
    table, results = _apply(times=2, skip=3, name="lost")
    assert [len(result) for result in results] == [1, 1, 1, 0, 0, 1, 1, 1, 1, 1]
    assert table.fired() == {"lost": 2}


def test_a_site_names_all_below_it_and_match_compares_loosely():
    _, results = _apply(
        at="mailbox.reply",
        facts={"opcode": "CreateSa"},
        site="mailbox",
        match={"opcode": "CREATE_SA"},
    )
    assert results == [[]] * 10
    assert _apply(at="ring.tx_done", site="ring.tx")[0].fired() == {"ring.tx-drop-1": 0}
    _, results = _apply(facts={"type": "HARD_LIMIT"}, match={"type": "SOFT_LIMIT"})
    assert all(len(result) == 1 for result in results)


def test_kinds():
    assert _apply(kind="duplicate")[1][1] == [b"\1\1", b"\1\1"]
    assert _apply(kind="truncate", value=1)[1][1] == [b"\1"]
    assert _apply(kind="corrupt", value=9)[1][1] == [b"\1\3"]


@given(st.integers(0, 1000), st.binary(min_size=1, max_size=30))
def test_probability_zero_changes_no_byte(seed, data):
    table = FaultTable()
    for kind in ("drop", "duplicate", "corrupt", "truncate"):
        table.add(FaultSpec(site="wire", kind=kind, probability=0.0, seed=seed))
    assert table.apply("wire", data, {}) == [data]


def test_the_same_seed_makes_the_same_decisions():
    runs = [_apply(count=200, probability=0.5, seed=seed)[1] for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"site": "moon"}, "known are"),
        ({"site": ""}, "known are"),
        ({"site": "wir"}, "known are"),
        ({"site": "ring.tx_"}, "known are"),
        ({"times": 0}, "times"),
        ({"skip": -1}, "skip"),
        ({"kind": "truncate", "value": -1}, "value"),
        ({"kind": "melt"}, "known are"),
        ({"probability": 1.5}, "0..1"),
    ],
)
def test_a_fault_that_cannot_fire_is_refused(spec, says):
    with pytest.raises(OffloadError, match=says):
        FaultTable().add(FaultSpec(**{"site": "wire", "kind": "drop", **spec}))


def test_names_are_unique_and_removable():
    table = FaultTable()
    name = table.add(FaultSpec(site="wire", kind="drop"))
    with pytest.raises(OffloadError, match="armed already"):
        table.add(FaultSpec(site="wire", kind="drop", name=name))
    table.remove(name)
    assert table.apply("wire", b"x", {}) == [b"x"]
    with pytest.raises(OffloadError, match="no fault"):
        table.remove(name)


def test_every_status_has_an_errno():
    assert set(STATUS_ERRNO) == set(Status)
    assert STATUS_ERRNO[Status.NO_RESOURCES] == 28


def test_clocks_never_step_back():
    real = RealClock()
    first = real.now_ns()
    assert real.now_ns() >= first > 1_700_000_000 * NS
    virtual = VirtualClock()
    virtual.advance_to(virtual.now_ns() + 5 * NS)
    assert virtual.now_ns() == VirtualClock.START_NS + 5 * NS
    with pytest.raises(AssertionError):
        virtual.advance_to(0)
