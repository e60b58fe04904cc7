# SPDX-License-Identifier: Apache-2.0
"""`xfrmnic simulate --plan FILE`: a whole plan that was drawn before, or faults with times."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from host_driver.cli.app import cli
from host_driver.faults.plan import load_plan
from host_driver.simulate.actions import Advance, Send
from host_driver.simulate.draw import draw
from host_driver.simulate.judge import make_judge
from host_driver.simulate.plan import Plan, encode_plan
from host_driver.simulate.runner import Run
from host_driver.testing.actions import Numbering, connect

SEED = ["--seed", "3", "--steps", "20"]
FAULTS = """
[[fault]]
fault = "reply-doubled"
host = 0
at_s = 0.0
until_s = 20.0

[[fault]]
site = "wire"
kind = "drop"
probability = 0.5
at_s = 0.5
"""


def simulate(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(cli, ["simulate", *arguments, "--json"])
    assert done.exit_code == 0, done.output
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.fixture
def faults(tmp_path: Path) -> Path:
    path = tmp_path / "faults.toml"
    path.write_text(FAULTS)
    return path


def test_a_plan_that_was_drawn_means_the_same_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(encode_plan(draw(3, 20)))
    drawn, read = simulate(*SEED), simulate("--plan", str(path))
    assert read["plan"] == drawn["plan"] and read["hash"] == drawn["hash"]


def test_faults_of_a_file_come_instead_of_drawn_ones(faults: Path) -> None:
    drawn, once, again = (simulate(*SEED, *more) for more in ([], *2 * [["--plan", str(faults)]]))
    assert once["hash"] == again["hash"] != drawn["hash"]
    assert [one["at_s"] for one in once["plan"]["follow"]] == [0.0, 0.5]
    assert not any(one["type"] == "Arm" for one in once["plan"]["actions"])


def test_faults_of_a_file_strike_at_their_times(faults: Path) -> None:
    burst = Send(flow=0, way=0, count=20, size=64)
    steps = [*connect(0), burst, Advance(ms=1000), burst]
    plan = Plan(
        seed=1, card="full", follow=tuple(load_plan(faults)), actions=tuple(map(Numbering(), steps))
    )
    run = Run(plan, make_judge())
    try:
        assert run.run().violations == []
        played = run.ledger.steps
    finally:
        run.close()
    began_ns = played[0].began_ns
    struck: dict[str, list[float]] = {}
    for firing in (one for step in played for one in step.firings):
        struck.setdefault(firing["site"], []).append((firing["time_ns"] - began_ns) / 1e9)
    assert set(struck) == {"mailbox.reply", "wire"}
    assert min(struck["mailbox.reply"]) < 0.5 <= min(struck["wire"])


IDLE = """
[[fault]]
fault = "reply-doubled"
match = { opcode = "NoSuchCommand" }

[[fault]]
fault = "reply-lost"
at_s = 3000.0

[[fault]]
site = "wire"
kind = "drop"
name = "twin"

[[fault]]
site = "wire"
kind = "duplicate"
name = "twin"
"""


def test_faults_that_strike_nowhere_are_told(tmp_path: Path) -> None:
    """A run is no proof of what happens under a fault that was never there."""
    path = tmp_path / "idle.toml"
    path.write_text(IDLE)
    assert simulate("--plan", str(path), *SEED)["idle"] == [
        "reply-doubled is armed and fired nowhere",
        "reply-lost is waiting and fired nowhere",
        "twin is failed: a fault named 'twin' is armed already",
    ]
    done = CliRunner().invoke(cli, ["simulate", "--plan", str(path), "--seed", "3", "--steps", "1"])
    assert "fired nowhere" in done.stdout


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.toml", '[[fault]]\nfault = "nonsense"\n', "line 1: no fault is named 'nonsense'"),
        ("b.toml", "{", "no TOML"),
        ("c.json", '{"seed": 1}', "missing required field `card`"),
        ("d.json", '{"seed": 1, "card": "full", "more": 2}', "unknown field `more`"),
    ],
)
def test_bad_files_are_usage_errors(tmp_path: Path, name: str, text: str, why: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    done = CliRunner().invoke(cli, ["simulate", "--plan", str(path)])
    assert done.exit_code == 2 and name in done.stderr and why in done.stderr


def test_a_plan_has_its_own_seed(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(encode_plan(draw(3, 2)))
    done = CliRunner().invoke(cli, ["simulate", "--plan", str(path), "--seeds", "0..1"])
    assert done.exit_code == 2 and "its own seed" in done.stderr
