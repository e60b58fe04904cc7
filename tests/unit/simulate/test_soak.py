# SPDX-License-Identifier: Apache-2.0
"""One lab that lives on, plan after plan: what is counted, and what ends it."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from host_driver.cli.app import cli
from host_driver.simulate import soak
from host_driver.simulate.ledger import Ledger, Step, Violation
from host_driver.simulate.runner import Run
from host_driver.simulate.soak import Report, Soak

STEPS = 25


def rounds(count: int) -> Callable[[], bool]:
    """A clock that runs out after so many rounds."""
    left = iter(range(count - 1, -1, -1))
    return lambda: next(left) > 0


def test_a_lab_lives_through_plan_after_plan() -> None:
    report = Soak(0, STEPS).play(rounds(3))
    assert not report.failed, report.text()
    assert report.rounds == 3 and report.steps > 3 * STEPS and report.lived_s > 2 * 600
    assert report.frames and report.delivered and report.faults
    assert (report.last_bursts, report.lost) == (320, 0)


class Never:
    """Complains of the second flush of a round."""

    def judge(self, ledger: Ledger, step: Step) -> list[Violation]:
        flushed = sum(one.action.startswith("flush") for one in ledger.steps)
        return [Violation(40, step.number, "flushed twice")] if flushed == 2 else []


def test_what_breaks_ends_it_and_leaves_a_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(soak, "make_judge", Never)
    report = Soak(7, STEPS, out=tmp_path).play(rounds(3))
    assert report.failed and report.rounds == 1 and report.last_bursts == 0
    assert "INV-40 in step" in report.text() and "of seed 7: flushed twice" in report.text()
    assert report.replay == f"xfrmnic replay {tmp_path / 'seed-7'}"
    assert (tmp_path / "seed-7" / "plan.json").exists()


def test_descriptors_that_stay_open_are_a_leak(monkeypatch) -> None:
    opened: list[int] = []
    close = Run.close

    def forgetful(run: Run) -> None:
        opened.extend(os.open("/dev/null", os.O_RDONLY) for _ in range(4))
        close(run)

    monkeypatch.setattr(Run, "close", forgetful)
    monkeypatch.setitem(soak.WARM_UP, "sim", 1)
    try:
        report = Soak(0, STEPS).play(rounds(2))
    finally:
        for descriptor in opened:
            os.close(descriptor)
    first, last = (one.parties["lab"].descriptors for one in report.samples)
    assert last == first + 4
    assert report.leaks == [f"lab has {last} descriptors, {first} at first"]
    assert report.failed and report.leaks[0] in report.text()


def test_a_packet_that_is_lost_in_the_end_is_a_failure() -> None:
    report = Report(last_bursts=320, lost=1)
    assert report.failed and "320 packets sent, 1 lost" in report.text()


def test_the_command_says_what_it_found() -> None:
    arguments = ["simulate", "--seconds", "0.1", "--steps", str(STEPS)]
    done = CliRunner().invoke(cli, [*arguments, "--json"])
    told = json.loads(done.stdout)
    assert (done.exit_code, told["ok"], told["rounds"], told["lost"]) == (0, True, 1, 0)


@pytest.mark.parametrize("more", [["--seeds", "0..1"], ["--jobs", "2"]])
def test_a_soak_has_one_lab(more: list[str]) -> None:
    done = CliRunner().invoke(cli, ["simulate", "--seconds", "1", *more])
    assert done.exit_code == 2 and "one lab" in done.output
