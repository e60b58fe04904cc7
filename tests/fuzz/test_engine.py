# SPDX-License-Identifier: Apache-2.0
"""The fuzzer finds what is planted, says the same for the same seed, and covers what there is."""

import random
import time
from typing import get_args

import msgspec
import pytest

from fuzz.cli import main
from fuzz.engine import Fuzzer, replay, shrink
from fuzz.mutate import mutate_bytes
from fuzz.target import Outcome, require, tree_of
from fuzz.targets import TARGETS
from host_driver import control
from host_driver.lab import service
from proto import commands, management


class Planted:
    """Reads `MAGIC`, a length and as many bytes; `bug` says what is wrong with it."""

    name = "planted"
    files = ("fuzz/test_engine.py",)

    def __init__(self, bug: str = "") -> None:
        self._bug = bug
        self._kept: list[bytes] = []

    def seeds(self) -> list[bytes]:
        return [b"MAGIC\x02ab", b"other"]

    def mutate(self, rng: random.Random, data: bytes, other: bytes) -> bytes:
        return mutate_bytes(rng, data, other)

    def reset(self) -> None:
        self._sum = 0

    def run(self, data: bytes) -> Outcome:
        if not data.startswith(b"MAGIC"):
            return Outcome(1, 1)
        if len(data) < 6:
            return Outcome(1, 1, {"short"})
        if data[5] > len(data) - 6:
            if self._bug == "crash" and data[5] > 200:
                raise IndexError("beyond the end")
            if self._bug == "hang" and data[5] > 200:
                _burn(20)
            return Outcome(1, 1, {"long"})
        if self._bug == "memory" and data[5] == 0:
            self._kept.append(bytearray(80 << 20))  # type: ignore[arg-type]
        if self._bug == "state":
            self._sum += data[5]
        return Outcome()

    def check(self) -> None:
        require(self._sum < 100, "the sum is too large")


def _burn(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


@pytest.mark.parametrize(
    ("bug", "says"),
    [
        ("crash", "IndexError: beyond the end"),
        ("hang", "processor time"),
        ("memory", "memory"),
        ("state", "the sum is too large"),
    ],
)
def test_what_is_planted_is_found_and_can_be_replayed(bug, says):
    report = Fuzzer(Planted(bug), 1).run(50_000)
    assert says in report.finding
    if bug in ("crash", "state"):
        few = shrink(Planted(bug), report.history)
        assert says in replay(Planted(bug), few)
        assert len(few) <= len(report.history)
        assert bug != "crash" or few[-1][:5] == b"MAGIC"


def test_nothing_is_found_where_nothing_is_planted():
    report = Fuzzer(Planted(), 1).run(5000)
    assert (report.finding, report.inputs) == ("", 5000)
    assert 0 < report.refused < report.offered == 5000
    assert report.edges > 5


def test_a_seed_gives_one_run():
    one, again, other = (Fuzzer(Planted(), seed).run(2000) for seed in (3, 3, 4))
    assert one.corpus == again.corpus
    assert (one.refused, one.edges) == (again.refused, again.edges)
    assert one.refused != other.refused


def _words(name: str) -> str:
    """Everything that the seeds of a target say."""
    return " ".join(str(tree_of(seed)) for seed in TARGETS[name]().seeds())


@pytest.mark.parametrize(
    ("target", "kinds"),
    [
        ("card-mailbox", get_args(commands.AnyCommand)),
        ("card-control", get_args(management.AnyRequest)),
        ("host-control", get_args(control.AnyQuery)),
        ("server", get_args(service.AnyRequest)),
    ],
)
def test_every_kind_of_message_is_among_the_seeds(target, kinds):
    said = _words(target)
    missing = {
        kind.__name__ for kind in kinds if f"'{msgspec.inspect.type_info(kind).tag}'" not in said
    }
    assert missing == set()


def test_the_program_reports_and_ends_well(capsys, tmp_path):
    path = tmp_path / "report.json"
    arguments = ["--count", "300", "--seed", "2", "--target", "card-text", "--json", str(path)]
    assert main(arguments) == 0
    report, total = msgspec.json.decode(path.read_bytes())
    assert report["target"] == "card-text"
    assert report["inputs"] == total["inputs"] == 300
    assert report["refused"] > 200
    assert "card-text" in capsys.readouterr().out


def test_the_program_tells_of_a_finding_and_replays_it(capsys, monkeypatch):
    monkeypatch.setitem(TARGETS, "planted", lambda: Planted("crash"))
    assert main(["--count", "20000", "--target", "planted"]) == 1
    said = capsys.readouterr().out
    assert "IndexError: beyond the end" in said
    command = said.splitlines()[-1].rpartition("--replay ")[2]
    assert main(["--replay", command]) == 1
