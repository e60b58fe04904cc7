# SPDX-License-Identifier: Apache-2.0
"""Shrinking: the fewest steps that still break the same invariant, by delta debugging.

Zeller and Hildebrandt's ddmin (IEEE TSE 2002): take chunks away, halve them when none can go.
Faults are steps like others. What is left then gets simpler parameters, one at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import msgspec

from host_driver.simulate.actions import AnyAction

MEANING = ("id", "pick", "pinned")  # which step it is, and what it is about

T = TypeVar("T")
Fails = Callable[[Sequence[T]], bool]


class Budget:
    """So many tries, and while `may_go_on` says yes (a clock lies behind it)."""

    def __init__(self, tries: int, may_go_on: Callable[[], bool]) -> None:
        self.tries = tries
        self._may_go_on = may_go_on

    def spend(self) -> bool:
        """Whether one more try may be made; counts it."""
        if self.tries <= 0 or not self._may_go_on():
            return False
        self.tries -= 1
        return True


def ddmin(items: Sequence[T], fails: Fails[T], budget: Budget) -> list[T]:
    """The items without which it would not fail, as far as the budget goes.

    `items` fail already. Order is kept.
    """
    kept = list(items)
    chunks = 2
    while len(kept) >= 1:
        size = -(-len(kept) // chunks)
        for first in range(0, len(kept), size):
            rest = kept[:first] + kept[first + size :]
            if not budget.spend():
                return kept
            if fails(rest):
                kept, chunks = rest, max(chunks - 1, 2)
                break
        else:
            if size == 1:
                return kept
            chunks = min(len(kept), 2 * chunks)
    return kept


def simplify(
    actions: Sequence[AnyAction], fails: Fails[AnyAction], budget: Budget
) -> list[AnyAction]:
    """Each step with the plainest parameters that still fail."""
    kept = list(actions)
    for number, action in enumerate(kept):
        for name, plain in _drawn(action):
            if not budget.spend():
                return kept
            simpler = msgspec.structs.replace(kept[number], **{name: plain})
            candidate = [*kept[:number], simpler, *kept[number + 1 :]]
            if fails(candidate):
                kept[number] = simpler
    return kept


def _drawn(action: AnyAction) -> Iterator[tuple[str, object]]:
    """Parameters that are not what they are by default, and what that is."""
    for field in msgspec.structs.fields(action):
        if field.name in MEANING:
            continue
        plain = field.default
        if plain is not msgspec.NODEFAULT and getattr(action, field.name) != plain:
            yield field.name, plain
