# SPDX-License-Identifier: Apache-2.0
"""Time as an argument. Cores get `now_ns`; only shells and the simulator hold a Clock."""

import time
from typing import Protocol

NS = 1_000_000_000


class Clock(Protocol):
    """Nanoseconds since the Unix epoch that never step back."""

    def now_ns(self) -> int: ...


class RealClock:
    """The wall clock as it stood at creation, carried on by the monotonic clock.

    Clocks of processes that begin together agree: of several looks at both clocks the one counts
    that nobody else's turn at the CPU came into.
    """

    LOOKS = 8

    def __init__(self) -> None:
        self._offset_ns = min(_look() for _ in range(self.LOOKS))[1]

    def now_ns(self) -> int:
        return self._offset_ns + time.monotonic_ns()


def _look() -> tuple[int, int]:
    """How long it took to look at the wall clock, and how far that is ahead of the monotonic."""
    before_ns = time.monotonic_ns()
    wall_ns = time.time_ns()
    after_ns = time.monotonic_ns()
    return after_ns - before_ns, wall_ns - (before_ns + after_ns) // 2


class VirtualClock:
    """Time that moves only when told to. Starts at 2022-11-27, the date of the series."""

    START_NS = 1_669_507_200 * NS

    def __init__(self) -> None:
        self._now_ns = self.START_NS

    def now_ns(self) -> int:
        return self._now_ns

    def advance_to(self, now_ns: int) -> None:
        """Move forward; going back is a bug of the caller."""
        assert now_ns >= self._now_ns, "virtual time cannot go back"
        self._now_ns = now_ns
