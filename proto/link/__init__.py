# SPDX-License-Identifier: Apache-2.0
"""How messages travel: Endpoints (ZeroMQ or in memory), ring accounting and DMA memory."""

from typing import Protocol


class Endpoint(Protocol):
    """One side of one channel. Messages are framed bytes (`proto.frame`), in order, lossless."""

    def send(self, message: bytes) -> None:
        """Queue one message; never blocks, credits bound what may be queued."""

    def receive(self) -> list[bytes]:
        """Messages that wait, in order; possibly none, possibly not all of them yet."""

    def close(self) -> None:
        """Drop the channel without lingering."""
