# SPDX-License-Identifier: Apache-2.0
"""The simulator finds every planted bug, says which invariant broke, and finds none without."""

import msgspec
import pytest

from host_driver.simulate.draw import draw
from host_driver.simulate.judge import make_judge
from host_driver.simulate.ledger import Violation
from host_driver.simulate.runner import run_plan
from planted import card_books, card_esp, card_rules, core, driver
from planted.plant import BUGS, STEPS, Bug

ROOMS = (card_books, card_esp, card_rules, driver, core)
SEEDS_MAX = 300  # within so many a campaign must find each
BUGS_MIN = 36


def violations(bug: Bug) -> list[Violation]:
    """What the judge says of the first steps of the bug's seed."""
    plan = draw(bug.seed, STEPS)
    short = msgspec.structs.replace(plan, actions=plan.actions[: bug.steps])
    return run_plan(short, make_judge(), ends=bug.ends).violations


@pytest.mark.parametrize("name", sorted(BUGS))
def test_found_and_named(name: str) -> None:
    bug = BUGS[name]
    assert bug.seed < SEEDS_MAX
    with pytest.MonkeyPatch.context() as patch:
        bug.plant(patch)
        found = violations(bug)
    assert {one.invariant for one in found} & bug.invariants, found
    assert violations(bug) == []


def test_there_are_enough_bugs() -> None:
    assert len(BUGS) >= BUGS_MIN
