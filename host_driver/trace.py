# SPDX-License-Identifier: Apache-2.0
"""The record of every xdo_* call that the core makes, and the fence around foreign drivers.

`TracedOps` stands where the driver's callback table would: same callbacks, missing ones missing,
each called in the driver's own form (`ops.FORMS`). A call becomes one entry, oldest first:

    {"seq": 7, "call": "xdo_dev_state_add", "context": "user", "object": 3, "spi": "0x1000",
     "dir": "out", "type": "packet", "dev": "nic0", "refs": 1, "state": "void", "reqid": 1,
     "keys": 20, "handle": 0, "result": 0}

`context` is the core's (`host_driver.running`); `refs` counts the references to the device, this
object's included; `seq` counts all calls, `object` the SAs and policies in the order in which
drivers first saw them; `keys` is how many bytes of key material the SA has at the call (0 at free,
DEL-05), an entry never holds a key; `handle` is the driver's offload_handle. `result` is None while
the call sleeps.

The core may rely on what comes out of here: an add gives 0 or a negative errno, totals are whole
numbers, nothing is raised. What a driver does against that becomes -EIO and a text, never the end
of the host; a callback that does what its context forbids is stopped there, and `rule` says which
rule it broke (counter `atomic_violations`).
"""

import contextlib
import errno
import inspect
import itertools
import operator
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

from host_driver.ops import FORMS, Extack, Form, form_of, refuse_unknown
from host_driver.running import Running
from host_driver.sleep import AtomicViolation, Misuse, Sleep, atomic, completions_of
from host_driver.xfrm.state import (
    OFFLOAD_CRYPTO,
    OFFLOAD_DIR_FWD,
    OFFLOAD_DIR_IN,
    OFFLOAD_DIR_OUT,
    OFFLOAD_FLAG_ACQ,
    OFFLOAD_PACKET,
    XfrmState,
)
from proto.limits import TRACE_ENTRIES
from proto.status import OffloadError
from proto.xfrm_structs import LifetimeCur, XfrmStats

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
ADDS = ("xdo_dev_state_add", "xdo_dev_policy_add")
MAX_ERRNO = 4095
DIRECTIONS = {0: "", OFFLOAD_DIR_IN: "in", OFFLOAD_DIR_OUT: "out", OFFLOAD_DIR_FWD: "fwd"}
TYPES = {0: "", OFFLOAD_CRYPTO: "crypto", OFFLOAD_PACKET: "packet"}


