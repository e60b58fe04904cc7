# SPDX-License-Identifier: Apache-2.0
"""Shrinking on failures whose cause is known: what is left is the cause and nothing else."""

import random

import pytest

from host_driver.simulate.actions import AddSa, Advance, DeleteSa, Flush, Send
from host_driver.simulate.plan import Plan
from host_driver.simulate.runner import Run, run_plan
from host_driver.simulate.shrink import Budget, ddmin, simplify


def endless() -> Budget:
    return Budget(100_000, lambda: True)


@pytest.mark.parametrize("cause", [{3}, {0, 99}, {17, 18, 61}, set(range(40, 50)), set()])
def test_what_is_left_is_the_cause(cause: set[int]) -> None:
    assert ddmin(range(100), lambda kept: cause <= set(kept), endless()) == sorted(cause)


def test_order_is_kept_where_it_matters() -> None:
    items = random.Random(5).sample(range(200), 200)
    first, second = items[20], items[150]

    def fails(kept) -> bool:
        return {first, second} <= set(kept) and kept.index(first) < kept.index(second)

    assert ddmin(items, fails, endless()) == [first, second]


def test_every_answer_fails_however_small_the_budget() -> None:
    for tries in range(40):
        kept = ddmin(range(100), lambda kept: {7, 70} <= set(kept), Budget(tries, lambda: True))
        assert {7, 70} <= set(kept)


def test_a_clock_that_has_run_out_ends_it() -> None:
    tried = []
    kept = ddmin(range(10), lambda kept: not tried.append(kept), Budget(100, lambda: False))
    assert (kept, tried) == (list(range(10)), [])


def test_parameters_become_plain_unless_they_matter() -> None:
    steps = [
        Send(flow=1, way=0, count=9, size=1400, kind="tcp", settle=False),
        DeleteSa(pick=4, both=True),
        Advance(ms=5, leap_s=7),
    ]

    def fails(kept) -> bool:
        return kept[0].size == 1400 and kept[1].both

    assert simplify(steps, fails, endless()) == [
        Send(flow=1, way=0, size=1400),
        DeleteSa(pick=4, both=True),
        Advance(ms=5),
    ]


def test_a_step_tells_what_was_drawn_and_nothing_else() -> None:
    assert Flush(host=1, what="state").words() == "Flush host=1 what=state"
    assert Send(flow=2, way=1, size=9).words() == "Send flow=2 way=1 size=9"


def test_pins_keep_what_a_step_is_about() -> None:
    """Without the first delete, the second still means what it meant."""
    plan = Plan(
        seed=4,
        card="full",
        actions=(
            AddSa(flow=0, way=0, number=1),
            AddSa(flow=0, way=1, number=2),
            DeleteSa(pick=0),
            DeleteSa(pick=2),
        ),
    ).numbered()
    silent = type("Silent", (), {"judge": lambda self, ledger, step: []})
    outcome = run_plan(plan, silent())
    assert outcome.pins == {2: "1 in", 3: "2 out"}

    kept = [action for action in plan.pinned(outcome.pins).actions if action.id != 2]
    run = Run(Plan(seed=4, card="full", actions=tuple(kept)), silent(), ends=False)
    try:
        run.run()
    finally:
        run.close()
    assert [sa.pair for sa in run.ledger.sas if sa.removed_step == 2] == [2]
