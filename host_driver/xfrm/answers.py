# SPDX-License-Identifier: Apache-2.0
"""What one datagram is answered, as a socket would give it: message after message, in pieces.

A dump is no list: it goes on as its answers are taken, so it needs no more memory than a piece, and
what happens to the SAD or SPD meanwhile shows in it as it does on a socket (UAPI-04, DUMP-01).
"""

from collections import deque
from collections.abc import Iterator

from proto.limits import NETLINK_DUMP_BYTES


class Answers:
    """Messages that are there, and those that a dump has still to give, which come last."""

    def __init__(self) -> None:
        self._ready: deque[bytes] = deque()
        self._dump: Iterator[bytes] | None = None

    def add(self, messages: list[bytes]) -> None:
        """Answers of a request that is done."""
        self._ready += messages

    def start(self, dump: Iterator[bytes]) -> None:
        """Begin a dump: the kernel fills the first buffer before it looks at the next message."""
        self._dump = dump
        self._ready += self._fill(NETLINK_DUMP_BYTES)

    @property
    def dumping(self) -> bool:
        """Whether a dump is not at its end; one requester can have one."""
        return self._dump is not None

    def take(self, room: int = NETLINK_DUMP_BYTES) -> list[bytes]:
        """The next messages, of `room` bytes or a little more; none at the end."""
        taken: list[bytes] = []
        while self._ready and room > 0:
            taken.append(self._ready.popleft())
            room -= len(taken[-1])
        if room > 0:
            taken += self._fill(room)
        return taken

    def __bool__(self) -> bool:
        return bool(self._ready) or self.dumping

    def __iter__(self) -> Iterator[bytes]:
        """Everything, one message at a time."""
        while self:
            yield from self.take()

    def _fill(self, room: int) -> list[bytes]:
        taken: list[bytes] = []
        while self._dump is not None and room > 0:
            message = next(self._dump, None)
            if message is None:
                self._dump = None
            else:
                taken.append(message)
                room -= len(message)
        return taken
