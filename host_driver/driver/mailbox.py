# SPDX-License-Identifier: Apache-2.0
"""The mailbox: MAILBOX_SLOTS commands at a time, a queue behind them, one reply per token.

A token is the slot and a running generation, so a late or doubled reply finds no waiter and is
counted; it never completes another command (INV-48). A slot lives like this:

    free -> sent -> answered -> free              the usual way
            sent -> stalled -> answered -> free   no reply in COMMAND_TIMEOUT_MS: the caller gets
                                                  -ETIMEDOUT, the same token is sent again until
                                                  the card answers, and `CommandTimeout.late` tells
                                                  what became of the command (F-CTL-01, F-CTL-02)

Prohibited: stalled -> free without a reply (the card may still work on it). When every slot is
stalled, new commands fail with -EAGAIN at once (F-CTL-09); posted ones wait.
"""

import errno
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from host_driver.sleep import Completion, Sleep, wait
from proto.commands import AnyCommand, Reply, Request
from proto.frame import HEADER, Kind, pack_into
from proto.limits import COMMAND_TIMEOUT_MS, MAILBOX_SLOTS
from proto.status import STATUS_ERRNO, OffloadError, Status

TIMEOUT_NS = COMMAND_TIMEOUT_MS * 1_000_000
GENERATION_MAX = (1 << 32) // MAILBOX_SLOTS - 1


class CommandTimeout(OffloadError):
    """No reply in time. `late` completes with the Reply that comes in the end: an object that
    `command` created in spite of it belongs to whoever caught this."""

    def __init__(self, text: str, command: AnyCommand, late: Completion) -> None:
        super().__init__(errno.ETIMEDOUT, text)
        self.command = command
        self.late = late


@dataclass(slots=True, eq=False)
class _Pending:
    """A command on its way. `answered` completes with a Reply or an OffloadError."""

    command: AnyCommand
    patient: bool
    answered: Completion = field(default_factory=Completion)
    late: Completion = field(default_factory=Completion)
    token: int = 0
    deadline_ns: int = 0
    stalled: bool = False


def opcode(command: AnyCommand) -> str:
    """`CREATE_SA` for CreateSa: how a command is called in texts."""
    name = type(command).__name__
    return "".join("_" + c if c.isupper() else c.upper() for c in name).lstrip("_")


def _wipe_key(command: AnyCommand) -> None:
    """Zero the driver's copy of a key, which it keeps only while the command may be sent again."""
    key: object = getattr(command, "key", None)
    if isinstance(key, bytearray):
        key[:] = bytes(len(key))


def failure(command: AnyCommand, reply: Reply) -> OffloadError | None:
    """What a reply other than OK means to the caller; the text carries the syndrome (F-CTL-06)."""
    if reply.status == Status.OK:
        return None
    known = reply.status in Status.__members__.values()
    name = Status(reply.status).name if known else f"status {reply.status}"
    code = STATUS_ERRNO[Status(reply.status)] if known else errno.EIO
    text = reply.text or f"{opcode(command)} failed with {name}"
    return OffloadError(code, f"{text} (syndrome {reply.syndrome:#x})")


