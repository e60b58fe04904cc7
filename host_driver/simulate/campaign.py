# SPDX-License-Identifier: Apache-2.0
"""Seeds: one after the other, over processes, or over a cluster; failures are shrunk and kept."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from host_driver.faults.plan import PlannedFault
from host_driver.simulate.actions import AnyAction
from host_driver.simulate.draw import draw
from host_driver.simulate.folder import leave
from host_driver.simulate.judge import make_judge
from host_driver.simulate.ledger import Violation
from host_driver.simulate.plan import Plan
from host_driver.simulate.runner import Outcome, Run, run_plan
from host_driver.simulate.shrink import Budget, ddmin, simplify

SHRINK_TRIES = 300

Clock = Callable[[float], Callable[[], bool]]  # seconds -> whether some are left


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One seed, and where its failure goes. `plan` is played instead of a drawn one, the faults of
    `follow` come instead of drawn ones."""

    seed: int
    steps: int
    out: str
    target: str = "sim"
    shrink: bool = True
    plan: Plan | None = None
    follow: tuple[PlannedFault, ...] | None = None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How a seed ended. `replay` is the one line that plays a failure again, `idle` names planned
    faults that fired nowhere."""

    seed: int
    steps: int
    hash: str
    violations: list[Violation] = []
    left: int = 0  # steps after shrinking
    replay: str = ""
    idle: list[str] = []

    @property
    def failed(self) -> bool:
        """Whether an invariant broke."""
        return bool(self.violations)


def plan_of(task: Task) -> Plan:
    """The plan that a task plays."""
    return (task.plan or draw(task.seed, task.steps, task.target, task.follow)).numbered()


def run_task(task: Task, may_go_on: Callable[[], bool] = lambda: True) -> Result:
    """Draw, run, and where an invariant broke, leave a folder, and a shorter one if shrinking finds
    steps that break it again. A failure that does not happen twice is one.

    `may_go_on` bounds the time that shrinking takes.
    """
    plan = smallest = plan_of(task)
    folder = Path(task.out) / f"seed-{task.seed}"
    first, replay = played(folder, plan, plan)
    violations = first.violations
    if first.failed and task.shrink and task.target == "sim":
        shorter = shrunk(plan, first, Budget(SHRINK_TRIES, may_go_on))
        if shorter is not plan:
            last, line = played(folder, plan, shorter)
            if last.failed:
                smallest, violations, replay = shorter, last.violations, line
    return Result(
        seed=task.seed,
        steps=first.steps,
        hash=first.hash,
        violations=violations,
        left=len(smallest.actions) if violations else 0,
        replay=replay,
        idle=first.idle,
    )


def shrunk(plan: Plan, outcome: Outcome, budget: Budget) -> Plan:
    """The shortest plan found that breaks one of the same invariants."""
    broken = {one.invariant for one in outcome.violations}
    ends = outcome.steps > len(plan.actions)

    def fails(actions: Sequence[AnyAction]) -> bool:
        candidate = msgspec.structs.replace(plan, actions=tuple(actions))
        found = run_plan(candidate, make_judge(), ends=ends).violations
        return not broken.isdisjoint(one.invariant for one in found)

    pinned = plan.pinned(outcome.pins).actions
    for actions in (pinned[: outcome.steps], pinned):
        if budget.spend() and fails(actions):
            kept = simplify(ddmin(actions, fails, budget), fails, budget)
            return msgspec.structs.replace(plan, actions=tuple(kept))
    return plan


def played(folder: Path, drawn: Plan, plan: Plan) -> tuple[Outcome, str]:
    """Run a plan; where it breaks something, write its folder. -> how it ended, and the line that
    replays it, empty for no failure, or why there is none."""
    run = Run(plan, make_judge())
    try:
        outcome = run.run()
        return outcome, leave(folder, drawn, run, outcome) if outcome.failed else ""
    finally:
        run.close()


def run_many(tasks: Iterable[Task], jobs: int, shrink_s: float, budget: Clock) -> Iterator[Result]:
    """Results as they come, from `jobs` processes. `budget` makes a clock that runs out."""
    if jobs <= 1:
        for task in tasks:
            yield run_task(task, budget(shrink_s))
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs) as pool:
        yield from pool.imap_unordered(_Worker(shrink_s, budget), tasks)


class _Worker:
    """`run_task` for other processes: every task has a clock of its own."""

    def __init__(self, shrink_s: float, budget: Clock) -> None:
        self._shrink_s = shrink_s
        self._budget = budget

    def __call__(self, task: Task) -> Result:
        return run_task(task, self._budget(self._shrink_s))


def run_on_cluster(
    client: Any, tasks: Iterable[Task], shrink_s: float, budget: Clock
) -> Iterator[Result]:
    """Results as they come, from a `distributed.Client`; the workers need this package."""
    from distributed import as_completed

    futures = client.map(_Worker(shrink_s, budget), list(tasks), pure=False)
    in_order_of_end: Callable[[Any], Iterable[Any]] = as_completed
    for future in in_order_of_end(futures):
        yield future.result()
