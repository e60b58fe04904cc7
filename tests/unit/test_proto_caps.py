# SPDX-License-Identifier: Apache-2.0
"""proto: card profiles and overrides, errnos, the clock."""

import pytest

from proto.caps import parse_card
from proto.clock import NS, RealClock, VirtualClock
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
        ("full:overrun=never", "mark, fatal"),
    ],
)
def test_a_bad_card_says_what_is_wrong(text, says):
    with pytest.raises(OffloadError, match=says) as caught:
        parse_card(text)
    assert caught.value.errno == 22


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
