# SPDX-License-Identifier: Apache-2.0
"""Faults in the life of a card: sites card.process, card.health and card.reset.

A crash ends the card in the middle of a step, wherever it is: what it would have sent is lost. A
hang lets it do nothing for a while; what comes meanwhile waits.
"""

from typing import NamedTuple

from proto.faults import FaultTable
from proto.faults.values import parse_syndrome
from proto.health import FunctionState
from proto.status import HealthSyndrome

SITE_PROCESS, SITE_HEALTH, SITE_RESET = "card.process", "card.health", "card.reset"


CRASHED = 70  # exit status of a process that a fault has ended


class Crash(Exception):
    """The firmware has crashed; its process is over (F-LIF-01)."""


class Change(NamedTuple):
    """What happens to one record."""

    frozen: bool = False
    drift_percent: int = 0  # of the time until the next one
    syndrome: HealthSyndrome | None = None
    fatal: HealthSyndrome | None = None


class LifeFaults:
    """Asks the card's table of armed faults."""

    def __init__(self, faults: FaultTable) -> None:
        self._faults = faults

    def health(self, now_ns: int, state: FunctionState) -> Change:
        """Asked for each record."""
        change = Change()
        for fired in self._faults.fire(SITE_HEALTH, {"state": state.name.lower()}, now_ns):
            if fired.kind == "freeze":
                change = change._replace(frozen=True)
            elif fired.kind == "drift":
                assert isinstance(fired.value, int)
                change = change._replace(drift_percent=fired.value)
            elif fired.kind == "fatal":
                change = change._replace(fatal=parse_syndrome(fired.value))
            else:
                change = change._replace(syndrome=parse_syndrome(fired.value))
        return change

    def slow_boot_ms(self, now_ns: int) -> int:
        """How much longer initialising takes after this reset."""
        fired = self._faults.fire(SITE_RESET, {"level": "boot"}, now_ns)
        return sum(one.delay_ms for one in fired if one.kind == "slow")

    def refuses(self, level: str, now_ns: int) -> bool:
        """Whether somebody else is against a reset."""
        fired = self._faults.fire(SITE_RESET, {"level": level}, now_ns)
        return any(one.kind == "refuse" for one in fired)


def hang_ms(faults: FaultTable, channel: str, kind: str, now_ns: int) -> int:
    """Asked before each message: for how long the card does nothing, 0 = it works on. Raises
    Crash."""
    longest = 0
    for fired in faults.fire(SITE_PROCESS, {"channel": channel, "kind": kind}, now_ns):
        if fired.kind == "crash":
            raise Crash(f"fault {fired.name}")
        longest = max(longest, fired.delay_ms)
    return longest
