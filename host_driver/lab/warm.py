# SPDX-License-Identifier: Apache-2.0
"""Compile the card's kernels before anybody waits for them: once per version of their sources.

The cache directory is named after the sources (`nic_model.cache`); a marker in it says that a
warm-up went through. A lock lets labs that start together wait for one compilation.
"""

import errno
import fcntl
import subprocess
import sys

from host_driver.lab.child import environment
from proto.status import OffloadError


def warm_kernels() -> None:
    """Run `python -m nic_model --warm` where that was not done yet; its progress goes to stderr.

    Raises OffloadError(EIO) if the kernels do not compile.
    """
    from nic_model.cache import WARM, cache_directory, compiles

    if not compiles():
        return
    directory = cache_directory()
    if (directory / WARM).exists():
        return
    directory.mkdir(parents=True, exist_ok=True)
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
