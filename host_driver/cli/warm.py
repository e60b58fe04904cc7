# SPDX-License-Identifier: Apache-2.0
"""`xfrmnic warm`: compile the card's kernels into the cache.

The card's own program does it, because only nic_model may import numba.
"""

import subprocess
import sys
import time

import click

from host_driver.cli.common import BadEnvironment, example, json_option, show


@click.command(epilog=example("xfrmnic warm"))
@json_option
def warm(as_json: bool) -> None:
    """Compile the card's kernels now, so that nothing has to wait for it later."""
    started = time.monotonic()
    talk = sys.stderr if as_json else None
    done = subprocess.run([sys.executable, "-m", "nic_model", "--warm"], check=False, stdout=talk)
    if done.returncode:
        raise BadEnvironment(f"compiling the kernels ended with exit status {done.returncode}")
    seconds = round(time.monotonic() - started, 1)
    show({"seconds": seconds}, f"kernels are ready ({seconds} s)", as_json)
