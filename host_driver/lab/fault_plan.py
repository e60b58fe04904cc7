# SPDX-License-Identifier: Apache-2.0
"""A plan of faults on its way: what waits, what is armed, what is over, as the lab's time goes by.

    waiting -> armed -> over            waiting -> failed: the lab could not arm it, and says why
       |         |                      armed -> over also when somebody else disarms it
       +---------+-> (gone, with reset)

Prohibited: over or failed -> anything else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from host_driver.faults.plan import PlannedFault
from host_driver.lab.asking import PeerDied
from proto.clock import NS
from proto.status import OffloadError


@dataclass(slots=True)
class _Step:
    """One fault of the plan. Times are the lab's; `name` is known once it is armed."""

    planned: PlannedFault
    at_ns: int
    until_ns: int | None
    state: str = "waiting"
    name: str = ""
    error: str = ""

    def next_ns(self) -> int | None:
        """When something happens to it."""
        return {"waiting": self.at_ns, "armed": self.until_ns}.get(self.state)


class PlanRunner:
    """`add` and `remove` are those of the lab's faults."""

    def __init__(self, add: Callable[..., str], remove: Callable[[str], None]) -> None:
        self._add = add
        self._remove = remove
        self._steps: list[_Step] = []

    def begin(self, planned: list[PlannedFault], now_ns: int) -> None:
        """Follow one more plan from now on."""
        for one in planned:
            until_ns = None if one.until_s is None else now_ns + round(one.until_s * NS)
            self._steps.append(_Step(one, now_ns + round(one.at_s * NS), until_ns))
        self.follow(now_ns)

    def next_ns(self) -> int | None:
        """The next moment at which `follow` has something to do."""
        moments = (step.next_ns() for step in self._steps)
        return min((ns for ns in moments if ns is not None), default=None)

    def follow(self, now_ns: int) -> None:
        """Do everything whose moment has come, in its order."""
        while (moment := self.next_ns()) is not None and moment <= now_ns:
            step = next(step for step in self._steps if step.next_ns() == moment)
            if step.state == "waiting":
                self._arm(step)
            else:
                self._disarm(step)

    def removed(self, name: str) -> None:
        """Somebody disarmed a fault."""
        for step in self._steps:
            if step.name == name and step.state == "armed":
                step.state = "over"

    def clear(self) -> None:
        """Forget all plans."""
        self._steps.clear()

    def entries(self, now_ns: int) -> list[dict[str, Any]]:
        """What was planned: state, name, error, in_s (seconds until something happens to it)."""
        return [
            {
                "state": step.state,
                "name": step.name or step.planned.fields.get("name") or step.planned.fault or "",
                "host": step.planned.host,
                "in_s": None if (ns := step.next_ns()) is None else (ns - now_ns) / NS,
                "error": step.error,
            }
            for step in self._steps
        ]

    def _arm(self, step: _Step) -> None:
        planned = step.planned
        try:
            step.name = self._add(planned.fault, host=planned.host, **planned.fields)
            step.state = "armed"
        except PeerDied:
            raise
        except OffloadError as error:
            step.state, step.error = "failed", error.text

    def _disarm(self, step: _Step) -> None:
        step.state = "over"
        try:
            self._remove(step.name)
        except PeerDied:
            raise
        except OffloadError as error:
            step.error = error.text
