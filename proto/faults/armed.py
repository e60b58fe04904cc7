# SPDX-License-Identifier: Apache-2.0
"""An armed fault: when it happens, and until when it holds what it hit.

A match is judged in this order, and the first no is the end of it:

    skip -> fail_nth -> interval -> times -> space -> probability

Only the last draws, and from a generator of the fault's own: one fault never disturbs another.
"""

import random
from collections.abc import Mapping

from proto.clock import NS
from proto.faults.sites import concerned, done_by_table
from proto.faults.spec import FaultSpec, plain

NS_PER_MS = 1_000_000
REORDER_MS = 1_000


class Armed:
    """A fault with its own generator and counters."""

    def __init__(self, spec: FaultSpec) -> None:
        self.spec = spec
        sites = concerned(spec.site, spec.kind)
        self.broken = frozenset(site for site in sites if done_by_table(site, spec.kind))
        self.told = sites - self.broken
        self.rng = random.Random(spec.seed)
        self.fired = 0
        self._seen = 0
        self._passed_bytes = 0
        self._burst = 0  # messages that a burst which has begun still takes
        self._outage_ns = 0  # until when an outage that has begun takes all of them
        self._free_ns: dict[object, int] = {}  # by stream: when the last byte at `rate` is through
        self._match = {key: plain(want) for key, want in spec.match.items()}

    def matches(self, facts: Mapping[str, object]) -> bool:
        """Whether a message or question is one of those meant."""
        return all(plain(facts.get(key)) == want for key, want in self._match.items())

    def decide(self, size: int, now_ns: int) -> bool:
        """Whether the fault happens to this match of `size` bytes."""
        spec = self.spec
        if self._burst:
            self._burst -= 1
            return True
        if now_ns < self._outage_ns:
            return True
        self._seen += 1
        seen = self._seen - spec.skip
        if spec.fail_nth is not None and self._seen != spec.fail_nth:
            return False
        if seen <= 0 or seen % spec.interval:
            return False
        if spec.times is not None and self.fired >= spec.times:
            return False
        if spec.space and self._passed_bytes + size <= spec.space:
            self._passed_bytes += size
            return False
        if self.rng.random() >= spec.probability:
            return False
        self.fired += 1
        if spec.kind == "burst":
            self._burst = self.number(1) - 1
        elif spec.kind == "outage":
            self._outage_ns = now_ns + spec.delay_ms * NS_PER_MS
        return True

    def number(self, default: int) -> int:
        """`value` where the kind takes a number."""
        return self.spec.value if isinstance(self.spec.value, int) else default

    def until_ns(self, now_ns: int, size: int, stream: object) -> int:
        """When a held message goes on at the latest."""
        spec = self.spec
        if spec.kind == "rate":
            start_ns = max(now_ns, self._free_ns.get(stream, 0))
            self._free_ns[stream] = start_ns + size * NS // self.number(1)
            return self._free_ns[stream]
        if spec.kind == "reorder":
            return now_ns + (spec.delay_ms or REORDER_MS) * NS_PER_MS
        jitter = self.number(0)
        drawn_ns = self.rng.randint(0, jitter * NS_PER_MS) if jitter else 0
        return now_ns + spec.delay_ms * NS_PER_MS + drawn_ns
