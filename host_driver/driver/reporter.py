# SPDX-License-Identifier: Apache-2.0
"""A health reporter, as devlink has it: what went wrong, how often, and whether it was made good.

    healthy -> error        an error was reported
    error   -> recovering   not before the grace period after the last recovery is over
    recovering -> healthy   the recovery succeeded
    recovering -> error     it failed; the next try is a backoff later

Prohibited: error -> healthy (something must have been done), healthy -> recovering (for nothing).
"""

from enum import Enum
from typing import Any


class Health(Enum):
    """Where a reporter stands."""

    HEALTHY = "healthy"
    ERROR = "error"
    RECOVERING = "recovering"


class Reporter:
    """One reporter. Times in ns; `dump` holds what was known at the last error, never a key."""

    def __init__(self, name: str, grace_ms: int, backoff_ms: int | None = None) -> None:
        self.name = name
        self.grace_ms = grace_ms
        self.state = Health.HEALTHY
        self.errors = 0
        self.recoveries = 0
        self.failures = 0  # of recoveries, since the last that succeeded
        self.text = ""
        self.dump: dict[str, int | str] = {}
        self.error_ns: int | None = None
        self.next_ns: int | None = None  # when a recovery may begin
        self._backoff_ms = grace_ms if backoff_ms is None else backoff_ms
        self._free_ns = 0

    def report(self, text: str, now_ns: int, dump: dict[str, int | str] | None = None) -> None:
        """An error. While one is being dealt with, another is counted and changes nothing."""
        self.errors += 1
        if self.state is not Health.HEALTHY:
            return
        self.state, self.text, self.dump = Health.ERROR, text, dict(dump or {})
        self.error_ns, self.next_ns = now_ns, max(now_ns, self._free_ns)

    def due(self, now_ns: int) -> bool:
        """Whether a recovery should begin now."""
        return self.state is Health.ERROR and self.next_ns is not None and now_ns >= self.next_ns

    def begin(self) -> None:
        """A recovery begins."""
        assert self.state is Health.ERROR, f"{self.name}: {self.state.value} -> recovering"
        self.state = Health.RECOVERING

    def succeeded(self, now_ns: int) -> None:
        """It worked: healthy, and the grace period runs."""
        assert self.state is Health.RECOVERING, f"{self.name}: {self.state.value} -> healthy"
        self.state, self.next_ns = Health.HEALTHY, None
        self.recoveries += 1
        self.failures = 0
        self._free_ns = now_ns + self.grace_ms * 1_000_000

    def failed(self, text: str, now_ns: int) -> None:
        """It did not."""
        assert self.state is Health.RECOVERING, f"{self.name}: {self.state.value} -> error"
        self.state, self.text = Health.ERROR, text
        self.failures += 1
        self.next_ns = now_ns + self._backoff_ms * 1_000_000

    def describe(self) -> dict[str, Any]:
        """What `devlink health show` would say."""
        return {
            "name": self.name,
            "state": self.state.value,
            "error": self.errors,
            "recover": self.recoveries,
            "grace_period_ms": self.grace_ms,
            "last_error": self.text,
            "last_error_ns": self.error_ns,
            "dump": dict(self.dump),
        }
