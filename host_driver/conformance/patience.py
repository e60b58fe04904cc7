# SPDX-License-Identifier: Apache-2.0
"""A driver that never comes back must not keep the run: each case has its time, and a run ends that
has lost too much by waiting.
"""

import _thread
import threading
from collections.abc import Iterator
from contextlib import contextmanager

CASE_SECONDS = 180.0
LOST_SECONDS = 300.0
AGAIN_SECONDS = 5.0  # a driver may catch what ends it


class CaseHangs(Exception):
    """A case was ended: something in it does not come back."""


class Patience:
    """`lost` are the seconds that went by in cases that waited in vain."""

    def __init__(self, case_seconds: float = CASE_SECONDS) -> None:
        self._case_seconds = case_seconds
        self.lost = 0.0

    @property
    def over(self) -> bool:
        """Whether no further case shall begin."""
        return self.lost >= LOST_SECONDS

    @contextmanager
    def limit(self) -> Iterator[None]:
        """Run a case; raises CaseHangs in it when its time is over. Only the main thread can be
        interrupted; in another one there is no limit."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        alarm = _Alarm(self._case_seconds)
        alarm.start()
        try:
            try:
                yield
            finally:
                alarm.stop()
        except KeyboardInterrupt:
            if not alarm.rang:
                raise
            text = f"this case was not at its end after {self._case_seconds:.0f} s: a call hangs"
            raise CaseHangs(text) from None


class _Alarm(threading.Thread):
    """Interrupts the main thread, again and again: it stands for a user's Ctrl-C, which is the one
    thing that the fence around drivers lets through."""

    def __init__(self, seconds: float) -> None:
        super().__init__(daemon=True)
        self.rang = False
        self._seconds = seconds
        self._stopped = threading.Event()

    def run(self) -> None:
        """Wait, and ring until it is stopped."""
        seconds = self._seconds
        while not self._stopped.wait(seconds):
            self.rang = True
            seconds = AGAIN_SECONDS
            _thread.interrupt_main()

    def stop(self) -> None:
        """Not another ring, once this returns."""
        self._stopped.set()
        self.join()
