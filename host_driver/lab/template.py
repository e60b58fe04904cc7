# SPDX-License-Identifier: Apache-2.0
"""Templates of cards and hosts: who launches has one of each, kept for the next lab.

A template belongs to the thread that started it, and ends with it. It holds no key and no state of
any lab. What it forks inherits what the template did; where that has changed since, it is replaced.
"""

import atexit
import contextlib
import os
import resource
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

from proto.limits import CONTROL_TIMEOUT_MS, HELLO_TIMEOUT_MS
from proto.link.fork_server import FLAG, CannotFork, ask, possible

PASSING = {"PYTEST_CURRENT_TEST"}  # what changes all the time, and nobody heeds

LIMITS = sorted(getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_"))

# Threads of a library would not live on in what is forked; nobody needs them.
SINGLE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}

_kept: dict[tuple[int, int, str], "Template"] = {}  # by process, thread and module
_useless: list[CannotFork] = []  # why processes cannot be forked here, once that is known


class Forked:
    """What a template forked for us: as much of Popen as a Child needs."""

    def __init__(self, pid: int, stdin: IO[bytes]) -> None:
        self.pid = pid
        self.stdin = stdin
        self._status: int | None = None
        with contextlib.suppress(OSError):  # it does so itself, but may not have come so far
            os.setpgid(pid, pid)

    def poll(self) -> int | None:
        """Exit status, -signal, or None while it runs."""
        return self._reap(os.WNOHANG)

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        while (status := self._reap(0)) is None:
            pass
        return status

    def _reap(self, how: int) -> int | None:
        if self._status is None:
            try:
                pid, status = os.waitpid(self.pid, how)
            except ChildProcessError:  # somebody else has, and knows how it ended
                pid, status = self.pid, 0
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status


class Template:
    """`python -m MODULE --template`, loading or waiting."""

    def __init__(self, module: str, environment: dict[str, str]) -> None:
        self._inherited = _inherited(environment)
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(HELLO_TIMEOUT_MS / 1000)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, FLAG, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment | SINGLE_THREAD,
                pass_fds=[theirs.fileno()],
                umask=0o077,
                process_group=0,
            )

    def serves(self, environment: dict[str, str]) -> bool:
        """Whether it lives, and would be made alike again."""
        return not self.ended() and self._inherited == _inherited(environment)

    def ended(self) -> bool:
        """Whether it is dead."""
        return self._process.poll() is not None

    def fork(self, arguments: list[str], log: IO[bytes]) -> Forked:
        """A process of the module, with a lifeline. Raises OSError. After any exception the
        template is dead."""
        stdin, ours = os.pipe()
        lifeline = os.fdopen(ours, "wb")
        try:
            pid = ask(self._socket, arguments, stdin, log.fileno())
        except BaseException:
            lifeline.close()
            self.close()
            raise
        finally:
            os.close(stdin)
        self._socket.settimeout(CONTROL_TIMEOUT_MS / 1000)  # now that it has loaded
        return Forked(pid, lifeline)

    def close(self) -> None:
        """End it, and reap it."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


def template(module: str, environment: dict[str, str]) -> Template | None:
    """The one of this thread, which begins to load if it was not there; None where processes cannot
    be forked. Raises OSError."""
    if _useless or not possible():
        return None
    key = os.getpid(), threading.get_ident(), module
    if key not in _kept or not _kept[key].serves(environment):
        _drop([other for other, one in _kept.items() if other == key or one.ended()])
        _kept[key] = Template(module, environment)
    return _kept[key]


def fork(
    module: str, environment: dict[str, str], arguments: list[str], log: IO[bytes]
) -> Forked | None:
    """A process of a module, from its template; None where that does not work."""
    try:
        one = template(module, environment)
        return one.fork(arguments, log) if one is not None else None
    except CannotFork as error:
        _useless.append(error)
    except OSError:
        pass  # its template is dead; the next one may have more luck
    return None


def _drop(keys: list[tuple[int, int, str]]) -> None:
    for key in keys:
        one = _kept.pop(key)
        if key[0] == os.getpid():
            one.close()


def _inherited(environment: dict[str, str]) -> tuple[Any, ...]:
    """What makes processes of a module differ."""
    return (
        {key: it for key, it in environment.items() if key not in PASSING},
        Path.cwd(),
        os.getresuid(), os.getresgid(), os.getgroups(),
        os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0),
        [resource.getrlimit(kind) for kind in LIMITS],
    )  # fmt: skip


@atexit.register
def _close_all() -> None:
    _drop(list(_kept))
