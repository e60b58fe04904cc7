# SPDX-License-Identifier: Apache-2.0
"""The armed faults of one party: every message and question of its sites comes here."""

import errno
import random
from collections import deque
from collections.abc import Mapping
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from proto.faults.armed import Armed
from proto.faults.held import Data, Released, Waiting, broken
from proto.faults.sites import SITES
from proto.faults.spec import FaultSpec, check
from proto.status import OffloadError

FAULTS_MAX = 256  # armed in one table
LOG_MAX = 16_384  # firings remembered by one table

HELD_KINDS = ("delay", "reorder", "rate")


class Fired(NamedTuple):
    """A fault that happens now at a site without messages. What is to be drawn, `rng` draws."""

    name: str
    kind: str
    value: int | str | None
    delay_ms: int
    rng: random.Random


class Firing(msgspec.Struct, frozen=True, array_like=True):
    """One entry of the log; `id` counts the firings of one table from 1."""

    id: int
    time_ns: int
    name: str
    site: str
    kind: str
    facts: dict[str, str | int | None]


class FaultTable:
    """The armed faults of one party. While nothing is armed or held it does nothing at all."""

    def __init__(self) -> None:
        self._armed: list[Armed] = []
        self._held = Waiting()
        self._log: deque[Firing] = deque(maxlen=LOG_MAX)
        self._added = 0
        self._firings = 0

    # --- arming ---

    def add(self, spec: FaultSpec) -> str:
        """Arm a fault and return its name. Raises OffloadError(EINVAL), also for a name in use, and
        ENOSPC when FAULTS_MAX are armed."""
        check(spec)
        if len(self._armed) >= FAULTS_MAX:
            raise OffloadError(errno.ENOSPC, f"{FAULTS_MAX} faults are armed, remove one first")
        self._added += 1
        name = spec.name or f"{spec.site}-{spec.kind}-{self._added}"
        if any(armed.spec.name == name for armed in self._armed):
            raise OffloadError(errno.EINVAL, f"a fault named {name!r} is armed already")
        self._armed.append(Armed(msgspec.structs.replace(spec, name=name)))
        return name

    def remove(self, name: str) -> None:
        """Disarm one fault; what it holds goes on. Raises OffloadError(ENOENT)."""
        kept = [armed for armed in self._armed if armed.spec.name != name]
        if len(kept) == len(self._armed):
            raise OffloadError(errno.ENOENT, f"no fault named {name!r} is armed")
        self._armed = kept
        self._held.release(name)

    def reset(self) -> None:
        """Disarm everything; what is held goes on. The log stays."""
        self._armed = []
        self._held.release(None)

    @property
    def armed(self) -> bool:
        """Whether anything is armed or held: else nobody needs to ask."""
        return bool(self._armed or self._held)

    @property
    def held(self) -> int:
        """Messages that wait here."""
        return len(self._held)

    def specs(self) -> list[FaultSpec]:
        """What is armed, oldest first."""
        return [armed.spec for armed in self._armed]

    def fired(self) -> dict[str, int]:
        """Firings by name of the armed faults; a burst counts once."""
        return {armed.spec.name: armed.fired for armed in self._armed}

    def log(self, after: int = 0, most: int = LOG_MAX) -> list[Firing]:
        """Firings with an id above `after`, oldest first, at most so many; the last LOG_MAX are
        remembered."""
        known = max(0, after - self._firings + len(self._log))  # ids have no gaps
        return list(islice(self._log, known, known + most))

    # --- sites ---

    def apply(
        self, site: str, data: Data, facts: Mapping[str, object], now_ns: int, context: Any = None
    ) -> list[Any]:
        """What becomes of one message now: usually itself, possibly nothing, more, or a broken one.

        What is held back comes out of `due` with `context`: ask it after every `apply`, and at
        `deadline_ns`. A bytearray that goes nowhere is zeroed: it may hold a key.
        """
        results = [data]
        lane = SITES[site].lane if site in SITES else ""
        stream = (site, facts.get(lane))
        holding = None
        for armed in self._armed:
            if site not in armed.broken or not armed.matches(facts):
                continue
            if not results or not armed.decide(len(data), now_ns):
                continue
            kind = armed.spec.kind
            self._record(armed, site, facts, now_ns)
            if kind in HELD_KINDS:
                holding = armed
            else:
                value = armed.number(0) if armed.spec.value is not None else None
                results = [made for one in results for made in broken(one, kind, value, armed.rng)]
        if holding is not None:
            for one in results:
                self._hold(holding, Released(site, _owned(one), context), stream, now_ns)
            return []
        if results and self._held:
            self._held.passed(stream, now_ns)
        return results

    def hold(self, fault: str, message: Released, until_ns: int) -> None:
        """Hold what a site delays itself; it comes out of `due`, at once when the fault goes."""
        self._held.hold(message, fault, until_ns)

    def due(self, now_ns: int) -> list[Released]:
        """Held messages whose time has come, in order."""
        return self._held.due(now_ns) if self._held else []

    def deadline_ns(self) -> int | None:
        """When `due` has something to give."""
        return self._held.deadline_ns() if self._held else None

    def fire(self, site: str, facts: Mapping[str, object], now_ns: int) -> list[Fired]:
        """What happens at a site that does its kinds itself; `bytes` among the facts counts for
        `space`."""
        if not self._armed:
            return []
        fired = []
        size = facts.get("bytes", 0)
        for armed in self._armed:
            spec = armed.spec
            if site not in armed.told or not armed.matches(facts):
                continue
            if armed.decide(size if isinstance(size, int) else 0, now_ns):
                self._record(armed, site, facts, now_ns)
                fired.append(Fired(spec.name, spec.kind, spec.value, spec.delay_ms, armed.rng))
        return fired

    def _hold(self, armed: Armed, message: Released, stream: object, now_ns: int) -> None:
        name = armed.spec.name
        until_ns = armed.until_ns(now_ns, len(message.data), stream)
        if armed.spec.kind == "reorder":
            self._held.hold_behind(message, name, until_ns, stream, armed.number(1))
        else:
            self._held.hold(message, name, until_ns)

    def _record(self, armed: Armed, site: str, facts: Mapping[str, object], now_ns: int) -> None:
        self._firings += 1
        kept = {key: _loggable(value) for key, value in facts.items()}
        spec = armed.spec
        self._log.append(Firing(self._firings, now_ns, spec.name, site, spec.kind, kept))


def _owned(data: Data) -> Data:
    """Bytes that stay what they are when the caller's buffer is used again."""
    return bytes(data) if isinstance(data, memoryview) else data


def _loggable(value: object) -> str | int | None:
    return value if isinstance(value, int | str | None) else str(value)
