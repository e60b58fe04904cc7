# SPDX-License-Identifier: Apache-2.0
"""Limits in rounds against plain counting, replay verdicts and windows against recorded kernels."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nic_model import aso, tables
from proto.caps import parse_card
from proto.commands import IN, OUT, CreateSa, Selector

RECORDS = sorted((Path(__file__).parents[1] / "vectors" / "replay").glob("*.json"))
CAPS = parse_card("full:sa_max=1,key_max=1,rule_max=1")


def make_sa(bits: int = 32, **fields: Any) -> tables.Tables:
    caps = parse_card(f"full:sa_max=1,key_max=1,rule_max=1,counter_bits={bits}")
    t = tables.make_tables(caps)
    values = {
        "key": 1, "salt": bytes(4), "icv_bytes": 16, "spi": 1, "family": 2, "saddr": bytes(16),
        "daddr": bytes(16), "direction": OUT, "reqid": 1, "selector": Selector(),
    }  # fmt: skip
    tables.write_sa(t, 1, CreateSa(**(values | fields)), 1, 1, 0, caps)
    return t


@given(st.integers(1, 1 << 62), st.sampled_from([1 << bits for bits in (3, 7, 31)]))
def test_split_is_canonical(packets: int, half: int) -> None:
    rounds, count = aso.split(packets, half)
    assert rounds * half + count == packets
    assert rounds >= 0 and 0 <= count < 2 * half
    assert rounds == 0 or count >= half


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([4, 5, 8, 32]), st.integers(1, 900), st.integers(1, 1000))
def test_limits_are_exact(bits: int, hard: int, soft: int) -> None:
    t = make_sa(bits, packets=hard, soft_packets=soft)
    sa = t.sa[1]
    raised = []
    for sent in range(1, hard + 1):
        assert not sa.stopped
        reached = aso.count_packet(sa, 10)
        assert 0 <= sa["count"] < 1 << bits
        raised += [(sent, flag) for flag in (aso.SOFT_REACHED, aso.HARD_REACHED) if reached & flag]
        assert tables.read_sa(t, 1).remaining == hard - sent
    assert raised == [(soft, aso.SOFT_REACHED)] * (soft <= hard) + [(hard, aso.HARD_REACHED)]
    assert sa.stopped and sa.packets == hard and sa.bytes == 10 * hard
    assert bool(sa.dying) == (soft <= hard)


def test_byte_limit_stops_when_reached() -> None:
    t = make_sa(bytes=100)
    assert [aso.count_packet(t.sa[1], 33) for _ in range(3)] == [0, 0, 0]
    assert not t.sa[1].stopped
    assert aso.count_packet(t.sa[1], 1) == aso.HARD_REACHED
    assert t.sa[1].stopped


def test_no_limit_never_stops() -> None:
    t = make_sa()
    t.sa[1].bytes = 1 << 60
    assert aso.count_packet(t.sa[1], 1500) == 0
    state = tables.read_sa(t, 1)
    assert state.remaining == aso.UNLIMITED - 1 and not state.soft_arm


@pytest.mark.parametrize(
    ("esn", "may_wrap", "start", "allowed"),
    [
        (False, False, 0xFFFF_FFFD, 2),
        (False, True, 0xFFFF_FFFD, 5),
        (True, False, 0xFFFF_FFFD, 5),
        (True, False, 0xFFFF_FFFF_FFFF_FFFD, 2),
    ],
)
def test_sequence_ends(esn: bool, may_wrap: bool, start: int, allowed: int) -> None:
    t = make_sa(esn=esn, may_wrap=may_wrap, seq=start)
    assert [aso.take_sequence(t.sa[1]) for _ in range(5)] == [n < allowed for n in range(5)]
    assert int(t.sa[1].seq) == start + allowed  # inside it never repeats, so the IV does not
    assert tables.wire_seq(t, 1) == (start + allowed if esn else (start + allowed) & 0xFFFF_FFFF)


def legacy_bitmap(t: tables.Tables) -> int:
    """Our window in the kernel's legacy form: bit n is the packet n behind the highest."""
    sa, bits = t.sa[1], int(t.window[1][0])
    window = int(sa.window)
    places = [(int(sa.head) - behind) % window for behind in range(window)]
    return sum((bits >> place & 1) << behind for behind, place in enumerate(places))


