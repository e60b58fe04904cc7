# SPDX-License-Identifier: Apache-2.0
"""State machines on a lab: every example gets hosts, cards and a wire of its own.

    class Tunnels(LabMachine):
        @rule(sa=sas(direction="out"))
        def add(self, sa): ...

    TestTunnels = Tunnels.TestCase          # what pytest collects, on the simulator

    def test_tunnels(xnic_machine):         # the same with --xnic-target, --xnic-card, --xnic-seed
        xnic_machine(Tunnels)

In the simulator a lab takes milliseconds to start, and an example is the same every time.
"""

from typing import Any, ClassVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from host_driver.lab import Lab

SMALL_CARD = "full:key_max=32,sa_max=32,rule_max=64"
PROCESS_EXAMPLES = 3  # a lab of processes takes a second to start
PROCESS_STEPS = 15


class LabMachine(RuleBasedStateMachine):
    """`lab` is up before the first rule and closed behind the last; subclasses add rules,
    invariants, and `lab_options` (arguments of Lab) of their own.

    A subclass with a `teardown` calls that of this class last.
    """

    lab_options: ClassVar[dict[str, Any]] = {"hosts": 2, "card": SMALL_CARD}

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
