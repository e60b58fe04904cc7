# SPDX-License-Identifier: Apache-2.0
"""Chaos on real processes: cards and hosts are killed, stopped and restarted under traffic.

One incident after the other, each at a random moment while packets of both ways are in flight:

    bursts -> a random pause -> SIGKILL, SIGSTOP or restart -> bursts -> it comes back -> bursts
           -> everybody is well -> key managers set up what is gone -> every flow carries packets
           -> a look at resources

The judge of the simulator judges every step: no clear packet, no number or IV twice, books that
balance whenever everything rests. What the judge cannot see is measured here: how long recovery
took, whether processes, descriptors, sockets, threads and memory stay flat, whether every packet of
the last bursts arrived, and what is left when the lab is closed.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from host_driver.simulate import converge
from host_driver.simulate.actions import Advance, Arm, Incident, Live, Party
from host_driver.simulate.connected import WAYS, Broken, Connected, note
from host_driver.simulate.draw_faults import draw_fault
from host_driver.simulate.folder import why_not_written
from host_driver.simulate.judge import make_judge
from host_driver.simulate.ledger import Violation
from host_driver.simulate.long_run import LongRun
from host_driver.simulate.plan import Plan
from host_driver.simulate.play import Answer, Player
from host_driver.simulate.resources import Sample, flat, left_behind, sample
from host_driver.simulate.runner import Outcome, Run, where
from proto.status import OffloadError

CARD = "full:sa_max=64,key_max=64,rule_max=64"
PARTIES: tuple[Party, ...] = ("card", "host")
KINDS: tuple[Incident, ...] = ("kill", "stop", "restart")
BACK: dict[str, Incident] = {"kill": "restart", "stop": "resume"}
HITS_MS, OUTAGE_MS = (0, 1, 3, 10, 30, 80), (10, 200, 1000, 3000, 6000)
RECOVERY_S, POLL_S = 40.0, 0.1
WARM_UP = 3  # incidents until the first sample that counts
KEPT_STEPS = 300  # of which everything is remembered
CALM_S = 1.0  # between recovery and the look at counters


class Report(LongRun, kw_only=True):
    """How a run of chaos ended. `recovery_s` has one entry for each incident: from the moment at
    which somebody is back until every flow has carried a packet. `given_up` counts cards that an
    operator had to ask for; `folder` is where a run that broke something lies."""

    incidents: dict[str, int] = {}
    recovery_s: list[float] = []
    given_up: int = 0
    folder: str = ""

    def text(self) -> str:
        """For people."""
        kinds = ", ".join(f"{count} {name}" for name, count in sorted(self.incidents.items()))
        slowest = max(self.recovery_s, default=0.0)
        mean = sum(self.recovery_s) / max(1, len(self.recovery_s))
        told = [
            f"{len(self.recovery_s)} incidents: {kinds}; {self.faults} faults armed",
            self.traffic(),
            f"recovery {mean:.1f} s, at most {slowest:.1f} s; given up {self.given_up} times",
            *self.ending(),
            *([f"left in {self.folder}"] if self.folder else []),
        ]
        return "\n".join(told)


class Chaos:
    """A lab of processes and what is done to it.

    `mixed`: faults are armed before incidents, too. `out`: where a run that broke something leaves
    its folder.
    """

    def __init__(
        self, seed: int, target: str = "process", *, mixed: bool = False, out: Path | None = None
    ) -> None:
        self.report = Report()
        self._rng = random.Random(f"{seed} chaos")
        self._mixed = mixed
        self._out = out
        self._run = Run(Plan(seed=seed, card=CARD, target=target), make_judge())
        self._users = Connected(self._run)
        self._counted = self._kept = 0  # steps that were counted, the first one not let go of
        self._began_ns = 0
        self._deck: list[tuple[Party, Incident]] = []

    def play(self, incidents: int, may_go_on: Callable[[], bool] = lambda: True) -> Report:
        """So many incidents, as long as `may_go_on`; then the end, where everything is judged."""
        report, pids, run_dir = self.report, dict[str, int](), None
        try:
            self._run.start()
            self._began_ns = self._run.lab.now_ns()
            self._play(incidents, may_go_on)
        except Broken as broken:
            report.violations = broken.violations
        except Exception as error:  # noqa: BLE001  # whatever it is, it is a finding
            report.violations = [Violation(53, len(self._run.ledger.steps), where(error))]
        try:
            self._count()
            if report.violations and self._out is not None:
                self._leave(self._out)
            pids, run_dir = self._run.lab.pids(), self._run.lab.run_dir
        finally:
            self._run.close()
        report.leaks += left_behind(pids, run_dir)
        return report

    def _play(self, incidents: int, may_go_on: Callable[[], bool]) -> None:
        users = self._users
        users.policies()
        users.reconnect()
        for number in range(incidents):
            if not may_go_on():
                break
            self._incident()
            self._count()
            self._forget()
            if number + 1 >= WARM_UP:
                self.report.samples.append(self._sample())
        self.report.leaks = flat(self.report.samples)
        self.report.last_bursts, self.report.lost = users.count_bursts()
        users.finish()

    def _leave(self, folder: Path) -> None:
        plan = self._run.plan
        steps = len(self._run.ledger.steps)
        outcome = Outcome(plan, violations=self.report.violations, steps=steps)
        self.report.folder = why_not_written(folder, plan, self._run, outcome) or str(folder)

    def _incident(self) -> None:
        rng, users = self._rng, self._users
        host, (party, what) = rng.choice(WAYS), self._draw()
        if self._mixed:
            self._arm_some()
        users.bursts(rng, rng.randint(1, 4))
        users.act(Advance(ms=rng.choice(HITS_MS), settle=False))
        users.act(Live(host=host, party=party, what=what, settle=False))
        users.bursts(rng, rng.randint(0, 2))
        if back := BACK.get(what):
            users.act(Advance(ms=rng.choice(OUTAGE_MS), settle=False))
            users.bursts(rng, rng.randint(0, 2))
            users.act(Live(host=host, party=party, what=back, settle=False))
        users.bursts(rng, rng.randint(0, 2))

        began_ns = self._run.lab.now_ns()
        note(self._run.step("run", "recovery", self._recover, settle=False))
        users.policies()
        users.reconnect()
        self.report.recovery_s.append(round((self._run.lab.now_ns() - began_ns) / 1e9, 3))
        users.act(Advance(ms=round(CALM_S * 1000)))
        counts = Counter(self.report.incidents)
        counts[f"{what} {party}"] += 1
        self.report.incidents = dict(counts)

    def _draw(self) -> tuple[Party, Incident]:
        """Each kind of incident once, in any order, then all of them again."""
        if not self._deck:
            self._deck = [(party, what) for party in PARTIES for what in KINDS]
            self._rng.shuffle(self._deck)
        return self._deck.pop()

    def _arm_some(self) -> None:
        for _ in range(self._rng.randint(0, 2)):
            number = self._users.number()
            for name, fields in draw_fault(self._rng, number):
                host = fields.pop("host", self._rng.choice((None, 0, 1)))
                self._users.act(Arm(fault=name, host=host, fields=fields, settle=False))
                self.report.faults += 1

    def _recover(self, player: Player) -> Answer:
        """Faults end; until cards and hosts say that they are well, within RECOVERY_S."""
        lab = self._run.lab
        converge.heal(player)
        limit_ns = lab.now_ns() + round(RECOVERY_S * 1e9)
        while unwell := list(self._unwell()):
            if lab.now_ns() > limit_ns:
                number = self._run.ledger.steps[-1].number + 1
                text = f"after {RECOVERY_S:.0f} s: {', '.join(unwell)}"
                note([Violation(50, number, text)])
            lab.advance(POLL_S)
        return Answer()

    def _unwell(self) -> Iterator[str]:
        """Who is not well, and how. A card that its host has given up is tried once more, as an
        operator does."""
        for host in self._run.lab.hosts:
            try:
                state = host.nic.health()["state"]
                if state != "active":
                    yield f"card{host.number} is {state}"
                for reporter in host.nic.reporters():
                    if reporter["state"] != "healthy":
                        yield f"{reporter['name']} of host{host.number} is {reporter['state']}"
                    if reporter["state"] == "failed":
                        self.report.given_up += 1
                        host.nic.recover()
            except OffloadError as error:
                yield error.text

    # --- what there is ---

    def _sample(self) -> Sample:
        lab = self._run.lab
        at_s = (lab.now_ns() - self._began_ns) / 1e9
        return sample(at_s, lab.pids(), lab.run_dir, self.report.frames)

    def _count(self) -> None:
        """What came since the last count."""
        steps = self._run.ledger.steps
        self.report.count(steps[self._counted :])
        self._counted = len(steps)

    def _forget(self) -> None:
        """Let go of what lies far back."""
        lab = self._run.lab
        for step in self._run.ledger.steps[self._kept : -KEPT_STEPS]:
            step.let_go()
        self._kept = max(0, self._counted - KEPT_STEPS)
        lab.stop_capture()
        lab.wire.forget()
        lab.start_capture()
