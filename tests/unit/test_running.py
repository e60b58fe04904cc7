# SPDX-License-Identifier: Apache-2.0
"""Contexts: where a callback runs, and what it may not do there (section 0.5)."""

import contextlib
from collections import Counter
from typing import Any

import pytest

from host_driver.driver.mailbox import Mailbox
from host_driver.netdev import NetDevice
from host_driver.ops import Extack
from host_driver.running import Running
from host_driver.sleep import AtomicViolation, Mutex, Scheduler, may_sleep
from host_driver.trace import Trace, TracedOps
from host_driver.xfrm.state import DevOffload, XfrmState
from proto.commands import QueryCaps

DEV = NetDevice("nic0", start_xmit=lambda skb: 0)


class Table:
    """A driver of single functions behind the fence, in a core that is doing something."""

    def __init__(self, **callbacks: Any) -> None:
        self.counters: Counter[str] = Counter()
        self.trace = Trace()
        self.running = Running()
        self.mailbox = Mailbox(lambda message, command: None, Counter(), self.running.might_sleep)
        driver = type("Driver", (), {})()
        vars(driver).update(callbacks)
        self.ops = TracedOps(driver, self.trace, self.counters, self.running)
        self.x = XfrmState(xso=DevOffload(DEV, 0, 2, 2))

    @property
    def last(self) -> dict[str, Any]:
        return self.trace.entries()[-1]


def test_contexts_nest_and_a_lock_in_a_timer_is_the_timer() -> None:
    running = Running()
    assert running.context == "user"
    with running.within("timer"):
        with running.within("lock"):
            assert running.context == "timer"
        with contextlib.suppress(ValueError), running.within("netdev"):
            assert running.context == "netdev"
            raise ValueError
        assert running.context == "timer"
    assert running.context == "user"


def test_entries_say_where_from_in_which_order_and_about_which_object() -> None:
    table = Table(xdo_dev_state_delete=lambda dev, x: None)
    other = XfrmState(xso=DevOffload(DEV, 0, 2, 2))
    for context, x in (("lock", table.x), ("user", other), ("timer", table.x)):
        with table.running.within(context):
            table.ops.xdo_dev_state_delete(DEV, x)
    facts = [(e["seq"], e["context"], e["object"]) for e in table.trace.entries()]
    assert facts == [(1, "lock", 1), (2, "user", 2), (3, "timer", 1)]


def test_a_sleeping_function_of_the_core_that_is_driven_by_hand_is_named() -> None:
    def delete(dev: Any, x: Any) -> None:
        next(table.mailbox.execute(QueryCaps()))

    table = Table(xdo_dev_state_delete=delete)
    table.ops.xdo_dev_state_delete(DEV, table.x)
    assert table.last["rule"] == "OPS-16"
    assert "Mailbox.execute, which sleeps" in table.last["error"]
    assert table.counters["atomic_violations"] == 1
    assert table.mailbox.idle


def test_where_sleeping_is_allowed_the_mailbox_is_too() -> None:
    def add(dev: Any, x: Any, extack: Any) -> Any:
        yield from table.mailbox.execute(QueryCaps())

    table = Table(xdo_dev_state_add=add)
    sched = Scheduler()
    sched.spawn(may_sleep(table.ops.xdo_dev_state_add(DEV, table.x, Extack())))
    sched.run(0)
    assert (len(sched), table.counters["atomic_violations"]) == (1, 0)


@pytest.mark.parametrize("context", ["lock", "timer", "walk"])
def test_taking_the_lock_that_the_core_holds_is_a_deadlock(context: str) -> None:
    def update(x: Any) -> None:
        table.running.takes_lock("xfrm_state_check_expire")

    table = Table(xdo_dev_state_update_stats=update)
    with table.running.within(context):
        table.ops.xdo_dev_state_update_curlft(table.x)
    assert (table.last["rule"], table.counters["atomic_violations"]) == ("TRAP-42", 1)


def test_the_lock_is_free_in_a_free() -> None:
    table = Table(
        xdo_dev_state_free=lambda dev, x: table.running.takes_lock("xfrm_state_check_expire")
    )
    with table.running.within("gc"):
        table.ops.xdo_dev_state_free(DEV, table.x)
    assert "rule" not in table.last


def test_a_mutex_taken_twice_by_its_holder_is_a_deadlock() -> None:
    sched, caught = Scheduler(), []
    mutex = Mutex(sched)

    def twice() -> Any:
        yield from mutex.lock()
        try:
            yield from mutex.lock()
        except AtomicViolation as error:
            caught.append(error.rule)
        mutex.unlock()

    for _ in range(2):
        sched.spawn(twice())
    sched.run(0)
    assert (caught, len(sched)) == (["UAPI-07"] * 2, 0)
