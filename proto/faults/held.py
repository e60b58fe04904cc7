# SPDX-License-Identifier: Apache-2.0
"""What message faults do to bytes: broken copies, and messages that are held back for a while."""

import heapq
import random
from dataclasses import dataclass
from typing import Any, NamedTuple

HELD_MAX = 16_384  # messages of one table; beyond that the oldest is let go

Data = bytes | bytearray | memoryview


class Released(NamedTuple):
    """A message that was held back and goes on now; `context` is what `apply` was given with it."""

    site: str
    data: Data
    context: Any


@dataclass(slots=True, eq=False)
class _Held:
    """`passes` later messages of the same stream let it go, if it waits for any."""

    message: Released
    fault: str
    until_ns: int
    stream: object = None
    passes: int = 0


class Waiting:
    """Held messages of one table, let go in order of time; equal times in order of arrival."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, _Held]] = []
        self._order = 0
        self._reordered: list[_Held] = []

    def __len__(self) -> int:
        return len(self._heap) + len(self._reordered)

    def hold(self, message: Released, fault: str, until_ns: int) -> None:
        """Until a moment."""
        if len(self) >= HELD_MAX:
            self._let_go_oldest()
        self._push(_Held(message, fault, until_ns))

    def hold_behind(
        self, message: Released, fault: str, until_ns: int, stream: object, passes: int
    ) -> None:
        """Until `passes` messages of `stream` have passed, or a moment."""
        if len(self) >= HELD_MAX:
            self._let_go_oldest()
        self._reordered.append(_Held(message, fault, until_ns, stream, passes))

    def passed(self, stream: object, now_ns: int) -> None:
        """A message of a stream went its way."""
        for held in self._reordered:
            if held.stream == stream:
                held.passes -= 1
                if not held.passes:
                    held.until_ns = now_ns
        self._move(now_ns)

    def release(self, fault: str | None, now_ns: int = 0) -> None:
        """Let go at once what one fault held, or all of them."""
        everything = self._reordered + [held for _, _, held in sorted(self._heap)]
        self._heap, self._reordered = [], []
        for held in everything:
            if fault is None or held.fault == fault:
                held.until_ns = min(held.until_ns, now_ns)
            if held.passes and held.until_ns > now_ns:
                self._reordered.append(held)
            else:
                self._push(held)

    def due(self, now_ns: int) -> list[Released]:
        """Everything whose time has come."""
        if self._reordered:
            self._move(now_ns)
        out = []
        while self._heap and self._heap[0][0] <= now_ns:
            out.append(heapq.heappop(self._heap)[2].message)
        return out

    def deadline_ns(self) -> int | None:
        """When the next one goes."""
        times = [held.until_ns for held in self._reordered]
        if self._heap:
            times.append(self._heap[0][0])
        return min(times, default=None)

    def _move(self, now_ns: int) -> None:
        for held in self._reordered:
            if held.until_ns <= now_ns:
                self._push(held)
        self._reordered = [held for held in self._reordered if held.until_ns > now_ns]

    def _push(self, held: _Held) -> None:
        self._order += 1
        heapq.heappush(self._heap, (held.until_ns, self._order, held))

    def _let_go_oldest(self) -> None:
        """The next in time goes now: no message is lost, and a slow stream keeps its order."""
        if not self._heap:
            self._push(self._reordered.pop(0))
        _, order, held = heapq.heappop(self._heap)
        heapq.heappush(self._heap, (0, order, held))


def broken(data: Data, kind: str, value: int | None, rng: random.Random) -> list[Data]:
    """What drop, burst, outage, duplicate, truncate, extend and corrupt make of a message.

    Every copy of a writable message (a command, which may hold a key) is a buffer of its own, and
    one that does not go on is zeroed.
    """
    if kind == "duplicate":
        return [data, *(_like(data, bytearray(data)) for _ in range(value or 1))]
    results: list[Data] = []
    if kind == "truncate":
        results = [_like(data, bytearray(data[: value or 0]))]
    elif kind == "extend":
        results = [_like(data, bytearray(data) + rng.randbytes(value or 1))]
    elif kind == "corrupt":
        results = [_like(data, _flipped(data, value, rng)) if len(data) else data]
    if isinstance(data, bytearray) and not any(result is data for result in results):
        data[:] = bytes(len(data))
    return results


def _like(data: Data, made: bytearray) -> Data:
    """Writable where the message was."""
    return made if isinstance(data, bytearray) else bytes(made)


def _flipped(data: Data, value: int | None, rng: random.Random) -> bytearray:
    bits = len(data) * 8
    bit = rng.randrange(bits) if value is None else value % bits
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << (bit % 8)
    return flipped
