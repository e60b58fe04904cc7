# SPDX-License-Identifier: Apache-2.0
"""perf/events.py among processes: every limit is told by card and core, whatever the load."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_limit_under_load_is_told_and_timed() -> None:
    options = ["--sas", "3", "--rounds", "1", "--packets", "4096"]
    command = [sys.executable, ROOT / "perf" / "events.py", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT)
    results = json.loads(done.stdout)["results"]
    assert results.keys() == {"idle", "load_64"}
    for case in results.values():
        for side in ("tx", "rx"):
            told = case[side]
            assert (told["limits"], told["events"], told["lost"]) == (6, 6, 0)
            assert 0 < told["ms"]["median"] <= told["ms"]["p99"] <= told["ms"]["max"]
        assert case["packets_per_s"]["low"] > 0
