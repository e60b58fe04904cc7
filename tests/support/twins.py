# SPDX-License-Identifier: Apache-2.0
"""Two labs that are given the same and must not be told apart."""

from collections.abc import Callable, Sequence
from typing import Any


def compare(
    labs: tuple[Any, Any], act: Callable[[Any, Any], object], actions: Sequence[Any]
) -> dict[str, object]:
    """Let `act` (lab, action) happen in both, one after the other; what each action gave and what
    was `seen` at the end is the same. -> the latter, of the second. Both labs are closed."""
    try:
        for action in actions:
            slow, fast = (act(one, action) for one in labs)
            assert fast == slow, action
        slow, fast = (one.seen() for one in labs)
        for name, value in slow.items():
            assert fast[name] == value, name
        return fast
    finally:
        for one in labs:
            one.lab.close()
