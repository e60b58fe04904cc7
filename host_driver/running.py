# SPDX-License-Identifier: Apache-2.0
"""In which context the core runs now, and what a callback may not do there (section 0.5).

    user     a request of a user; may sleep, holds xfrm_cfg_mutex
    gc       the collector; may sleep                 netdev   a device event; may sleep, holds RTNL
    lock     under x->lock                            timer    an SA's or policy's timer, x->lock
    walk     over all SAs, under xfrm_state_lock      data     a packet on its way

The core says `with running.within("timer")` around synchronous stretches only, so nothing that
sleeps ever carries a context into another task.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from host_driver.sleep import AtomicViolation

# Where the lock of an SA, or of all SAs, is held while its driver is called.
SA_LOCKED = ("lock", "timer", "walk")


@dataclass(slots=True)
class Call:
    """A callback that is running. `rule` says why it may not sleep, None where it may."""

    name: str
    rule: str | None


class Running:
    """The present context, and the driver's callback that runs in it, if one does."""

    def __init__(self) -> None:
        self.context = "user"
        self._call: Call | None = None

    @contextmanager
    def within(self, context: str) -> Iterator[None]:
        """Run a synchronous stretch in a context. Under a lock, a timer is still a timer."""
        before = self.context
        if not (before == "timer" and context == "lock"):
            self.context = context
        try:
            yield
        finally:
            self.context = before

    @contextmanager
    def calling(self, name: str, rule: str | None) -> Iterator[None]:
        """A callback runs until the end of this stretch."""
        before, self._call = self._call, Call(name, rule)
        try:
            yield
        finally:
            self._call = before

    def might_sleep(self, what: str) -> None:
        """Before anything that blocks. Raises AtomicViolation in a callback that must not."""
        call = self._call
        if call is not None and call.rule is not None:
            raise AtomicViolation(f"{call.name} called {what}, which sleeps", call.rule)

    def takes_lock(self, what: str) -> None:
        """Before x->lock is taken for a driver. Raises AtomicViolation in a callback that already
        runs under it: in the kernel that is a deadlock (TRAP-42)."""
        call = self._call
        if call is None or self.context not in SA_LOCKED or "_state_" not in call.name:
            return
        raise AtomicViolation(f"{call.name} called {what}, which takes x->lock again", "TRAP-42")
