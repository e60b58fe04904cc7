# SPDX-License-Identifier: Apache-2.0
"""Runs of one seed: the same trace everywhere, and failures that replay from their folder."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from host_driver.cli.app import cli
from host_driver.faults.plan import PlannedFault
from host_driver.simulate import campaign
from host_driver.simulate.actions import (
    Advance,
    AnyAction,
    Arm,
    Ask,
    Attack,
    Flush,
    Live,
    Send,
)
from host_driver.simulate.draw import draw
from host_driver.simulate.folder import read_folder
from host_driver.simulate.ledger import Ledger, Step, Violation
from host_driver.simulate.plan import Plan, decode_plan, encode_plan
from host_driver.simulate.runner import Run, run_plan
from proto.status import OffloadError

ROOT = Path(__file__).resolve().parents[3]
STEPS = 40

# Another day, another directory, another order of sets: none of it may show.
ELSEWHERE = """
import sys, time
sys.path.insert(0, {root!r})
for name in ("time", "time_ns", "monotonic", "monotonic_ns"):
    real, more = getattr(time, name), {shift} * (10**9 if name.endswith("ns") else 1)
    setattr(time, name, lambda real=real, more=more: real() + more)
from host_driver.simulate.draw import draw
from host_driver.simulate.judge import make_judge
from host_driver.simulate.runner import run_plan
for seed in (3, 4, 12):
    print(run_plan(draw(seed, {steps}), make_judge()).hash)
