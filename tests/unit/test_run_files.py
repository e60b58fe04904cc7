# SPDX-License-Identifier: Apache-2.0
"""Files that others prepared for us: DMA files and run directories are taken only where they are
ours."""

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from host_driver.lab.rundir import VARIABLE, RunDir, base_directory
from proto.frame import FrameError
from proto.limits import DMA_BYTES
from proto.link.dma import Dma
from proto.status import OffloadError
from support.stranger import NOBODY

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="xn-") as path:
        yield Path(path)


@pytest.fixture
def dma(directory: Path) -> Path:
    Dma.create(directory / "dma0")
    return directory / "dma0"


def test_a_dma_file_is_made_for_its_owner_and_opened(dma: Path) -> None:
    assert stat.S_IMODE(dma.stat().st_mode) == 0o600
    assert len(Dma.open(dma).memory) == DMA_BYTES
    with pytest.raises(FileExistsError):
        Dma.create(dma)


def test_a_dma_file_behind_a_link_is_refused(directory: Path, dma: Path) -> None:
    (directory / "soft").symlink_to(dma)
    with pytest.raises(OSError) as refusal:
        Dma.open(directory / "soft")
    assert refusal.value.errno == errno.ELOOP
    with pytest.raises(OSError):  # and none is made through one
        Dma.create(directory / "soft")
    (directory / "hard").hardlink_to(dma)
    with pytest.raises(OffloadError, match="must be a file of user"):
        Dma.open(directory / "hard")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_dma_file_that_others_can_open_is_refused(dma: Path, mode: int) -> None:
    dma.chmod(mode)
    with pytest.raises(OffloadError, match="mode 0600") as refusal:
        Dma.open(dma)
    assert refusal.value.errno == errno.EPERM


@ROOT
def test_a_dma_file_of_another_user_is_refused(dma: Path) -> None:
    os.chown(dma, NOBODY, NOBODY)
    with pytest.raises(OffloadError, match="must be a file of user 0"):
        Dma.open(dma)


def test_what_is_no_dma_file_is_refused_and_does_not_block(directory: Path) -> None:
    os.mkfifo(directory / "fifo", 0o600)
    with pytest.raises(OffloadError):
        Dma.open(directory / "fifo")
    (directory / "short").write_bytes(b"short")
    (directory / "short").chmod(0o600)
    with pytest.raises(FrameError, match="bytes long"):
        Dma.open(directory / "short")


def test_a_run_directory_behind_a_link_is_refused(directory: Path) -> None:
    (directory / "elsewhere").mkdir()
    (directory / "lab").symlink_to(directory / "elsewhere")
    with pytest.raises(OffloadError, match="lab"):
        RunDir(directory / "lab")
    assert list((directory / "elsewhere").iterdir()) == []


@ROOT
def test_a_run_directory_of_another_user_is_refused(directory: Path) -> None:
    (directory / "lab").mkdir()
    os.chown(directory / "lab", NOBODY, NOBODY)
    with pytest.raises(OffloadError, match="another user"):
        RunDir(directory / "lab")


def test_a_run_directory_that_others_can_replace_is_refused(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_to_all = directory / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    with pytest.raises(OffloadError, match="others can replace"):
        RunDir(open_to_all / "lab")
    monkeypatch.setenv(VARIABLE, str(open_to_all / "base"))
    with pytest.raises(OffloadError, match="others can replace"):
        base_directory()
    open_to_all.chmod(0o1777)  # as /tmp is
    RunDir(open_to_all / "lab").remove()


def test_a_lock_is_not_made_through_a_link(directory: Path) -> None:
    """Whoever could write there once must not make us create files elsewhere."""
    base = directory / "base"
    (base / "lab-x").mkdir(parents=True)
    (base / "lab-x" / "lab.lock").symlink_to(directory / "target")
    base.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(base))
        RunDir().remove()
    assert not (directory / "target").exists()
