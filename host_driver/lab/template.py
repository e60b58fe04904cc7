# SPDX-License-Identifier: Apache-2.0
"""Templates of cards and hosts: who launches has one of each, kept for the next lab.

A template belongs to the thread that started it, and ends with it. It holds no key and no state of
any lab. Where the environment has changed since, it is replaced.
"""

import atexit
import contextlib
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from proto.limits import HELLO_TIMEOUT_MS
from proto.link.fork_server import FLAG, ask

PASSING = {"PYTEST_CURRENT_TEST"}  # what changes all the time, and nobody heeds

# Threads of a library would not live on in what is forked; nobody needs them.
SINGLE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}

_kept: dict[tuple[int, int, str], "Template"] = {}  # by process, thread and module


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
            pid, status = os.waitpid(self.pid, how)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status


class Template:
    """`python -m MODULE --template`, loading or waiting."""

    def __init__(self, module: str, environment: dict[str, str]) -> None:
        self._made_of = _made_of(environment)
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
        return self._process.poll() is None and self._made_of == _made_of(environment)

    def fork(self, arguments: list[str], log: IO[bytes]) -> Forked:
        """A process of the module, with a lifeline. Raises OSError."""
        stdin, ours = os.pipe()
        lifeline = os.fdopen(ours, "wb")
        try:
            return Forked(ask(self._socket, arguments, stdin, log.fileno()), lifeline)
        except OSError:
            lifeline.close()
            raise
        finally:
            os.close(stdin)

    def close(self) -> None:
        """End it, and reap it."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


def template(module: str, environment: dict[str, str]) -> Template:
    """The one of this thread; it begins to load if it was not there."""
    key = _key(module)
    if key not in _kept or not _kept[key].serves(environment):
        drop(module)
        _kept[key] = Template(module, environment)
    return _kept[key]


def drop(module: str) -> None:
    """This thread's is of no use any more."""
    if one := _kept.pop(_key(module), None):
        one.close()


def _key(module: str) -> tuple[int, int, str]:
    return os.getpid(), threading.get_ident(), module


def _made_of(environment: dict[str, str]) -> tuple[dict[str, str], Path]:
    """What else makes processes of a module differ."""
    return {key: it for key, it in environment.items() if key not in PASSING}, Path.cwd()


@atexit.register
def _close_all() -> None:
    for (pid, _, _), one in list(_kept.items()):
        if pid == os.getpid():
            one.close()
