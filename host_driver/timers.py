# SPDX-License-Identifier: Apache-2.0
"""The host's clock and timers as faults bend them: sites host.clock and host.timer.

A timer that is due asks once whether it may run. Late or coarse, it runs when that time is over,
and does not ask again; no fault makes one early.
"""

from proto.clock import NS
from proto.faults import FaultTable, Fired

NS_PER_MS = 1_000_000
CLOCK, TIMER = "host.clock", "host.timer"


class Timers:
    """Who is late, by name of the timer. Without an armed fault nothing is."""

    def __init__(self, faults: FaultTable) -> None:
        self._faults = faults
        self._until_ns: dict[str, int] = {}
        self._looked_ns = 0

    def slept_ns(self, now_ns: int) -> int:
        """How long the host was suspended, as it notices now: its core's clock goes on by that.
        It is not suspended twice in one moment, or its timers would never be done with it."""
        if not self._faults.armed or now_ns == self._looked_ns:
            return 0
        self._looked_ns = now_ns
        fired = self._faults.fire(CLOCK, {}, now_ns)
        return sum(one.value for one in fired if isinstance(one.value, int)) * NS

    def may_run(self, name: str, due_ns: int | None, now_ns: int) -> bool:
        """Whether the timer that is due at a moment may run now."""
        if due_ns is None or now_ns < due_ns:
            self._until_ns.pop(name, None)
            return False
        if name not in self._until_ns:
            fired = self._faults.fire(TIMER, {"timer": name}, now_ns) if self._faults.armed else []
            self._until_ns[name] = max((_until_ns(one, now_ns) for one in fired), default=now_ns)
        if now_ns < self._until_ns[name]:
            return False
        del self._until_ns[name]
        return True

    def deadline_ns(self, name: str, due_ns: int | None) -> int | None:
        """When the timer runs that is due at a moment."""
        return due_ns if due_ns is None else max(due_ns, self._until_ns.get(name, due_ns))


def _until_ns(fired: Fired, now_ns: int) -> int:
    if fired.kind == "late":
        return now_ns + fired.delay_ms * NS_PER_MS
    assert isinstance(fired.value, int)
    tick_ns = fired.value * NS_PER_MS
    return -(-now_ns // tick_ns) * tick_ns
