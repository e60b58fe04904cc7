# SPDX-License-Identifier: Apache-2.0
"""The lab in one process: hosts, cards and wire under a virtual clock and one seed.

Nothing runs by itself. A query, `advance` or `run_idle` lets parties step, one at a time, in an
order that the seed draws; time moves only when no party has anything to do now. So the same seed
and the same actions give the same frames, notifications and traces, byte for byte.
"""

import errno
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from host_driver.control import Answer, AnyQuery
from host_driver.lab.asking import A, checked, encode_ask, find_answer, no_answer
from host_driver.lab.life import PartyDown, PartyState, after
from host_driver.lab.settings import Settings, mac_of
from host_driver.lab.simulator import Node, Simulator
from host_driver.lab.warm import warm_kernels
from host_driver.lab.wire import Wire
from proto import management
from proto.caps import parse_card
from proto.clock import NS
from proto.frame import Channel, Kind, pack
from proto.limits import CONTROL_TIMEOUT_MS
from proto.link.dma import Dma
from proto.link.sim import SimEndpoint
from proto.status import OffloadError

_NS_PER_MS = 1_000_000


class SimWorld:
    """A lab in this process (`host_driver.lab.asking.World`)."""

    def __init__(self, settings: Settings) -> None:
        warm_kernels()
        self._settings = settings
        self._rng = rng = random.Random(settings.seed)
        self._wire = Wire(settings.hosts)
        wire_node = Node("wire", self._wire, {})
        nodes = [wire_node]
        self._parties: dict[str, Node] = {}
        self._controls: dict[str, SimEndpoint] = {}
        self._dma: dict[str, Dma] = {}
        for number in range(settings.hosts):
            card, host = self._make_pair(number)
            for channel in (Channel.MAILBOX, Channel.EVENTS, Channel.RINGS):
                card.ends[channel], host.ends[channel] = SimEndpoint.pair()
            wire_node.ends[number], card.ends[Channel.WIRE] = SimEndpoint.pair()
            for node in (host, card):
                self._controls[node.name], node.ends[Channel.CONTROL] = SimEndpoint.pair()
                self._parties[node.name] = node
            card.ends[Channel.MAILBOX].send(pack(Kind.OPENED))
            nodes += [card, host]
        self._simulator = Simulator(nodes, rng, self._crashed, self._at_ease)
        self._asked = 0
        self.run_idle()

    def ask(self, host: int, query: AnyQuery) -> Answer:
        """Run the world until the answer is there; time moves where only waiting is left."""
        return self._exchange(f"host{host}", query, Answer)

    def ask_card(self, card: int, request: management.AnyRequest) -> Any:
        """As `ask`, past the host."""
        return self._exchange(f"card{card}", request, management.Answer).value

    def _exchange(self, party: str, query: AnyQuery | management.AnyRequest, kind: type[A]) -> A:
        node = self._node(party)
        if not node.running:
            raise PartyDown(party, node.state)
        self._asked += 1
        self._simulator.busy_steps = 0
        control = self._controls[party]
        control.send(encode_ask(self._asked, query))
        limit_ns = self.now_ns() + CONTROL_TIMEOUT_MS * _NS_PER_MS
        while True:
            if control.waiting and (answer := find_answer(control.receive(), self._asked, kind)):
                return checked(answer)
            if not node.running:  # a fault ended it before it answered
                raise PartyDown(party, node.state)
            if self._simulator.step():
                continue
            deadline_ns = self._simulator.next_ns()
            if deadline_ns is None or deadline_ns > limit_ns:
                raise no_answer(party, query)
            self._simulator.busy_steps = 0
            self._simulator.clock.advance_to(deadline_ns)

    def _node(self, party: str) -> Node:
        if not self._parties:
            raise OffloadError(errno.ESHUTDOWN, "this lab is closed")
        return self._parties[party]

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
        for node in self._parties.values():
            vars(node.party).clear()
        for dma in self._dma.values():
            dma.release()
        self._simulator.nodes = ()
        self._parties.clear()
        self._controls.clear()

    # --- life and death ---

    def tell(self, party: str, request: management.AnyRequest) -> None:
        """Say something to a party that is stopped: it hears it when it goes on."""
        self._asked += 1
        self._controls[party].send(encode_ask(self._asked, request))

    def state(self, party: str) -> PartyState:
        """Whether a party ("host0", "card1") runs."""
        return self._node(party).state

    def live(self, party: str, verb: str, card: str | None = None) -> None:
        """Kill, stop, resume or restart a party; a card may come back as another one."""
        node = self._node(party)
        state = after(party, node.state, verb)
        if verb in ("kill", "restart") and node.state is not PartyState.DEAD:
            self._die(node)
        if verb == "restart":
            self._begin(node, card)
        node.state = state

    def _die(self, node: Node) -> None:
        """It is gone in the middle of whatever it did; what it has sent is on its way."""
        node.state = PartyState.DEAD
        vars(node.party).clear()
        for end in node.ends.values():
            end.receive()
        if node.name.startswith("card"):
            node.ends[Channel.MAILBOX].send(pack(Kind.CLOSED))
            self._wire.detach(int(node.name[4:]))

    def _begin(self, node: Node, card: str | None) -> None:
        """Another life, with randomness of its own, on the same channels."""
        number = int(node.name[4:])
        if node.name.startswith("card"):
            node.party = self._make_card(number, card or self._settings.card)
            node.ends[Channel.MAILBOX].send(pack(Kind.OPENED))
        else:
            node.party = self._make_host(number)
            there = self._parties[f"card{number}"]
            if there.state is not PartyState.DEAD:
                there.ends[Channel.MAILBOX].send(pack(Kind.OPENED))
        node.idle_steps = 0

    def _crashed(self, node: Node) -> None:
        """A fault has ended a card in the middle of a step."""
        self._die(node)

    def _at_ease(self) -> bool:
        """Whether time may leap: everybody is at ease, and no card waits for a host in vain."""
        for number in range(self._settings.hosts):
            host, card = self._parties[f"host{number}"], self._parties[f"card{number}"]
            if PartyState.STOPPED in (host.state, card.state):
                return False
            parties: list[Any] = [node.party for node in (host, card) if node.running]
            if not all(party.at_ease for party in parties):
                return False
            if not host.running and card.running and parties[0].epoch:
                return False
        return True

    # --- parties ---

    def _make_pair(self, number: int) -> tuple[Node, Node]:
        """A card and its host, each with a generator of its own that comes from the lab's seed."""
        card_dma = host_dma = Dma.anonymous()
        if self._settings.link == "tcp":
            card_dma, host_dma = Dma.private(), Dma.private()
        self._dma[f"card{number}"], self._dma[f"host{number}"] = card_dma, host_dma
        card = Node(f"card{number}", self._make_card(number, self._settings.card), {})
        return card, Node(f"host{number}", self._make_host(number), {})

    def _make_card(self, number: int, card: str) -> Any:
        from nic_model.firmware import Firmware

        rng = random.Random(self._rng.getrandbits(64))
        name = f"card{number}"
        return Firmware(name, parse_card(card), self._dma[name], rng, mac_of(number))

    def _make_host(self, number: int) -> Any:
        from host_driver.host import Host

        settings, name = self._settings, f"host{number}"
        return Host(
            name, mac_of(number), mac_of(1 - number), self._dma[name],
            self._rng.getrandbits(64), settings.driver, settings.profile,
        )  # fmt: skip
