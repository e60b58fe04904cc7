# SPDX-License-Identifier: Apache-2.0
"""What the card says an SA has done, and what of it can be believed.

A reading is taken when it lies ahead of what is known, and refused when it

    goes back        an older one, late, or a counter that ran backwards: nothing changes
    cannot be        more packets than sequence numbers, more bytes than packets hold: torn
    jumps            by 2^32 or more: refused until another reading confirms it

Whoever read it then reads again. Counts of failures have 32 bits on the ring and wrap.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from proto.commands import SaState

JUMP = 1 << 32
IP_MAX_BYTES = 65_535
_MAX_U32 = (1 << 32) - 1

FAILURES = ("replay_window", "replay", "integrity_failed")


class Reading(NamedTuple):
    """Absolute totals of one SA."""

    packets: int
    bytes: int
    seq: int


class Verdict(Enum):
    """What became of a reading."""

    TAKEN = "taken"
    BACKWARDS = "backwards"
    TORN = "torn"
    JUMP = "jump"


class Bound(NamedTuple):
    """How many packets the sequence numbers allow: those since `seq`, and `window` earlier ones."""

    seq: int
    window: int


@dataclass(slots=True, eq=False)
class Totals:
    """What the card said last. `packets`, `bytes` and `seq` never go back (LIFE-36). `bound` is
    None where sequence numbers say nothing about packets."""

    packets: int = 0
    bytes: int = 0
    seq: int = 0
    replay_window: int = 0
    replay: int = 0
    integrity_failed: int = 0
    stopped: bool = False
    bound: Bound | None = None
    suspect: Reading | None = None

    def take(self, new: Reading) -> Verdict:
        """Take a reading, or say why not."""
        if new.packets < self.packets or new.bytes < self.bytes or new.seq < self.seq:
            return Verdict.BACKWARDS
        if not self._can_be(new):
            return Verdict.TORN
        suspect, self.suspect = self.suspect, None
        jumps = new.packets - self.packets >= JUMP or new.bytes - self.bytes >= JUMP
        confirmed = suspect is not None and all(
            now >= before for now, before in zip(new, suspect, strict=True)
        )
        if jumps and not confirmed:
            self.suspect = new
            return Verdict.JUMP
        self.packets, self.bytes, self.seq = new
        return Verdict.TAKEN

    def _can_be(self, new: Reading) -> bool:
        if new.bytes > new.packets * IP_MAX_BYTES:
            return False
        bound = self.bound
        return bound is None or new.packets <= max(new.seq - bound.seq, 0) + bound.window

    def take_failures(self, counts: Mapping[str, int]) -> None:
        """Counts of FAILURES, modulo 2^32; older ones change nothing."""
        for name in FAILURES:
            known = getattr(self, name)
            ahead = (counts[name] - known) & _MAX_U32
            if ahead < JUMP // 2:
                setattr(self, name, known + ahead)

    def take_state(self, state: SaState) -> Verdict:
        """A QUERY_SA answer."""
        self.take_failures({name: getattr(state, name) for name in FAILURES})
        self.stopped = self.stopped or state.stopped
        return self.take(Reading(state.packets, state.bytes, state.seq))
