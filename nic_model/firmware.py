# SPDX-License-Identifier: Apache-2.0
"""The card as a plain object: messages in, messages out; no clock, no socket, no global randomness.

    step: for each message  ->  commands run against the objects, packets through the queues
          at the end        ->  frames, counters, completions, received packets, events

A command is one method, found by its type. Every refusal takes one way out (`_refuse`): it is
counted and becomes a reply with status, syndrome and text. A message that is none is counted and
changes nothing; `step` never raises for bad input.

A card belongs to the host that last said InitFunction. Messages of another epoch, or on the wire of
another boot, are left over from somebody who is gone: counted, wiped, dropped.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from nic_model import checks, mailbox, tables
from nic_model.asking import Asking
from nic_model.checks import Refused
from nic_model.command_faults import SITE_COMMAND, CommandFaults, Verdict, altered, written
from nic_model.events import EventQueue
from nic_model.handles import Handle
from nic_model.mailbox import LoadKey
from nic_model.management import Management
from nic_model.objects import Objects
from nic_model.port import Port
from nic_model.queues import Output, Queues
from proto import commands as c
from proto.caps import Caps
from proto.faults import FaultTable, Released
from proto.faults.held import Data
from proto.frame import Channel, FrameError, Kind, Message, pack, unpack
from proto.hello import Hello
from proto.limits import MTU_DEFAULT
from proto.link.dma import Dma
from proto.link.ring import RingError
from proto.status import Status, Syndrome

EPOCHS_KEPT = 1024  # of hosts that are gone, so that none of them comes back


class Firmware:
    """One card. `rng` draws boot id and IV masks; `mac` (6 bytes) is what the MAC filter lets pass.

    `epoch` is that of the host whose card this is, 0 before the first; `greeting` is what the card
    says on the wire once it is up.
    """

    def __init__(
        self, name: str, caps: Caps, dma: Dma, rng: random.Random, mac: bytes = bytes(6)
    ) -> None:
        self.name = name
        self.caps = caps
        self.objects = Objects(caps)
        self.boot = rng.getrandbits(32) or 1
        self.epoch = 0
        self.greeting = Hello(party="card", name=name, pid=0, caps=caps, boot=self.boot)
        self.port = Port(mac, self.boot)
        self.faults = FaultTable()
        self.asking = Asking(self.faults)
        self.events = EventQueue(caps.event_queue, self.asking)
        self.queues = Queues(self.objects.tables, dma, self.port, self.asking, self.events.post)
        self.counters = dict.fromkeys(("cmd_refused", "msg_malformed", "msg_stale"), 0)
        self.command_faults = CommandFaults(self.faults, self.objects)
        self.management = Management(
            name, caps, self.faults, self.objects.census, self.all_counters
        )
        self._now_ns = 0
        self._greeted = False
        self._epochs: deque[int] = deque(maxlen=EPOCHS_KEPT)
        self._rng = rng
        self._tokens = mailbox.Tokens()
        self._output: Output = []
        self._messages: dict[tuple[Channel, Kind], Callable[[Message], None]] = {
            (Channel.MAILBOX, Kind.COMMAND): self._mailbox,
            (Channel.EVENTS, Kind.ARM): self.events.arm,
            (Channel.RINGS, Kind.TX): self.queues.transmit,
            (Channel.RINGS, Kind.RX_DONE): self.queues.receive_done,
            (Channel.WIRE, Kind.WIRE): self.queues.receive,
            (Channel.WIRE, Kind.WIRE_DONE): self.queues.wire_done,
            (Channel.CONTROL, Kind.CONTROL): self._manage,
        }
        self._commands: dict[type, Callable[[int, Any], c.Reply]] = {
            c.InitFunction: self._init_function,
            c.QueryCaps: self._query_caps,
            LoadKey: self._create_key,
            c.DestroyKey: self._destroy_key,
            c.CreateSa: self._create_sa,
            c.DestroySa: self._destroy_sa,
            c.SetLimits: self._set_limits,
            c.AdvanceEsn: self._advance_esn,
            c.StopSa: self._stop_sa,
            c.QuerySa: self._query_sa,
            c.CreateSaRule: self._create_sa_rule,
            c.CreatePolicyRule: self._create_policy_rule,
            c.DestroyRule: self._destroy_rule,
            c.QueryCounters: self._query_counters,
            c.QueryCensus: self._query_census,
            c.ListObjects: self._list_objects,
            c.SetPort: self._set_port,
            c.Fence: self._fence,
            c.Teardown: self._teardown,
            c.SetQueue: self._set_queue,
        }

    def step(
        self, now_ns: int, inputs: Sequence[tuple[Channel, bytes | bytearray | memoryview]]
    ) -> Output:
        """Take messages, give messages. Mailbox messages in writable buffers are zeroed once read.

        No limit of the card depends on time.
        """
        self._now_ns = self.asking.now_ns = now_ns
        if not self._greeted:
            self._greeted = True
            hello = msgspec.msgpack.encode(self.greeting)
            self._output.append((Channel.WIRE, pack(Kind.HELLO, hello)))
        for late in self.faults.due(now_ns):
            late.context(late.data)
        for channel, raw in inputs:
            try:
                self._take(channel, memoryview(raw))
            except (FrameError, RingError):
                self.counters["msg_malformed"] += 1
        self._flush()
        output, self._output = self._output, []
        return output

    def deadline_ns(self) -> int | None:
        """At once while it has not said HELLO; when a fault lets go what it held; else the card
        acts on messages only."""
        return self.faults.deadline_ns() if self._greeted else 0

    def all_counters(self) -> dict[str, int]:
        """Of port, queues and firmware, by name."""
        port = tables.counters(self.objects.tables)
        return port | self.queues.counters | self.events.counters | self.counters

    def _take(self, channel: Channel, raw: memoryview) -> None:
        try:
            message = unpack(raw)
            handler = self._messages.get((channel, message.kind))
            if handler is None:
                raise FrameError(f"{message.kind.name} does not belong on {channel.name}")
            if self._is_current(channel, message):
                handler(message)
        finally:
            if channel is Channel.MAILBOX:
                mailbox.wipe(raw)

    def _is_current(self, channel: Channel, message: Message) -> bool:
        """Whether a message counts, or is left over; the lab stands outside of all epochs."""
        epoch = {Channel.WIRE: self.boot, Channel.CONTROL: 0}.get(channel, self.epoch)
        current = message.epoch == epoch or mailbox.takes_card(message)
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
            known = message.epoch == self.epoch
            reply = self._tokens.repeated(token, len(message.body)) if known else None
            if reply is None:
                reply = altered(self._execute(token, raw, verdict), verdict)
        except Refused as refused:
            reply = self._refuse(token, refused)
        if message.epoch == self.epoch:
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
            return self._commands[type(command)](token, command)

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
        self._output += self.queues.flush() + self.events.flush()

    # Commands. Each returns its reply or raises Refused with nothing changed.

    @staticmethod
    def _created(token: int, new: Handle) -> c.Reply:
        return c.Reply(token, handle=new.handle, generation=new.generation)

    def _init_function(self, token: int, command: c.InitFunction) -> c.Reply:
        if not command.epoch or command.epoch in self._epochs:
            raise Refused(
                Status.BAD_PARAMETER,
                Syndrome.EPOCH,
                f"epoch {command.epoch:#x} cannot be taken, it is 0 or was used in this boot",
            )
        self._flush()
        self.epoch = command.epoch
        self._epochs.append(command.epoch)
        self._tokens.clear()
        self.objects.teardown()
        self.queues.restart(command.epoch)
        self.events.restart(command.epoch)
        self.port.mtu, self.port.mac_filter = MTU_DEFAULT, False
        return c.Reply(token, values={"boot": self.boot})

    def _query_caps(self, token: int, _: c.QueryCaps) -> c.Reply:
        return c.Reply(token, caps=self.caps)

    def _create_key(self, token: int, command: LoadKey) -> c.Reply:
        checks.check_key(len(command.key) * 8, self.caps)
        checks.check_cookie(command.cookie)
        return self._created(token, self.objects.create_key(command.key, command.cookie))

    def _destroy_key(self, token: int, command: c.DestroyKey) -> c.Reply:
        self.objects.destroy_key(command.handle)
        return c.Reply(token)

    def _create_sa(self, token: int, command: c.CreateSa) -> c.Reply:
        checks.check_sa(command, self.caps)
        if command.direction == c.OUT:  # REPLAY-10: no window there, whatever was given
            command = msgspec.structs.replace(command, replay_window=0, bitmap=())
        self.objects.require_sa(command.key)
        iv_mask = self._rng.getrandbits(64)
        return self._created(token, self.objects.create_sa(command, iv_mask))

    def _destroy_sa(self, token: int, command: c.DestroySa) -> c.Reply:
        self.objects.destroy_sa(command.handle)
        return c.Reply(token)

    def _set_limits(self, token: int, command: c.SetLimits) -> c.Reply:
        checks.check_limits(f"SA handle {command.handle:#x}", command)
        self.objects.set_limits(command)
        return c.Reply(token)

    def _advance_esn(self, token: int, command: c.AdvanceEsn) -> c.Reply:
        checks.check_sequence(f"SA handle {command.handle:#x}", command.seq, esn=True)
        self.objects.advance_esn(command)
        return c.Reply(token)

    def _stop_sa(self, token: int, command: c.StopSa) -> c.Reply:
        self.objects.stop_sa(command.handle)
        return c.Reply(token)

    def _query_sa(self, token: int, command: c.QuerySa) -> c.Reply:
        state = self.objects.query_sa(command.handle)
        return c.Reply(token, sa=self.queues.reported(command.handle, state))

    def _create_sa_rule(self, token: int, command: c.CreateSaRule) -> c.Reply:
        checks.check_cookie(command.cookie)
        return self._created(token, self.objects.create_sa_rule(command.sa, command.cookie))

    def _create_policy_rule(self, token: int, command: c.CreatePolicyRule) -> c.Reply:
        checks.check_policy(command, self.caps)
        return self._created(token, self.objects.create_policy_rule(command))

    def _destroy_rule(self, token: int, command: c.DestroyRule) -> c.Reply:
        self.objects.destroy_rule(command.handle)
        return c.Reply(token)

    def _query_counters(self, token: int, _: c.QueryCounters) -> c.Reply:
        return c.Reply(token, values=self.all_counters())

    def _query_census(self, token: int, _: c.QueryCensus) -> c.Reply:
        return c.Reply(token, values=self.objects.census())

    def _list_objects(self, token: int, command: c.ListObjects) -> c.Reply:
        checks.check_list(command)
        objects, following = self.objects.list(command)
        return c.Reply(token, values={"next": following}, objects=objects)

    def _set_port(self, token: int, command: c.SetPort) -> c.Reply:
        checks.check_port(command, self.port.mac)
        self.port.mtu, self.port.mac_filter = command.mtu, command.mac_filter
        return c.Reply(token)

    def _fence(self, token: int, _: c.Fence) -> c.Reply:
        self._flush()
        return c.Reply(token, values=self.queues.indices() | {"events": self.events.index})

    def _teardown(self, token: int, _: c.Teardown) -> c.Reply:
        self.objects.teardown()
        return c.Reply(token)

    def _set_queue(self, token: int, command: c.SetQueue) -> c.Reply:
        self._flush()
        index = self.queues.set_state(command.queue, command.state, command.index)
        return c.Reply(token, values={"index": index})
