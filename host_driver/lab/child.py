# SPDX-License-Identifier: Apache-2.0
"""One process of a lab: forked from a template, or started where there can be none, with a
lifeline; watched by pidfd, ended in three steps.

    TERMINATE message -> grace -> SIGTERM -> grace -> SIGKILL, and always reaped

Its standard input is a pipe that only the lab holds: when the lab dies, however it dies, the pipe
closes and the child ends by itself.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from host_driver.lab.template import fork, template

LOG_TAIL_LINES = 8

# Keys pass through many short-lived buffers: requests, replies, frames, ZeroMQ's own. With these,
# glibc overwrites every block when it is freed (the kernel calls that init_on_free), so that none
# keeps a key. Without the per-thread cache, as blocks in there are not overwritten. Blocks of the
# size of a burst stay with the process: to map them anew costs more than to fill them.
WIPING_ALLOCATOR = {
    "PYTHONMALLOC": "malloc",
    "GLIBC_TUNABLES": ":".join(
        f"glibc.malloc.{name}={value}"
        for name, value in {
            "perturb": 165,
            "tcache_count": 0,
            "mmap_threshold": 32 << 20,
            "trim_threshold": 256 << 20,
        }.items()
    ),
}


class Child:
    """`python -m MODULE ARGUMENTS`, in its own process group. `pidfd` gets readable at its end."""

    def __init__(self, name: str, module: str, arguments: list[str], log: Path) -> None:
        self.name = name
        self.log = log
        with _open_log(log) as output:
            env = environment() | WIPING_ALLOCATOR
            forked = fork(module, env, arguments, output)
            self._process = forked or _start(module, env, arguments, output)
        self.pid = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)

    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    @property
    def status(self) -> int | None:
        """Exit status; None while it runs."""
        return self._process.poll()

    def epitaph(self) -> str:
        """How it ended, and the last lines it wrote."""
        status = self._process.wait()
        if status < 0:
            how = f"was killed by {signal.Signals(-status).name}"
        else:
            how = f"exited with status {status}"
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        tail = "".join(f"\n    {line}" for line in lines[-LOG_TAIL_LINES:])
        return f"{self.name} (pid {self.pid}) {how}{tail}"

    def wait(self, seconds: float) -> bool:
        """Wait for its end, at most `seconds`; whether it has ended."""
        select.select([self.pidfd], [], [], max(0.0, seconds))
        return self.ended()

    def stop(self) -> None:
        """SIGSTOP; returns when it stands still."""
        self._signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and reap. The lifeline and the pidfd are closed."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
        self.pidfd = -1

    def _signal(self, number: signal.Signals) -> None:
        if not self.ended():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    @staticmethod
    def end_all(children: list["Child"], grace_seconds: float) -> None:
        """Wait for a goodbye that was said, then SIGTERM, then SIGKILL, for all of them at once."""
        for number in (None, signal.SIGTERM):
            deadline = time.monotonic() + grace_seconds
            for child in children:
                if number is not None:
                    child._signal(number)
            for child in children:
                child.wait(deadline - time.monotonic())
        for child in children:
            child.kill()


def prepare(module: str) -> None:
    """Begin to load a module that processes will be forked of."""
    with contextlib.suppress(OSError):  # whoever needs a process will hear of it
        template(module, environment() | WIPING_ALLOCATOR)


def _start(
    module: str, env: dict[str, str], arguments: list[str], log: IO[bytes]
) -> subprocess.Popen[bytes]:
    """A process that loads everything itself."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=env,
        umask=0o077,
        process_group=0,
    )


def _open_log(path: Path) -> IO[bytes]:
    """For our user only, whatever the umask, and never somebody else's file."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    return os.fdopen(os.open(path, flags, 0o600), "ab")


def environment() -> dict[str, str]:
    """Ours, with every place we import from: also a driver class beside the caller's script."""
    paths = [str(Path(__file__).resolve().parents[2]), *(path for path in sys.path if path)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
