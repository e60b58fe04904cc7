# SPDX-License-Identifier: Apache-2.0
"""The simulator's clock and order: nodes step one at a time, time moves from deadline to deadline.

Time in which nothing but heartbeats would pass is leapt over (`_leap`): hosts and cards that are at
ease shift their heartbeats by as much, so that a day in which nothing happens costs nothing.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from host_driver.lab.life import PartyState
from nic_model.life_faults import Crash
from proto.clock import NS, VirtualClock
from proto.link.sim import SimEndpoint

# A party that asks to be stepped now, again and again, without doing anything, is broken.
IDLE_STEPS_MAX = 1000
# Nor are parties well that always have something to say to each other and never wait: a flush of a
# million SAs needs about 200 000 steps.
BUSY_STEPS_MAX = 300_000
LEAP_MIN_NS = 10 * NS


class AnyParty(Protocol):
    """A host, a card or the wire; `Any` stands for channels or, on the wire, port numbers."""

    def step(self, now_ns: int, inputs: Sequence[tuple[Any, bytes]]) -> list[tuple[Any, bytes]]:
        """Take messages, give messages."""

    def deadline_ns(self) -> int | None:
        """When to step although nothing arrives."""


@dataclass
class Node:
    """A party, its name and its ends of the channels. A dead one has nothing to say."""

    name: str
    party: AnyParty
    ends: dict[Any, SimEndpoint]
    state: PartyState = PartyState.RUNNING
    idle_steps: int = 0

    @property
    def running(self) -> bool:
        """Whether it lives and is not stopped."""
        return self.state is PartyState.RUNNING

    def ready(self, now_ns: int) -> bool:
        """Whether it can do something now: a message has arrived, or its deadline has come."""
        return self.running and (
            any(end.waiting for end in self.ends.values()) or self._due(now_ns)
        )

    def _due(self, now_ns: int) -> bool:
        deadline_ns = self.party.deadline_ns()
        return deadline_ns is not None and deadline_ns <= now_ns


class Simulator:
    """Steps nodes until nothing moves, and moves time. `crashed` is told of a card that a fault has
    ended; `at_ease` says whether heartbeats may be left out for now."""

    def __init__(
        self,
        nodes: Sequence[Node],
        rng: random.Random,
        crashed: Callable[[Node], None] = lambda node: None,
        at_ease: Callable[[], bool] = lambda: False,
    ) -> None:
        self.nodes = nodes
        self.clock = VirtualClock()
        self._rng = rng
        self._crashed = crashed
        self._at_ease = at_ease
        self.busy_steps = 0  # since time moved or somebody asked for something

    def step(self) -> bool:
        """Let one party that can do something now do it; False when there is none."""
        now_ns = self.clock.now_ns()
        ready = [node for node in self.nodes if node.ready(now_ns)]
        if not ready:
            return False
        self.busy_steps += 1
        assert self.busy_steps < BUSY_STEPS_MAX, "parties talk for ever, and no time passes"
        self._step(self._rng.choice(ready), now_ns)
        return True

    def run_idle(self) -> None:
        """Step until nothing moves at this moment."""
        self.busy_steps = 0
        while self.step():
            pass

    def next_ns(self) -> int | None:
        """The earliest deadline of all parties."""
        return _earliest(node.party.deadline_ns() for node in self.nodes if node.running)

    def advance_to(self, until_ns: int) -> None:
        """Live through every deadline up to `until_ns`, in order, and end there."""
        self.run_idle()
        self._leap(until_ns)
        while (deadline_ns := self.next_ns()) is not None and deadline_ns <= until_ns:
            self.clock.advance_to(max(deadline_ns, self.clock.now_ns()))
            self.run_idle()
            self._leap(until_ns)
        self.clock.advance_to(max(until_ns, self.clock.now_ns()))

    def _leap(self, until_ns: int) -> None:
        now_ns = self.clock.now_ns()
        if until_ns - now_ns < LEAP_MIN_NS or not self._at_ease():
            return
        parties: list[Any] = [node.party for node in self.nodes if node.running]
        beating = [party for party in parties if hasattr(party, "skip")]
        urgent_ns = _earliest(
            party.urgent_ns() if party in beating else party.deadline_ns() for party in parties
        )
        end_ns = until_ns if urgent_ns is None else min(urgent_ns, until_ns)
        if end_ns - now_ns < LEAP_MIN_NS:
            return
        for party in beating:
            party.skip(end_ns - now_ns)
        self.clock.advance_to(end_ns)

    def _step(self, node: Node, now_ns: int) -> None:
        channels = [channel for channel, end in node.ends.items() if end.waiting]
        self._rng.shuffle(channels)
        inputs = [(channel, raw) for channel in channels for raw in node.ends[channel].receive()]
        try:
            outputs = node.party.step(now_ns, inputs)
        except Crash:
            self._crashed(node)
            return
        for channel, raw in outputs:
            node.ends[channel].send(raw)

        idle = not inputs and not outputs
        node.idle_steps = node.idle_steps + 1 if idle else 0
        assert node.idle_steps < IDLE_STEPS_MAX, f"{node.name} is due for ever and does nothing"


def _earliest(deadlines: Any) -> int | None:
    return min((ns for ns in deadlines if ns is not None), default=None)
