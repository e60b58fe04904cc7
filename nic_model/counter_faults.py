# SPDX-License-Identifier: Apache-2.0
"""Faults of reported totals: site card.counters, in counter records and in what QUERY_SA reads."""

import itertools
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from nic_model import tables
from nic_model.asking import Asking, number
from nic_model.data_faults import live_sas
from nic_model.tables import ROW_MASK, Tables
from proto.commands import SaState
from proto.faults import Fired

SITE = "card.counters"

Records = npt.NDArray[np.void]

# What records and answers have in common.
_COMMON = ("packets", "bytes", "seq", "replay_window", "replay", "integrity_failed")

_HALF = 1 << 32
_MAX_U32 = _HALF - 1


class CounterFaults:
    """Remembers what was reported last, while faults are armed."""

    def __init__(self, asking: Asking, t: Tables) -> None:
        self._asking = asking
        self._t = t
        self._last: dict[int, dict[str, Any]] = {}  # by handle

    def records(self, records: Records) -> list[tuple[int, Records]]:
        """What becomes of SA_COUNTERS records: runs of those that are not lost, each with its place
        among all of them."""
        kept = [self._report(record) for record in records]
        ends = [-1, *(at for at, whole in enumerate(kept) if not whole), len(kept)]
        return [
            (before + 1, records[before + 1 : after])
            for before, after in itertools.pairwise(ends)
            if after > before + 1
        ]

    def _report(self, record: np.void) -> bool:
        """Change one record; whether it is reported at all."""
        handle = int(record["handle"])
        values = {name: int(record[name]) for name in _COMMON}
        reported = True
        for fired in self._fire("record", handle):
            if fired.kind == "foreign" and (other := self._another(handle, fired)):
                record["handle"], record["generation"] = other, self._generation(other)
            reported = reported and fired.kind != "lost"
            values = self._change(handle, values, fired)
        for name, value in values.items():
            record[name] = value
        self._last[handle] = values
        return reported

    def state(self, handle: int, state: SaState) -> SaState:
        """What becomes of a QUERY_SA answer."""
        values = {name: getattr(state, name) for name in _COMMON}
        for fired in self._fire("query", handle):
            if fired.kind == "foreign" and (other := self._another(handle, fired)):
                return tables.read_sa(self._t, other & ROW_MASK)
            values = self._change(handle, values, fired)
        self._last[handle] = values
        return msgspec.structs.replace(state, **values)

    def _fire(self, source: str, handle: int) -> list[Fired]:
        spi = int(self._t.sa[handle & ROW_MASK]["spi"])
        return self._asking.fire(SITE, source=source, handle=handle, spi=spi)

    def _change(self, handle: int, values: dict[str, Any], fired: Fired) -> dict[str, Any]:
        packets = values["packets"]
        match fired.kind:
            case "stale":
                return self._last.get(handle, dict.fromkeys(values, 0))
            case "torn":
                return values | {"packets": packets ^ _HALF}
            case "backwards":
                return values | {"packets": max(0, packets - number(fired, 1))}
            case "skew":
                ahead = min(packets + number(fired, 1), _MAX_U32)
                return values | {"replay": ahead, "integrity_failed": ahead}
        return values

    def _another(self, handle: int, fired: Fired) -> int:
        """The handle of another live SA, or 0."""
        others = [int(row) for row in live_sas(self._t) if row != handle & ROW_MASK]
        if not others:
            return 0
        row = fired.rng.choice(others)
        return tables.handle_of(row, int(self._t.sa[row]["generation"]))

    def _generation(self, handle: int) -> int:
        return int(self._t.sa[handle & ROW_MASK]["generation"])
