# SPDX-License-Identifier: Apache-2.0
"""perf/netlink.py measures what it says; a dump takes no more memory for more objects."""

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "perf" / "netlink.py"


def test_it_reports_every_operation_at_every_size() -> None:
    command = [sys.executable, str(PROGRAM), "--sizes", "300", "1500", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    results = json.loads(done.stdout)["results"]
    assert {"GETSA", "NEWSA+DELSA", "GETPOLICY"} < results["requests"].keys()
    for measured in results["requests"].values():
        assert measured["microseconds"].keys() == {"300", "1500"}
    small, large = (results["dumps"][size]["GETSA"] for size in ("300", "1500"))
    assert (small["objects"], large["objects"]) == (300, 1500)
    assert large["pieces"] > 3 * small["pieces"]
    assert large["peak_kib"] < 1.5 * small["peak_kib"] < large["bytes"] / 1024 / 4
