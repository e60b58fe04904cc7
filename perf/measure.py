# SPDX-License-Identifier: Apache-2.0
"""What the performance programs share; run by itself it prints the machine's fingerprint.

Times on a shared machine wander, so cases that are to be compared run in turns, and a result is a
median with its range, never one number.
"""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

ROUNDS = 9


def cpu_model() -> str:
    """The CPU as /proc/cpuinfo names it, else as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), "?")


def commit() -> str:
    """The commit of this checkout, empty if there is none."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip()


def machine() -> dict[str, Any]:
    """What a number must be read with: the CPU, its load now, and the versions that matter."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "numba": version("numba"),
        "numpy": version("numpy"),
        "cryptography": version("cryptography"),
        "commit": commit(),
    }


def in_turns(cases: Mapping[str, Callable[[], T]], rounds: int = ROUNDS) -> dict[str, list[T]]:
    """Call every case once to warm it, then all of them in turns; each returns its own measure."""
    results: dict[str, list[T]] = {name: [] for name in cases}
    for case in cases.values():
        case()
    for _ in range(rounds):
        for name, case in cases.items():
            results[name].append(case())
    return results


def summary(values: list[float], digits: int = 1) -> dict[str, float]:
    """Median and range of one case."""
    return {
        "median": round(statistics.median(values), digits),
        "low": round(min(values), digits),
        "high": round(max(values), digits),
    }


def report(results: Any, **settings: Any) -> None:
    """Print the JSON of one program: machine, settings, results."""
    print(json.dumps({"machine": machine(), **settings, "results": results}, indent=2))


if __name__ == "__main__":
    print(json.dumps(machine(), indent=2))
