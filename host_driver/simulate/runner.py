# SPDX-License-Identifier: Apache-2.0
"""One run: plays a plan step by step, records, judges, and hashes all that was seen.

play -> settle -> record -> judge      after every step
heal -> converge                       at the end (`converge`)
"""

import gc
import hashlib
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec

from host_driver.lab import Lab
from host_driver.simulate import actions, play_life, play_policy, play_sa, play_traffic
from host_driver.simulate.actions import AnyAction
from host_driver.simulate.checked import check
from host_driver.simulate.converge import converge
from host_driver.simulate.ledger import Ledger, Phase, Step, Violation
from host_driver.simulate.plan import Plan
from host_driver.simulate.play import Answer, Player
from host_driver.simulate.recorder import Recorder
from proto.status import OffloadError

HANDLERS: dict[type, Callable[[Player, Any], Answer]] = {
    actions.AddSa: play_sa.add_sa,
    actions.UpdateSa: play_sa.update_sa,
    actions.DeleteSa: play_sa.delete_sa,
    actions.Rekey: play_sa.rekey,
    actions.AllocSpi: play_sa.alloc_spi,
    actions.AddPolicy: play_policy.add_policy,
    actions.DeletePolicy: play_policy.delete_policy,
    actions.Flush: play_policy.flush,
    actions.Refused: play_policy.refused,
    actions.Send: play_traffic.send,
    actions.Attack: play_traffic.attack,
    actions.Link: play_life.link,
    actions.Live: play_life.live,
    actions.Advance: play_life.advance,
    actions.Ask: play_life.ask,
    actions.Arm: play_life.arm,
    actions.Heal: play_life.heal,
}


class Judge(Protocol):
    """Who judges: once after each step, with all that was seen before."""

    def judge(self, ledger: Ledger, step: Step) -> list[Violation]:
        """What did not hold; nothing, if all did."""


@dataclass
class Outcome:
    """How a run ended. `hash` covers all that was seen; `steps` were played, `plan` is theirs.

    `pins`: what the steps with a pick were about, by their ids. `idle`: faults with times of their
    own that fired nowhere, as far as anybody could see, and why.
    """

    plan: Plan
    violations: list[Violation] = field(default_factory=list)
    steps: int = 0
    pins: dict[int, str] = field(default_factory=dict)
    hash: str = ""
    idle: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether an invariant broke."""
        return bool(self.violations)


class Run:
    """A plan being run, in a lab of its own or in a `lab` that was started and is empty. `ledger`
    and `lab` may be looked at until `close`.

    Without `ends` it is not healed and judged for the last time. Raises OffloadError(EINVAL) for a
    plan that cannot be played.
    """

    def __init__(
        self, plan: Plan, judge: Judge, *, ends: bool = True, lab: Lab | None = None
    ) -> None:
        check(plan)
        self.ends = ends
        self.plan = plan
        self._guest = lab is not None
        self.lab = lab or Lab(
            target=plan.target, hosts=2, card=plan.card, profile=plan.profile, seed=plan.seed,
            link=plan.link,
        )  # fmt: skip
        self.ledger = Ledger(2, plan.card, plan.seed, plan.profile, lived=self._guest)
        self._judge = judge
        self._hash = hashlib.sha256()

    def run(self) -> Outcome:
        """To the first violation, or to the end."""
        self.start()
        outcome = Outcome(self.plan)
        try:
            outcome.violations = self._play(outcome.idle)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is a finding
            outcome.violations = [Violation(53, len(self.ledger.steps), where(error))]
        outcome.pins = self._player.pins
        outcome.steps = len(self.ledger.steps)
        outcome.hash = self._hash.hexdigest()
        return outcome

    def start(self) -> None:
        """Bring the lab up; `run` does it."""
        if not self._guest:
            self.lab.start()
        self.lab.start_capture()
        self.ledger.macs = [host.nic.mac for host in self.lab.hosts]
        self._player = Player(self.lab, self.ledger, self.plan)
        self._recorder = Recorder(self.lab, self.ledger, self._player)
        if self._guest:
            self._recorder.begin()
        play_life.follow(self._player, self.plan.follow)

    def act(self, action: AnyAction) -> list[Violation]:
        """One action as a step."""
        return self.step(
            "run", action.words(), _handler(action), settle=action.settle, id=action.id
        )

    @property
    def armed(self) -> list[str]:
        """Faults that are armed, by their names in the plan."""
        return list(self._player.faults)

    def converge(self) -> list[Violation]:
        """The end of a run: heal everything, and see it work again."""
        return converge(self._player, self.step)

    def _play(self, idle: list[str]) -> list[Violation]:
        for action in self.plan.actions:
            if found := self.act(action):
                return found
        idle += self._idle()  # before healing forgets what was planned
        return self.converge() if self.ends else []

    def _idle(self) -> list[str]:
        fired = {firing["name"] for step in self.ledger.steps for firing in step.firings}
        return [
            f"{one['name'] or 'a fault'} is {one['state']}"
            + (f": {one['error']}" if one["error"] else " and fired nowhere")
            for one in self.lab.faults.planned()
            if one["error"] or one["name"] not in fired
        ]

    def close(self) -> None:
        """End the lab, and let go of its memory at once: hosts and cards lie in circles."""
        if self._guest:
            self.lab.stop_capture()
        else:
            self.lab.close()
        gc.collect()

    def step(
        self,
        phase: Phase,
        words: str,
        do: Callable[[Player], Answer],
        *,
        settle: bool = True,
        id: int = -1,
    ) -> list[Violation]:
        """One step, written down and judged."""
        step = Step(len(self.ledger.steps), phase, words, self.lab.now_ns(), id)
        self._player.step = step
        step.errno, step.text = do(self._player)
        step.settled = settle and self._player.settle()
        self._recorder.collect(step)
        self.ledger.steps.append(step)
        self._hash.update(encode_step(step))
        found = self._judge.judge(self.ledger, step)
        self.ledger.condense(step)
        return found


def _handler(action: AnyAction) -> Callable[[Player], Answer]:
    handler = HANDLERS[type(action)]
    return lambda player: handler(player, action)


def where(error: Exception) -> str:
    """What ended the run, and where. Not its text, where that may quote what it was given."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = f": {error}" if isinstance(error, AssertionError | OffloadError) else ""
    return (
        f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno} {frame.name}{text}"
    )


def encode_step(step: Step) -> bytes:
    """All that a step says, always in the same order."""
    return msgspec.msgpack.encode(step, order="deterministic")


def run_plan(plan: Plan, judge: Judge, *, ends: bool = True) -> Outcome:
    """Run a plan and end its lab."""
    run = Run(plan, judge, ends=ends)
    try:
        return run.run()
    finally:
        run.close()