def receive(t: tables.Tables, seq: int, corrupt: bool) -> str:
    """One packet as rx_burst treats it; its ICV is good for the true 64-bit number only."""
    sa, bits, low = t.sa[1], t.window[1], seq & 0xFFFF_FFFF
    replayed = aso.replay_check(sa, bits, low)
    if replayed:
        sa.replay += replayed == aso.DUPLICATE
        sa.replay_window += replayed == aso.TOO_OLD
        return "XfrmInStateSeqError"
    high = aso.infer_high(sa, low)
    if corrupt or (sa.esn and high != seq >> 32):
        sa.integrity_failed += 1
        return "XfrmInStateProtoError"
    aso.replay_advance(sa, bits, low, high)
    return ""


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_replay_equals_kernel(path: Path) -> None:
    record = json.loads(path.read_text())
    seq = (record["preset_seq_hi"] or 0) << 32 | (record["preset_seq"] or 0)
    t = make_sa(direction=IN, esn=record["esn"], seq=seq, replay_window=record["window"])
    for result in record["results"]:
        counter = receive(t, result["seq"], result.get("corrupt", False))
        where = f"{path.stem} seq {result['seq_hex']}"
        assert ("drop" if counter else "accept") == result["outcome"], where
        assert ([counter] if counter else []) == list(result["counters"]), where

        state, expected = tables.read_sa(t, 1), result["replay"]
        assert state.seq == expected.get("seq_hi", 0) << 32 | expected["seq"], where
        if "bmp" in expected:
            assert state.window == tuple(int(word, 16) for word in expected["bmp"]), where
        elif record["window"]:
            mask = (1 << record["window"]) - 1  # the kernel keeps bits behind its window too
            assert legacy_bitmap(t) == expected["bitmap"] & mask, where
        stats = {name: getattr(state, name) for name in result["sa_stats"]}
        assert stats == result["sa_stats"], where


class Model:
    """RFC 4303 3.4.3 with a set of all numbers seen."""

    def __init__(self, window: int, top: int) -> None:
        self.window, self.top = window, top
        self.seen: set[int] = set()

    def accepts(self, seq: int) -> bool:
        return seq > self.top or (seq > self.top - self.window and seq not in self.seen)

    def take(self, seq: int) -> None:
        self.seen.add(seq)
        self.top = max(self.top, seq)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 200),
    st.sampled_from([0, 5, 2**32 - 40, 2**32 + 7, 3 * 2**32 - 20]),
    st.lists(st.integers(-250, 60), max_size=80),
)
def test_esn_window_of_any_size(window: int, start: int, steps: list[int]) -> None:
    """No number is taken twice, whatever the window; also across 2^32."""
    t = make_sa(direction=IN, esn=True, seq=start, replay_window=window)
    model = Model(window, start)
    for step in steps:
        seq = model.top + step
        if seq <= start:
            continue
        accepted = receive(t, seq, corrupt=False) == ""
        assert accepted == model.accepts(seq)
        if accepted:
            model.take(seq)
        assert tables.read_sa(t, 1).seq == model.top


def test_a_duplicate_of_the_first_packet_with_an_odd_window() -> None:
    """2^32 is no multiple of 100, and the first packet is still known."""
    t = make_sa(direction=IN, replay_window=100)
    assert [receive(t, 1, corrupt=False) for _ in range(2)] == ["", "XfrmInStateSeqError"]


def test_preset_bitmap_is_kept() -> None:
    t = make_sa(direction=IN, seq=64, replay_window=64, bitmap=(0xFFFF_FFFF, 0x7FFF_FFFF))
    assert [receive(t, seq, corrupt=False) for seq in (1, 63, 64)] == [
        "XfrmInStateSeqError"
    ] * 2 + [""]
    assert np.all(t.window[1][:2] == 0xFFFF_FFFF)
