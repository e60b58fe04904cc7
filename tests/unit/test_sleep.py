# SPDX-License-Identifier: Apache-2.0
"""Who may sleep: tasks, completions, deadlines, the mutex, and the atomic fence."""

import pytest

from host_driver.sleep import AtomicViolation, Completion, Mutex, Scheduler, atomic, may_sleep, wait


def test_tasks_run_in_order_and_wake_on_completion() -> None:
    sched, log = Scheduler(), []
    gate = Completion()

    def sleeper():
        log.append("asleep")
        log.append((yield from wait(gate)))

    def other():
        log.append("other")
        return
        yield

    sched.spawn(sleeper())
    sched.spawn(other())
    sched.run(0)
    assert (log, len(sched)) == (["asleep", "other"], 1)
    gate.complete("value")
    gate.complete("second")
    sched.run(0)
    assert (log[-1], len(sched)) == ("value", 0)


def test_a_deadline_wakes_with_none() -> None:
    sched, log = Scheduler(), []

    def sleeper():
        log.append((yield from wait(Completion(deadline_ns=10))))

    sched.spawn(sleeper())
    sched.run(9)
    assert (log, sched.deadline_ns()) == ([], 10)
    sched.run(10)
    assert (log, sched.deadline_ns()) == ([None], None)


def test_waiting_for_what_is_done_does_not_sleep() -> None:
    done = Completion()
    done.complete(5)
    assert atomic(wait(done), "wait", "OPS-16") == 5


def test_may_sleep_takes_values_and_generators() -> None:
    sched, results = Scheduler(), []

    def callback():
        yield from wait(Completion(deadline_ns=1))
        return 7

    def task(value):
        results.append((yield from may_sleep(value)))

    for value in (3, callback()):
        sched.spawn(task(value))
    sched.run(0)
    sched.run(1)
    assert results == [3, 7]


def test_a_callback_that_sleeps_under_a_lock_is_a_violation() -> None:
    closed = []

    def callback():
        try:
            yield Completion()
        finally:
            closed.append(True)

    with pytest.raises(AtomicViolation, match=r"delete tried to sleep .* \(OPS-16\)") as caught:
        atomic(callback(), "delete", "OPS-16")
    assert caught.value.rule == "OPS-16"
    assert closed == [True]
    assert atomic(4, "delete", "OPS-16") == 4


def test_the_mutex_serves_in_order() -> None:
    sched, log = Scheduler(), []
    mutex = Mutex(sched)
    gates = [Completion() for _ in range(3)]

    def task(number):
        yield from mutex.lock()
        log.append(f"in {number}")
        yield from wait(gates[number])
        mutex.unlock()

    for number in range(3):
        sched.spawn(task(number))
    sched.run(0)
    for gate in gates:
        gate.complete()
        sched.run(0)
    assert log == ["in 0", "in 1", "in 2"]
    assert len(sched) == 0
