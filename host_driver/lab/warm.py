# SPDX-License-Identifier: Apache-2.0
"""Compile the card's kernels before anybody waits for them: once per version of their sources.

The cache directory is named after the sources (`nic_model.cache`); a marker in it says that a
warm-up went through. A lock lets labs that start together wait for one compilation.
"""

import errno
import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

from host_driver.lab.child import environment
from proto.status import OffloadError


def warm_kernels() -> None:
    """Run `python -m nic_model --warm` where that was not done yet; its progress goes to stderr.

    Raises OffloadError: EIO if the kernels do not compile, EPERM if somebody else may have put
    code into the directory.
    """
    from nic_model.cache import WARM, cache_directory, compiles

    if not compiles():
        return
    directory = cache_directory()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_ours(directory)
    if (directory / WARM).exists():
        return
    with (directory / f"{WARM}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (directory / WARM).exists():
            return
        command = [sys.executable, "-m", "nic_model", "--warm"]
        status = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=sys.__stderr__, env=environment(), check=False
        ).returncode
        if status:
            raise OffloadError(
                errno.EIO, f"compiling the card's kernels failed: {' '.join(command)} -> {status}"
            )


def _check_ours(directory: Path) -> None:
    """What lies in there is run: by us, with all keys in reach."""
    found = directory.lstat()
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid in (0, os.geteuid())
    if not ours or found.st_mode & stat.S_IWOTH:
        raise OffloadError(
            errno.EPERM,
            f"cache directory {directory} must be a directory of user {os.geteuid()} that others "
            "cannot write to; remove it, or set NUMBA_CACHE_DIR",
        )
