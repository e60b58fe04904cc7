# SPDX-License-Identifier: Apache-2.0
"""The shell of a process: poll, step, send, until somebody says goodbye.

Ends with exit status 0 when a TERMINATE message or SIGTERM comes, or when the lifeline closes:
standard input, whose other end only the launcher holds, so that its death is seen at once. SIGINT
is ignored: Ctrl-C reaches the launcher, and the launcher decides.
"""

import ctypes
import os
import signal
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from proto.clock import Clock
from proto.frame import HEADER, Channel, FrameError, Kind, unpack
from proto.link.watch import Watch
from proto.link.zmq import Endpoint, Poller, wipe

_PR_SET_PDEATHSIG = 1
_NS_PER_MS = 1_000_000
POLL_MAX_MS = (1 << 31) - 1

# Messages of the rings that one step gets: two bursts, each with its counters. A step with all that
# fits the rings takes so long that events, commands and the user wait for it.
RING_MESSAGES = 4

# Keys arrive here: the host's netlink requests and the card's commands.
_KEY_CHANNELS = frozenset((Channel.MAILBOX, Channel.CONTROL))


class Party(Protocol):
    """A host or a card as a plain object."""

    def step(
        self, now_ns: int, inputs: Sequence[tuple[Channel, bytes]]
    ) -> list[tuple[Channel, bytes]]:
        """Take messages, give messages; never raises for bad input."""

    def deadline_ns(self) -> int | None:
        """When to step although nothing arrives."""


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the thread that started this process ends (Linux only).

    The second fence behind the lifeline: it also reaches a child that is busy compiling.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def lifeline() -> int | None:
    """Standard input if a launcher holds its other end; a terminal or /dev/null is none."""
    try:
        return 0 if stat.S_ISFIFO(os.fstat(0).st_mode) else None
    except OSError:
        return None


def run(
    party: Party, endpoints: Mapping[Channel, Endpoint], clock: Clock, lifeline_fd: int | None = 0
) -> int:
    """Serve until the end and return the exit status. Call it from the main thread.

    Messages of the channels that carry keys are zeroed after the step that read them, so a party
    must not keep views into them. What a channel's watch sees comes as its messages.
    """
    with _stop_signal() as stop:
        handles = [stop] if lifeline_fd is None else [stop, lifeline_fd]
        sources: list[tuple[Endpoint | Watch, Channel]] = [
            (source, channel)
            for channel, endpoint in endpoints.items()
            for source in (endpoint, endpoint.watch)
            if source is not None
        ]
        poller = Poller((source for source, _ in sources), handles)
        channels = {id(source): channel for source, channel in sources}
        inputs: list[tuple[Channel, bytes]] = []
        while True:
            for channel, message in party.step(clock.now_ns(), inputs):
                endpoints[channel].send(message)
                wipe(message)  # a command may hold a key; what is sent was copied
            for channel, message in inputs:
                if channel in _KEY_CHANNELS:
                    wipe(message)

            ready = poller.wait(timeout_ms(party.deadline_ns(), clock.now_ns()))
            if stop in ready or (lifeline_fd in ready and _is_closed(lifeline_fd)):
                return 0
            inputs = [
                (channels[id(endpoint)], message)
                for endpoint in ready
                if isinstance(endpoint, Endpoint | Watch)
                for message in _received(endpoint, channels[id(endpoint)])
            ]
            if any(_is_terminate(message) for _, message in inputs):
                return 0


def _received(source: Endpoint | Watch, channel: Channel) -> list[bytes]:
    if channel is Channel.RINGS and isinstance(source, Endpoint):
        return source.receive(RING_MESSAGES)
    return source.receive()


def timeout_ms(deadline_ns: int | None, now_ns: int) -> int | None:
    """How long to poll: rounded up, so that the deadline has passed afterwards (F-TIM-02), and at
    most POLL_MAX_MS, because a limit of an SA may lie beyond what poll can count (F-TIM-05)."""
    if deadline_ns is None:
        return None
    return min(max(0, -((now_ns - deadline_ns) // _NS_PER_MS)), POLL_MAX_MS)


def _is_terminate(message: bytes) -> bool:
    if len(message) != HEADER.size:
        return False
    try:
        return unpack(message).kind is Kind.TERMINATE
    except FrameError:
        return False  # the party counts it


def _is_closed(handle: int | None) -> bool:
    return handle is not None and not os.read(handle, 4096)


@contextmanager
def _stop_signal() -> Iterator[int]:
    """A descriptor that becomes readable on SIGTERM; SIGINT is ignored meanwhile."""
    readable, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = (
        signal.signal(signal.SIGTERM, lambda *_: os.write(writable, b"T")),
        signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        yield readable
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])
        os.close(readable)
        os.close(writable)
