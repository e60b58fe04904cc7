# SPDX-License-Identifier: Apache-2.0
"""State machines on a lab: every example gets hosts, cards and a wire of its own.

    class Tunnels(LabMachine):
        @rule(sa=sas(direction="out"))
        def add(self, sa): ...

    TestTunnels = Tunnels.TestCase          # what pytest collects, on the simulator

    def test_tunnels(xnic_machine):         # the same with --xnic-target, --xnic-card, --xnic-seed
        xnic_machine(Tunnels)

In the simulator a lab takes milliseconds to start, and an example is the same every time.
`PairMachine` has rules already: it does to two hosts what the simulator does, and every invariant
that the simulator knows is judged after every step.
"""

from typing import Any, ClassVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from host_driver.lab import Lab
from host_driver.simulate.actions import AnyAction, Heal
from host_driver.simulate.judge import make_judge
from host_driver.simulate.ledger import Violation
from host_driver.simulate.plan import Plan
from host_driver.simulate.runner import Run
from host_driver.testing.actions import (
    SMALL_CARD,
    Numbering,
    action_strategies,
    arm_strategies,
    connect,
)  # fmt: skip

PROCESS_EXAMPLES = 3  # a lab of processes takes a second to start
PROCESS_STEPS = 15


class LabMachine(RuleBasedStateMachine):
    """`lab` is up before the first rule and closed behind the last; subclasses add rules,
    invariants, and `lab_options` (arguments of Lab) of their own.

    A subclass with a `teardown` calls that of this class last.
    """

    lab_options: ClassVar[dict[str, Any]] = {
        "hosts": 2,
        "card": "full:key_max=32,sa_max=32,rule_max=64",
    }

    def __init__(self) -> None:
        super().__init__()
        self.lab = Lab(**self.lab_options)
        self.lab.start()

    def teardown(self) -> None:
        """End of an example, also of one that failed."""
        self.lab.close()


def run_on_lab(
    machine: type[LabMachine], config: settings | None = None, **lab_options: Any
) -> None:
    """Run a machine with other arguments of Lab than its own; what it finds is raised.

    `config` bounds the run; by default it is the current profile, on processes with few examples.
    """
    options = {**machine.lab_options, **lab_options}
    if config is None:
        config = settings(deadline=None)
        if options.get("target") == "process":
            config = settings(
                config, max_examples=PROCESS_EXAMPLES, stateful_step_count=PROCESS_STEPS,
                suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate],
            )  # fmt: skip
    ours = type(machine.__name__, (machine,), {"lab_options": options})
    run_state_machine_as_test(ours, settings=config)


FLOWS = (0, 1)
_KINDS = action_strategies(FLOWS)


def _some(*names: str) -> st.SearchStrategy[Any]:
    return st.one_of([_KINDS[name] for name in names])


class PairMachine(RuleBasedStateMachine):
    """Two hosts with two flows between them, everything small: SAs, policies, traffic, attackers,
    links and faults in any order; at the end everything is healed and must work again.

    `card` is that of both hosts; subclasses may change it, and add rules that call `act` with any
    action of `host_driver.simulate.actions`.
    """

    card: ClassVar[str] = SMALL_CARD

    def __init__(self) -> None:
        super().__init__()
        self.run = Run(Plan(seed=1, card=self.card), make_judge())
        self.run.start()
        self._number = Numbering()
        self._broken = False

    @initialize()
    def connect(self) -> None:
        """Policies and SAs of both ways at both ends."""
        for flow in FLOWS:
            for action in connect(flow):
                self.act(action)

    def act(self, action: AnyAction) -> None:
        """One step; raises AssertionError with what did not hold."""
        self._judge(self.run.act(self._number(action)))

    def _judge(self, violations: list[Violation]) -> None:
        self._broken = self._broken or bool(violations)
        assert not violations, violations

    @rule(action=_KINDS["Send"])
    def send(self, action: AnyAction) -> None:
        """Traffic."""
        self.act(action)

    @rule(action=_some("AddSa", "Rekey", "DeleteSa"))
    def change_sas(self, action: AnyAction) -> None:
        """SAs come, are replaced and go."""
        self.act(action)

    @rule(action=_some("AddPolicy", "DeletePolicy", "UpdateSa"))
    def change_policies(self, action: AnyAction) -> None:
        """Policies come and go, and SAs get other limits."""
        self.act(action)

    @rule(action=_some("Attack", "Refused", "Ask"))
    def attack(self, action: AnyAction) -> None:
        """Frames of strangers, requests that are refused, questions."""
        self.act(action)

    @rule(action=_some("Advance", "Link", "Flush"))
    def disturb(self, action: AnyAction) -> None:
        """Time, links, flushes."""
        self.act(action)

    @rule(action=arm_strategies())
    def arm(self, action: AnyAction) -> None:
        """A fault, from here on."""
        self.act(action)

    @rule()
    def heal(self) -> None:
        """All faults go."""
        for name in self.run.armed:
            self.act(Heal(fault=name))

    def teardown(self) -> None:
        """Everything is healed, and must work again; then the lab is closed."""
        try:
            if not self._broken:
                self._judge(self.run.converge())
        finally:
            self.run.close()
