# SPDX-License-Identifier: Apache-2.0
"""Rows and their handles: how objects of one kind are numbered, found and found no more.

A handle is the row of the object with the low byte of its generation above it; a row that is used
again has another generation, so a stale handle finds nothing. Handles of different kinds live in
different spaces, as on real cards.
"""

from collections import deque
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from nic_model import tables
from nic_model.checks import Refused
from nic_model.tables import ROW_MASK
from proto.limits import LIST_PAGE
from proto.status import Status, Syndrome

GENERATION_MASK = (1 << 32) - 1
FREE_KEPT = 64  # rows that rest before one is used again, so that a handle does not soon come back

T = TypeVar("T")


class Handle(NamedTuple):
    """What the driver learns about a new object."""

    handle: int
    generation: int


class Rows(Generic[T]):
    """The rows 1..size of one kind of object. Row 0 stays unused, so that 0 means none."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self.live: dict[int, T] = {}
        self._generations = np.zeros(size + 1, np.uint32)
        self._free: deque[int] = deque()  # the one that has rested longest in front
        self._fresh = 1  # the first row that was never used

    def require_space(self) -> None:
        """Raises Refused(NO_RESOURCES) when every row is taken."""
        if len(self.live) >= self.size:
            raise self.full()

    def full(self) -> Refused:
        """The refusal of one row too many."""
        return Refused(
            Status.NO_RESOURCES,
            Syndrome.TABLE_FULL,
            f"{self.name} table is full at {self.size}, delete one or use a larger card",
        )

    def add(self, value: T) -> int:
        """Take a row and give it the next generation. Raises Refused(NO_RESOURCES)."""
        self.require_space()
        if len(self._free) > FREE_KEPT or self._fresh > self.size:
            row = self._free.popleft()
        else:
            row, self._fresh = self._fresh, self._fresh + 1
        self._generations[row] = (self.generation(row) + 1) & GENERATION_MASK or 1
        self.live[row] = value
        return row

    def remove(self, row: int) -> None:
        """Give a row back."""
        del self.live[row]
        self._free.append(row)

    def generation(self, row: int) -> int:
        """The generation of a row, 0 if it was never used."""
        return int(self._generations[row])

    def handle(self, row: int) -> Handle:
        """Handle and generation of a live row."""
        generation = self.generation(row)
        return Handle(tables.handle_of(row, generation), generation)

    def find(self, handle: int) -> int:
        """The row of a handle. Raises Refused(BAD_OBJECT) for a stale or unknown one."""
        row = handle & ROW_MASK
        if row not in self.live or self.handle(row).handle != handle:
            raise Refused(
                Status.BAD_OBJECT,
                Syndrome.HANDLE_UNKNOWN,
                f"{self.name} handle {handle:#x} names no live object",
            )
        return row

    def page(self, after: int, cookie: int = 0) -> tuple[list[int], int]:
        """The next LIST_PAGE live rows behind `after`, in order, and where to go on (0: nowhere);
        with a `cookie`, of the objects that carry it."""
        rows: list[int] = []
        for row in range(after + 1, self._fresh):
            one: Any = self.live.get(row)
            if one is None or (cookie and one.cookie != cookie):
                continue
            if len(rows) == LIST_PAGE:
                return rows, rows[-1]
            rows.append(row)
        return rows, 0
