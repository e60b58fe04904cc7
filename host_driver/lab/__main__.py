# SPDX-License-Identifier: Apache-2.0
"""`python -m host_driver.lab`: the process of a background lab, started by `xfrmnic up`.

1. run directory lab-NAME, with everything of the lab inside     3. pid and control socket: HELLO
2. the lab itself: cards, hosts, wire                            4. talk goes to the log from now
"""

import argparse
import os
import resource
import signal
import sys
from pathlib import Path
from types import FrameType

from host_driver.lab import rundir, service
from host_driver.lab.asking import PeerDied
from host_driver.lab.lab import Lab
from host_driver.lab.server import Server
from host_driver.xfrm.profile import LATEST
from proto.link.zmq import Hub
from proto.status import OffloadError


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m host_driver.lab", description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--card", default="full")
    parser.add_argument("--profile", default=LATEST.name)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def _talk_to(log: Path) -> None:
    """Whoever started us reads our stderr only until we are ready."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


def run(arguments: argparse.Namespace, directory: rundir.RunDir) -> None:
    """Bring the lab up, serve, take it down."""
    path = directory.path
    with (
        Lab(
            target="process",
            hosts=arguments.hosts,
            card=arguments.card,
            profile=arguments.profile,
            seed=arguments.seed,
            run_dir=path / service.LAB_DIRECTORY,
        ) as lab,
        Hub() as hub,
    ):
        lab.start_capture()
        (path / service.PID_FILE).write_text(f"{os.getpid()}\n")
        socket = hub.serve(service.control_address(path))
        _talk_to(path / service.LOG_FILE)
        Server(arguments.name, os.getpid(), lab, socket).serve()


def main() -> int:
    """Exit status: 0 after `down` or SIGTERM, 3 if the lab cannot run here, 4 if a process died at
    the start (a later death is told by `status`)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold keys
    signal.signal(signal.SIGTERM, _end)
    arguments = _arguments()
    try:
        directory = rundir.RunDir(rundir.base_directory() / f"lab-{arguments.name}")
        try:
            run(arguments, directory)
        finally:
            directory.remove()
    except PeerDied as death:
        print(death.text, file=sys.stderr)
        return 4
    except OffloadError as error:
        print(error.text, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