"""


class Silent:
    """Judges nothing."""

    def judge(self, ledger: Ledger, step: Step) -> list[Violation]:
        return []


class NoFlush(Silent):
    """Complains of a second flush, so that there is a failure whose cause is known."""

    what = "Flush"

    def judge(self, ledger: Ledger, step: Step) -> list[Violation]:
        times = sum(one.action.startswith(self.what) for one in ledger.steps)
        return [Violation(40, step.number, "flushed")] if times == 2 else []


class Else(NoFlush):
    """Sees the same, and calls it something else."""

    def judge(self, ledger: Ledger, step: Step) -> list[Violation]:
        return [msgspec.structs.replace(one, invariant=41) for one in super().judge(ledger, step)]


class NoDelete(NoFlush):
    """The same for what is drawn more often."""

    what = "DeleteSa"


def elsewhere(tmp_path: Path, hash_seed: str, shift: int) -> list[str]:
    code = ELSEWHERE.format(root=str(ROOT), shift=shift, steps=STEPS)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONHASHSEED": hash_seed, "HOME": str(Path.home()), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_a_seed_means_the_same_on_another_day(tmp_path: Path) -> None:
    """INV-54: in processes with other hash seeds, directories and clocks."""
    first = elsewhere(tmp_path, "1", 0)
    assert len(set(first)) == 3
    assert first == elsewhere(ROOT, "77", 100_000_000)


def test_seeds_differ_and_plans_do_not() -> None:
    assert draw(5, STEPS) == draw(5, STEPS) != draw(6, STEPS)
    hashes = {run_plan(draw(seed, STEPS), Silent()).hash for seed in (5, 6)}
    assert len(hashes) == 2


def test_a_plan_survives_its_file() -> None:
    plan = draw(9, 300)
    assert decode_plan(encode_plan(plan), "file") == plan


def test_a_failure_is_shrunk_and_replays_from_its_folder(tmp_path: Path, monkeypatch) -> None:
    """The cause, two flushes, is all that is left; the folder has it and runs to the same hash."""
    monkeypatch.setattr(campaign, "make_judge", NoFlush)
    sends = [Send(flow=flow, way=0, settle=False) for flow in range(6)]
    steps = [*sends, Flush(host=0, what="state"), *sends, Flush(host=1, what="policy"), *sends]
    plan = Plan(seed=1, card="tiny", actions=tuple(steps))
    task = campaign.Task(seed=1, steps=STEPS, out=str(tmp_path), plan=plan)

    result = campaign.run_task(task)

    assert result.failed and result.left == 2
    folder = tmp_path / "seed-1"
    assert result.replay == f"xfrmnic replay {folder}"
    assert {path.name for path in folder.iterdir()} == {
        "plan.json", "drawn.json", "violation.json", "log.txt", "events.jsonl", "tables.txt",
        "wire.pcapng",
    }  # fmt: skip
    left, recorded = read_folder(folder)
    assert [type(action) for action in left.actions] == [Flush, Flush]
    assert [one.invariant for one in recorded.violations] == [40]
    assert run_plan(left, NoFlush()).hash == recorded.hash
    assert "INV-40 broke in step 1: flushed" in (folder / "log.txt").read_text()


def test_a_failure_that_does_not_happen_twice_is_one(tmp_path: Path, monkeypatch) -> None:
    """A leak that was seen once was there, and the folder is of the run that showed it."""
    judges = [NoFlush]
    monkeypatch.setattr(campaign, "make_judge", lambda: (judges.pop() if judges else Silent)())
    plan = Plan(seed=3, card="tiny", actions=(Flush(host=0, what="state"),) * 2)
    task = campaign.Task(seed=3, steps=STEPS, out=str(tmp_path), plan=plan)

    result = campaign.run_task(task)

    assert [one.invariant for one in result.violations] == [40]
    assert result.left == 2
    assert read_folder(tmp_path / "seed-3")[1].violations == result.violations


def test_a_failure_is_told_although_its_folder_cannot_be_written(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(campaign, "make_judge", NoFlush)
    plan = Plan(seed=3, card="tiny", actions=(Flush(host=0, what="state"),) * 2)
    (tmp_path / "file").touch()
    task = campaign.Task(seed=3, steps=STEPS, out=str(tmp_path / "file"), plan=plan)

    result = campaign.run_task(task)

    assert result.failed
    assert result.replay.startswith("(no folder: ") and "file" in result.replay


def test_a_replay_line_is_one_for_a_shell(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(campaign, "make_judge", NoFlush)
    plan = Plan(seed=3, card="tiny", actions=(Flush(host=0, what="state"),) * 2)
    out = tmp_path / "my runs"
    result = campaign.run_task(campaign.Task(seed=3, steps=STEPS, out=str(out), plan=plan))
    assert shlex.split(result.replay) == ["xfrmnic", "replay", str(out / "seed-3")]


def test_a_planned_fault_is_known_to_the_judge_by_place_and_kind() -> None:
    planned = PlannedFault(fault="undead-objects", at_s=0.5)
    run = Run(Plan(seed=0, card="tiny", follow=(planned,)), Silent())
    run.run()
    (armed,) = run.ledger.armed
    run.close()
    assert (armed.spec["site"], armed.spec["kind"]) == ("card.object.destroy", "undead")


def test_replay_says_whether_the_trace_is_the_same(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(campaign, "make_judge", NoFlush)
    steps = (Flush(host=0, what="state"), Flush(host=0, what="state"), Advance(ms=1))
    plan = Plan(seed=2, card="tiny", actions=steps)
    campaign.run_task(campaign.Task(seed=2, steps=STEPS, out=str(tmp_path), plan=plan))
    folder = str(tmp_path / "seed-2")
    monkeypatch.setattr("host_driver.simulate.judge.make_judge", NoFlush)

    same = CliRunner().invoke(cli, ["replay", folder, "--json"])
    assert same.exit_code == 0, same.output
    assert json.loads(same.stdout)["violations"][0]["invariant"] == 40

    monkeypatch.setattr("host_driver.simulate.judge.make_judge", lambda: Else())
    other = CliRunner().invoke(cli, ["replay", folder])
    assert other.exit_code == 1
    assert "something else broke" in other.stdout

    drawn = decode_plan((tmp_path / "seed-2" / "plan.json").read_bytes(), "plan")
    other = Plan(seed=2, card=drawn.card, actions=(Advance(ms=1), *drawn.actions))
    (tmp_path / "seed-2" / "plan.json").write_bytes(encode_plan(other))
    different = CliRunner().invoke(cli, ["replay", folder])
    assert different.exit_code == 1
    assert "another trace" in different.stdout


def test_no_file_of_a_folder_holds_a_key(tmp_path: Path, monkeypatch) -> None:
    class Impatient(Silent):
        def judge(self, ledger: Ledger, step: Step) -> list[Violation]:
            made = [sa for sa in ledger.sas if not sa.errno and sa.answered_ns]
            keys.update(sa.key.hex() for sa in ledger.sas)
            return [Violation(8, step.number, "enough")] if len(made) > 4 else []

    keys: set[str] = set()
    monkeypatch.setattr(campaign, "make_judge", Impatient)
    task = campaign.Task(seed=0, steps=60, out=str(tmp_path), shrink=False)
    assert campaign.run_task(task).failed
    assert len(keys) > 2
    for path in (tmp_path / "seed-0").iterdir():
        data = path.read_bytes()
        assert not [key for key in keys if key.encode() in data or bytes.fromhex(key) in data], path


def test_a_defect_ends_a_run_as_a_finding(monkeypatch) -> None:
    """INV-53: whatever is raised below, it is reported with its place."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("host_driver.lab.wire.Wire.inject", broken)
    plan = draw(0, 300)
    outcome = run_plan(plan, Silent())
    (violation,) = outcome.violations
    assert violation.invariant == 53
    assert "ZeroDivisionError in test_runs.py" in violation.text
    assert "secret" not in violation.text


