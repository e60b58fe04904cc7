# SPDX-License-Identifier: Apache-2.0
"""The simulator's scheduler: everything happens, in an order drawn from the seed, in time."""

import random
from collections.abc import Sequence

import pytest

from host_driver.lab import Lab
from host_driver.lab.simulator import Node, Simulator
from proto.link.sim import SimEndpoint
from proto.status import OffloadError


class Counting:
    """Sends a number back, one less, until 0; remembers when it was stepped."""

    def __init__(self, log: list[tuple[str, int, int]], name: str) -> None:
        self._log, self._name = log, name
        self.deadlines: list[int] = []

    def step(self, now_ns: int, inputs: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        if self.deadlines and self.deadlines[0] <= now_ns:
            self._log.append((self._name, now_ns, -self.deadlines.pop(0)))
        outputs = []
        for channel, raw in inputs:
            number = int.from_bytes(raw)
            self._log.append((self._name, now_ns, number))
            if number:
                outputs.append((channel, (number - 1).to_bytes(4)))
        return outputs

    def deadline_ns(self) -> int | None:
        return self.deadlines[0] if self.deadlines else None


def world(seed: int, log: list[tuple[str, int, int]]) -> Simulator:
    """Four parties in a ring of channels."""
    nodes = [Node(name, Counting(log, name), {}) for name in "abcd"]
    for number, node in enumerate(nodes):
        node.ends[number], nodes[(number + 1) % 4].ends[number] = SimEndpoint.pair()
    return Simulator(nodes, random.Random(seed))


def play(seed: int) -> list[tuple[str, int, int]]:
    log: list[tuple[str, int, int]] = []
    simulator = world(seed, log)
    for number, node in enumerate(simulator.nodes):
        node.ends[number].send((10 + number).to_bytes(4))
    simulator.run_idle()
    return log


def test_everything_is_delivered_exactly_once():
    log = play(1)
    assert sorted(number for _, _, number in log) == sorted(
        number for start in (10, 11, 12, 13) for number in range(start + 1)
    )


def test_the_same_seed_gives_the_same_interleaving_and_another_one_another():
    assert play(1) == play(1)
    assert len({tuple(play(seed)) for seed in range(10)}) > 5


def test_time_stops_at_every_deadline_in_order_and_ends_where_asked():
    log: list[tuple[str, int, int]] = []
    simulator = world(3, log)
    now = simulator.clock.now_ns()
    simulator.nodes[0].party.deadlines = [now + 5, now + 30]
    simulator.nodes[1].party.deadlines = [now + 7, now + 8]
    simulator.advance_to(now + 20)
    assert [(name, at - now) for name, at, _ in log] == [("a", 5), ("b", 7), ("b", 8)]
    assert simulator.clock.now_ns() == now + 20
    assert simulator.next_ns() == now + 30


def test_a_party_that_is_due_for_ever_is_a_defect_not_a_hang():
    class Stuck:
        def step(self, now_ns, inputs):
            return []

        def deadline_ns(self):
            return 0

    simulator = Simulator([Node("stuck", Stuck(), {})], random.Random(0))
    with pytest.raises(AssertionError, match="stuck is due for ever"):
        simulator.run_idle()


def test_parties_that_talk_for_ever_are_a_defect_not_a_hang(monkeypatch):
    class Echo:
        def step(self, now_ns, inputs):
            return inputs

        def deadline_ns(self):
            return None

    monkeypatch.setattr("host_driver.lab.simulator.BUSY_STEPS_MAX", 1000)
    one, other = SimEndpoint.pair()
    nodes = [Node("one", Echo(), {0: one}), Node("other", Echo(), {0: other})]
    one.send(b"x")
    with pytest.raises(AssertionError, match="no time passes"):
        Simulator(nodes, random.Random(0)).run_idle()


def test_a_closed_endpoint_takes_nothing_and_gives_nothing():
    one, other = SimEndpoint.pair()
    one.send(b"x")
    other.close()
    one.send(b"y")
    assert (one.waiting, other.receive()) == (0, [])


def test_a_card_that_refuses_every_question_does_not_stop_the_clock() -> None:
    with Lab(hosts=1) as lab:
        lab.faults.add(
            site="card.command", kind="status", match={"opcode": "FENCE"}, value="INTERNAL_ERROR"
        )
        with pytest.raises(OffloadError):
            lab.settle()
        lab.faults.reset()
        lab.settle()


def test_a_card_that_hangs_on_every_message_still_gets_on() -> None:
    """Each message is held up once, and the command ends in time."""
    with Lab(hosts=1) as lab:
        lab.faults.add(site="card.process", kind="hang", delay_ms=1)
        lab.hosts[0].set_link(esp_hw_offload=False)
        lab.hosts[0].set_link(esp_hw_offload=True)
        lab.advance(60)
        assert lab.hosts[0].nic.health()["state"] == "active"


def test_a_card_that_dies_before_it_can_answer_is_dead_not_late() -> None:
    ends = []
    for seed in range(8):
        with Lab(hosts=1, seed=seed) as lab:
            lab.settle()
            lab.faults.add(site="card.process", kind="crash", match={"channel": "rings"})
            lab.hosts[0].send([bytes.fromhex("450000140000000040fd65eb0a0000010a000002")])
            ends.append((lab.hosts[0].nic.health()["state"], lab.state("card0")))
    assert set(ends) <= {("active", "running"), ("active", "dead"), ("dead", "dead")}
    assert ("dead", "dead") in ends
