# SPDX-License-Identifier: Apache-2.0
"""The host's edge of the bus: every message out and in passes here, and here faults happen to it.

Sites out: mailbox.command, ring.tx. Sites in: mailbox.reply, events, ring.tx_done, ring.rx,
ring.counters. Without an armed fault a message passes untouched.
"""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec

from proto.commands import AnyCommand
from proto.events import Event, EventType
from proto.faults import FaultTable
from proto.frame import Channel, FrameError, Kind, Message, unpack

RING_SITES = {
    Kind.TX: "ring.tx",
    Kind.TX_DONE: "ring.tx_done",
    Kind.RX: "ring.rx",
    Kind.COUNTERS: "ring.counters",
}
EVENT_TYPES = frozenset(EventType)

Output = list[tuple[Channel, bytes]]


class Edge:
    """Collects what goes out (`take`), and breaks what the fault table says."""

    def __init__(self, faults: FaultTable, counters: Counter[str]) -> None:
        self._faults = faults
        self._counters = counters
        self._output: Output = []

    def take(self) -> Output:
        """Everything sent since the last call, in order."""
        output, self._output = self._output, []
        return output

    def command(self, message: bytearray, command: AnyCommand) -> None:
        """A COMMAND to the card. Each copy is a buffer of its own, because readers zero them."""
        data: Any = message
        copies: list[Any] = self._faults.apply("mailbox.command", data, opcode_fact(command))
        if copies != [data]:
            copies = [bytearray(copy) for copy in copies]
            message[:] = bytes(len(message))
        self._output += [(Channel.MAILBOX, copy) for copy in copies]

    def ring(self, message: bytes) -> None:
        """A TX or RX_DONE message to the card."""
        site = RING_SITES.get(Kind(message[3]))  # the kind stands in byte 3 of the header
        for copy in self._faults.apply(site, message, {}) if site else (message,):
            self._output.append((Channel.RINGS, copy))

    def control(self, message: bytes) -> None:
        """An answer or HELLO to the lab; no fault site."""
        self._output.append((Channel.CONTROL, message))

    def reply(self, raw: bytes, message: Message, command: AnyCommand | None) -> list[Message]:
        """What becomes of a REPLY."""
        return self._reread("mailbox.reply", raw, message, opcode_fact(command))

    def arrived(self, raw: bytes, message: Message) -> list[Message]:
        """What becomes of a ring message from the card."""
        return self._reread(RING_SITES[message.kind], raw, message, {})

    def events(self, message: Message) -> list[Event]:
        """The events of a message; faults hit them one by one, malformed ones are counted."""
        try:
            events = msgspec.msgpack.decode(message.body, type=list[Event])
        except (msgspec.MsgspecError, ValueError):
            self._counters["events_malformed"] += message.count
            return []
        if not self._faults.fired():
            return events
        return [changed for event in events for changed in self._break_event(event)]

    def _break_event(self, event: Event) -> list[Event]:
        name = EventType(event.type).name if event.type in EVENT_TYPES else str(event.type)
        facts = {"type": name, "handle": event.handle}
        kept = []
        for copy in self._faults.apply("events", msgspec.msgpack.encode(event), facts):
            try:
                kept.append(msgspec.msgpack.decode(copy, type=Event))
            except (msgspec.MsgspecError, ValueError):
                self._counters["events_malformed"] += 1
        return kept

    def _reread(
        self, site: str, raw: bytes, message: Message, facts: Mapping[str, object]
    ) -> list[Message]:
        if not self._faults.fired():
            return [message]
        results = []
        for copy in self._faults.apply(site, bytes(raw), facts):
            with suppress(FrameError):
                results.append(unpack(copy))
                continue
            self._counters["messages_malformed"] += 1
        return [result for result in results if result.kind is message.kind]


def opcode_fact(command: AnyCommand | None) -> dict[str, object]:
    """`{"opcode": "CreateSa"}`; fault matching ignores case and underscores."""
    return {"opcode": type(command).__name__} if command is not None else {}