def test_faults_that_are_not_offered_do_not_end_a_run() -> None:
    arm = Arm(fault="x", fields={"site": "nowhere", "kind": "drop"})
    outcome = run_plan(Plan(seed=0, card="tiny", actions=(arm, Advance(ms=5))), Silent())
    assert not outcome.failed


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "truncated"),
        (b"[1]", "Expected `object`"),
        (b'{"seed": 1}', "required field `card`"),
        (b'{"seed": 1, "card": "tiny", "actions": [{"type": "Dance"}]}', "Dance"),
        (b'{"seed": 1, "card": "tiny", "actions": [{"type": "Send", "flow": 1}]}', "way"),
        (b'{"seed": 1, "card": "tiny", "colour": 1}', "colour"),
        (b'{"seed":1,"card":"tiny","actions":[{"type":"Send","flow":99,"way":0}]}', r"<= 8.*flow"),
        (b'{"seed":1,"card":"tiny","actions":[{"type":"Advance","ms":-1}]}', r">= 0.*ms"),
        (b"\xff\xfe", "invalid"),
        (
            b'{"seed": 1, "card": "", "actions": [{"type": "Arm", "fields": {"a":' + b"[" * 100_000,
            "ecursion",
        ),
    ],
)
def test_bad_plans_are_refused_with_their_place(text: bytes, why: str) -> None:
    with pytest.raises(OffloadError, match=why) as refused:
        decode_plan(text, "my.json")
    assert "my.json" in str(refused.value)


@pytest.mark.parametrize(
    "action",
    [
        Send(flow=0, way=0, kind="zz"),
        Attack(kind="zz", host=0, number=1),
        Ask(host=1, what="zz"),
        Live(host=1, party="card", what="reload"),
    ],
)
def test_names_that_no_step_has_are_refused_before_anything_runs(action: AnyAction) -> None:
    with pytest.raises(OffloadError, match=r"step 1, .* is none of "):
        run_plan(Plan(seed=1, card="tiny", actions=(Advance(ms=1), action)), Silent())


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--seeds", "9..3"], 2, "has no seed in it"),
        (["--seeds", "three"], 2, "0..99"),
        (["--plan", "/nowhere"], 2, "does not exist"),
        (["--seed", "-1"], 2, "is not in the range"),
        (["--seed", "1", "--seeds", "0..3"], 2, "--seeds says which"),
        (["--mixed"], 2, "--mixed is about --chaos"),
        (["--chaos", "3", "--target", "process", "--jobs", "2"], 2, "--chaos is about one lab"),
    ],
)
def test_usage_errors(arguments: list[str], code: int, text: str) -> None:
    done = CliRunner().invoke(cli, ["simulate", *arguments])
    assert done.exit_code == code
    assert text in done.stderr


def test_the_seed_and_the_plan_are_printed_first(tmp_path: Path) -> None:
    arguments = ["simulate", "--seed", "6", "--steps", "20", "--out", str(tmp_path)]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("seed 6: card ")
    assert "every invariant held" in done.stdout.splitlines()[-1]
    assert json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)["plan"]["seed"] == 6
    assert list(tmp_path.iterdir()) == []


def test_many_seeds_give_one_line_for_each_failure(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(campaign, "make_judge", NoDelete)
    arguments = ["simulate", "--seeds", "0..9", "--steps", "60", "--no-shrink"]
    done = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path), "--json"])
    failures = json.loads(done.stdout)["failures"]
    assert done.exit_code == 1
    assert len(failures) == len(list(tmp_path.iterdir())) > 0
    for failure in failures:
        assert failure["replay"] == f"xfrmnic replay {tmp_path / 'seed'}-{failure['seed']}"


def test_of_judged_firings_only_what_and_how_often_is_kept() -> None:
    """A fault that fires at every command must not fill the memory of a long run."""
    ledger = Ledger(1, "full", 0)
    steps = [Step(number, "run", "", 0) for number in range(2)]
    names = ("one", "one", "other")
    for number, step in enumerate(steps):
        step.firings = [
            {"party": "card0", "name": name, "site": "mailbox", "kind": "drop", "id": f"{number}"}
            for name in names
        ]
        ledger.condense(step)
        assert [firing["name"] for firing in step.firings] == list(names)
    first, again, other = steps[0].firings
    assert first is again is steps[1].firings[0]
    assert other is steps[1].firings[2]
