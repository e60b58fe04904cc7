# SPDX-License-Identifier: Apache-2.0
"""What a planted bug is: a small change of the product for the length of one run.

A bug says which invariants may name it, and the seed that is known to find it.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from nic_model import rx_queue, tx_queue
from nic_model.objects import Objects
from proto.commands import CreateSa

Plant = Callable[[pytest.MonkeyPatch], None]

STEPS = 300


class Bug(NamedTuple):
    """`plant` changes the product until its patch is undone; its docstring says what breaks.

    `seed` draws a plan of `STEPS`, whose first `steps` are played and, with `ends`, its end.
    """

    name: str
    plant: Plant
    invariants: frozenset[int]
    seed: int
    steps: int
    ends: bool


BUGS: dict[str, Bug] = {}


def bug(
    *invariants: int, seed: int, steps: int = STEPS, ends: bool = False
) -> Callable[[Plant], Plant]:
    """A bug that one of these invariants must name, found by the life of this seed."""

    def note(plant: Plant) -> Plant:
        assert plant.__doc__, f"{plant.__name__} does not say what breaks"
        BUGS[plant.__name__] = Bug(plant.__name__, plant, frozenset(invariants), seed, steps, ends)
        return plant

    return note


def wrap(
    patch: pytest.MonkeyPatch, owner: Any, name: str, around: Callable[..., Any]
) -> None:  # fmt: skip
    """Put `around(original, ...)` in the place of a function or method."""
    original = getattr(owner, name)

    def planted(*arguments: Any, **named: Any) -> Any:
        return around(original, *arguments, **named)

    patch.setattr(owner, name, planted)


def every(count: int) -> Callable[[], bool]:
    """Whether it is the turn of this call: of each `count`-th one."""
    calls = itertools.count(1)
    return lambda: next(calls) % count == 0


Burst = Callable[[Any, Any, dict[str, Any]], int | None]
TX_ARGUMENTS = ("memory", "first", "descriptors", "n", "mtu", "out", "lengths", "verdict")
RX_ARGUMENTS = (
    "frames", "offsets", "lengths", "n", "memory", "mac", "first", "credits", "descriptors",
    "verdict",
)  # fmt: skip


def around_tx(
    patch: pytest.MonkeyPatch, after: Burst, before: Callable[[Any], Any] = lambda t: None
) -> None:
    """Look at the tables `before(t)` and `after(t, what before gave, arguments)` a burst out; a
    number that `after` gives is how many frames were sent."""

    def burst(original: Callable[..., tuple[int, int]], t: Any, *arguments: Any) -> Any:
        kept = before(t)
        taken, count = original(t, *arguments)
        named = dict(zip(TX_ARGUMENTS, arguments, strict=True))
        changed = after(t, kept, named | {"taken": taken, "count": count})
        return taken, count if changed is None else changed

    wrap(patch, tx_queue, "tx_burst", burst)


def around_rx(
    patch: pytest.MonkeyPatch, after: Burst, before: Callable[[Any], Any] = lambda t: None
) -> None:
    """The same of a burst in."""

    def burst(original: Callable[..., int], t: Any, *arguments: Any) -> int:
        kept = before(t)
        count = original(t, *arguments)
        named = dict(zip(RX_ARGUMENTS, arguments, strict=True))
        changed = after(t, kept, named | {"count": count})
        return count if changed is None else changed

    wrap(patch, rx_queue, "rx_burst", burst)


def rows(t: Any, direction: int) -> Any:
    """Which rows of the SA table are SAs of a direction."""
    return np.flatnonzero(t.sa["direction"] == direction)


def created(patch: pytest.MonkeyPatch, **change: Any) -> None:
    """SAs are made with changed fields; a function gets the command."""

    def create(original: Any, self: Objects, command: CreateSa, *rest: Any) -> Any:
        changed = {name: value(command) for name, value in change.items()}
        return original(self, msgspec.structs.replace(command, **changed), *rest)

    wrap(patch, Objects, "create_sa", create)
