# SPDX-License-Identifier: Apache-2.0
"""The reference replay window: RFC 4303 3.4.3 and appendix A2, as sets of numbers, no bitmap."""

from enum import Enum

SPACE = 1 << 32


class Fate(Enum):
    """What the window says about a received number before the ICV is looked at."""

    FRESH = "fresh"
    DUPLICATE = "duplicate"
    OLD = "old"
    ZERO = "zero"


class Window:
    """`size` packets up to `top`; a size of 0 lets everything pass. With `esn` numbers have 64
    bits, of which only the low half travels."""

    def __init__(self, size: int, top: int, *, esn: bool) -> None:
        self.size = size
        self.top = top
        self.esn = esn
        self._seen: set[int] = set()

    def number(self, low: int) -> int:
        """The whole number that a received low half stands for (RFC 4303 A2.2)."""
        if not self.esn:
            return low
        high, top = divmod(self.top, SPACE)
        bottom = top - self.size + 1
        if bottom >= 0:  # case A: the window lies in one subspace
            high += low < bottom
        elif low >= bottom + SPACE:  # case B: it spans two
            high -= 1
        return (high & (SPACE - 1)) * SPACE + low

    def judge(self, low: int) -> Fate:
        """Whether a packet may be opened. Left of the window ESN knows none: such a number is taken
        for one of the next subspace, and its ICV will be wrong."""
        if not self.size:
            return Fate.FRESH
        number = self.number(low)
        if number == 0:
            return Fate.ZERO
        if number > self.top:
            return Fate.FRESH
        if number <= self.top - self.size:
            return Fate.OLD
        return Fate.DUPLICATE if number in self._seen else Fate.FRESH

    def take(self, number: int) -> None:
        """An authentic packet moves the window (RFC 4303 3.4.3, INV-19)."""
        if not self.size:
            return
        self._seen.add(number)
        if number > self.top:
            self.top = number
            if len(self._seen) > 2 * self.size:
                self._seen = {one for one in self._seen if one > number - self.size}
