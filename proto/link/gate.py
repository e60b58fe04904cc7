# SPDX-License-Identifier: Apache-2.0
"""Who may connect to the sockets of this process: asked for every peer before it gets a byte.

    ipc   the user of the peer, as the kernel tells it (SO_PEERCRED), must be ours. A socket that
          is for one peer takes no second process while the first one lives (F-SEC-01, F-LIF-21).
    tcp   CURVE: the one public key of the peer, and nobody without a key

The asking is ZeroMQ's (RFC 27, ZAP); who fails before that, because it speaks no ZMTP or has no
key, shows in the socket's monitor. Both are counted in `refused`, by reason, and logged with who it
was: LOG_LINES in LOG_INTERVAL_S, the rest as a number.
"""

import errno
import logging
import os
import re
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
IPC_PEER = re.compile(r":(\d+):\d+:(\d+)$")  # what libzmq appends to an ipc peer: uid, gid, pid
LOG_LINES, LOG_INTERVAL_S = 5, 10.0
FAILURES = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
)

_log = logging.getLogger("xfrmnic.link")


class Slow:
    """A log that nobody can fill: so many lines in so many seconds, then how many there were."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._since = -LOG_INTERVAL_S
        self._lines = self._more = 0

    def warn(self, text: str) -> None:
        """Log a line, or count it."""
        now = self._now()
        if now - self._since >= LOG_INTERVAL_S:
            self._since, self._lines = now, 0
        if self._lines == LOG_LINES:
            self._more += 1
            return
        self._lines += 1
        more = f" (and {self._more} more that were not logged)" if self._more else ""
        self._more = 0
        _log.warning("%s%s", text, more)


class Door:
    """One listening socket. `single`: for one peer at a time."""

    def __init__(self, address: str, *, single: bool) -> None:
        self.address = address
        self.single = single
        self.pid = 0  # of the peer that was let in; 0 where the kernel does not tell
        self.last = "somebody"  # who came last, for failures that name nobody

    def admit_process(self, uid: int, pid: int) -> "Refusal | None":
        """Why not, or None: then it is the peer from now on."""
        self.last = f"user {uid}, process {pid}"
        if uid != os.geteuid():
            return Refusal("user", f"{self.last} is not of user {os.geteuid()}")
        if self.single and self.pid not in (0, pid) and _lives(self.pid):
            return Refusal("second", f"{self.last} comes second, process {self.pid} is our peer")
        self.pid = pid
        return None


class Refusal(NamedTuple):
    """`reason` is what `Gate.refused` counts: user, second, key, address, handshake."""

    reason: str
    text: str


class Gate:
    """The doors of one ZeroMQ context, watched by one thread.

    `peer_key`: Z85 text, for tcp. `count` is called for each peer that is refused, in that thread.
    """

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        peer_key: bytes | None,
        count: Callable[[], None],
    ) -> None:
        self.refused: Counter[str] = Counter()
        self._count = count
        self._peer_key = peer_key
        self._slow = Slow()
        self._doors: dict[bytes, Door] = {}
        self._monitors: dict[Any, Door] = {}
        self._poller = zmq.Poller()
        self._kick = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = False
        self._zap = context.socket(zmq.REP)
        self._zap.linger = 0
        self._zap.bind(ZAP_ENDPOINT)
        for one in (self._zap, self._kick):
            self._poller.register(one, zmq.POLLIN)
        self._thread = threading.Thread(target=self._run, name="gate", daemon=True)
        self._lock = threading.Lock()
        self._thread.start()

    def guard(self, listening: "zmq.Socket[bytes]", address: str, *, single: bool) -> None:
        """Put a keeper before a socket; call it before the socket is bound."""
        door = Door(address, single=single)
        domain = b"%d" % (len(self._doors) + 1)
        listening.zap_domain = domain
        monitor = listening.get_monitor_socket(zmq.EVENT_ACCEPTED | sum(FAILURES))
        with self._lock:
            self._doors[domain] = door
            self._monitors[monitor] = door
        os.eventfd_write(self._kick, 1)

    def stop(self) -> None:
        """End the thread and close its sockets."""
        self._stopping = True
        os.eventfd_write(self._kick, 1)
        self._thread.join()
        for one in (self._zap, *self._monitors):
            one.close(linger=0)
        os.close(self._kick)

    def _run(self) -> None:
        while not self._stopping:
            for ready, _ in self._poller.poll():
                if ready is self._zap:
                    self._answer()
                elif ready == self._kick:
                    self._watch_new_doors()
                else:
                    self._note(ready)

    def _watch_new_doors(self) -> None:
        os.eventfd_read(self._kick)
        with self._lock:
            for monitor in self._monitors:
                self._poller.register(monitor, zmq.POLLIN)

    def _answer(self) -> None:
        """One ZAP request: version, number, domain, address, identity, mechanism, credentials."""
        version, number, domain, address, _, mechanism, *credentials = self._zap.recv_multipart()
        with self._lock:
            door = self._doors[domain]
        refusal = self._judge(door, address.decode(errors="replace"), mechanism, credentials)
        if refusal:
            self._refuse(door, refusal)
        code, text = (b"400", b"refused") if refusal else (b"200", b"OK")
        self._zap.send_multipart([version, number, code, text, b"", b""])

    def _judge(
        self, door: Door, address: str, mechanism: bytes, credentials: list[bytes]
    ) -> Refusal | None:
        """Why this peer is not let in."""
        if mechanism == b"CURVE":
            if self._peer_key is not None and credentials == [z85.decode(self._peer_key)]:
                return None
            return Refusal("key", f"{address} has another key than our peer")
        peer = IPC_PEER.search(address)
        if not peer:
            return Refusal("address", f"{address} is not of this machine and has no key")
        return door.admit_process(int(peer[1]), int(peer[2]))

    def _note(self, monitor: Any) -> None:
        """Who came, and whether it failed before it could be asked anything."""
        while monitor.poll(0):
            event = recv_monitor_message(monitor)
            door = self._monitors[monitor]
            if event["event"] == zmq.EVENT_ACCEPTED:
                door.last = _who(int(event["value"])) or door.last
            elif event["event"] in FAILURES:
                text = f"{door.last} failed the handshake: no key, or no ZMTP"
                self._refuse(door, Refusal("handshake", text))

    def _refuse(self, door: Door, refusal: Refusal) -> None:
        self.refused[refusal.reason] += 1
        self._count()
        self._slow.warn(f"refused at {door.address}: {refusal.text}")


def _lives(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not. Where it cannot
    be asked (no file descriptor is left) it does: in doubt nobody takes its place."""
    try:
        handle = os.pidfd_open(pid)
    except OSError as error:
        return error.errno != errno.ESRCH
    try:
        return not select.select([handle], [], [], 0)[0]
    finally:
        os.close(handle)


def _who(handle: int) -> str:
    """The other end of a connection that was just accepted; empty if it has gone already."""
    try:
        with socket.socket(fileno=os.dup(handle)) as accepted:
            if accepted.family == socket.AF_UNIX:
                raw = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                pid, uid = (int.from_bytes(raw[at : at + 4], "little") for at in (0, 4))
                return f"user {uid}, process {pid}"
            host, port = accepted.getpeername()[:2]
            return f"{host}:{port}"
    except OSError:
        return ""
