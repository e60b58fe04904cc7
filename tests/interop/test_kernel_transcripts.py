# SPDX-License-Identifier: Apache-2.0
"""Recorded `ip xfrm` sessions of Linux 7.3.4, run from end to end: our language, core and text.

Exit status, stdout, stderr, what a monitor saw and what the counters did are the kernel's, and so
are the bytes sent and the bytes answered, where the recording has them.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from host_driver.lab import Lab
from tests.support.transcripts import DRIVERS, Stage

VECTORS = Path(__file__).parents[1] / "vectors" / "transcripts" / "7.3.4"
MESSAGES = Path(__file__).parents[1] / "vectors" / "netlink" / "7.3.4"
SCENARIOS = sorted(path.stem for path in VECTORS.glob("*.json") if not path.stem.startswith("pkt-"))


# What the two of a recording have on their link.
NETWORKS = ("10.1.0.0/24", "fd00:1::/64")


def load(name: str) -> dict[str, Any]:
    scenario: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text())
    return scenario


def load_messages(name: str) -> dict[int, dict[str, Any]]:
    """The bytes of each command in A, by its number; some recordings have none."""
    path = MESSAGES / f"{name}.json"
    records = json.loads(path.read_text())["records"] if path.exists() else []
    return {record["index"]: record for record in records if record["index"] is not None}


@pytest.mark.parametrize("name", SCENARIOS)
def test_transcript(name: str) -> None:
    scenario, messages = load(name), load_messages(name)
    env = scenario["env"]
    hosts = 2 if env == "pair" else 1
    with Lab(target="sim", hosts=hosts, driver=DRIVERS[env], seed=7) as lab:
        if env == "pair":
            for host in lab.hosts:
                host.set_networks(*NETWORKS)
        stage = Stage(lab)
        for number, command in enumerate(scenario["commands"]):
            stage.play(command)
            record = messages.get(number)
            if record is not None and "xfrm" in command.get("argv", ()):
                stage.compare_messages(record)