class Trace:
    """The last TRACE_ENTRIES calls; `added` counts all."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=TRACE_ENTRIES)
        self._objects: WeakKeyDictionary[object, int] = WeakKeyDictionary()
        self._objects_seen = 0
        self.added = 0

    def add(self, entry: Entry) -> None:
        """Record a call as it begins; its result is filled in later."""
        self.added += 1
        entry["seq"] = self.added
        self._entries.append(entry)

    def object(self, one: object) -> int:
        """The number of an SA or policy; the first one that is asked for is 1."""
        if one not in self._objects:
            self._objects_seen += 1
            self._objects[one] = self._objects_seen
        return self._objects[one]

    def entries(self, start: int = 0) -> list[Entry]:
        """Entries from the `start`-th on, oldest first; copies, so that what still sleeps does not
        change them."""
        kept = len(self._entries)
        first = min(max(0, start - (self.added - kept)), kept)
        return [dict(entry) for entry in itertools.islice(self._entries, first, None)]


class TracedOps:
    """A driver's callback table with every call recorded and every misuse caught.

    Callbacks have their canonical names here, and take the arguments of their newest form. Raises
    OffloadError(EINVAL) for a driver with a callback of no known name or form.
    """

    def __init__(
        self, driver: object, trace: Trace, counters: Counter[str], running: Running | None = None
    ) -> None:
        self._driver = driver
        self._trace = trace
        self._counters = counters
        self._running = running or Running()
        self._look(refuse_unknown, driver)
        for name in FORMS:
            form = self._look(form_of, driver, name)
            if form is not None:
                setattr(self, name, self._traced(name, form))

    def _look(self, look: Callable[..., Any], *arguments: Any) -> Any:
        """Look at the driver; what cannot even be looked at is counted and missing."""
        try:
            return look(*arguments)
        except (KeyboardInterrupt, OffloadError):
            raise
        except BaseException:  # noqa: BLE001  # a foreign driver raises what it likes
            self._counters["exceptions"] += 1
            return None

    def _traced(self, name: str, form: Form) -> Callable[..., Any]:
        newest = FORMS[name][-1].arguments
        taken = [newest.index(argument) for argument in form.arguments]

        def call(*arguments: Any) -> Any:
            entry = self._entry(name, arguments)
            self._trace.add(entry)
            extack = next((one for one in arguments if isinstance(one, Extack)), None)
            rule = self._atomic_rule(name)
            try:
                with _totals_kept(name, arguments), self._running.calling(name, rule):
                    callback = getattr(self._driver, form.name)
                    value = callback(*(arguments[i] for i in taken))
                    if rule is not None:
                        value = atomic(value, name, rule)
                if inspect.isgenerator(value):
                    return self._sleeping(entry, value, extack)
                result = _result(name, value)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001  # a foreign driver raises what it likes
                result = self._failed(entry, error, extack)
            return _finish(entry, result, extack)

        return call

    def _sleeping(self, entry: Entry, sleeper: Any, extack: Extack | None) -> Sleep[Any]:
        try:
            result = _result(entry["call"], (yield from completions_of(sleeper)))
        except (KeyboardInterrupt, GeneratorExit):  # the latter: our own task was given up
            raise
        except BaseException as error:  # noqa: BLE001  # a foreign driver raises what it likes
            result = self._failed(entry, error, extack)
        return _finish(entry, result, extack)

    def _atomic_rule(self, name: str) -> str | None:
        """The rule under which this call must not sleep; a larval SA is added for a packet."""
        if name == "xdo_dev_state_add" and self._running.context == "data":
            return "OPS-11"
        if name == "xdo_dev_state_free" and self._running.context == "data":
            return "OPS-17"
        return NEVER_SLEEP.get(name)

    def _entry(self, name: str, arguments: tuple[Any, ...]) -> Entry:
        """What identifies the object of a call, and where the call comes from."""
        entry: Entry = {"call": name, "context": self._running.context}
        for argument in arguments:
            if hasattr(argument, "xso"):
                entry |= {"object": self._trace.object(argument), "spi": f"{argument.id.spi:#x}"}
                entry |= _offload(argument.xso)
                entry |= {"state": argument.km.state.name.lower(), "reqid": argument.props.reqid}
                entry |= {"keys": argument.key_bytes(), "handle": _handle(argument.xso)}
            elif hasattr(argument, "xdo"):
                entry |= {"object": self._trace.object(argument)}
                entry |= {"index": argument.index, "priority": argument.priority}
                entry |= _offload(argument.xdo)
        return entry | {"result": None}

    def _failed(self, entry: Entry, error: BaseException, extack: Extack | None) -> Any:
        """The result of a call that ended with an exception.

        An OffloadError where there is an extack is a refusal like any other; the rest is counted,
        shown, and -EIO where a result is expected. Only the name of a foreign exception is kept:
        its text may quote what it was given, keys too.
        """
        call = entry["call"]
        if isinstance(error, OffloadError) and extack is not None and _is_errno(error.errno):
            extack.set(error.text)
            return -error.errno
        counter, text = "exceptions", f"{call} raised {type(error).__name__}"
        if isinstance(error, AtomicViolation):
            counter, text, entry["rule"] = "atomic_violations", str(error), error.rule
        elif isinstance(error, Misuse):
            text = f"{call} {error}"
        self._counters[counter] += 1
        entry["error"] = text
        if extack is not None:
            extack.set(f"driver: {text}")
            return -errno.EIO
        return False if call == "xdo_dev_offload_ok" else None


def _is_errno(value: object) -> bool:
    return isinstance(value, int) and 0 < value <= MAX_ERRNO


def _result(name: str, value: Any) -> Any:
    """What a callback returned, as the core takes it. Raises Misuse, which quotes only numbers."""
    if inspect.iscoroutine(value):
        value.close()
        raise Misuse("returned a coroutine: async functions are not run here")
    if name == "xdo_dev_offload_ok":
        return bool(value)
    if name not in ADDS:
        return None
    try:
        number = 0 if value is None else operator.index(value)
    except TypeError:
        raise Misuse(f"returned a {type(value).__name__}, not 0 or a negative errno") from None
    if not -MAX_ERRNO <= number <= 0:
        short = str(number) if number.bit_length() < 64 else f"{number.bit_length()} bits"
        raise Misuse(f"returned {short}, not 0 or a negative errno")
    return number


@contextlib.contextmanager
def _totals_kept(name: str, arguments: tuple[Any, ...]) -> Iterator[None]:
    """Fence a call that writes totals: the SA keeps its old ones unless all new ones are whole
    numbers of 64 bits (`curlft`) and 32 bits (`stats`). Raises Misuse."""
    if name != "xdo_dev_state_update_curlft":
        yield
        return
    x: XfrmState = arguments[0]
    kept, good = (x.curlft.pack(), x.stats.pack()), False
    try:
        yield
    finally:
        with contextlib.suppress(Exception):
            kept, good = (LifetimeCur.pack(x.curlft), XfrmStats.pack(x.stats)), True
        x.curlft, x.stats = LifetimeCur.unpack(kept[0]), XfrmStats.unpack(kept[1])
        if not good:
            raise Misuse("wrote a total that is no whole number of its size")


def _finish(entry: Entry, result: Any, extack: Extack | None) -> Any:
    entry["result"] = 0 if result is None else result
    if extack is not None and extack.msg:
        entry["extack"] = extack.msg
    return result


def _handle(record: Any) -> int | None:
    """The driver's own number of an SA, 0 before it has given one (OBJ-04)."""
    handle = record.offload_handle
    return handle if isinstance(handle, int) and abs(handle) < 1 << 63 else None


def _offload(record: Any) -> Entry:
    facts: Entry = {"dir": DIRECTIONS[record.dir], "type": TYPES[record.type]}
    if record.dev is not None:
        facts |= {"dev": record.dev.name, "refs": record.dev.refcnt}
    if record.flags & OFFLOAD_FLAG_ACQ:
        facts["acquire"] = True
    return facts
