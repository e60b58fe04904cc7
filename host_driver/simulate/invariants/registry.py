# SPDX-License-Identifier: Apache-2.0
"""Invariants by number: each a function of the evidence that yields what does not hold."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from host_driver.simulate.evidence import Evidence

Check = Callable[[Evidence], Iterator[str]]


class Invariant(NamedTuple):
    """`number` and `title` are the list's, `check` yields a text for every violation."""

    number: int
    title: str
    check: Check

    @property
    def what(self) -> str:
        """What exactly is judged: the check's own words."""
        return " ".join((self.check.__doc__ or "").split())


class Elsewhere(NamedTuple):
    """An invariant that no observer of a simulated run can judge: why, and the files that do."""

    title: str
    why: str
    where: tuple[str, ...]


REGISTERED: dict[int, Invariant] = {}


def invariant(number: int, title: str) -> Callable[[Check], Check]:
    """Make a function the judge of an invariant. Each number has one."""

    def register(check: Check) -> Check:
        assert number not in REGISTERED, f"invariant {number} has two judges"
        REGISTERED[number] = Invariant(number, title, check)
        return check

    return register
