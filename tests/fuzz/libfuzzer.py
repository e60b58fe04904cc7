# SPDX-License-Identifier: Apache-2.0
"""The same targets under libFuzzer, where `atheris` is installed (pip install 'xfrmnic[fuzz]').

It counts branches in compiled bytecode instead of lines by tracing, so it is several times faster;
its mutations are the target's own. libFuzzer ends the process it runs in, therefore each share of
inputs has one, which leaves its report in a file:

    share -> child process -> for each input: run -> every REPORT_EVERY of them: the report
          <- report, finding, what libFuzzer kept
"""

import base64
import gc
import importlib.util
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FunctionType

from fuzz.engine import INPUTS_PER_COLLECTION, INPUTS_PER_RESET, Report, place
from fuzz.mutate import INPUT_MAX_BYTES
from fuzz.target import Target

REPORT_EVERY = 200
TIMEOUT_S, MEMORY_MB = 30, 1024  # of one input; of the process
REPORT, CORPUS = "report.json", "corpus"
TOLD = ("inputs", "offered", "refused", "slowest_ms", "memory_kb", "growth_kb", "finding")


def available() -> bool:
    """Whether atheris is there."""
    return importlib.util.find_spec("atheris") is not None


def share(name: str, seed: int, count: int) -> Report:
    """Run `count` inputs of a target in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="xn-fuzz-") as directory:
        command = [sys.executable, "-m", "tests.fuzz", "--target", name, "--count", str(count)]
        command += ["--seed", str(seed), "--child", directory]
        root = Path(__file__).resolve().parents[2]
        done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
        report = _read(name, Path(directory))
        report.corpus = [path.read_bytes() for path in Path(directory).glob(f"{CORPUS}/*")]
        if covered := re.findall(r"cov: (\d+) ft: (\d+)", done.stderr):
            report.edges, report.features = map(int, covered[-1])
        if done.returncode and not report.finding:
            report.finding = _summary(done)
        return report


def _read(name: str, directory: Path) -> Report:
    path = directory / REPORT
    told = json.loads(path.read_text()) if path.exists() else {}
    told["history"] = [base64.b64decode(data) for data in told.get("history", ())]
    return Report(name, **told)


def _summary(done: "subprocess.CompletedProcess[str]") -> str:
    lines = done.stderr.splitlines()
    telling = [line for line in lines if line.startswith(("SUMMARY", "==", "ERR"))]
    return f"exit status {done.returncode}: " + " ".join((telling or lines)[-2:])


def child(target: Target, count: int, seed: int, corpus: Sequence[bytes], directory: Path) -> None:
    """The other side of `share`; does not return."""
    import atheris

    target.reset()  # what it loads late is there to be instrumented
    for function in functions(target.files):
        atheris.instrument_func(function)
    inputs = [*target.seeds(), *corpus]
    (directory / CORPUS).mkdir()
    for number, data in enumerate(inputs):
        (directory / CORPUS / f"{number:05}").write_bytes(data)
    options = [f"-runs={count}", f"-seed={seed % (1 << 31) or 1}", f"-max_len={INPUT_MAX_BYTES}"]
    options += [f"-timeout={TIMEOUT_S}", f"-rss_limit_mb={MEMORY_MB}"]
    options += [f"-artifact_prefix={directory}/"]
    run = Run(target, count, directory / REPORT)
    atheris.Setup(
        [sys.argv[0], *options, str(directory / CORPUS)],
        run,
        custom_mutator=mutator(target, inputs),
    )
    atheris.Fuzz()


class Run:
    """What libFuzzer calls for each input: the target is looked at and reset now and then."""

    def __init__(self, target: Target, count: int, path: Path) -> None:
        self._target = target
        self._count = count
        self._path = path
        self._report = Report(target.name)
        self._base_kb = 0

    def __call__(self, data: bytes) -> None:
        report = self._report
        try:
            if report.inputs % INPUTS_PER_RESET == 0:
                if report.inputs:
                    self._target.check()
                self._target.reset()
                report.history.clear()
            if report.inputs % INPUTS_PER_COLLECTION == 0:
                gc.collect()
            report.history.append(data)
            report.inputs += 1
            started = time.process_time()
            outcome = self._target.run(data)
            report.slowest_ms = max(report.slowest_ms, (time.process_time() - started) * 1000)
        except BaseException as error:
            report.finding = f"{type(error).__name__}: {error}" + place(error)
            self._write()
            raise
        report.offered += outcome.offered
        report.refused += outcome.refused
        if report.inputs % REPORT_EVERY == 0 or report.inputs == self._count:
            self._write()

    def _write(self) -> None:
        report = self._report
        report.memory_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self._base_kb = self._base_kb or report.memory_kb
        report.growth_kb = report.memory_kb - self._base_kb
        told = {name: getattr(report, name) for name in TOLD}
        history = report.history if report.finding else ()
        told["history"] = [base64.b64encode(data).decode() for data in history]
        self._path.write_text(json.dumps(told))


def functions(files: Sequence[str]) -> Iterator[FunctionType]:
    """Functions and methods of loaded modules whose lines would count; kernels are none."""
    for module in list(sys.modules.values()):
        if not any(part in (getattr(module, "__file__", None) or "") for part in files):
            continue
        for item in list(vars(module).values()):
            members = list(vars(item).values()) if isinstance(item, type) else [item]
            for member in members:
                function = getattr(member, "__func__", getattr(member, "fget", member))
                if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                    yield function


def mutator(target: Target, inputs: Sequence[bytes]) -> Callable[[bytes, int, int], bytes]:
    """The target's own way of changing an input."""

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        return target.mutate(rng, bytes(data), rng.choice(inputs))[:max_size]

    return mutate
