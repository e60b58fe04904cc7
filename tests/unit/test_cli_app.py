# SPDX-License-Identifier: Apache-2.0
"""The command line without a lab: help, usage, exit status, and what it says then."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from host_driver.cli.app import VERBS, cli
from host_driver.lab import rundir
from proto.faults import SITES


def xfrmnic(*words: str) -> Result:
    return CliRunner().invoke(cli, words)


@pytest.fixture
def empty(tmp_path_factory: pytest.TempPathFactory, run_root: Path, monkeypatch) -> Path:
    """A run directory without labs."""
    base = run_root / "none"
    monkeypatch.setenv("XFRMNIC_RUN_DIR", str(base))
    return base


def test_help_names_every_verb_and_the_exit_status() -> None:
    result = xfrmnic("--help")
    assert result.exit_code == 0
    for verb in VERBS:
        assert f"\n  {verb} " in result.output
    assert "4 a peer died" in " ".join(result.output.split())


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_has_json_and_an_example(verb: str) -> None:
    result = xfrmnic(verb, "--help")
    assert result.exit_code == 0
    assert "--json" in result.output
    assert f"xfrmnic {verb}" in result.output.partition("Example:")[2]


@pytest.mark.parametrize(
    "words",
    [
        ["dance"],
        ["up", "--hosts", "3"],
        ["up", "--hosts", "two"],
        ["up", "--card", "gold"],
        ["up", "--card", "full:sa_max=0"],
        ["up", "--name", "../x"],
        ["up", "--seed", "-1"],
        ["ip"],
        ["ip", "--host", "-1", "xfrm", "state"],
        ["send"],
        ["send", "--hex", "zz"],
        ["send", "a.pcap", "--hex", "00"],
        ["capture"],
        ["bench", "nothing-of-that-name"],
        ["fault"],
        ["fault", "dance"],
        ["fault", "add"],
        ["fault", "add", "--site", "wire"],
        ["fault", "add", "--plan", "p.toml", "--site", "wire"],
        ["fault", "add", "--site", "wire", "--kind", "drop", "--match", "esp"],
        ["fault", "add", "--site", "wire", "--kind", "drop", "--probability", "2"],
        ["fault", "add", "--site", "wire", "--kind", "drop", "--times", "-1"],
        ["fault", "kinds", "--site", "moon"],
        ["fault", "rm"],
        ["fault", "log", "--last", "0"],
    ],
    ids=" ".join,
)
def test_usage_is_exit_2(words: list[str], empty: Path) -> None:
    assert xfrmnic(*words).exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["down"],
        ["ip", "xfrm", "state", "list"],
        ["send", "--hex", "45"],
        ["capture", "x"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("json_flag", [False, True], ids=["text", "json"])
def test_without_a_lab(words: list[str], json_flag: bool, empty: Path) -> None:
    result = xfrmnic(words[0], *(["--json"] if json_flag else []), *words[1:])
    assert result.exit_code == 3
    assert "no lab is running; start one with `xfrmnic up`" in result.stderr
    assert result.stdout == ""


def test_a_lab_of_another_name(empty: Path) -> None:
    result = xfrmnic("status", "--lab", "blue")
    assert result.exit_code == 3
    assert "no lab named 'blue' is running" in result.stderr


def test_a_file_that_is_not_there(empty: Path, tmp_path: Path) -> None:
    result = xfrmnic("send", str(tmp_path / "missing.pcap"))
    assert result.exit_code == 3
    assert "missing.pcap" in result.stderr
    assert "No such file" in result.stderr


def test_a_file_of_another_format(empty: Path, tmp_path: Path) -> None:
    (tmp_path / "a.pcapng").write_bytes(b"\x0a\x0d\x0d\x0a" + bytes(100))
    result = xfrmnic("send", str(tmp_path / "a.pcapng"))
    assert result.exit_code == 2
    assert "editcap" in result.stderr


def test_a_run_directory_too_long_for_a_socket(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XFRMNIC_RUN_DIR", str(tmp_path / ("x" * 100)))
    for words in (["up"], ["doctor"]):
        result = xfrmnic(*words)
        assert result.exit_code == 3
        text = result.stderr + result.stdout
        length = len(str(tmp_path)) + 1 + 100
        assert "107" in text
        assert "XFRMNIC_RUN_DIR" in text
        assert any(str(n) in text for n in range(length, length + 60)), "the length must be told"


def test_a_run_directory_that_cannot_be(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XFRMNIC_RUN_DIR", str(tmp_path / "file"))
    result = xfrmnic("status")
    assert result.exit_code == 3
    assert "XFRMNIC_RUN_DIR" in result.stderr


def test_doctor_finds_this_machine_fit(empty: Path) -> None:
    result = xfrmnic("doctor", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["ok"]
    found = {finding["what"]: finding for finding in report["findings"]}
    assert {"python", "numba", "cpu", "esp", "kernel cache", "run directory"} <= set(found)
    assert "AES-GCM form" in found["esp"]["text"]


def test_doctor_names_and_removes_what_a_killed_lab_left(empty: Path) -> None:
    lab = rundir.RunDir()
    (lab.path / "dma0").write_bytes(bytes(10))
    alive = rundir.RunDir()
    os.close(lab._lock)  # what the kernel does for a process that is killed
    said = xfrmnic("doctor")
    assert said.exit_code == 0
    assert str(lab.path) in said.stdout
    assert str(alive.path) not in said.stdout
    fixed = xfrmnic("doctor", "--fix")
    assert fixed.exit_code == 0
    assert f"{lab.path}: removed" in fixed.stdout
    assert not lab.path.exists()
    assert alive.path.exists()
    alive.remove()


@pytest.mark.parametrize(
    "words",
    [
        ["fault", "add", "--site", "wire", "--kind", "drop"],
        ["fault", "list"],
        ["fault", "rm", "x"],
        ["fault", "reset"],
        ["fault", "log"],
    ],
    ids=" ".join,
)
def test_faults_without_a_lab(words: list[str], empty: Path) -> None:
    for more in ([], ["--json"]):
        result = xfrmnic(*words, *more)
        assert result.exit_code == 3
        assert "no lab is running" in result.stderr


@pytest.mark.parametrize("verb", ["kinds", "add", "list", "rm", "reset", "log"])
def test_every_verb_of_faults_has_json_and_an_example(verb: str) -> None:
    result = xfrmnic("fault", verb, "--help")
    assert "--json" in result.output
    assert f"xfrmnic fault {verb}" in result.output.partition("Example:")[2]


def test_what_can_fail_is_listed_without_a_lab(empty: Path) -> None:
    text = xfrmnic("fault", "kinds").output
    data = json.loads(xfrmnic("fault", "kinds", "--json").output)
    assert set(data["sites"]) == set(SITES)
    for name, site in SITES.items():
        assert f"\n{name}: {site.what}" in f"\n{text}"
        assert set(data["sites"][name]["kinds"]) == set(site.kinds)
    rings = json.loads(xfrmnic("fault", "kinds", "--site", "ring", "--json").output)
    assert rings["sites"]
    assert all(name.startswith("ring.") for name in rings["sites"])


def test_a_plan_that_is_none(empty: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    missing = xfrmnic("fault", "add", "--plan", str(plan))
    assert missing.exit_code == 3
    assert "No such file" in missing.stderr
    plan.write_text("[[fault]]\nsite = 'wire'\nkind = 'melt'\n")
    bad = xfrmnic("fault", "add", "--plan", str(plan))
    assert bad.exit_code == 2
    assert "line 1: fault kind 'melt'" in bad.stderr
