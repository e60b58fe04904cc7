# SPDX-License-Identifier: Apache-2.0
"""The record of every xdo_* call that the core makes, and the fence around foreign drivers.

`TracedOps` stands where the driver's callback table would: same callbacks, missing ones missing. A
call becomes one entry, oldest first:

    {"call": "xdo_dev_state_add", "dev": "nic0", "spi": "0x1000", "dir": "out", "type": "packet",
     "result": 0}

`result` is None while the call sleeps. What a driver raises becomes -EIO and a text, never the end
of the host; a callback that sleeps where it must not is stopped there, and `rule` says which rule
it broke. An entry never holds a key.
"""

import errno
import inspect
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from host_driver.ops import LATER, Extack
from host_driver.sleep import AtomicViolation, Sleep, atomic
from proto.limits import TRACE_ENTRIES
from proto.status import OffloadError

Entry = dict[str, Any]

# Callbacks that run where the core holds a lock, with the rule that says so.
NEVER_SLEEP = {
    "xdo_dev_state_delete": "OPS-16",
    "xdo_dev_state_update_curlft": "OPS-20",
    "xdo_dev_state_advance_esn": "OPS-23",
    "xdo_dev_offload_ok": "OPS-24",
    "xdo_dev_policy_delete": "OPS-32",
    "xdo_dev_policy_free": "OPS-33",
}
FLAG_ACQ = 1
DIRECTIONS = ("", "in", "out", "fwd")
TYPES = ("", "crypto", "packet")


class Trace:
    """The last TRACE_ENTRIES calls; `added` counts all."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=TRACE_ENTRIES)
        self.added = 0

    def add(self, entry: Entry) -> None:
        """Record a call as it begins; its result is filled in later."""
        self.added += 1
        self._entries.append(entry)

    def entries(self) -> list[Entry]:
        """All entries, oldest first; copies, so that what still sleeps does not change them."""
        return [dict(entry) for entry in self._entries]


class TracedOps:
    """A driver's callback table with every call recorded and every exception caught."""

    def __init__(self, driver: object, trace: Trace, counters: Counter[str]) -> None:
        self._trace = trace
        self._counters = counters
        for name in LATER:
            callback = getattr(driver, name, None)
            if callable(callback):
                setattr(self, name, self._traced(name, callback))

    def _traced(self, name: str, callback: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            entry = _entry(name, arguments)
            self._trace.add(entry)
            extack = next((one for one in arguments if isinstance(one, Extack)), None)
            try:
                value = callback(*arguments)
                rule = _atomic_rule(name, arguments)
                if rule is not None:
                    value = atomic(value, name, rule)
            except AtomicViolation as violation:
                entry["rule"] = violation.rule
                return self._failed(entry, violation, extack)
            except Exception as error:  # noqa: BLE001  # a foreign driver raises what it likes
                return self._failed(entry, error, extack)
            if inspect.isgenerator(value):
                return self._sleeping(entry, value, extack)
            return _finish(entry, value, extack)

        return call

    def _sleeping(self, entry: Entry, sleeper: Any, extack: Extack | None) -> Sleep[Any]:
        try:
            value = yield from sleeper
        except Exception as error:  # noqa: BLE001  # a foreign driver raises what it likes
            return self._failed(entry, error, extack)
        return _finish(entry, value, extack)

    def _failed(self, entry: Entry, error: Exception, extack: Extack | None) -> Any:
        """What a driver raised: an OffloadError where there is an extack is a refusal like any
        other; the rest is counted, shown, and -EIO where a result is expected.

        Only the name of the exception is kept: its text may quote what it was given, keys too.
        """
        if isinstance(error, OffloadError) and extack is not None:
            extack.set(error.text)
            return _finish(entry, -error.errno, extack)
        violation = isinstance(error, AtomicViolation)
        self._counters["atomic_violations" if violation else "exceptions"] += 1
        text = str(error) if violation else f"{entry['call']} raised {type(error).__name__}"
        entry["error"] = text
        if extack is not None:
            extack.set(f"driver: {text}")
            return _finish(entry, -errno.EIO, extack)
        return _finish(entry, False if entry["call"] == "xdo_dev_offload_ok" else None, None)


def _finish(entry: Entry, value: Any, extack: Extack | None) -> Any:
    entry["result"] = value if isinstance(value, (int, bool)) else 0
    if extack is not None and extack.msg:
        entry["extack"] = extack.msg
    return value


def _atomic_rule(name: str, arguments: tuple[Any, ...]) -> str | None:
    """The rule under which this call must not sleep; a larval SA is added in atomic context."""
    if name == "xdo_dev_state_add" and arguments[1].xso.flags & FLAG_ACQ:
        return "OPS-11"
    return NEVER_SLEEP.get(name)


def _entry(name: str, arguments: tuple[Any, ...]) -> Entry:
    """What identifies the object of a call."""
    entry: Entry = {"call": name}
    for argument in arguments:
        if hasattr(argument, "xso"):
            entry |= {"spi": f"{argument.id.spi:#x}", **_offload(argument.xso)}
            entry |= {"state": argument.km.state.name.lower(), "reqid": argument.props.reqid}
        elif hasattr(argument, "xdo"):
            entry |= {"index": argument.index, "priority": argument.priority}
            entry |= _offload(argument.xdo)
    return entry | {"result": None}


def _offload(record: Any) -> Entry:
    facts: Entry = {"dir": DIRECTIONS[record.dir], "type": TYPES[record.type]}
    if record.dev is not None:
        facts["dev"] = record.dev.name
    if record.flags & FLAG_ACQ:
        facts["acquire"] = True
    return facts
