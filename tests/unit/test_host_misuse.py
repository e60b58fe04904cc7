# SPDX-License-Identifier: Apache-2.0
"""Drivers that do what no driver may: the fence gives the core a result it can use, and a text."""

import errno
from collections import Counter
from typing import Any

import numpy as np
import pytest

from host_driver.host import Host
from host_driver.netdev import NetDevice
from host_driver.ops import TEXT_LONGEST, Extack
from host_driver.running import Running
from host_driver.sleep import Completion, Scheduler, may_sleep
from host_driver.trace import Trace, TracedOps
from host_driver.xfrm.policy import XfrmPolicy
from host_driver.xfrm.state import DevOffload, XfrmState
from proto.link.dma import Dma
from proto.status import OffloadError
from proto.xfrm_structs import LifetimeCur, XfrmId

DEV = NetDevice("nic0", start_xmit=lambda skb: 0)


class Table:
    """A driver of single functions behind the fence."""

    def __init__(self, **callbacks: Any) -> None:
        self.counters: Counter[str] = Counter()
        self.trace = Trace()
        driver = type("Driver", (), {})()
        vars(driver).update(callbacks)
        self.running = Running()
        self.ops = TracedOps(driver, self.trace, self.counters, self.running)

    def add(self, *, larval: bool = False) -> tuple[Any, str]:
        """Result and text of an add that may sleep, unless it is of a larval SA."""
        x, extack, results = state(), Extack(), []
        x.xso.flags = int(larval)

        def task() -> Any:
            with self.running.within("data" if larval else "user"):
                value = self.ops.xdo_dev_state_add(DEV, x, extack)
            results.append((yield from may_sleep(value)))

        sched = Scheduler()
        sched.spawn(task())
        sched.run(0)
        (result,) = results
        return result, extack.msg


def state() -> XfrmState:
    x = XfrmState(id=XfrmId(bytes(16), 0x1000, 50), xso=DevOffload(DEV, 0, 2, 2))
    x.curlft.packets, x.stats.replay = 3, 4
    return x


async def coroutine() -> int:
    return 0


def ends(error: BaseException) -> Any:
    raise error


@pytest.mark.parametrize("value", [0, None, False, np.int64(0), -0])
def test_results_that_mean_success(value: Any) -> None:
    assert Table(xdo_dev_state_add=lambda dev, x, extack: value).add() == (0, "")


@pytest.mark.parametrize("value", [-22, np.int32(-22)])
@pytest.mark.parametrize("larval", [False, True])
def test_results_that_are_errnos(value: Any, larval: bool) -> None:
    result, _ = Table(xdo_dev_state_add=lambda dev, x, extack: value).add(larval=larval)
    assert (result, type(result)) == (-22, int)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: "no", "a str"),
        (lambda: 1.0, "a float"),
        (lambda: 5, "5"),
        (lambda: True, "1"),
        (lambda: -4096, "-4096"),
        (lambda: -(2**40), "-1099511627776"),
        (lambda: 10**6000, "19932 bits"),
        (coroutine, "a coroutine"),
    ],
)
@pytest.mark.parametrize("larval", [False, True])
def test_results_that_mean_nothing(make: Any, what: str, larval: bool) -> None:
    table = Table(xdo_dev_state_add=lambda dev, x, extack: make())
    result, text = table.add(larval=larval)
    assert result == -errno.EIO
    assert text.startswith(f"driver: xdo_dev_state_add returned {what}")
    assert table.counters["exceptions"] == 1


def test_the_same_holds_for_policies() -> None:
    extack, table = Extack(), Table(xdo_dev_policy_add=lambda xp, extack: "no")
    xp = XfrmPolicy(xdo=DevOffload(DEV, 0, 1, 2))
    assert table.ops.xdo_dev_policy_add(xp, extack) == -errno.EIO
    assert "returned a str" in extack.msg


@pytest.mark.parametrize(
    ("yielded", "what"),
    [
        (None, "yielded a NoneType, not a Completion"),
        (3, "yielded a int, not a Completion"),
        (Completion(deadline_ns="soon"), "yielded a Completion whose deadline"),  # type: ignore
    ],
)
def test_what_is_yielded_is_checked(yielded: Any, what: str) -> None:
    closed = []

    def add(dev: Any, x: Any, extack: Any) -> Any:
        try:
            yield yielded
        finally:
            closed.append(True)

    result, text = Table(xdo_dev_state_add=add).add()
    assert (result, closed) == (-errno.EIO, [True])
    assert text.startswith(f"driver: xdo_dev_state_add {what}")


