# SPDX-License-Identifier: Apache-2.0
"""Random lives: no invariant breaks, and the lives are worth living."""

from collections import Counter

import pytest

from host_driver.simulate.draw import draw
from host_driver.simulate.judge import make_judge
from host_driver.simulate.runner import Run

SEEDS, STEPS = range(20), 100


@pytest.fixture(scope="module")
def seen() -> Counter[str]:
    """What happened in all seeds together."""
    return Counter()


@pytest.mark.parametrize("seed", SEEDS)
def test_no_invariant_breaks(seed: int, seen: Counter[str]) -> None:
    run = Run(draw(seed, STEPS), make_judge())
    try:
        outcome = run.run()
    finally:
        run.close()
    replay = f"xfrmnic simulate --seed {seed} --steps {STEPS}"
    assert outcome.violations == [], replay
    ledger = run.ledger
    for step in ledger.steps:
        seen["submitted"] += len(step.submitted)
        seen["frames"] += len(step.frames)
        seen["delivered"] += len(step.delivered)
        seen["notices"] += len(step.notices)
        seen["firings"] += len(step.firings)
        seen["refused"] += step.errno != 0
    seen["expected"] += sum(len(step.expected) for step in ledger.steps)
    seen["expired"] += sum(sa.expired_step is not None for sa in ledger.sas)
    seen["protected"] += sum(sa.offload == "packet" and not sa.errno for sa in ledger.sas)


def test_the_lives_are_not_empty(seen: Counter[str]) -> None:
    """A workload that does nothing breaks nothing either."""
    if seen:
        for what in ("submitted", "frames", "delivered", "notices", "refused", "protected"):
            assert seen[what] > len(SEEDS), seen
        assert seen["expired"] and seen["expected"], seen
