# SPDX-License-Identifier: Apache-2.0
"""The simulator finds every planted bug, says which invariant broke, and finds none without."""

import msgspec
import pytest

from host_driver.simulate.draw import draw
from host_driver.simulate.judge import make_judge
from host_driver.simulate.ledger import Violation
from host_driver.simulate.runner import run_plan
from planted import card_books, card_esp, card_frames, card_rules, core, driver, requests
from planted.plant import BUGS, STEPS

ROOMS = (card_books, card_esp, card_frames, card_rules, driver, core, requests)
SEEDS_MAX = 300  # within so many a campaign must find each
BUGS_MIN = 36


def lives() -> dict[tuple[int, bool], int]:
    """What all bugs live through: by seed, and whether to the end, the most steps."""
    found: dict[tuple[int, bool], int] = {}
    for bug in BUGS.values():
        name = bug.seed, bug.ends
        found[name] = max(bug.steps, found.get(name, 0))
    return found


def violations(seed: int, steps: int, ends: bool) -> list[Violation]:
    """What the judge says of the first steps of a seed."""
    plan = draw(seed, STEPS)
    short = msgspec.structs.replace(plan, actions=plan.actions[:steps])
    return run_plan(short, make_judge(), ends=ends).violations


@pytest.mark.parametrize("name", sorted(BUGS))
def test_found_and_named(name: str) -> None:
    bug = BUGS[name]
    assert bug.seed < SEEDS_MAX
    with pytest.MonkeyPatch.context() as patch:
        bug.plant(patch)
        found = violations(bug.seed, bug.steps, bug.ends)
    assert {one.invariant for one in found} & bug.invariants, found


@pytest.mark.parametrize(("seed", "ends"), sorted(lives()))
def test_nothing_is_found_without_a_bug(seed: int, ends: bool) -> None:
    assert violations(seed, lives()[seed, ends], ends) == []


def test_there_are_enough_bugs() -> None:
    assert len(BUGS) >= BUGS_MIN