@pytest.mark.parametrize("error", [SystemExit, GeneratorExit, BaseException, StopIteration])
@pytest.mark.parametrize("sleeps", [False, True])
def test_no_exception_ends_the_host(error: type[BaseException], sleeps: bool) -> None:
    def sleeping(dev: Any, x: Any, extack: Any) -> Any:
        yield from ()
        raise error

    def plain(dev: Any, x: Any, extack: Any) -> Any:
        raise error

    table = Table(xdo_dev_state_add=sleeping if sleeps else plain)
    result, text = table.add()
    assert result == -errno.EIO and text.startswith("driver: xdo_dev_state_add raised ")
    assert table.counters["exceptions"] == 1


def test_ctrl_c_still_ends_it() -> None:
    with pytest.raises(KeyboardInterrupt):
        Table(xdo_dev_state_add=lambda dev, x, extack: ends(KeyboardInterrupt())).add()


@pytest.mark.parametrize("number", [0, -5, 5000, "x", None])
def test_a_refusal_without_an_errno_is_an_io_error(number: Any) -> None:
    table = Table(xdo_dev_state_add=lambda dev, x, extack: ends(OffloadError(number, "no")))
    assert table.add()[0] == -errno.EIO


def test_an_attribute_that_raises_is_none() -> None:
    class Broken:
        @property
        def xdo_dev_offload_ok(self) -> Any:
            raise SystemExit

    counters: Counter[str] = Counter()
    assert not hasattr(TracedOps(Broken(), Trace(), counters), "xdo_dev_offload_ok")
    assert counters["exceptions"] == 1


@pytest.mark.parametrize("value", [-1, None, 1.5, 2**64, "7"])
@pytest.mark.parametrize("field", ["curlft.packets", "curlft.use_time", "stats.replay", "curlft"])
@pytest.mark.parametrize("raises", [False, True])
def test_totals_that_are_none_are_not_taken(value: Any, field: str, raises: bool) -> None:
    def update(x: Any) -> None:
        x.curlft.bytes = 99
        *record, name = field.split(".")
        setattr(getattr(x, record[0]) if record else x, name, value)
        if raises:
            raise ValueError

    table, x = Table(xdo_dev_state_update_curlft=update), state()
    table.ops.xdo_dev_state_update_curlft(x)
    assert (x.curlft, x.stats.replay) == (LifetimeCur(packets=3), 4)
    assert table.counters["exceptions"] == 1
    assert "wrote a total that is no whole number" in table.trace.entries()[-1]["error"]


def test_totals_of_32_bits_end_there_and_numpy_counts() -> None:
    def update(x: Any) -> None:
        x.curlft.packets, x.stats.replay = np.uint64(2**64 - 1), totals.pop()

    totals = [2**32, 2**32 - 1]
    table, x = Table(xdo_dev_state_update_curlft=update), state()
    table.ops.xdo_dev_state_update_curlft(x)
    assert (x.curlft.packets, x.stats.replay) == (2**64 - 1, 2**32 - 1)
    assert type(x.curlft.packets) is int
    table.ops.xdo_dev_state_update_curlft(x)
    assert (x.stats.replay, table.counters["exceptions"]) == (2**32 - 1, 1)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("plain", "plain"),
        ("lone \ud800 surrogate", "lone ? surrogate"),
        ("x" * 5000, "x" * TEXT_LONGEST),
        (b"a key", "(a text that is a bytes)"),
        (None, "(a text that is a NoneType)"),
    ],
)
def test_texts_can_always_be_sent(given: Any, kept: str) -> None:
    extack = Extack()
    extack.set(given, offset="here")  # type: ignore[arg-type]
    assert (extack.msg, extack.offset) == (kept, None)


def test_a_coroutine_is_no_callback() -> None:
    async def delete(dev: Any, x: Any) -> None:
        pass

    table = Table(xdo_dev_state_delete=delete)
    assert table.ops.xdo_dev_state_delete(DEV, state()) is None
    assert "returned a coroutine" in table.trace.entries()[-1]["error"]


def leaves(*arguments: Any) -> Any:
    raise SystemExit


class Hostile:
    """Hooks that raise when they are looked at, called, or asked what they meant."""

    handle_events = property(leaves)
    handle_counters = leaves

    def needs_reconcile(self) -> Any:
        return type("Undecided", (), {"__bool__": leaves})()


def test_hooks_of_a_driver_do_not_end_the_host() -> None:
    host = Host("host0", bytes(6), bytes(6), Dma.anonymous(), 1)
    host.driver = Hostile()
    for calls, hook in enumerate(("handle_events", "handle_counters", "needs_reconcile"), 1):
        assert host.driver_hook(hook) is False
        assert host.counters["exceptions"] == calls
    assert host.driver_hook("reconcile") is False  # there is none
    host.deadline_ns()
    assert host.counters["exceptions"] == 4
