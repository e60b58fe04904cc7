# SPDX-License-Identifier: Apache-2.0
"""The record of xdo_* calls, and foreign drivers that raise, sleep or cannot be loaded."""

import errno
from collections import Counter

import pytest

from host_driver.driver.load import load_driver
from host_driver.driver.reference import ReferenceDriver
from host_driver.netdev import NetDevice
from host_driver.ops import Extack
from host_driver.running import Running
from host_driver.sleep import Completion, Scheduler, may_sleep, wait
from host_driver.trace import Trace, TracedOps
from host_driver.xfrm.policy import XfrmPolicy
from host_driver.xfrm.state import Aead, DevOffload, XfrmState
from proto.limits import TRACE_ENTRIES
from proto.status import OffloadError
from proto.xfrm_structs import XfrmId

SECRET = b"a key that nobody may see"
DEV = NetDevice("nic0", start_xmit=lambda skb: 0)


class Foreign:
    """Every callback misbehaves in another way."""

    def __init__(self, gate: Completion | None = None) -> None:
        self.gate = gate

    def xdo_dev_state_add(self, dev, x, extack):
        yield from wait(self.gate)
        raise RuntimeError(bytes(x.aead.key))

    def xdo_dev_state_delete(self, dev, x):
        yield Completion()

    def xdo_dev_state_free(self, dev, x):
        raise KeyError(bytes(x.aead.key))

    def xdo_dev_offload_ok(self, skb, x):
        raise ValueError

    def xdo_dev_policy_add(self, xp, extack):
        raise OffloadError(errno.ENOSPC, "policy table is full at 4")


class Table:
    def __init__(self, driver) -> None:
        self.counters: Counter[str] = Counter()
        self.trace = Trace()
        self.running = Running()
        self.ops = TracedOps(driver, self.trace, self.counters, self.running)

    @property
    def last(self):
        return self.trace.entries()[-1]


def state(**offload) -> XfrmState:
    x = XfrmState(id=XfrmId(bytes(16), 0x1000, 50))
    x.aead = Aead("rfc4106(gcm(aes))", bytearray(SECRET), 128)
    x.xso = DevOffload(DEV, 0, 2, 2, **offload)
    return x


def test_missing_callbacks_stay_missing() -> None:
    ops = Table(Foreign()).ops
    assert hasattr(ops, "xdo_dev_policy_add")
    assert not hasattr(ops, "xdo_dev_policy_delete")
    assert not hasattr(ops, "xdo_dev_state_update_curlft")


def test_a_callback_is_found_under_its_later_name() -> None:
    class Later:
        def xdo_dev_state_update_stats(self, x):
            x.curlft.packets = 7

    table, x = Table(Later()), state()
    table.ops.xdo_dev_state_update_curlft(x)
    assert x.curlft.packets == 7
    assert table.last["call"] == "xdo_dev_state_update_curlft"


def test_an_exception_while_sleeping_is_an_io_error() -> None:
    gate, sched, results, extack = Completion(), Scheduler(), [], Extack()
    table = Table(Foreign(gate))

    def task():
        results.append((yield from may_sleep(table.ops.xdo_dev_state_add(DEV, state(), extack))))

    sched.spawn(task())
    sched.run(0)
    assert table.last == {
        "call": "xdo_dev_state_add", "spi": "0x1000", "dir": "out", "type": "packet", "dev": "nic0",
        "refs": 0, "state": "void", "reqid": 0, "result": None,
        "seq": 1, "context": "user", "object": 1, "keys": len(SECRET), "handle": 0,
    }  # fmt: skip
    gate.complete()
    sched.run(0)
    assert results == [-errno.EIO]
    assert extack.msg == "driver: xdo_dev_state_add raised RuntimeError"
    assert table.last["result"] == -errno.EIO
    assert table.counters["exceptions"] == 1


def test_sleeping_under_a_lock_is_stopped_and_named() -> None:
    table = Table(Foreign())
    assert table.ops.xdo_dev_state_delete(DEV, state()) is None
    assert table.last["rule"] == "OPS-16"
    assert table.counters["atomic_violations"] == 1


def test_a_larval_add_must_not_sleep() -> None:
    table = Table(Foreign(Completion()))
    with table.running.within("data"):
        assert table.ops.xdo_dev_state_add(DEV, state(flags=1), Extack()) == -errno.EIO
    assert (table.last["rule"], table.last["acquire"]) == ("OPS-11", True)


def test_other_exceptions_do_not_reach_the_core() -> None:
    table = Table(Foreign())
    assert table.ops.xdo_dev_state_free(DEV, state()) is None
    assert table.ops.xdo_dev_offload_ok(object(), state()) is False
    assert table.counters["exceptions"] == 2


def test_a_refusal_by_exception_is_a_refusal() -> None:
    table, extack = Table(Foreign()), Extack()
    xp = XfrmPolicy(priority=5, xdo=DevOffload(DEV, 0, 1, 2))
    assert table.ops.xdo_dev_policy_add(xp, extack) == -errno.ENOSPC
    assert extack.msg == table.last["extack"] == "policy table is full at 4"
    assert (table.last["priority"], table.last["dir"], table.last["index"]) == (5, "in", 0)
    assert table.counters["exceptions"] == 0


def test_no_entry_holds_a_key() -> None:
    table = Table(Foreign())
    table.ops.xdo_dev_state_free(DEV, state())
    assert SECRET.decode() not in repr(table.trace.entries())


def test_the_trace_is_bounded() -> None:
    trace = Trace()
    for number in range(TRACE_ENTRIES + 5):
        trace.add({"call": number})
    entries = trace.entries()
    assert (len(entries), entries[0]["call"], trace.added) == (TRACE_ENTRIES, 5, TRACE_ENTRIES + 5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nonsense", "is not written as package.module:Class"),
        (":X", "is not written as package.module:Class"),
        ("no.such.module:X", "cannot be imported: ModuleNotFoundError"),
        ("proto.caps:PROFILES", "is no class of proto.caps"),
        ("proto.caps:Missing", "is no class of proto.caps"),
        ("proto.caps:Caps", "lacks xdo_dev_state_add, xdo_dev_state_delete"),
    ],
)
def test_a_driver_that_cannot_be_used_is_refused_clearly(name, words) -> None:
    with pytest.raises(OffloadError) as caught:
        load_driver(name)
    assert caught.value.errno == errno.EINVAL
    assert caught.value.text.startswith(f"driver {name!r} {words}")


def test_drivers_are_found() -> None:
    assert load_driver(None) is ReferenceDriver
    assert load_driver("host_driver.driver.reference:ReferenceDriver") is ReferenceDriver


@pytest.mark.parametrize("start", [3, 4, 1 << 40, (1 << 64) - 1])
def test_a_start_behind_the_last_call_is_the_end(start: int) -> None:
    trace = Trace()
    for number in range(3):
        trace.add({"call": str(number)})
    assert [entry["call"] for entry in trace.entries(2)] == ["2"]
    assert trace.entries(start) == []
