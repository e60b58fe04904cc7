# SPDX-License-Identifier: Apache-2.0
"""The host's edge of the bus: every message out and in passes here, and here faults happen to it.

Sites out: mailbox.command, ring.tx, ring.rx_done, ring.arm. Sites in: mailbox.reply, events,
ring.tx_done, ring.rx, ring.counters. Without an armed fault a message passes untouched.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from proto.codec import decode
from proto.commands import AnyCommand
from proto.events import Event, EventType
from proto.faults import FaultTable
from proto.frame import Channel, FrameError, Kind, Message, renumbered, unpack

RING_SITES = {
    Kind.TX: "ring.tx",
    Kind.TX_DONE: "ring.tx_done",
    Kind.RX: "ring.rx",
    Kind.RX_DONE: "ring.rx_done",
    Kind.COUNTERS: "ring.counters",
}
RENUMBER = {"index": 4096, "count": 1}  # without a value; see proto.faults.sites
EVENT_TYPES = frozenset(EventType)

Output = list[tuple[Channel, bytes]]

T = TypeVar("T")
Take = Callable[[T], None]


class Edge:
    """Collects what goes out (`take`), and breaks what the fault table says.

    What comes in goes on to a function that the host gives with it, once, twice or never, now or
    when a fault lets it go (`release`).
    """

    def __init__(self, faults: FaultTable, counters: Counter[str]) -> None:
        self.now_ns = 0
        self._faults = faults
        self._counters = counters
        self._output: Output = []

    def take(self) -> Output:
        """Everything sent since the last call, in order."""
        output, self._output = self._output, []
        return output

    def release(self) -> None:
        """Let everything go on whose delay is over."""
        for released in self._faults.due(self.now_ns):
            released.context(released.data)

    # Out.

    def command(self, message: bytearray, command: AnyCommand) -> None:
        """A COMMAND to the card. Each copy is a buffer of its own, because readers zero them."""
        self._pass("mailbox.command", message, opcode_fact(command), self._to_mailbox)

    def ring(self, message: bytes) -> None:
        """A TX or RX_DONE message to the card."""
        site = RING_SITES[Kind(message[3])]  # the kind stands in byte 3 of the header
        self._pass(site, self._renumber(site, message), {}, self._to_rings)

    def control(self, message: bytes) -> None:
        """An answer or HELLO to the lab; no fault site."""
        self._output.append((Channel.CONTROL, message))

    def doorbell(self, message: bytes) -> None:
        """The arming doorbell of the event queue."""
        self._pass("ring.arm", self._renumber("ring.arm", message), {}, self._to_events)

    def _to_events(self, message: bytes) -> None:
        self._output.append((Channel.EVENTS, message))

    def _to_mailbox(self, message: Any) -> None:
        self._output.append((Channel.MAILBOX, message))

    def _to_rings(self, message: bytes) -> None:
        self._output.append((Channel.RINGS, message))

    # In.

    def reply(
        self, raw: bytes, message: Message, command: AnyCommand | None, then: Take[Message]
    ) -> None:
        """A REPLY to `command`."""
        self._reread("mailbox.reply", raw, message, opcode_fact(command), then)

    def arrived(self, raw: bytes, message: Message, then: Take[Message]) -> bool:
        """A ring message from the card; False when a fault lost it for good."""
        site = RING_SITES[message.kind]
        return self._reread(site, self._renumber(site, raw), message, {}, then)

    def events(self, message: Message, known: int, then: Take[list[Event]]) -> None:
        """The events of a message behind `known` old ones; faults hit them one by one, malformed
        ones are counted."""
        try:
            events = decode(message.body, list[Event])[known:]
        except FrameError:
            self._counters["events_malformed"] += message.count
            return
        if not self._faults.armed:
            then(events)
            return

        now: list[Event] = []  # what passes at once stays together
        passing = True

        def read(copy: bytes) -> None:
            try:
                event = decode(copy, Event)
            except FrameError:
                self._counters["events_malformed"] += 1
                return
            if passing:
                now.append(event)
            else:
                then([event])

        for event in events:
            name = EventType(event.type).name if event.type in EVENT_TYPES else str(event.type)
            facts = {"type": name, "handle": event.handle}
            self._pass("events", msgspec.msgpack.encode(event), facts, read)
        passing = False
        then(now)

    def _reread(
        self,
        site: str,
        raw: bytes,
        message: Message,
        facts: Mapping[str, object],
        then: Take[Message],
    ) -> bool:
        if not self._faults.armed:
            then(message)
            return True

        taken = False

        def read(copy: bytes) -> None:
            nonlocal taken
            with suppress(FrameError):
                again = unpack(copy)
                if again.kind is message.kind:
                    taken = True
                    then(again)
                    return
            self._counters["messages_malformed"] += 1

        return self._pass(site, bytes(raw), facts, read) or taken

    def _renumber(self, site: str, raw: bytes) -> bytes:
        """A peer that has lost its place: another index or count, and a right check."""
        if self._faults.armed:
            for fired in self._faults.fire(site, {}, self.now_ns):
                value = fired.value if isinstance(fired.value, int) else RENUMBER[fired.kind]
                raw = renumbered(raw, **{fired.kind: value})
        return raw

    def _pass(
        self, site: str, data: bytes | bytearray, facts: Mapping[str, object], go: Take[Any]
    ) -> bool:
        """`go` takes what becomes of a message; True when some of it is held and goes later."""
        held = self._faults.held
        copies = self._faults.apply(site, data, facts, self.now_ns, go)
        waits = self._faults.held > held
        for copy in copies:
            go(copy)
        self.release()
        return waits


def opcode_fact(command: AnyCommand | None) -> dict[str, object]:
    """`{"opcode": "CreateSa"}`; fault matching ignores case and underscores."""
    return {"opcode": type(command).__name__} if command is not None else {}
