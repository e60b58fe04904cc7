# SPDX-License-Identifier: Apache-2.0
"""Compiled kernels are code that a lab runs: it takes none that somebody else may have written."""

import os
from pathlib import Path

import pytest

from host_driver.lab.warm import warm_kernels
from nic_model.cache import WARM, cache_directory
from proto.status import OffloadError
from support.stranger import NOBODY


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that says of itself that all is compiled."""
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "0")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kernels"))
    directory = cache_directory()
    directory.mkdir(parents=True, mode=0o755)
    (directory / WARM).touch()
    return directory


def test_a_directory_of_ours_is_taken(kernels: Path) -> None:
    warm_kernels()


def everybody(directory: Path) -> None:
    directory.chmod(0o777)


def sticky(directory: Path) -> None:
    directory.chmod(0o1777)


def elsewhere(directory: Path) -> None:
    directory.rename(directory.with_name("other"))
    directory.symlink_to(directory.with_name("other"))


def nobody(directory: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a directory away")
    os.chown(directory, NOBODY, NOBODY)


@pytest.mark.parametrize("spoil", [everybody, sticky, elsewhere, nobody])
def test_a_directory_that_others_may_have_filled_is_refused(kernels: Path, spoil) -> None:
    spoil(kernels)
    with pytest.raises(OffloadError, match="that others cannot write to"):
        warm_kernels()
