# SPDX-License-Identifier: Apache-2.0
"""The loop: choose, change, run, keep what walks new ways, and find out what must not be.

    input -> target -> features + edges -> new? -> shrink -> corpus
                    -> exception, hang, memory   -> finding: the inputs since the last reset

Everything is drawn from one seed. A finding ends the run of its target; it carries the inputs that
make it again (`replay`).
"""

import gc
import random
import resource
import signal
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from fuzz.coverage import Coverage
from fuzz.target import Finding, Outcome, Target

INPUTS_PER_RESET = 40
INPUTS_PER_COLLECTION = 200  # of what a target dropped, so that only what it holds counts
HANG_S = 3.0  # of processor time: a busy machine makes nothing hang
MEMORY_STEP_KB = 64 << 10  # what one input may add to the peak
MEMORY_GROWTH_KB = 192 << 10  # and all of them together, once the target runs
SHRINK_RUNS = 40
QUIET_INPUTS = 2000  # without anything new: then only one input of SAMPLE is traced
SAMPLE = 8


class Hang(BaseException):
    """Raised into a target that takes too long."""


@dataclass
class Report:
    """What a run came to. Memory in kB; `finding` is empty when all went well."""

    target: str
    inputs: int = 0
    offered: int = 0
    refused: int = 0
    features: int = 0
    edges: int = 0
    slowest_ms: float = 0.0
    memory_kb: int = 0
    growth_kb: int = 0
    finding: str = ""
    history: list[bytes] = field(default_factory=list)
    corpus: list[bytes] = field(default_factory=list)

    def add(self, other: "Report") -> None:
        """Join the report of another share of the same target's inputs."""
        self.inputs += other.inputs
        self.offered += other.offered
        self.refused += other.refused
        for name in ("features", "edges", "slowest_ms", "memory_kb", "growth_kb"):
            setattr(self, name, max(getattr(self, name), getattr(other, name)))
        if other.finding and not self.finding:
            self.finding, self.history = other.finding, other.history
        self.corpus += other.corpus


