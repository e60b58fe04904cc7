# SPDX-License-Identifier: Apache-2.0
"""Every machine, bounded; `--hypothesis-profile=deep` looks further."""

import pytest
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from host_driver.testing import PairMachine
from stateful.card_objects import CardObjects
from stateful.card_packets import CardPackets
from stateful.card_replay import CardReplay
from stateful.core import CoreMachine
from stateful.driver import DriverMachine
from support.examples import bounded


@pytest.mark.timeout(600)  # what fails is shrunk, for at most 300 s
@pytest.mark.parametrize(
    ("machine", "examples", "steps"),
    [
        (CardObjects, 40, 50),
        (CardPackets, 40, 60),
        (CardReplay, 60, 50),
        (CoreMachine, 60, 50),
        (DriverMachine, 30, 30),
        (PairMachine, 15, 30),
    ],
)
def test_machine(machine: type[RuleBasedStateMachine], examples: int, steps: int) -> None:
    run_state_machine_as_test(machine, settings=bounded(examples, steps))
