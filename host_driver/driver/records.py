# SPDX-License-Identifier: Apache-2.0
"""Counter records of the card: totals of SAs that changed, and what to do when some got lost.

Totals are absolute: taken twice or late they change nothing. A gap in the index, or records that a
poll says were sent and that do not come, mean that everything has to be read.
"""

from collections import Counter
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from proto.frame import Message
from proto.layouts import SA_COUNTERS
from proto.limits import RECONCILE_INTERVAL_MS
from proto.link.ring import Consumer, RingError, distance

LOST_NS = RECONCILE_INTERVAL_MS * 1_000_000


class Records:
    """`take` gets the records of a message, `lost` is called when some will never come."""

    def __init__(
        self,
        take: Callable[[npt.NDArray[np.void]], object],
        lost: Callable[[], object],
        counters: Counter[str],
    ) -> None:
        self._take = take
        self._lost = lost
        self._counters = counters
        self._consumer = Consumer(1 << 31)
        self._missing: tuple[int, int] | None = None  # at which index, since when

    @property
    def index(self) -> int:
        """Running number of the next record."""
        return self._consumer.index

    def arrived(self, message: Message) -> None:
        """COUNTERS: `count` records."""
        if len(message.body) != message.count * SA_COUNTERS.itemsize:
            self._counters["counters_malformed"] += 1
            return
        self._take(np.frombuffer(message.body, SA_COUNTERS))
        try:
            lost = self._consumer.arrived(message.index, message.count)
        except RingError:
            self._counters["counters_stale"] += 1
            return
        if lost:
            self._found_lost(lost)

    def confirm(self, sent: int, now_ns: int) -> None:
        """The card has sent everything before `sent`; what is missing for LOST_NS is lost."""
        missing = distance(sent, self.index)
        if missing <= 0:
            self._missing = None
        elif self._missing is None or self._missing[0] != self.index:
            self._missing = self.index, now_ns
        elif now_ns - self._missing[1] >= LOST_NS:
            self._consumer.restart(sent)
            self._found_lost(missing)

    def _found_lost(self, count: int) -> None:
        self._counters["counters_lost"] += count
        self._lost()

    def restart(self) -> None:
        """A card that begins at 0."""
        self._consumer.restart(0)
        self._missing = None
