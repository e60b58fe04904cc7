# SPDX-License-Identifier: Apache-2.0
"""Cards and hosts of real processes are killed, stopped and restarted under traffic."""

import os
import socket
from pathlib import Path

import msgspec
import pytest

from host_driver.simulate import chaos
from host_driver.simulate.chaos import Chaos
from host_driver.simulate.resources import Figures, Sample, flat, left_behind, sample, slope

INCIDENTS = 6


@pytest.mark.timeout(300)
def test_six_incidents_under_traffic() -> None:
    """No clear packet, no number twice, recovery in time, nothing left behind."""
    report = Chaos(seed=5).play(INCIDENTS)
    assert not report.failed, report.text()
    assert len(report.recovery_s) == INCIDENTS
    assert report.incidents == {
        f"{what} {party}": 1 for what in ("kill", "stop", "restart") for party in ("card", "host")
    }
    assert report.delivered > 100 and report.frames >= report.delivered
    assert report.last_bursts == 320
    parties = report.samples[-1].parties
    alive = [one.pid for name, one in parties.items() if name != "lab" and _lives(one.pid)]
    assert len(parties) == 5 and alive == []


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


CARD, LAB = Figures(1, 20, 9, 3, 100 << 20), Figures(2, 40, 12, 4, 200 << 20)
FIRST = Sample(0.0, {"card0": CARD, "lab": LAB}, children=1, files=9, kept=100)
MIB = 1 << 20


def changed(what: Figures | Sample, **fields: object):
    return msgspec.structs.replace(what, **fields)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"parties": {"lab": LAB}}, "parties were"),
        ({"parties": {"card0": CARD, "lab": changed(LAB, descriptors=44)}}, "44 descriptors"),
        ({"parties": {"card0": CARD, "lab": changed(LAB, sockets=16)}}, "16 sockets"),
        ({"parties": {"card0": changed(CARD, threads=5), "lab": LAB}}, "5 threads"),
        ({"parties": {"card0": changed(CARD, memory=165 * MIB), "lab": LAB}}, "card0 has 165 MiB"),
        ({"children": 2}, "2 child processes"),
        ({"files": 10}, "10 files"),
    ],
)
def test_growth_is_a_leak(change: dict[str, object], words: str) -> None:
    (said,) = flat([FIRST, changed(FIRST, **change)])
    assert words in said


def test_frames_that_the_judge_remembers_are_no_leak() -> None:
    assert flat([FIRST, FIRST]) == []
    more = changed(FIRST, parties={"card0": CARD, "lab": changed(LAB, memory=300 * MIB)})
    assert flat([FIRST, more]) and not flat([FIRST, changed(more, kept=40_100)])


def test_memory_that_keeps_rising_is_a_leak() -> None:
    """By 2 MiB each time: less than what may come at first, but it does not end."""
    rising = [
        changed(FIRST, at_s=10.0 * n, parties={"card0": changed(CARD, memory=n * 2 * MIB)})
        for n in range(24)
    ]
    assert slope(rising, lambda one: one.parties["card0"].memory) == pytest.approx(0.2 * MIB)
    (said,) = flat(rising)
    assert said == "card0 gained 22.0 MiB in the second half, and goes on"
    assert flat(rising[:9]) == []


def test_this_process_is_seen_as_it_is(tmp_path) -> None:
    before = sample(0, {}, tmp_path, 0)
    with (tmp_path / "one").open("wb"), socket.socket():
        after = sample(0, {}, tmp_path, 0)
    ours, then = after.parties["lab"], before.parties["lab"]
    assert (ours.descriptors, ours.sockets) == (then.descriptors + 2, then.sockets + 1)
    assert after.files == 1 and ours.memory > MIB
    assert left_behind({"lab": os.getpid(), "gone": 1 << 22}, tmp_path) == [
        f"lab (pid {os.getpid()}) still runs", "the run directory still has one",
    ]  # fmt: skip


def test_a_recovery_that_lasts_too_long_leaves_a_folder(tmp_path, monkeypatch) -> None:
    """Whoever is not well at once has failed."""
    monkeypatch.setattr(chaos, "RECOVERY_S", -1.0)
    report = Chaos(seed=1, target="sim", out=tmp_path / "chaos").play(INCIDENTS)
    (violation,) = report.violations
    assert report.failed and violation.invariant == 50 and "host" in violation.text
    assert f"INV-50 in step {violation.step}" in report.text() and str(tmp_path) in report.text()
    names = {one.name for one in Path(report.folder).iterdir()}
    assert {"log.txt", "violation.json", "wire.pcapng"} <= names
