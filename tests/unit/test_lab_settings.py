# SPDX-License-Identifier: Apache-2.0
"""What a lab refuses before anything starts, and where it puts its files."""

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from host_driver.lab import Lab
from host_driver.lab.rundir import LOCK, VARIABLE, RunDir, abandoned, base_directory
from proto.status import OffloadError


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"target": "kernel"}, ("target 'kernel'", "sim, process")),
        ({"hosts": 3}, ("3 hosts", "1 or 2")),
        ({"hosts": 0}, ("0 hosts",)),
        ({"card": "cx9"}, ("card profile 'cx9'", "full")),
        ({"card": "full:no_such=1"}, ("no_such", "counter_bits")),
        ({"profile": "6.2"}, ("kernel profile '6.2'", "latest")),
        ({"link": "rdma"}, ("link 'rdma'", "ipc, tcp")),
        ({"seed": -1}, ("seed -1",)),
        ({"driver": "nomodule"}, ("driver 'nomodule'", "package.module:Class")),
    ],
)
def test_what_is_not_offered_is_refused_with_what_is(arguments, words):
    with pytest.raises(OffloadError) as refusal:
        Lab(**arguments)
    assert refusal.value.errno == errno.EINVAL
    for word in words:
        assert word in refusal.value.text


def test_a_lab_that_was_not_started_says_so():
    with pytest.raises(OffloadError, match="not started"):
        Lab().settle()


@pytest.fixture
def base(monkeypatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="xn-") as path:
        monkeypatch.setenv(VARIABLE, path)
        yield Path(path)


def test_a_run_directory_is_for_its_owner_only_and_goes_away(base):
    run_dir = RunDir()
    assert run_dir.path.parent == base
    assert stat.S_IMODE(run_dir.path.stat().st_mode) == 0o700
    run_dir.remove()
    assert list(base.iterdir()) == []


def test_the_next_lab_removes_what_a_killed_one_left(base):
    living = RunDir()
    killed = base / "lab-killed"
    killed.mkdir()
    (killed / LOCK).touch()
    assert abandoned(base) == [killed]
    RunDir().remove()
    assert sorted(path.name for path in base.iterdir()) == [living.path.name]
    living.remove()


def test_a_given_run_directory_must_be_empty(base):
    first = RunDir(base / "mine")
    with pytest.raises(OffloadError, match="not empty") as refusal:
        RunDir(base / "mine")
    assert refusal.value.errno == errno.EEXIST
    first.remove()
    RunDir(base / "mine").remove()


def test_a_run_directory_too_long_for_sockets_is_refused_before_it_is_made(base):
    path = base / ("x" * 100)
    with pytest.raises(OffloadError, match="107") as refusal:
        RunDir(path)
    assert refusal.value.errno == errno.ENAMETOOLONG
    assert not path.exists()


def test_a_base_that_others_can_enter_is_refused(base):
    base.chmod(0o755)
    with pytest.raises(OffloadError, match="0700") as refusal:
        base_directory()
    assert refusal.value.errno == errno.EPERM


def test_a_base_that_is_a_link_is_refused(base, monkeypatch):
    link = base / "link"
    link.symlink_to("/tmp")
    monkeypatch.setenv(VARIABLE, os.fspath(link))
    with pytest.raises(OffloadError, match="0700"):
        base_directory()
