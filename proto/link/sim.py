# SPDX-License-Identifier: Apache-2.0
"""Endpoints in memory: two ends of one channel within one process, for the simulator."""

from collections import deque
from typing import Self


class SimEndpoint:
    """One side of one channel (`proto.link.Endpoint`). Messages arrive at once and in order."""

    def __init__(self) -> None:
        self._queue: deque[bytes] = deque()
        self._peer: SimEndpoint | None = None

    @classmethod
    def pair(cls) -> tuple[Self, Self]:
        """Two endpoints, joined."""
        one, other = cls(), cls()
        one._peer, other._peer = other, one
        return one, other

    @property
    def waiting(self) -> int:
        """Messages that arrived and were not received yet."""
        return len(self._queue)

    def send(self, message: bytes) -> None:
        """Hand one message to the other side; into the void once that side is closed."""
        if self._peer is not None:
            self._peer._queue.append(message)

    def receive(self) -> list[bytes]:
        """Every message that waits, possibly none."""
        messages = list(self._queue)
        self._queue.clear()
        return messages

    def close(self) -> None:
        """Drop the channel, in both directions."""
        self._queue.clear()
        if self._peer is not None:
            self._peer._peer = None
        self._peer = None
