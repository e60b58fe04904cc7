# SPDX-License-Identifier: Apache-2.0
"""The card's armed faults, with the time of the present step, for whoever asks in the middle of it.

While nothing is armed, `armed` is all that is looked at.
"""

from collections.abc import Callable

from proto.faults import FaultTable as Table
from proto.faults import Fired, Released

NS_PER_MS = 1_000_000


class Asking:
    """One table of faults; `now_ns` is set at the beginning of every step."""

    def __init__(self, table: Table | None = None) -> None:
        self.table = Table() if table is None else table
        self.now_ns = 0

    @property
    def armed(self) -> bool:
        """Whether there is anything to ask."""
        return self.table.armed

    def fire(self, site: str, **facts: object) -> list[Fired]:
        """What happens at a site now."""
        return self.table.fire(site, facts, self.now_ns)

    def later(self, fired: Fired, site: str, then: Callable[[], None]) -> None:
        """Call `then` when the delay of a fault is over, or the fault is taken back."""
        until_ns = self.now_ns + fired.delay_ms * NS_PER_MS
        self.table.hold(fired.name, Released(site, b"", lambda _: then()), until_ns)


def number(fired: Fired, default: int) -> int:
    """The value of a fault whose kind takes a number."""
    return fired.value if isinstance(fired.value, int) else default
