# SPDX-License-Identifier: Apache-2.0
"""`xfrmnic doctor`: is this machine fit to run a lab, and what did killed labs leave behind."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

from host_driver.cli.common import BadEnvironment, example, json_option, show, table
from proto.limits import SOCKET_PATH_MAX_BYTES
from proto.status import OffloadError

PYTHON_MIN = (3, 11)
MINIMUM = {
    "click": (8, 1), "cryptography": (44, 0), "msgspec": (0, 19), "numba": (0, 63),
    "numpy": (2, 0), "pyzmq": (26, 4),
}  # fmt: skip
CPU_FEATURES = ("aes", "pclmulqdq", "avx2", "vaes", "vpclmulqdq", "avx512f")
CARD_TIMEOUT_S = 120

# The card's own answer, from a process of its own: numba is not imported on this side.
CARD_PROGRAM = """
import json, os
import nic_model.jit
from nic_model.esp import BACKEND
print(json.dumps({"form": BACKEND, "cache": os.environ["NUMBA_CACHE_DIR"]}))
"""


class Finding(NamedTuple):
    """One line of the report. `remedy` says what to do where `ok` is False."""

    what: str
    ok: bool
    text: str
    remedy: str = ""


def python_version() -> Iterator[Finding]:
    """The interpreter."""
    wanted = ".".join(map(str, PYTHON_MIN))
    yield Finding(
        "python", sys.version_info >= PYTHON_MIN,
        f"{platform.python_version()} ({sys.executable}), needs {wanted}", "install a newer Python",
    )  # fmt: skip


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def packages() -> Iterator[Finding]:
    """The runtime dependencies, read from their metadata and not imported."""
    for name, minimum in MINIMUM.items():
        wanted = ".".join(map(str, minimum))
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(
                name, False, f"missing, needs {wanted}", f"pip install '{name}>={wanted}'"
            )
            continue
        ok = _numbers(version) >= minimum
        yield Finding(name, ok, f"{version}, needs {wanted}", f"pip install '{name}>={wanted}'")


def cpu() -> Iterator[Finding]:
    """What the processor offers; every form of AES-GCM but the portable one needs some of it."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        flags = set()
    present = [feature for feature in CPU_FEATURES if feature in flags]
    text = f"{platform.machine()}, {os.cpu_count()} CPUs, {' '.join(present) or 'no AES features'}"
    yield Finding("cpu", True, text)


def card() -> Iterator[Finding]:
    """The form of AES-GCM that the card chose, and whether its kernels are compiled already."""
    done = subprocess.run(
        [sys.executable, "-c", CARD_PROGRAM],
        capture_output=True, text=True, check=False, timeout=CARD_TIMEOUT_S,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        yield Finding("esp", False, f"the card does not start: {last}", "reinstall xfrmnic")
        return
    answer = json.loads(done.stdout)
    cache = Path(answer["cache"])
    kernels = len(list(cache.rglob("*.nbi")))
    state = f"{kernels} kernels compiled" if kernels else "empty, `xfrmnic warm` fills it"
    yield Finding("esp", True, f"AES-GCM form {answer['form']}")
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    yield Finding(
        "kernel cache", os.access(existing, os.W_OK), f"{cache}: {state}",
        f"{existing} is not writable: set NUMBA_CACHE_DIR to a folder that is",
    )  # fmt: skip


def run_directory() -> Iterator[Finding]:
    """Owner, mode and length of the place where labs live."""
    from host_driver.lab import rundir
    from host_driver.lab.service import LAB_DIRECTORY

    try:
        base = rundir.base_directory()
    except OffloadError as error:
        yield Finding("run directory", False, error.text, f"set {rundir.VARIABLE} to a short path")
        return
    longest = len(os.fsencode(base / "lab-default" / LAB_DIRECTORY / rundir.LONGEST_NAME))
    yield Finding(
        "run directory", longest <= SOCKET_PATH_MAX_BYTES,
        f"{base}: longest socket path {longest} bytes, a socket takes {SOCKET_PATH_MAX_BYTES}",
        f"set {rundir.VARIABLE} to a shorter path",
    )  # fmt: skip


def leftovers(fix: bool) -> Iterator[Finding]:
    """Run directories whose lab was killed: untidy, but no reason to call the machine unfit."""
    from host_driver.lab import rundir

    try:
        base = rundir.base_directory()
    except OffloadError:
        return
    for path in rundir.abandoned(base, remove=fix):
        state = (
            "removed" if fix else "left by a lab that was killed; `xfrmnic doctor --fix` removes it"
        )
        yield Finding("leftover", True, f"{path}: {state}")


def examine(fix: bool) -> list[Finding]:
    """All findings. Where packages are missing, what would import them is not tried."""
    findings = [*python_version(), *packages(), *cpu()]
    if all(finding.ok for finding in findings):
        findings += [*card(), *run_directory(), *leftovers(fix)]
    return findings


@click.command(epilog=example("xfrmnic doctor --fix"))
@click.option("--fix", is_flag=True, help="Remove run directories that killed labs left behind.")
@json_option
def doctor(fix: bool, as_json: bool) -> None:
    """Check Python, packages, CPU, kernel cache and run directory. Exits with 3 if one is unfit."""
    findings = examine(fix)
    rows = [("ok" if f.ok else "NO", f.what, f.text) for f in findings]
    show(
        {"ok": all(f.ok for f in findings), "findings": [f._asdict() for f in findings]},
        table(rows), as_json,
    )  # fmt: skip
    unfit = [finding for finding in findings if not finding.ok]
    if unfit:
        raise BadEnvironment("; ".join(f"{finding.what}: {finding.remedy}" for finding in unfit))
