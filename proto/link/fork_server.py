# SPDX-License-Identifier: Apache-2.0
"""Processes that are forked, not started: what takes seconds to load is loaded once.

A template is a process that has loaded its program and waits. Whenever it is asked, it forks, and
the new process is a child of whoever started the template (clone(2): CLONE_PARENT), who waits for
it, signals it and loses it like any other.

    launcher -> template    the arguments (msgpack), with standard input and log as descriptors
    template -> launcher    the process id, or -errno (8 bytes, signed)
"""

import ctypes
import errno
import gc
import os
import platform
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from proto.link.loop import die_with_parent

FLAG = "--template"  # and the descriptor of the socket
REQUEST_MAX_BYTES = 65_536
_ANSWER_BYTES = 8
_CLONE_PARENT = 0x8000
_SYS_CLONE = {"x86_64": 56, "aarch64": 220}  # the number of clone(2); 0 for all else is a copy

Main = Callable[[list[str]], int]


class CannotFork(OSError):
    """A template has tried, and the kernel refuses: it will never work here."""


def possible() -> bool:
    """Whether this machine's clone(2) is known."""
    return platform.machine() in _SYS_CLONE


def ask(template: socket.socket, arguments: list[str], stdin: int, log: int) -> int:
    """Another process, with these arguments and descriptors -> its id.

    Raises CannotFork; OSError where the template does not answer. After any other exception, too,
    it must not be asked again: its answer would be taken for the next one's.
    """
    body = msgspec.msgpack.encode(arguments)
    if len(body) > REQUEST_MAX_BYTES:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
    socket.send_fds(template, [body], [stdin, log])
    pid = int.from_bytes(template.recv(_ANSWER_BYTES), signed=True)
    if pid < 0:
        raise CannotFork(-pid, os.strerror(-pid))
    if pid == 0:
        raise OSError(errno.EPIPE, os.strerror(errno.EPIPE))
    return pid


def begin(main: Main, prepare: Callable[[], Any]) -> int:
    """What `python -m` of a program does: run `main`, or with FLAG `prepare` and be its template.
    Returns an exit status."""
    if sys.argv[1:2] != [FLAG]:
        return main(sys.argv[1:])
    die_with_parent()
    prepare()
    gc.collect()
    gc.freeze()  # all share what is there, as long as nobody writes to it
    return _serve(socket.socket(fileno=int(sys.argv[2])), main)


def _serve(launcher: socket.socket, main: Main) -> int:
    """Fork whenever asked, until the launcher is gone; in a new process, run `main`."""
    while True:
        body, handles, _, _ = socket.recv_fds(launcher, REQUEST_MAX_BYTES, 2)
        if not body:
            return 0
        pid = _fork()
        if pid == 0:
            launcher.close()
            _settle_in(*handles)
            return main(msgspec.msgpack.decode(body, type=list[str]))
        for handle in handles:
            os.close(handle)
        launcher.send(pid.to_bytes(_ANSWER_BYTES, signed=True))


def _fork() -> int:
    """As fork(2), but the child is our parent's; -errno where that is not possible.

    The C library does not notice: of its handlers none runs, and what it calls the id of the main
    thread stays the template's. So no other thread may run here, and nobody signals threads.
    """
    python = ctypes.PyDLL(None, use_errno=True)  # calls that keep the interpreter's lock
    python.PyOS_BeforeFork()
    pid: int = python.syscall(
        _SYS_CLONE[platform.machine()], _CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0
    )
    failed = ctypes.get_errno()
    if pid == 0:
        python.PyOS_AfterFork_Child()
    else:
        python.PyOS_AfterFork_Parent()
    return -failed if pid < 0 else pid


def _settle_in(stdin: int, log: int) -> None:
    """A process group of its own, and its own descriptors."""
    os.setpgid(0, 0)
    for handle, standard in ((stdin, 0), (log, 1), (log, 2)):
        os.dup2(handle, standard)
    os.close(stdin)
    os.close(log)
