# SPDX-License-Identifier: Apache-2.0
"""A soak: one lab lives on, plan after plan, until the time is up.

    round: plan of the next seed with its faults -> healed, converged, emptied -> resources
           -> in the simulator a stretch of idle time
    end:   flows are connected, every packet of a last burst must arrive; nothing is left behind

What the simulator's judge judges holds in each round; beside that, memory, descriptors, sockets and
threads must be flat over all of them. Cards and hosts are those of the first round until a fault
kills one.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from host_driver.faults.plan import PlannedFault
from host_driver.lab import Lab
from host_driver.simulate.actions import Arm
from host_driver.simulate.connected import Broken, Connected
from host_driver.simulate.draw import draw
from host_driver.simulate.folder import leave
from host_driver.simulate.judge import make_judge
from host_driver.simulate.ledger import Violation
from host_driver.simulate.long_run import LongRun
from host_driver.simulate.plan import Plan
from host_driver.simulate.resources import flat, left_behind, sample
from host_driver.simulate.runner import Outcome, Run, where

CARD = "full:sa_max=48,key_max=48,rule_max=96,counter_bits=6,event_queue=16"
IDLE_S = {"sim": (600, 21_600), "process": (0, 0)}  # between rounds
WARM_UP = {"sim": 20, "process": 2}  # rounds until the first sample that counts
DAY_S = 86_400


class Report(LongRun, kw_only=True):
    """How a soak ended. `lived_s` is the lab's time; `replay` the line that plays the round that
    broke something again, alone and in a lab of its own."""

    rounds: int = 0
    steps: int = 0
    lived_s: float = 0.0
    fired: int = 0
    seed: int = 0  # of the last round
    replay: str = ""

    def text(self) -> str:
        """For people."""
        told = [
            f"{self.rounds} rounds, {self.steps} steps in {_long(self.lived_s)} of the lab; "
            f"{self.faults} faults armed, fired {self.fired} times",
            self.traffic(),
            *self.ending(f" of seed {self.seed}"),
            *([f"replay with: {self.replay}"] if self.replay else []),
        ]
        return "\n".join(told)


class Soak:
    """Rounds of `steps` steps from `seed` on. `out`: where a round that broke something leaves its
    folder; with faults to `follow`, none are drawn."""

    def __init__(
        self, seed: int, steps: int, target: str = "sim", *, out: Path | None = None,
        follow: Sequence[PlannedFault] | None = None,
    ) -> None:  # fmt: skip
        self.report = Report(seed=seed)
        self._first = seed
        self._steps = steps
        self._target = target
        self._out = out
        self._follow = follow
        self._lab = Lab(target=target, hosts=2, card=CARD, seed=seed)
        self._rng = random.Random(f"{seed} soak")

    def play(self, may_go_on: Callable[[], bool]) -> Report:
        """Round after round as long as `may_go_on`, at least one; then the end."""
        report, pids, run_dir = self.report, dict[str, int](), None
        self._lab.start()
        try:
            began_ns = self._lab.now_ns()
            self._play(may_go_on)
            report.lived_s = round((self._lab.now_ns() - began_ns) / 1e9, 1)
            pids, run_dir = self._lab.pids(), self._lab.run_dir
        finally:
            self._lab.close()
        report.leaks = flat(report.samples) + left_behind(pids, run_dir)
        return report

    def _play(self, may_go_on: Callable[[], bool]) -> None:
        began_ns = self._lab.now_ns()
        while True:
            self._round(self._plan(self._first + self.report.rounds))
            self.report.rounds += 1
            if self.report.rounds >= WARM_UP[self._target]:
                at_s = (self._lab.now_ns() - began_ns) / 1e9
                self.report.samples.append(sample(at_s, self._lab.pids(), self._lab.run_dir, 0))
            if self.report.violations:
                return
            if not may_go_on():
                break
            self._lab.advance(self._rng.uniform(*IDLE_S[self._target]))
        self._end()

    def _plan(self, seed: int) -> Plan:
        """What the seed means, on the card that is there."""
        drawn = draw(seed, self._steps, self._target, self._follow)
        return msgspec.structs.replace(drawn, card=CARD, profile="latest", link="ipc")

    def _round(self, plan: Plan) -> None:
        run = Run(plan, make_judge(), lab=self._lab)
        try:
            outcome = run.run()
            self._count(run, plan)
            if outcome.failed:
                self._broken(run, outcome)
        finally:
            run.close()

    def _end(self) -> None:
        """What is sent while all is well arrives, packet for packet."""
        plan = Plan(seed=self._first, card=CARD, target=self._target)
        run, report = Run(plan, make_judge(), lab=self._lab), self.report
        users = Connected(run)
        try:
            run.start()
            users.policies()
            users.reconnect()
            report.last_bursts, report.lost = users.count_bursts()
            users.finish()
        except Broken as broken:
            self._broken(run, Outcome(plan, broken.violations, len(run.ledger.steps)))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is a finding
            steps = len(run.ledger.steps)
            self._broken(run, Outcome(plan, [Violation(53, steps, where(error))], steps))
        finally:
            self._count(run, plan)
            run.close()

    def _count(self, run: Run, plan: Plan) -> None:
        report, steps = self.report, run.ledger.steps
        report.count(steps)
        report.fired += sum(len(step.firings) for step in steps)
        report.steps += len(steps)
        armed = sum(isinstance(action, Arm) for action in plan.actions)
        report.faults += armed + len(plan.follow)
        report.seed = plan.seed

    def _broken(self, run: Run, outcome: Outcome) -> None:
        self.report.violations = outcome.violations
        if self._out is not None:
            folder = self._out / f"seed-{run.plan.seed}"
            self.report.replay = leave(folder, run.plan, run, outcome)


def _long(seconds: float) -> str:
    return f"{seconds / DAY_S:.1f} days" if seconds > DAY_S else f"{seconds:.0f} s"
