# SPDX-License-Identifier: Apache-2.0
"""Who may sleep, and how. A callback that may sleep is a generator; one that may not is a function.

A sleeping function yields Completions and is resumed when they are done:

    reply = yield from wait(completion)

The scheduler runs such tasks one at a time, in the order in which they became ready, so that a seed
gives one interleaving. Where the kernel holds a lock the core uses `atomic`, and a generator that
comes back there is a violation, not a deadlock (section 0.5).
"""

import contextlib
import inspect
from collections import deque
from collections.abc import Generator
from typing import Any, TypeVar

T = TypeVar("T")


class Completion:
    """Something to wait for once. `deadline_ns` None waits for ever (bounded by its completer)."""

    __slots__ = ("deadline_ns", "done", "value")

    def __init__(self, deadline_ns: int | None = None) -> None:
        self.done = False
        self.value: Any = None
        self.deadline_ns = deadline_ns

    def complete(self, value: Any = None) -> None:
        """Wake the waiter with `value`. A second call changes nothing."""
        if not self.done:
            self.done, self.value = True, value


Sleep = Generator[Completion, None, T]


class Misuse(RuntimeError):
    """A foreign function broke the rules of its interface. The text quotes no data of it."""


class AtomicViolation(Misuse):
    """A callback did what its context forbids. `rule` is the contract's rule id."""

    def __init__(self, text: str, rule: str) -> None:
        super().__init__(f"{text} ({rule})")
        self.rule = rule


def wait(completion: Completion) -> Sleep[Any]:
    """Sleep until `completion` is done; returns its value (None after its deadline)."""
    if not completion.done:
        yield completion
    return completion.value


def may_sleep(value: Any) -> Sleep[Any]:
    """Finish a callback that was called where sleeping is allowed: a value, or a generator."""
    if inspect.isgenerator(value):
        return (yield from value)
    return value


def completions_of(task: Sleep[T]) -> Sleep[T]:
    """Run a foreign generator. Raises Misuse when it yields what nobody can complete."""
    while True:
        try:
            completion = next(task)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        except GeneratorExit:
            raise Misuse("raised GeneratorExit") from None
        _check(task, completion)
        yield completion


def _check(task: Sleep[Any], yielded: Any) -> None:
    wrong = ""
    deadline: object = getattr(yielded, "deadline_ns", None)
    if not isinstance(yielded, Completion):
        wrong = f"yielded a {type(yielded).__name__}, not a Completion"
    elif not isinstance(deadline, int | None):
        wrong = "yielded a Completion whose deadline is no whole number"
    if wrong:
        task.close()
        raise Misuse(wrong)


def atomic(value: Any, what: str, rule: str) -> Any:
    """Finish a callback that was called under a lock. Raises AtomicViolation if it would sleep."""
    if not inspect.isgenerator(value):
        return value
    try:
        next(value)
    except StopIteration as stop:
        return stop.value
    value.close()
    raise AtomicViolation(f"{what} tried to sleep in atomic context", rule)


class Mutex:
    """A lock for tasks, first come first served (the kernel's xfrm_cfg_mutex, UAPI-07).

    A task that takes it twice would wait for itself: that raises AtomicViolation.
    """

    def __init__(self, sched: "Scheduler") -> None:
        self._sched = sched
        self._held = False
        self._owner: object = None
        self._waiters: deque[Completion] = deque()

    def lock(self) -> Sleep[None]:
        """Sleep until the lock is ours."""
        if self._held:
            if self._owner is self._sched.current:
                raise AtomicViolation("the holder of xfrm_cfg_mutex took it again", "UAPI-07")
            turn = Completion()
            self._waiters.append(turn)
            yield from wait(turn)
        self._held, self._owner = True, self._sched.current

    def unlock(self) -> None:
        """Hand the lock to the next waiter."""
        self._owner = None
        if self._waiters:
            self._waiters.popleft().complete()
        else:
            self._held = False


class Scheduler:
    """Runs tasks until each of them sleeps or is done; `current` is the one that runs now."""

    def __init__(self) -> None:
        self.current: Sleep[Any] | None = None
        self._ready: deque[Sleep[Any]] = deque()
        self._asleep: list[tuple[Completion, Sleep[Any]]] = []

    def spawn(self, task: Sleep[Any]) -> None:
        """Add a task; it first runs in the next `run`."""
        self._ready.append(task)

    def run(self, now_ns: int) -> None:
        """Wake what is done or past its deadline, and run until nothing is ready."""
        while True:
            asleep = []
            for completion, task in self._asleep:
                late = completion.deadline_ns is not None and now_ns >= completion.deadline_ns
                if completion.done or late:
                    self._ready.append(task)
                else:
                    asleep.append((completion, task))
            self._asleep = asleep
            if not self._ready:
                return
            while self._ready:
                self.current = task = self._ready.popleft()
                with contextlib.suppress(StopIteration):
                    self._asleep.append((next(task), task))
            self.current = None

    def deadline_ns(self) -> int | None:
        """The next moment at which a sleeper gives up, or None."""
        return min(
            (c.deadline_ns for c, _ in self._asleep if c.deadline_ns is not None), default=None
        )

    def __len__(self) -> int:
        """Tasks that are not finished."""
        return len(self._ready) + len(self._asleep)
