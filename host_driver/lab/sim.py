# SPDX-License-Identifier: Apache-2.0
"""The simulator: hosts, cards and wire in one process, under a virtual clock and one seed.

Nothing runs by itself. A query, `advance` or `run_idle` lets parties step, one at a time, in an
order that the seed draws; time moves only when no party has anything to do now. So the same seed
and the same actions give the same frames, notifications and traces, byte for byte.
"""

import errno
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from host_driver.control import Answer, AnyQuery
from host_driver.lab.asking import A, checked, encode_ask, find_answer, no_answer
from host_driver.lab.settings import Settings, mac_of
from host_driver.lab.warm import warm_kernels
from host_driver.lab.wire import Wire
from proto import management
from proto.caps import parse_card
from proto.clock import NS, VirtualClock
from proto.frame import Channel
from proto.limits import CONTROL_TIMEOUT_MS
from proto.link.dma import Dma
from proto.link.sim import SimEndpoint
from proto.status import OffloadError

_NS_PER_MS = 1_000_000

# A party that asks to be stepped now, again and again, without doing anything, is broken.
IDLE_STEPS_MAX = 1000


class AnyParty(Protocol):
    """A host, a card or the wire; `Any` stands for channels or, on the wire, port numbers."""

    def step(self, now_ns: int, inputs: Sequence[tuple[Any, bytes]]) -> list[tuple[Any, bytes]]:
        """Take messages, give messages."""

    def deadline_ns(self) -> int | None:
        """When to step although nothing arrives."""


@dataclass
class Node:
    """A party, its name and its ends of the channels."""

    name: str
    party: AnyParty
    ends: dict[Any, SimEndpoint]
    idle_steps: int = 0

    def waiting(self) -> bool:
        """Whether a message has arrived."""
        return any(end.waiting for end in self.ends.values())

    def due(self, now_ns: int) -> bool:
        """Whether its deadline has come."""
        deadline_ns = self.party.deadline_ns()
        return deadline_ns is not None and deadline_ns <= now_ns


class Simulator:
    """Steps nodes until nothing moves, and moves time from deadline to deadline."""

    def __init__(self, nodes: Sequence[Node], rng: random.Random) -> None:
        self.nodes = nodes
        self.clock = VirtualClock()
        self._rng = rng

    def step(self) -> bool:
        """Let one party that can do something now do it; False when there is none."""
        now_ns = self.clock.now_ns()
        ready = [node for node in self.nodes if node.waiting() or node.due(now_ns)]
        if not ready:
            return False
        self._step(self._rng.choice(ready), now_ns)
        return True

    def run_idle(self) -> None:
        """Step until nothing moves at this moment."""
        while self.step():
            pass

    def next_ns(self) -> int | None:
        """The earliest deadline of all parties."""
        deadlines = (node.party.deadline_ns() for node in self.nodes)
        return min((ns for ns in deadlines if ns is not None), default=None)

    def advance_to(self, until_ns: int) -> None:
        """Live through every deadline up to `until_ns`, in order, and end there."""
        self.run_idle()
        while (deadline_ns := self.next_ns()) is not None and deadline_ns <= until_ns:
            self.clock.advance_to(max(deadline_ns, self.clock.now_ns()))
            self.run_idle()
        self.clock.advance_to(until_ns)

    def _step(self, node: Node, now_ns: int) -> None:
        channels = [channel for channel, end in node.ends.items() if end.waiting]
        self._rng.shuffle(channels)
        inputs = [(channel, raw) for channel in channels for raw in node.ends[channel].receive()]
        outputs = node.party.step(now_ns, inputs)
        for channel, raw in outputs:
            node.ends[channel].send(raw)

        idle = not inputs and not outputs
        node.idle_steps = node.idle_steps + 1 if idle else 0
        assert node.idle_steps < IDLE_STEPS_MAX, f"{node.name} is due for ever and does nothing"


