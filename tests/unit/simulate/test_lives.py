# SPDX-License-Identifier: Apache-2.0
"""What a seed draws of deaths."""

import random

from host_driver.faults.plan import PlannedFault
from host_driver.simulate.actions import AnyAction, Live, Send
from host_driver.simulate.draw import draw
from host_driver.simulate.draw_lives import DEATHS, with_deaths
from host_driver.simulate.plan import Plan

STEPS: list[AnyAction] = [Send(id=number, flow=0, way=0) for number in range(60)]


def lives(seed: int) -> list[Live]:
    """The deaths of a seed among steps that have none."""
    drawn = with_deaths(random.Random(seed), STEPS)
    assert [one for one in drawn if isinstance(one, Send)] == STEPS
    return [one for one in drawn if isinstance(one, Live)]


def test_seeds_draw_everything_that_can_happen_to_a_party() -> None:
    drawn = {(one.party, one.what) for seed in range(300) for one in lives(seed)}
    assert drawn == {
        (party, what) for party, death, undo in DEATHS for what in (death, undo) if what
    }


def test_whoever_dies_or_hangs_comes_back_in_the_same_plan() -> None:
    back = {"kill": "restart", "stop": "resume"}
    for seed in range(300):
        drawn = lives(seed)
        for at, one in enumerate(drawn):
            if undo := back.get(one.what):
                later = [(o.party, o.host, o.what) for o in drawn[at + 1 :]]
                assert (one.party, one.host, undo) in later


def test_plans_of_real_processes_and_of_planned_faults_have_no_deaths() -> None:
    dying = [seed for seed in range(200) if deaths(draw(seed, 5))]
    fault = PlannedFault(fault="reply-lost", at_s=1)
    assert dying
    for seed in dying:
        assert not deaths(draw(seed, 5, "process"))
        assert not deaths(draw(seed, 5, follow=[fault]))


def deaths(plan: Plan) -> list[AnyAction]:
    return [action for action in plan.actions if isinstance(action, Live)]
