# SPDX-License-Identifier: Apache-2.0
"""Ring accounting: running indices and credits. Positions are `index % RING_SIZE`.

producer: take(n) slots while it has credits -> message with the index of the first
consumer: arrived(index, n) -> how many were lost before it; later says how far it is done
producer: completed(index, n) -> done with everything before index + n, also with what messages that
          got lost would have said

Indices are 32 bits and wrap; what lies less than half the space behind is from the past (`Stale`),
everything else that does not fit the ring is an error of the peer.
"""

from proto.frame import INDEX_MASK

_HALF = (INDEX_MASK + 1) // 2


class RingError(ValueError):
    """The peer broke the credit rules: credits beyond the ring, or an index that cannot be."""


class Stale(RingError):
    """An index from the past: the message came twice, or too late. Nothing is wrong with it."""


def distance(index: int, origin: int) -> int:
    """How far `index` lies ahead of `origin`, below 0 when behind it."""
    return ((index - origin + _HALF) & INDEX_MASK) - _HALF


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

    def completed(self, index: int, count: int) -> int:
        """The peer is done with all items before `index + count`; returns how many that are.

        Raises Stale where that was known, RingError for items that were never sent.
        """
        done = distance(index + count, self.index) + self.outstanding
        if done <= 0:
            raise Stale(f"items {index}+{count} were completed before")
        self.refill(done)
        return done

    def restart(self, index: int) -> None:
        """Begin anew at `index` with all credits."""
        self.index, self.credits = index & INDEX_MASK, self.size

    @property
    def outstanding(self) -> int:
        """Items sent and not yet done."""
        return self.size - self.credits

    @property
    def first(self) -> int:
        """Number of the oldest item that is out; `index` when none is."""
        return (self.index - self.outstanding) & INDEX_MASK


class Consumer:
    """The receiving side. `index` is the number of the item expected next."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.index = 0

    def arrived(self, index: int, count: int) -> int:
        """Account for `count` items from `index` on; returns how many were lost before them.

        Raises Stale for an index from the past, RingError for one outside the ring ahead.
        """
        lost = distance(index, self.index)
        if lost < 0:
            raise Stale(f"items {index}+{count} came before {self.index}")
        if lost + count > self.size:
            raise RingError(f"items {index}+{count} do not follow {self.index}")
        self.index = (index + count) & INDEX_MASK
        return lost

    def restart(self, index: int) -> None:
        """Expect `index` next."""
        self.index = index & INDEX_MASK