class Fuzzer:
    """One target and one seed."""

    def __init__(self, target: Target, seed: int | str, corpus: Sequence[bytes] = ()) -> None:
        self.report = Report(target.name)
        self._target = target
        self._rng = random.Random(f"{target.name} {seed}")
        self._coverage = Coverage(target.files)
        self._seen: set[Hashable] = set()
        self._corpus: list[bytes] = []
        self._history: list[bytes] = []
        self._start = [*target.seeds(), *corpus]
        self._quiet = 0
        self._peak_kb = 0
        self._hung = False

    def run(self, count: int) -> Report:
        """`count` inputs, the given ones first, or as many as there are until a finding."""
        before = signal.signal(signal.SIGPROF, self._too_long)
        try:
            self._target.reset()
            for number in range(count):
                data = self._start[number] if number < len(self._start) else self._next()
                self._one(data)
                if self.report.inputs % INPUTS_PER_RESET == 0:
                    self._between()
            self._between()
        except Exception as error:  # noqa: BLE001  # whatever it is, it must not be
            self.report.finding = f"{type(error).__name__}: {error}" + place(error)
            self.report.history = self._history
        except Hang:
            self.report.finding = f"one input took more than {HANG_S} s of processor time"
            self.report.history = self._history
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)
        edges = sum(isinstance(feature, int) for feature in self._seen)
        self.report.edges, self.report.features = edges, len(self._seen) - edges
        self.report.corpus = self._corpus
        return self.report

    def _next(self) -> bytes:
        """Change something of the corpus, more often something recent."""
        rng, corpus = self._rng, self._corpus or self._start
        recent = rng.random() < 0.5
        low = len(corpus) * 3 // 4 if recent else 0
        return self._target.mutate(rng, corpus[rng.randrange(low, len(corpus))], rng.choice(corpus))

    def _one(self, data: bytes) -> None:
        """Run one input; keep it if it did what none did before."""
        self._quiet += 1
        traced = self._quiet < QUIET_INPUTS or self.report.inputs % SAMPLE == 0
        self._history.append(data)
        started = time.process_time()
        outcome, found = self._feed(data, traced)
        report = self.report
        report.slowest_ms = max(report.slowest_ms, (time.process_time() - started) * 1000)
        report.inputs += 1
        report.offered += outcome.offered
        report.refused += outcome.refused
        self._watch_memory()
        if new := found - self._seen:
            self._quiet = 0
            self._seen |= new
            self._corpus.append(data)

    def _feed(self, data: bytes, traced: bool) -> tuple[Outcome, set[Hashable]]:
        signal.setitimer(signal.ITIMER_PROF, HANG_S)
        edges: set[int] = set()
        if traced:
            with self._coverage as edges:
                outcome = self._target.run(data)
        else:
            outcome = self._target.run(data)
        signal.setitimer(signal.ITIMER_PROF, 0)
        if self._hung:  # the target swallowed it
            raise Hang
        return outcome, outcome.features | edges

    def _between(self) -> None:
        """Look at the target, then give it a fresh state."""
        self._target.check()
        self._target.reset()
        self._history.clear()
        if self.report.inputs % INPUTS_PER_COLLECTION == 0:
            gc.collect()
        if self.report.inputs <= 10 * INPUTS_PER_RESET:
            self._base_kb = _peak_kb()
        self.report.growth_kb = max(0, _peak_kb() - self._base_kb)
        if self.report.growth_kb > MEMORY_GROWTH_KB:
            raise Finding(f"memory grew by {self.report.growth_kb} kB since the start")

    def _watch_memory(self) -> None:
        peak_kb = _peak_kb()
        step_kb, self._peak_kb = peak_kb - self._peak_kb, peak_kb
        self.report.memory_kb = peak_kb
        if step_kb > MEMORY_STEP_KB and self.report.inputs > INPUTS_PER_RESET:
            raise Finding(f"one input took {step_kb} kB of memory")

    def _too_long(self, number: int, frame: FrameType | None) -> None:
        self._hung = True
        raise Hang


def replay(target: Target, inputs: Sequence[bytes]) -> str:
    """Feed inputs to a fresh target -> what went wrong, or nothing."""
    fuzzer = Fuzzer(target, 0)
    fuzzer._start = list(inputs)
    return fuzzer.run(len(inputs)).finding


def shrink(target: Target, inputs: list[bytes]) -> list[bytes]:
    """Fewer and shorter inputs that still make a finding."""
    for start in (len(inputs) - 1, *range(len(inputs) - 1)):
        if replay(target, inputs[start:]):
            inputs = inputs[start:]
            break
    for place in range(len(inputs)):
        inputs = _shrink_one(target, inputs, place)
    return inputs


def _shrink_one(target: Target, inputs: list[bytes], place: int) -> list[bytes]:
    size, runs = len(inputs[place]) // 2, 0
    while size and runs < SHRINK_RUNS:
        at = 0
        while at < len(inputs[place]) and runs < SHRINK_RUNS:
            data = inputs[place]
            shorter = [*inputs[:place], data[:at] + data[at + size :], *inputs[place + 1 :]]
            runs += 1
            if replay(target, shorter):
                inputs = shorter
            else:
                at += size
        size //= 2
    return inputs


def thin(target: Target, inputs: Sequence[bytes], limit: int) -> list[bytes]:
    """The shortest inputs that together do all that `inputs` do, at most `limit` of them."""
    kept: list[bytes] = []
    seen: set[Hashable] = set()
    coverage = Coverage(target.files)
    for data in sorted(set(inputs), key=lambda one: (len(one), one)):
        target.reset()
        with coverage as edges:
            outcome = target.run(data)
        if not (outcome.features | edges) <= seen:
            seen |= outcome.features | edges
            kept.append(data)
    return kept[:limit]


def _peak_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def place(error: BaseException) -> str:
    """Where it was raised."""
    trace: Any = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f" in {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
