# SPDX-License-Identifier: Apache-2.0
"""A health reporter, as devlink has it: what went wrong, how often, and whether it was made good.

    healthy -> error        an error was reported
    error   -> recovering   when one may begin
    recovering -> healthy   the recovery succeeded
    recovering -> error     it failed, and the next try is a backoff later; or it is not over yet
    error   -> failed       it was one failure too many: only somebody's wish revives it

Prohibited: error -> healthy (something must have been done), healthy -> recovering (for nothing),
failed -> recovering.

Without a `limit` a recovery begins not before the grace period after the last one is over. With
one it begins at once, but an error within the grace period counts as a failure of the last.
"""

from enum import Enum
from typing import Any


class Health(Enum):
    """Where a reporter stands."""

    HEALTHY = "healthy"
    ERROR = "error"
    RECOVERING = "recovering"
    FAILED = "failed"


class Reporter:
    """One reporter. Times in ns; `dump` holds what was known at the last error, never a key."""

    def __init__(
        self, name: str, grace_ms: int, backoff_ms: int | None = None, limit: int | None = None
    ) -> None:
        self.name = name
        self.grace_ms = grace_ms
        self.limit = limit
        self.state = Health.HEALTHY
        self.errors = 0
        self.recoveries = 0
        self.failures = 0  # of recoveries in a row
        self.text = ""
        self.dump: dict[str, int | str] = {}
        self.error_ns: int | None = None
        self.next_ns: int | None = None  # when a recovery may begin
        self._backoff_ms = grace_ms if backoff_ms is None else backoff_ms
        self._free_ns = 0

    def report(
        self,
        text: str,
        now_ns: int,
        dump: dict[str, int | str] | None = None,
        *,
        blame: bool = True,
    ) -> None:
        """An error. While one is being dealt with, another is counted and changes nothing. Without
        `blame` the last recovery is not to blame for it."""
        self.errors += 1
        if self.state is not Health.HEALTHY:
            return
        self.state, self.text, self.dump = Health.ERROR, text, dict(dump or {})
        self.error_ns, self.next_ns = now_ns, max(now_ns, self._free_ns)
        if self.limit is None:
            return
        self.next_ns = now_ns
        if now_ns >= self._free_ns:
            self.failures = 0
        elif blame:
            self._count_failure(now_ns)

    def _count_failure(self, now_ns: int) -> None:
        self.failures += 1
        self.next_ns = now_ns + self._backoff_ms * 1_000_000
        if self.limit is not None and self.failures >= self.limit:
            self.state, self.next_ns = Health.FAILED, None

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
        if self.limit is None:
            self.failures = 0
        self._free_ns = now_ns + self.grace_ms * 1_000_000

    def failed(self, text: str, now_ns: int) -> None:
        """It did not."""
        self.again(now_ns)
        self.text = text
        self._count_failure(now_ns)

    def again(self, now_ns: int) -> None:
        """It is not over: what it waits for comes later."""
        assert self.state is Health.RECOVERING, f"{self.name}: {self.state.value} -> error"
        self.state, self.next_ns = Health.ERROR, now_ns

    def give_up(self) -> None:
        """No recovery can help."""
        assert self.state is Health.ERROR, f"{self.name}: {self.state.value} -> failed"
        self.state, self.next_ns = Health.FAILED, None

    def revive(self, now_ns: int) -> None:
        """Whatever has failed so far, try again."""
        assert self.state is Health.FAILED, f"{self.name}: {self.state.value} -> error"
        self.state, self.next_ns, self.failures = Health.ERROR, now_ns, 0

    def describe(self) -> dict[str, Any]:
        """What `devlink health show` would say."""
        return {
            "name": self.name,
            "state": self.state.value,
            "error": self.errors,
            "recover": self.recoveries,
            "failures": self.failures,
            "grace_period_ms": self.grace_ms,
            "last_error": self.text,
            "last_error_ns": self.error_ns,
            "dump": dict(self.dump),
        }
