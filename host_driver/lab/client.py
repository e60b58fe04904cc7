# SPDX-License-Identifier: Apache-2.0
"""Background labs seen from outside: which ones run, how to start one, how to ask one."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

from host_driver.lab import rundir, service
from host_driver.lab.asking import PeerDied
from host_driver.lab.child import WIPING_ALLOCATOR, environment
from proto.limits import (
    CONTROL_TIMEOUT_MS,
    HELLO_TIMEOUT_MS,
    SETTLE_TIMEOUT_MS,
    TERMINATE_TIMEOUT_MS,
)
from proto.link.zmq import Endpoint, Hub, Poller
from proto.status import OffloadError

# Settling, then writing or asking: no request takes longer than these together.
ANSWER_TIMEOUT_MS = SETTLE_TIMEOUT_MS + CONTROL_TIMEOUT_MS
PEER_DIED = 4  # exit status of a lab that lost a process while it started


class NoLab(OffloadError):
    """There is no lab, or none of that name."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.ENOENT, text)


class SeveralLabs(OffloadError):
    """Several labs run and none was named."""

    def __init__(self, names: list[str]) -> None:
        text = f"{len(names)} labs are running, choose one with --lab: {', '.join(names)}"
        super().__init__(errno.EINVAL, text)


def _not_started(status: int) -> OffloadError:
    """The lab's process ended instead of saying HELLO; it wrote the reason to stderr."""
    text = f"the lab did not start, its process ended with exit status {status}"
    return PeerDied(text) if status == PEER_DIED else OffloadError(errno.ECHILD, text)


def running() -> dict[str, Path]:
    """Run directories of the background labs that live, by name."""
    base = rundir.base_directory()
    dead = set(rundir.abandoned(base))
    return {
        path.name.removeprefix("lab-"): path
        for path in sorted(base.glob("lab-*"))
        if (path / service.PID_FILE).exists() and path not in dead
    }


def find(name: str | None = None) -> "Client":
    """The lab of that name, or the only one. Raises NoLab, SeveralLabs."""
    labs = running()
    if name is not None and name not in labs:
        others = f"; running: {', '.join(labs)}" if labs else ""
        raise NoLab(f"no lab named {name!r} is running{others}")
    if not labs:
        raise NoLab("no lab is running; start one with `xfrmnic up`")
    if name is None and len(labs) > 1:
        raise SeveralLabs(list(labs))
    chosen = name if name is not None else next(iter(labs))
    return Client(chosen, labs[chosen])


def start(name: str, arguments: list[str]) -> dict[str, Any]:
    """Start a background lab and wait for its HELLO; -> its status.

    Raises OffloadError(EEXIST) for a name in use, ECHILD or PeerDied if it does not
    come up, and ETIMEDOUT.
    """
    base = rundir.base_directory()
    if name in running():
        raise OffloadError(
            errno.EEXIST,
            f"a lab named {name!r} is running already; `xfrmnic down` ends it, "
            "`xfrmnic up --name NAME` starts another one beside it",
        )
    rundir.abandoned(base, remove=True)
    rundir.check_length(base / f"lab-{name}" / service.LAB_DIRECTORY)
    daemon = subprocess.Popen(
        [sys.executable, "-m", "host_driver.lab", "--name", name, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=sys.__stderr__,
        env=environment() | WIPING_ALLOCATOR,
        umask=0o077,
        start_new_session=True,
    )
    try:
        with Client(name, base / f"lab-{name}", pid=daemon.pid) as client:
            status = client.ask(service.Status(), 2 * HELLO_TIMEOUT_MS)
    except PeerDied:
        raise _not_started(daemon.wait()) from None
    except BaseException:
        daemon.terminate()
        raise
    assert isinstance(status, dict)
    return status


class Client:
    """A connection to one background lab. `pid` is read from its run directory if not given."""

    def __init__(self, name: str, path: Path, pid: int | None = None) -> None:
        self.name = name
        self.path = path
        self._pid = pid
        self._asked = 0

    def __enter__(self) -> Self:
        """Connect. Raises NoLab if the lab has just ended."""
        try:
            pid = self._pid or int((self.path / service.PID_FILE).read_text())
            self._pidfd = os.pidfd_open(pid)
        except (OSError, ValueError):
            raise NoLab(f"lab {self.name!r} has just ended") from None
        self._hub = Hub()
        try:
            self._endpoint: Endpoint = self._hub.connect(service.control_address(self.path))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._hub.close()
        os.close(self._pidfd)

    def ask(self, request: service.AnyRequest, timeout_ms: int = ANSWER_TIMEOUT_MS) -> Any:
        """The answer's value. Raises what the lab refuses, PeerDied, OffloadError(ETIMEDOUT)."""
        deadline = time.monotonic() + timeout_ms / 1000
        self._asked += 1
        self._endpoint.send(service.encode(service.Asked(self._asked, request)))
        answer = self._wait(self._asked, deadline)
        if answer.errno == errno.EOWNERDEAD:
            raise PeerDied(answer.text)
        if answer.errno:
            raise OffloadError(answer.errno, answer.text)
        return answer.value

    def down(self) -> None:
        """End the lab and wait until its process is gone."""
        self.ask(service.Down())
        if not Poller([], [self._pidfd]).wait(4 * TERMINATE_TIMEOUT_MS):
            raise OffloadError(errno.ETIMEDOUT, f"lab {self.name!r} said goodbye but did not end")

    def _wait(self, number: int, deadline: float) -> service.Answered:
        poller = Poller([self._endpoint], [self._pidfd])
        while (left := deadline - time.monotonic()) > 0:
            ready = poller.wait(round(left * 1000) + 1)
            for raw in self._endpoint.receive():
                answer = service.decode_answer(raw)
                if answer.number == number:
                    return answer
            if self._pidfd in ready:
                raise PeerDied(f"the process of lab {self.name!r} has ended")
        raise OffloadError(errno.ETIMEDOUT, f"lab {self.name!r} did not answer in time")