class SimWorld:
    """A lab in this process (`host_driver.lab.asking.World`)."""

    def __init__(self, settings: Settings) -> None:
        warm_kernels()
        rng = random.Random(settings.seed)
        self._wire = Wire(settings.hosts)
        wire_node = Node("wire", self._wire, {})
        nodes = [wire_node]
        self._controls: list[SimEndpoint] = []
        self._card_controls: list[SimEndpoint] = []
        for number in range(settings.hosts):
            card, host = _make_pair(settings, number, rng)
            for channel in (Channel.MAILBOX, Channel.EVENTS, Channel.RINGS):
                card.ends[channel], host.ends[channel] = SimEndpoint.pair()
            wire_node.ends[number], card.ends[Channel.WIRE] = SimEndpoint.pair()
            for party, controls in ((host, self._controls), (card, self._card_controls)):
                control, party.ends[Channel.CONTROL] = SimEndpoint.pair()
                controls.append(control)
            nodes += [card, host]
        self._simulator = Simulator(nodes, rng)
        self._asked = 0
        self.run_idle()

    def ask(self, host: int, query: AnyQuery) -> Answer:
        """Run the world until the answer is there; time moves where only waiting is left."""
        return self._exchange(self._controls, host, f"host{host}", query, Answer)

    def ask_card(self, card: int, request: management.AnyRequest) -> Any:
        """As `ask`, past the host."""
        answer = self._exchange(
            self._card_controls, card, f"card{card}", request, management.Answer
        )
        return answer.value

    def _exchange(
        self,
        controls: list[SimEndpoint],
        number: int,
        party: str,
        query: AnyQuery | management.AnyRequest,
        kind: type[A],
    ) -> A:
        if not controls:
            raise OffloadError(errno.ESHUTDOWN, "this lab is closed")
        self._asked += 1
        control = controls[number]
        control.send(encode_ask(self._asked, query))
        limit_ns = self.now_ns() + CONTROL_TIMEOUT_MS * _NS_PER_MS
        while True:
            if control.waiting and (answer := find_answer(control.receive(), self._asked, kind)):
                return checked(answer)
            if self._simulator.step():
                continue
            deadline_ns = self._simulator.next_ns()
            if deadline_ns is None or deadline_ns > limit_ns:
                raise no_answer(party, query)
            self._simulator.clock.advance_to(deadline_ns)

    @contextmanager
    def wire(self) -> Iterator[Wire]:
        """The wire; what was done to it takes effect with the next step."""
        yield self._wire

    def advance(self, seconds: float) -> None:
        """Move virtual time."""
        self._simulator.advance_to(self.now_ns() + round(seconds * NS))

    def run_idle(self) -> None:
        """Step until nothing moves at this moment."""
        self._simulator.run_idle()

    def now_ns(self) -> int:
        """Virtual time."""
        return self._simulator.clock.now_ns()

    def close(self) -> None:
        """Let go of cards and hosts now: their tables are large, and they refer to each other."""
        for node in self._simulator.nodes:
            if node.party is not self._wire:
                vars(node.party).clear()
        self._simulator.nodes = ()
        self._controls.clear()
        self._card_controls.clear()


def _make_pair(settings: Settings, number: int, rng: random.Random) -> tuple[Node, Node]:
    """A card and its host, each with a generator of its own that comes from the lab's seed."""
    from host_driver.host import Host
    from nic_model.firmware import Firmware

    card_dma = host_dma = Dma.anonymous()
    if settings.link == "tcp":
        card_dma, host_dma = Dma.private(), Dma.private()
    card = Firmware(
        f"card{number}", parse_card(settings.card), card_dma,
        random.Random(rng.getrandbits(64)), mac_of(number),
    )  # fmt: skip
    host = Host(
        f"host{number}", mac_of(number), mac_of(1 - number), host_dma,
        rng.getrandbits(64), settings.driver, settings.profile,
    )  # fmt: skip
    return Node(f"card{number}", card, {}), Node(f"host{number}", host, {})
