# SPDX-License-Identifier: Apache-2.0
"""What the card raised, for those who watch it from outside: the last events with their times.

The time is that at which the step began that raised the event: the packet that crossed the limit
came later, and nothing that is measured from here looks faster than it was. The log takes no part
in what the host hears.
"""

import itertools
from collections import deque
from typing import NamedTuple

from proto.events import Event
from proto.limits import EVENT_LOG


class Raised(NamedTuple):
    """`time_ns` of the card's clock, the event, and the SPI of its SA (0: it is about none), which
    stays known when the SA is gone."""

    time_ns: int
    type: int
    handle: int
    generation: int
    spi: int


class EventLog:
    """The last EVENT_LOG events; `added` counts all since `clear`."""

    def __init__(self) -> None:
        self._entries: deque[Raised] = deque(maxlen=EVENT_LOG)
        self.added = 0

    def note(self, now_ns: int, event: Event, spi: int = 0) -> None:
        """An event was raised in the step that began at `now_ns`."""
        self.added += 1
        self._entries.append(Raised(now_ns, event.type, event.handle, event.generation, spi))

    def clear(self) -> None:
        """Power on: a boot knows nothing of the last one's."""
        self._entries.clear()
        self.added = 0

    def entries(self, start: int = 0) -> list[Raised]:
        """Entries from the `start`-th on, oldest first."""
        kept = len(self._entries)
        first = min(max(0, start - (self.added - kept)), kept)
        return list(itertools.islice(self._entries, first, None))
