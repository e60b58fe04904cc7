# SPDX-License-Identifier: Apache-2.0
"""The shell of a process: what it hands to the party, when it steps, how it ends."""

import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from proto.clock import RealClock
from proto.frame import Channel, Kind, pack
from proto.link.loop import RING_MESSAGES, run, timeout_ms
from proto.link.zmq import Endpoint, Hub


class Fake:
    """A party that answers every message with its length and remembers what it saw."""

    def __init__(self, *, stop_after: int | None = None, deadlines: int = 0) -> None:
        self.seen: list[tuple[Channel, bytes]] = []
        self.views: list[bytes] = []
        self.channels: list[list[Channel]] = []  # of the messages of each step
        self.steps = 0
        self._stop_after = stop_after
        self._deadlines = deadlines

    def step(
        self, now_ns: int, inputs: Sequence[tuple[Channel, bytes]]
    ) -> list[tuple[Channel, bytes]]:
        self.steps += 1
        self.seen += [(channel, bytes(raw)) for channel, raw in inputs]
        self.views += [raw for _, raw in inputs]
        self.channels.append([channel for channel, _ in inputs])
        if self.steps == self._stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return [(channel, len(raw).to_bytes(4)) for channel, raw in inputs]

    def deadline_ns(self) -> int | None:
        return 0 if self.steps < self._deadlines else None


@pytest.fixture
def ends() -> Iterator[tuple[dict[Channel, Endpoint], dict[Channel, Endpoint]]]:
    """The card's and the host's ends of a link."""
    with tempfile.TemporaryDirectory(prefix="xn-") as path, Hub() as hub:
        link = f"ipc://{Path(path)}/card0"
        yield hub.bind_link(link), hub.connect_link(link)


def test_terminate_ends_it_with_status_0(ends) -> None:
    card, host = ends
    party = Fake()
    host[Channel.MAILBOX].send(pack(Kind.TERMINATE))
    assert run(party, card, RealClock(), None) == 0
    assert party.seen == []


def test_messages_reach_the_party_by_channel_and_answers_go_back(ends) -> None:
    card, host = ends
    party = Fake(stop_after=2)
    host[Channel.RINGS].send(b"abc")
    assert run(party, card, RealClock(), None) == 0
    assert party.seen == [(Channel.RINGS, b"abc")]


def test_a_step_takes_some_messages_of_the_rings_and_all_others(ends) -> None:
    card, host = ends
    party = Fake(stop_after=4)
    sent = [b"%d" % number for number in range(2 * RING_MESSAGES + 1)]
    for message in sent:
        assert host[Channel.RINGS].send(message)
        assert host[Channel.EVENTS].send(message)
    time.sleep(0.3)  # until all are there: nothing else tells how many wait
    run(party, card, RealClock(), None)
    assert [step.count(Channel.RINGS) for step in party.channels] == [
        0, RING_MESSAGES, RING_MESSAGES, 1,
    ]  # fmt: skip
    assert [step.count(Channel.EVENTS) for step in party.channels] == [0, len(sent), 0, 0]
    assert [raw for channel, raw in party.seen if channel is Channel.RINGS] == sent


def test_malformed_messages_are_the_partys_business(ends) -> None:
    card, host = ends
    party = Fake(stop_after=2)
    host[Channel.EVENTS].send(bytes(16))
    assert run(party, card, RealClock(), None) == 0
    assert party.seen == [(Channel.EVENTS, bytes(16))]


def test_what_came_through_the_mailbox_is_zeroed_after_the_step(ends) -> None:
    card, host = ends
    party = Fake(stop_after=2)
    host[Channel.MAILBOX].send(b"a key among other things, longer than a small message")
    run(party, card, RealClock(), None)
    assert party.seen[0][1].startswith(b"a key")
    assert not any(party.views[0])


def test_a_deadline_steps_without_any_message(ends) -> None:
    card, _ = ends
    party = Fake(stop_after=5, deadlines=5)
    assert run(party, card, RealClock(), None) == 0
    assert party.steps == 5


def test_a_closed_lifeline_ends_it(ends) -> None:
    card, _ = ends
    readable, writable = os.pipe()
    os.close(writable)
    assert run(Fake(), card, RealClock(), readable) == 0
    os.close(readable)


def test_signal_handlers_are_put_back(ends) -> None:
    card, _ = ends
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    run(Fake(stop_after=1), card, RealClock(), None)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.parametrize(
    ("deadline_ns", "now_ns", "expected"),
    [
        (None, 5, None),
        (0, 5, 0),
        (5, 5, 0),
        (6, 5, 1),
        (1_000_005, 5, 1),
        (1_000_006, 5, 2),
        (1 << 90, 5, (1 << 31) - 1),
    ],
)
def test_the_poll_never_ends_before_the_deadline(deadline_ns, now_ns, expected) -> None:
    assert timeout_ms(deadline_ns, now_ns) == expected
