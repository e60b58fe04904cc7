# SPDX-License-Identifier: Apache-2.0
"""The mark that ties a test to rows of the fault catalogue."""

from collections.abc import Callable
from typing import Any

import pytest


def row(
    *ids: str, process: bool = False, once: bool = False, lab: bool = True
) -> Callable[[Any], Any]:
    """Mark a test with the ids of the rows that it judges.

    The test takes an argument `target`: "sim" and, with `process`, also "process". With `once` it
    runs once among processes, with the first of its other arguments: real time is dear, and what
    the others change is judged in the simulator. Without `lab` it takes no target, because it needs
    no lab.
    """

    def mark(test: Any) -> Any:
        if lab:
            targets = ["sim", "process"] if process else ["sim"]
            test = pytest.mark.parametrize("target", targets)(test)
        return pytest.mark.row(*ids, once=once)(test)

    return mark


def first_among_processes(items: list[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """(those to run, the others) as `once` says."""
    seen: set[Any] = set()
    kept: list[pytest.Item] = []
    others: list[pytest.Item] = []
    for item in items:
        marks = item.iter_markers("row")
        of = getattr(item, "callspec", None)
        if of and of.params.get("target") == "process" and any(m.kwargs.get("once") for m in marks):
            test = getattr(item, "function", None)
            (others if test in seen else kept).append(item)
            seen.add(test)
        else:
            kept.append(item)
    return kept, others
