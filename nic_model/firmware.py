# SPDX-License-Identifier: Apache-2.0
"""The card as a plain object: messages in, messages out; no clock, no socket, no global randomness.

    step: for each message  ->  commands run against the objects, packets through the queues
          at the end        ->  frames, counters, completions, received packets, events

Every refusal of a command takes one way out (`_refuse`): it is counted and becomes a reply with
status, syndrome and text. A message that is none is counted and changes nothing; `step` never
raises for bad input.

A card belongs to the host that last said InitFunction (`life`). Messages of another epoch, or on
the wire of another boot, are left over from somebody who is gone: counted, wiped, dropped.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from nic_model import mailbox, tables
from nic_model.asking import Asking
from nic_model.checks import Refused
from nic_model.command_faults import SITE_COMMAND, CommandFaults, Verdict, altered, written
from nic_model.commands import Commands
from nic_model.events import EventQueue
from nic_model.life import Life
from nic_model.life_faults import hang_ms
from nic_model.management import Management
from nic_model.objects import Objects
from nic_model.port import Port
from nic_model.queues import Output, Queues
from proto import commands as c
from proto.caps import Caps
from proto.faults import FaultTable, Released
from proto.faults.held import Data
from proto.frame import Channel, FrameError, Kind, Message, pack, unpack
from proto.health import FunctionState
from proto.hello import Hello
from proto.link.dma import Dma
from proto.link.ring import RingError

HOST_CHANNELS = frozenset((Channel.MAILBOX, Channel.EVENTS, Channel.RINGS))


class Firmware:
    """One card. `rng` draws boot id and IV masks; `mac` (6 bytes) is what the MAC filter lets pass.

    `greeting` is what the card says on the wire once it is up; its boot id is filled in.
    """

    def __init__(
        self, name: str, caps: Caps, dma: Dma, rng: random.Random, mac: bytes = bytes(6)
    ) -> None:
        self.name = name
        self.caps = caps
        self.objects = Objects(caps)
        self.faults = FaultTable()
        self.asking = Asking(self.faults)
        self.life = Life(self, rng, self.faults)
        self.greeting = Hello(party="card", name=name, pid=0, caps=caps)
        self.port = Port(mac)
        self.events = EventQueue(caps.event_queue, self.asking)
        self.queues = Queues(self.objects.tables, dma, self.port, self.asking, self.events.post)
        self.counters = dict.fromkeys(("cmd_refused", "msg_malformed", "msg_stale"), 0)
        self._commands = Commands(
            caps, self.life, self.objects, self.queues, self.events, rng, self._flush,
            self.all_counters,
        )  # fmt: skip
        self.command_faults = CommandFaults(self.faults, self.objects)
        self.management = Management(
            name, caps, self.faults, self.objects.census, self.all_counters,
            self.events.log.entries, self.life,
        )  # fmt: skip
        self._now_ns = 0
        self._hung_until_ns: int | None = None
        self._backlog: list[tuple[Channel, bytearray]] = []  # the first one is what made it hang
        self._woken = False  # and that first one is next
        self._tokens = mailbox.Tokens()
        self._output: Output = []
        self._messages: dict[tuple[Channel, Kind], Callable[[Message], None]] = {
            (Channel.MAILBOX, Kind.COMMAND): self._mailbox,
            (Channel.EVENTS, Kind.ARM): self.events.arm,
            (Channel.RINGS, Kind.TX): self.queues.transmit,
            (Channel.RINGS, Kind.RX_DONE): self.queues.receive_done,
            (Channel.WIRE, Kind.WIRE): self.queues.receive,
            (Channel.WIRE, Kind.WIRE_DONE): self.queues.wire_done,
            (Channel.WIRE, Kind.LINK): lambda message: self.life.set_link(bool(message.count)),
            (Channel.CONTROL, Kind.CONTROL): self._manage,
        }

    @property
    def boot(self) -> int:
        """The id of this boot, epoch of what goes to the wire."""
        return self.life.boot

    @property
    def epoch(self) -> int:
        """That of the host whose card this is, 0 for nobody."""
        return self.life.epoch

    def step(
        self, now_ns: int, inputs: Sequence[tuple[Channel, bytes | bytearray | memoryview]]
    ) -> Output:
        """Take messages, give messages. Mailbox messages in writable buffers are zeroed once read.

        No limit of the card depends on time.
        """
        self._now_ns = self.asking.now_ns = now_ns
        # What the card's manager wants comes first, also to one that was stopped for long.
        inputs = sorted([*self._wake(), *inputs], key=lambda one: one[0] is not Channel.CONTROL)
        if self._hung_until_ns is None:
            self.life.tick(now_ns)
            for late in self.faults.due(now_ns):
                late.context(late.data)
        for channel, raw in inputs:
            try:
                self._take(channel, memoryview(raw))
            except (FrameError, RingError):
                self.counters["msg_malformed"] += 1
        if self.events.overran and self.caps.overrun == "fatal":
            self.life.overran()
        if self._hung_until_ns is None:
            self._flush()
        output, self._output = self._output, []
        return output

    def deadline_ns(self) -> int | None:
        """When a heartbeat or another change of its life is due, or a fault lets go."""
        if self._hung_until_ns is not None:
            return self._hung_until_ns
        held_ns = self.faults.deadline_ns()
        due_ns = self.life.deadline_ns()
        return due_ns if held_ns is None else min(held_ns, due_ns)

    @property
    def at_ease(self) -> bool:
        """Whether it has nothing to do but heartbeats, so that time may skip them (`skip`)."""
        return self.life.at_ease and not self.faults.armed

    def urgent_ns(self) -> int | None:
        """When something else than a heartbeat is due, while it is at ease."""
        return self.faults.deadline_ns()

    def skip(self, by_ns: int) -> None:
        """See `life.Life.skip`."""
        self.life.skip(by_ns)

    def all_counters(self) -> dict[str, int]:
        """Of port, queues and firmware, by name."""
        port = tables.counters(self.objects.tables)
        ours = self.counters | self.life.counters
        return port | self.queues.counters | self.events.counters | ours

    def _take(self, channel: Channel, raw: memoryview) -> None:
        try:
            message = unpack(raw)
            if channel is not Channel.CONTROL and self._hangs(channel, message):
                self._backlog.append((channel, bytearray(raw)))
                return
            handler = self._messages.get((channel, message.kind))
            if handler is None:
                raise FrameError(f"{message.kind.name} does not belong on {channel.name}")
            if self._is_current(channel, message):
                handler(message)
        finally:
            if channel is Channel.MAILBOX:
                mailbox.wipe(raw)

    def _hangs(self, channel: Channel, message: Message) -> bool:
        """Whether a fault lets the firmware do nothing; what comes waits, and is at most once the
        reason. Raises Crash."""
        woken, self._woken = self._woken, False
        if self._hung_until_ns is None and self.faults.armed and not woken:
            name = channel.name.lower()
            if ms := hang_ms(self.faults, name, message.kind.name, self._now_ns):
                self._hung_until_ns = self._now_ns + ms * 1_000_000
        return self._hung_until_ns is not None

    def _wake(self) -> list[tuple[Channel, bytearray]]:
        """What has waited, once the hang is over."""
        if self._hung_until_ns is None or self._now_ns < self._hung_until_ns:
            return []
        self._hung_until_ns = None
        self._woken = True
        backlog, self._backlog = self._backlog, []
        return backlog

    def _is_current(self, channel: Channel, message: Message) -> bool:
        """Whether a message counts, or is left over; the lab stands outside of all epochs."""
        life = self.life
        epoch = {Channel.WIRE: life.boot, Channel.CONTROL: 0}.get(channel, life.epoch)
        current = message.epoch == epoch
        if current and channel in HOST_CHANNELS:
            life.heard()
            current = channel is Channel.MAILBOX or life.state is FunctionState.ACTIVE
        elif not current:
            in_error = life.state is FunctionState.ERROR
            current = mailbox.takes_card(message, in_error=in_error)
        self.counters["msg_stale"] += not current
        return current

    def _mailbox(self, message: Message) -> None:
        verdict = Verdict()
        if self.faults.armed:
            opcode = mailbox.opcode_of(message.body)
            verdict = self.command_faults.judge(opcode, self._now_ns)
        if verdict.hold_ms:
            self._hold_command(message, verdict)
        elif verdict.execute or verdict.reply:
            self._command(message, verdict)

    def _hold_command(self, message: Message, verdict: Verdict) -> None:
        """A copy, which may hold a key, and is zeroed when it was executed."""
        kept = memoryview(bytearray(message.body))

        def execute(body: memoryview) -> None:
            late = message._replace(body=body)
            if self._is_current(Channel.MAILBOX, late):
                self._command(late, verdict)
            mailbox.wipe(body)

        self._hold(verdict, kept, execute, verdict.hold_ms)

    def _hold(self, verdict: Verdict, data: Data, then: Callable[[Any], None], ms: int) -> None:
        until_ns = self._now_ns + ms * 1_000_000
        self.faults.hold(verdict.fault, Released(SITE_COMMAND, data, then), until_ns)

    def _command(self, message: Message, verdict: Verdict) -> None:
        """Execute a token once; when it comes again, its reply was lost, and is repeated."""
        token = 0
        try:
            token, raw = mailbox.open_envelope(message.body)
            known = message.epoch == self.life.epoch
            reply = self._tokens.repeated(token, len(message.body)) if known else None
            if reply is None:
                reply = altered(self._execute(token, raw, verdict), verdict)
        except Refused as refused:
            reply = self._refuse(token, refused)
        if message.epoch == self.life.epoch:
            self._tokens.keep(reply)
        if verdict.answer:
            answer = pack(Kind.REPLY, written(reply, verdict), epoch=message.epoch)
            if verdict.late_ms:
                self._hold(verdict, answer, self._reply, verdict.late_ms)
            else:
                self._reply(answer)

    def _reply(self, answer: bytes) -> None:
        self._output.append((Channel.MAILBOX, answer))

    def _execute(self, token: int, raw: msgspec.Raw, verdict: Verdict) -> c.Reply:
        if not verdict.execute:
            return c.Reply(token)
        command = mailbox.decode(raw)

        def run() -> c.Reply:
            return self._commands.execute(token, command)

        if not self.faults.armed:
            return run()
        reply = self.command_faults.execute(command, run, self._now_ns)
        return msgspec.structs.replace(reply, token=token)

    def _manage(self, message: Message) -> None:
        self._output.append((Channel.CONTROL, self.management.answer(message)))

    def _refuse(self, token: int, refused: Refused) -> c.Reply:
        self.counters["cmd_refused"] += 1
        return c.Reply(
            token, refused.status, refused.syndrome, refused.text, delivery=refused.delivery
        )

    def _flush(self) -> None:
        """Hand over what the queues hold; events come after the counters they hint at."""
        self._output += self.queues.flush() + self.events.flush() + self.life.records()

    # What the life of the card does to it (life.Chip).

    def empty(self, epoch: int) -> None:
        """Everything is destroyed or flushed; rings and events begin anew for the host of `epoch`,
        and without one the port is closed."""
        self.queues.abandon()
        self._flush()
        self._tokens.clear()
        self.objects.teardown()
        self.queues.restart(epoch)
        self.events.restart(epoch)
        self.port.configure(opened=bool(epoch))

    def indices(self) -> dict[str, int]:
        """How far rings and event queue are (commands.Fence)."""
        return self._commands.indices()

    def power_on(self, boot: int) -> None:
        """A new boot says HELLO on the wire; whatever was counted is forgotten."""
        for counters in (self.counters, self.events.counters, *self.queues.all_counters):
            counters.update(dict.fromkeys(counters, 0))
        tables.forget_counters(self.objects.tables)
        self.events.log.clear()
        self.port.restart(boot)
        hello = msgspec.structs.replace(self.greeting, boot=boot)
        self._output.append((Channel.WIRE, pack(Kind.HELLO, msgspec.msgpack.encode(hello))))
