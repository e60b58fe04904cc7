# SPDX-License-Identifier: Apache-2.0
"""The mailbox: MAILBOX_SLOTS commands at a time, queues behind them, one reply per token.

A token is the slot and a running generation, so a late or doubled reply finds no waiter and is
counted; it never completes another command (INV-48). A slot lives like this:

    from      to        when
    free      sent      a queued command gets the slot
    sent      free      its reply is here (in any order of slots, F-CTL-11)
    sent      stalled   no reply by the command's deadline, or one with a token that was never given
                        (F-CTL-01, F-CTL-05): the caller gets CommandUnknown, and the same token is
                        sent again at each deadline; the card executes it once
    stalled   free      the reply comes late: `CommandUnknown.late` tells (F-CTL-02)
    any       free      `fail_all` or `begin`: the card that could still answer is given up

    prohibited: stalled -> free while the card may still work on it; sent -> sent with another
    command; free -> anything by a reply (late, doubled and unknown ones are counted)

Before a deadline counts, entries whose interrupt got lost are looked for (F-CTL-03).

`driver.slots` says who gets a slot. A command that finds every slot it may have stalled fails with
-EAGAIN at once (F-CTL-09), one that waits for a slot longer than its deadline with -EBUSY; posted
ones wait. The card's slowness costs time, never memory: the queues are bounded.
"""

import errno
from collections import Counter, deque
from collections.abc import Callable

import msgspec

from host_driver.driver.command import (
    CommandTimeout,
    CommandUnknown,
    Lane,
    checked,
    failure,
    lane,
    opcode,
    timeout_ms,
    wipe_key,
)
from host_driver.driver.slots import Pending, Slots
from host_driver.sleep import Completion, Sleep, wait
from proto.codec import decode
from proto.commands import AnyCommand, Reply, Request
from proto.frame import HEADER, FrameError, Kind, pack_into
from proto.limits import (
    COMMAND_TIMEOUT_MS,
    MAILBOX_GENERATIONS,
    MAILBOX_QUEUE,
    MAILBOX_SLOTS,
)
from proto.status import Delivery, OffloadError, Status