class Mailbox:
    """`transmit(message, command)` puts framed bytes on the MAILBOX channel, and only there is a
    message with a key; whoever sends it may zero it. The key of a command is zeroed when answered.
    `might_sleep(what)` raises where the caller is in no context to sleep.
    """

    def __init__(
        self,
        transmit: Callable[[bytearray, AnyCommand], None],
        counters: Counter[str],
        might_sleep: Callable[[str], None] = lambda what: None,
    ) -> None:
        self._might_sleep = might_sleep
        self._encoder = msgspec.msgpack.Encoder()
        self.now_ns = 0
        self._transmit = transmit
        self._counters = counters
        self._slots: list[_Pending | None] = [None] * MAILBOX_SLOTS
        self._generation = 0
        self._queue: deque[_Pending] = deque()

    def execute(self, command: AnyCommand) -> Sleep[Reply]:
        """Send a command and sleep until its reply, which has status OK.

        Raises CommandTimeout, or OffloadError with the errno and text of the refusal.
        """
        self._might_sleep("Mailbox.execute")
        pending = self._submit(command, patient=False)
        answer = yield from wait(pending.answered)
        if isinstance(answer, OffloadError):
            raise answer
        assert isinstance(answer, Reply)
        if error := failure(command, answer):
            raise error
        return answer

    def post(self, command: AnyCommand) -> Completion:
        """Send a command without sleeping. The Completion gets the Reply, however late and whatever
        its status; a lost one is asked for again until it comes."""
        return self._submit(command, patient=True).answered

    def replied(self, body: bytes | memoryview) -> None:
        """A REPLY arrived. Malformed, late and doubled ones are counted."""
        try:
            reply = msgspec.msgpack.decode(body, type=Reply)
        except (msgspec.MsgspecError, ValueError):
            self._counters["mailbox_malformed"] += 1
            return
        pending = self._slots[reply.token % MAILBOX_SLOTS]
        if pending is None or pending.token != reply.token:
            self._counters["mailbox_unexpected"] += 1
            return
        self._slots[reply.token % MAILBOX_SLOTS] = None
        _wipe_key(pending.command)
        if pending.stalled:
            self._counters["mailbox_late"] += 1
        pending.late.complete(reply)
        pending.answered.complete(reply)
        self._fill_slots()

    def command_of(self, body: bytes | memoryview) -> AnyCommand | None:
        """The command that a reply would answer, or None: a fact for fault injection."""
        try:
            token = msgspec.msgpack.decode(body, type=Reply).token
        except (msgspec.MsgspecError, ValueError):
            return None
        pending = self._slots[token % MAILBOX_SLOTS]
        return pending.command if pending is not None and pending.token == token else None

    def expire(self, now_ns: int) -> None:
        """Give up on callers whose deadline has passed, and ask the card again."""
        self.now_ns = now_ns
        for pending in self._slots:
            if pending is not None and now_ns >= pending.deadline_ns:
                self._stall(pending)
        if self._all_stalled():
            impatient = [pending for pending in self._queue if not pending.patient]
            self._queue = deque(pending for pending in self._queue if pending.patient)
            for pending in impatient:
                self._refuse(pending)

    def deadline_ns(self) -> int | None:
        """When `expire` has something to do."""
        return min((p.deadline_ns for p in self._slots if p is not None), default=None)

    @property
    def idle(self) -> bool:
        """No command is queued or unanswered."""
        return not self._queue and all(pending is None for pending in self._slots)

    def _submit(self, command: AnyCommand, *, patient: bool) -> _Pending:
        pending = _Pending(command, patient)
        if not patient and self._all_stalled():
            self._refuse(pending)
        else:
            self._queue.append(pending)
            self._fill_slots()
        return pending

    def _fill_slots(self) -> None:
        """Start queued commands, first come first served."""
        while self._queue and None in self._slots:
            pending = self._queue.popleft()
            slot = self._slots.index(None)
            # A generation of 0 would make token 0, which stands for "unreadable".
            self._generation = self._generation % GENERATION_MAX + 1
            pending.token = self._generation * MAILBOX_SLOTS + slot
            self._slots[slot] = pending
            self._send(pending)

    def _send(self, pending: _Pending) -> None:
        pending.deadline_ns = self.now_ns + TIMEOUT_NS
        message = bytearray(HEADER.size)
        self._encoder.encode_into(Request(pending.token, pending.command), message, HEADER.size)
        pack_into(message, Kind.COMMAND)
        self._counters["mailbox_commands"] += 1
        self._transmit(message, pending.command)

    def _stall(self, pending: _Pending) -> None:
        if not pending.stalled:
            self._counters["mailbox_timeouts"] += 1
            pending.stalled = True
        if not pending.patient:
            text = f"{opcode(pending.command)}: no reply from the card in {COMMAND_TIMEOUT_MS} ms"
            pending.answered.complete(CommandTimeout(text, pending.command, pending.late))
        self._send(pending)

    def _all_stalled(self) -> bool:
        return all(pending is not None and pending.stalled for pending in self._slots)

    def _refuse(self, pending: _Pending) -> None:
        self._counters["mailbox_stalled"] += 1
        _wipe_key(pending.command)
        text = f"{opcode(pending.command)}: all {MAILBOX_SLOTS} mailbox slots wait for the card"
        pending.answered.complete(OffloadError(errno.EAGAIN, text))
