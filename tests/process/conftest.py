# SPDX-License-Identifier: Apache-2.0
"""Running `xfrmnic` as users do: a process of its own, with a run directory of its own."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from host_driver.cli.app import main; main()"]
TIMEOUT_S = 200

Xfrmnic = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def own_run_dir(run_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run directory for one test, so that tests that run beside it are not seen."""
    path = Path(tempfile.mkdtemp(dir=run_root))
    monkeypatch.setenv("XFRMNIC_RUN_DIR", str(path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return path


@pytest.fixture
def xfrmnic(own_run_dir: Path) -> Iterator[Xfrmnic]:
    """Run `xfrmnic WORDS...` to its end; labs that are still up afterwards are ended."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *words], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )

    yield run
    for path in own_run_dir.glob("lab-*"):
        run("down", "--lab", path.name.removeprefix("lab-"))