TIMEOUT_NS = COMMAND_TIMEOUT_MS * 1_000_000


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
        self._slots = Slots()
        self._generation = 0
        self._unannounced: deque[bytes] = deque(maxlen=MAILBOX_SLOTS)
        self._down: OffloadError | None = None
        self._epoch = 0

    def execute(self, command: AnyCommand) -> Sleep[Reply]:
        """Send a command and sleep until its reply, which has status OK.

        Raises CommandFailed, CommandUnknown, or OffloadError when it never got a slot.
        """
        self._might_sleep("Mailbox.execute")
        answer = yield from wait(self._submit(command, patient=False).answered)
        if isinstance(answer, OffloadError):
            raise answer
        assert isinstance(answer, Reply)
        if error := failure(command, answer):
            raise error
        return answer

    def ask(self, command: AnyCommand) -> Sleep[Reply]:
        """Send a command and sleep until its reply, however late. Raises CommandFailed."""
        reply: Reply = yield from wait(self.post(command))
        if error := failure(command, reply):
            raise error
        return reply

    def post(self, command: AnyCommand) -> Completion:
        """Send a command without sleeping. The Completion gets the Reply, however late and whatever
        its status; a lost one is asked for again until it comes or the card is given up."""
        return self._submit(command, patient=True).answered

    def replied(self, body: bytes | memoryview, announced: bool = True) -> None:
        """A REPLY arrived. Malformed, late and doubled ones are counted.

        Not `announced`: its interrupt got lost, and it lies there until somebody looks.
        """
        self._unannounced.append(bytes(body))
        if announced:
            self._poll()

    def command_of(self, body: bytes | memoryview) -> AnyCommand | None:
        """The command that a reply would answer, or None: a fact for fault injection."""
        try:
            token = decode(body, Reply).token
        except FrameError:
            return None
        pending = self._slots.holder(token)
        return pending.command if pending is not None and pending.token == token else None

    def expire(self, now_ns: int) -> None:
        """Give up on callers whose deadline has passed, and ask the card again."""
        self.now_ns = now_ns
        late = [pending for pending in self._slots if now_ns >= pending.deadline_ns]
        if late and self._unannounced:
            self._counters["mailbox_polled"] += len(self._unannounced)
            self._poll()
        for pending in late:
            if self._slots.holder(pending.token) is pending:
                ms = timeout_ms(pending.command)
                text = f"{opcode(pending.command)}: no reply from the card in {ms} ms"
                self._stall(pending, CommandTimeout(text, pending.command, pending.late))
                self._send(pending)
        while (first := self._slots.first_impatient()) and now_ns >= first.deadline_ns:
            self._slots.leave(first)
            self._give_up(first, errno.EBUSY, "no mailbox slot became free")
        for pending in self._slots.hopeless_ones() if late else ():
            self._slots.leave(pending)
            self._give_up(pending, errno.EAGAIN, self._slots.hopeless(pending.command))

    def deadline_ns(self) -> int | None:
        """When `expire` has something to do."""
        deadlines = [pending.deadline_ns for pending in self._slots]
        if first := self._slots.first_impatient():
            deadlines.append(first.deadline_ns)
        return min(deadlines, default=None)

    def fail_all(self, error: OffloadError) -> None:
        """The card is in error or gone: everything ends now, and so does all that comes until
        `begin`. Destroys count as done, because the card will be emptied before it is used again;
        everything else fails with -ENXIO and the text of `error`."""
        self._down = error
        self._abort_all(error)

    def begin(self, epoch: int) -> None:
        """Begin anew with a card that was emptied: whatever was under way has ended, and what is
        sent from now on belongs to `epoch`."""
        self._epoch, self._down = epoch, None
        self._abort_all(OffloadError(errno.ENXIO, "the card was reset"))

    @property
    def idle(self) -> bool:
        """No command is queued or unanswered."""
        return not len(self._slots)

    def _submit(self, command: AnyCommand, *, patient: bool) -> Pending:
        deadline_ns = self.now_ns + timeout_ms(command) * 1_000_000
        pending = Pending(command, patient, deadline_ns)
        if self._down is not None:
            self._abort(pending, self._down)
        elif not patient and (why := self._slots.hopeless(command)):
            self._give_up(pending, errno.EAGAIN, why)
        elif self._slots.full(pending):
            self._give_up(pending, errno.EAGAIN, f"{MAILBOX_QUEUE} commands wait for the card")
        else:
            self._slots.queue(pending)
            self._fill_slots()
        return pending

    def _fill_slots(self) -> None:
        """Start queued commands. A generation of 0 would make token 0, which means unreadable."""
        while pending := self._slots.start(self._generation % MAILBOX_GENERATIONS + 1):
            self._generation = pending.token // MAILBOX_SLOTS
            self._send(pending)

    def _send(self, pending: Pending) -> None:
        pending.deadline_ns = self.now_ns + timeout_ms(pending.command) * 1_000_000
        message = bytearray(HEADER.size)
        self._encoder.encode_into(Request(pending.token, pending.command), message, HEADER.size)
        pack_into(message, Kind.COMMAND, self._epoch)
        self._counters["mailbox_commands"] += 1
        self._transmit(message, pending.command)

    def _poll(self) -> None:
        """Take every entry that lies there."""
        while self._unannounced:
            self._complete(self._unannounced.popleft())

    def _complete(self, body: bytes) -> None:
        try:
            reply = decode(body, Reply)
        except FrameError:
            self._counters["mailbox_malformed"] += 1
            return
        pending = self._slots.holder(reply.token)
        if pending is None or pending.token != reply.token:
            self._stray(reply, pending)
            return
        self._slots.free(pending)
        if pending.stalled:
            self._counters["mailbox_late"] += 1
        answer = checked(pending.command, reply)
        if answer is not reply:
            self._counters["mailbox_misshapen"] += 1
        self._end(pending, answer)
        self._fill_slots()

    def _stray(self, reply: Reply, pending: Pending | None) -> None:
        """A reply that answers nothing. With a token that was never given the firmware has mixed
        something up, and what became of the command in that slot is unknown."""
        self._counters["mailbox_unexpected"] += 1
        ahead = (reply.token // MAILBOX_SLOTS - self._generation) % MAILBOX_GENERATIONS
        if pending is None or not 0 < ahead < MAILBOX_GENERATIONS // 2:
            return
        text = (
            f"{opcode(pending.command)}: the reply carries token {reply.token:#x}, "
            f"{pending.token:#x} was sent (syndrome {reply.syndrome & 0xFFFF_FFFF:#x})"
        )
        self._stall(pending, CommandUnknown(errno.EBADR, text, pending.command, pending.late))

    def _stall(self, pending: Pending, error: CommandUnknown) -> None:
        """The slot is out of use until the card has answered in it."""
        if not pending.stalled:
            self._counters["mailbox_timeouts"] += 1
            pending.stalled = True
        if not pending.patient:
            pending.answered.complete(error)

    # Ends of commands.

    @staticmethod
    def _end(pending: Pending, reply: Reply) -> None:
        wipe_key(pending.command)
        pending.late.complete(reply)
        pending.answered.complete(reply)

    def _abort(self, pending: Pending, error: OffloadError) -> None:
        """End a command without the card."""
        if lane(pending.command) is Lane.SAFETY:
            self._counters["mailbox_emulated"] += 1
            self._end(pending, Reply(pending.token, delivery=Delivery.ABORTED))
            return
        self._counters["mailbox_aborted"] += 1
        aborted = Reply(
            pending.token, Status.BAD_SYSTEM_STATE, text=error.text, delivery=Delivery.ABORTED
        )
        self._end(pending, aborted)

    def _abort_all(self, error: OffloadError) -> None:
        self._unannounced.clear()
        for pending in self._slots.clear():
            self._abort(pending, error)

    def _give_up(self, pending: Pending, code: int, why: str) -> None:
        """End a command that never got a slot: the card has not seen it."""
        self._counters["mailbox_stalled"] += 1
        text = f"{opcode(pending.command)}: {why}"
        if pending.patient:
            self._end(pending, Reply(0, Status.NO_RESOURCES_NOW, text=text))
            return
        wipe_key(pending.command)
        pending.answered.complete(OffloadError(code, text))
