# SPDX-License-Identifier: Apache-2.0
"""Ring accounting: running indices and credits. Positions are `index % RING_SIZE`.

producer: take(n) slots while it has credits -> message with the index of the first
consumer: arrived(index, n) -> how many were lost before it; later returns credits for both
"""

from proto.frame import INDEX_MASK


class RingError(ValueError):
    """The peer broke the credit rules: credits beyond the ring, or an index from the past."""


class Producer:
    """The sending side. `index` is the number of the next item, `credits` what may be sent."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.index = 0
        self.credits = size

    def take(self, count: int) -> int:
        """Reserve `count` positions and return the index of the first."""
        assert 0 < count <= self.credits, "sending without credits"
        first = self.index
        self.index = (self.index + count) & INDEX_MASK
        self.credits -= count
        return first

    def refill(self, count: int) -> None:
        """The peer is done with `count` items. Raises RingError for more than were sent."""
        if count > self.size - self.credits:
            raise RingError(
                f"{count} credits came back, only {self.size - self.credits} items are out"
            )
        self.credits += count

    @property
    def outstanding(self) -> int:
        """Items sent and not yet done."""
        return self.size - self.credits


class Consumer:
    """The receiving side. `index` is the number of the item expected next."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.index = 0

    def arrived(self, index: int, count: int) -> int:
        """Account for `count` items from `index` on; returns how many were lost before them.

        Raises RingError for an index outside the ring ahead (a doubled or foreign message).
        """
        lost = (index - self.index) & INDEX_MASK
        if lost + count > self.size:
            raise RingError(f"items {index}+{count} do not follow {self.index}")
        self.index = (index + count) & INDEX_MASK
        return lost
