# SPDX-License-Identifier: Apache-2.0
"""Everything that a host reads from its card and its lab, while it works.

An input is a list of records:

    ["do", n]                          begin the n-th action: an `ip` command, packets, a query
    ["reply", tree]                    a REPLY; {"t": n} stands for the token of a held command
    ["events", tree, index, count]     EVENTS
    ["rx"|"counters", [tuple...], index, count]      descriptors, counter records
    ["msg", channel, kind, index, count, body]       ["raw", channel, bytes]
    ["ctl", tree]                      a query
    ["card"]                           the real card answers everything that is held
    ["wait", seconds]

A card may lie; the host must live, count what it cannot use, and have no exception inside.
"""

import struct
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from fuzz.commands import COMMANDS, KEY
from fuzz.examples import examples
from fuzz.frames import FRAMES, SEALED
from fuzz.pair import CALM_S, Pair, reply_tree
from fuzz.target import Outcome, Trees, encode, require, tree_of
from host_driver import control, ip
from proto import commands as c
from proto.caps import parse_card
from proto.events import Event
from proto.frame import Channel, Kind, pack
from proto.layouts import DESCRIPTOR, SA_COUNTERS
from proto.link.dma import rx_offset

RECORDS_MAX = 12
DEFECTS = ("exceptions", "internal_errors")
MAIN = {
    "replies": (Channel.MAILBOX, Kind.REPLY), "events": (Channel.EVENTS, Kind.EVENTS),
    "rings": (Channel.RINGS, Kind.RX), "control": (Channel.CONTROL, Kind.CONTROL),
}  # fmt: skip
WAIT_MAX_S = 90
Act = Callable[[], Any]
REFUSALS = ("malformed", "misshapen", "unexpected", "unknown", "stale", "doubled", "spurious",
            "_drop", "error", "not_ip", "stopped")  # fmt: skip
PACKET = FRAMES[0][14:]


class HostTarget(Trees):
    """A host behind a card that may say anything. `area` chooses what the seeds are about."""

    files = ("host_driver/host.py", "host_driver/driver/", "host_driver/queries.py",
             "host_driver/control.py", "proto/codec.py", "proto/link/")  # fmt: skip
    words = (b"\x91" * 1500, b"\x81\xa1x" * 700, b"\xdd\xff\xff\xff\xff")

    def __init__(self, area: str) -> None:
        self.name = f"host-{area}"
        self._area = area
        self.pair: Any = None
        self._actions = list(_actions())
        self._records: dict[str, Callable[..., Act]] = {
            "do": lambda number: self._do(number % len(self._actions)),
            "reply": lambda tree: self._given(
                Channel.MAILBOX, self.pair.pack(Kind.REPLY, encode(self._resolved(tree)))
            ),
            "events": lambda tree, index, count: self._given(
                Channel.EVENTS,
                self.pair.pack(
                    Kind.EVENTS, encode(tree), self.pair.host.events.index + index, _u16(count)
                ),
            ),
            "rx": self._rx,
            "counters": self._counters,
            "ctl": lambda tree: self._given(Channel.CONTROL, pack(Kind.CONTROL, encode(tree))),
            "msg": lambda channel, kind, index, count, body: self._given(
                Channel(channel), self.pair.pack(Kind(kind), body, index, _u16(count))
            ),
            "raw": lambda channel, raw: self._given(Channel(channel), bytes(memoryview(raw))),
            "card": lambda: self.pair.pump,
            "wait": lambda seconds: self._wait(min(abs(seconds), WAIT_MAX_S)),
        }

    def seeds(self) -> list[bytes]:
        return [encode(records) for records in _SEEDS[self._area]()]

    def reset(self) -> None:
        if self.pair is not None:
            self.pair.close()
        self.pair = Pair()

    def run(self, data: bytes) -> Outcome:
        self._outcome = outcome = Outcome(0)
        records = tree_of(data)
        for record in records[:RECORDS_MAX] if isinstance(records, list) else ():
            before = dict(self.pair.host.counters)
            act = self._act(record)
            if act is not None:
                act()
                self._judge(before)
        for answer in self.pair.answers.values():
            if answer.errno:
                require(answer.text and KEY not in answer.text.lower(), "a text, without the key")
                outcome.refused += 1
                outcome.features.add(("errno", answer.errno))
        self.pair.answers.clear()
        return outcome

    def _act(self, record: Any) -> Act | None:
        """What a record stands for; what is none is the body of a message, if it can be."""
        try:
            return self._records[record[0]](*record[1:])
        except (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError,
                ZeroDivisionError, RecursionError, struct.error):  # fmt: skip
            return self._body(record)

    def _body(self, record: Any) -> Act | None:
        channel, kind = MAIN[self._area]
        try:
            body = encode(record)
        except (TypeError, ValueError, OverflowError, RecursionError):
            return None
        if channel is Channel.CONTROL:
            return self._given(channel, pack(kind, body))
        return self._given(channel, self.pair.pack(kind, body, 0, 1))

    def _judge(self, before: dict[str, int]) -> None:
        counters = self.pair.host.counters
        moved = {name: n - before.get(name, 0) for name, n in counters.items()}
        require(min(moved.values(), default=0) >= 0, "a counter went back")
        for name in DEFECTS:
            require(not moved.get(name), f"{name} moved: {self._said()}")
        self._outcome.features |= {name for name, n in moved.items() if n}
        self._outcome.refused += any(
            n for name, n in moved.items() if any(word in name for word in REFUSALS)
        )

    def _said(self) -> list[str]:
        return [answer.text for answer in self.pair.answers.values() if answer.errno][-3:]

    def check(self) -> None:
        """In the end the host works: what is held is answered, it flushes, and takes an SA."""
        pair = self.pair
        pair.host.faults.reset()
        pair.wait(CALM_S)
        pair.ask(control.SetLink("nic0", up=True, mtu=1500, esp_hw_offload=True))
        for command in ("ip xfrm state flush", "ip xfrm policy flush"):
            require(pair.ip(command).rc == 0, f"{command} was refused")
        pair.wait(CALM_S)
        for name in DEFECTS:
            require(not pair.host.counters[name], f"{name} = {pair.host.counters[name]}")

    # Records.

    def _given(self, channel: Channel, raw: bytes) -> Act:
        def give() -> None:
            self._outcome.offered += 1
            self.pair.to_host(channel, raw)

        return give

    def _do(self, number: int) -> Act:
        action = self._actions[number]
        return lambda: self.pair.ask(action)

    def _wait(self, seconds: float) -> Act:
        return lambda: self.pair.wait(seconds)

    def _rx(self, descriptors: list[Any], index: int, count: int) -> Act:
        rows = np.zeros(len(descriptors), DESCRIPTOR)
        at = self.pair.host.rx.index + index
        for number, (more, longer, flags, syndrome, handle, generation, frame) in enumerate(
            descriptors
        ):
            offset = rx_offset(at + number)
            frame = frame[:9000]
            memory = self.pair.host.rx._memory
            memory[offset : offset + len(frame)] = frame
            rows[number] = (
                (offset + more) % (1 << 32), (len(frame) + longer) % (1 << 16), flags % 256,
                syndrome % 256, self._handle(handle), generation % (1 << 32),
            )  # fmt: skip
        count = _u16(len(descriptors) + count)
        return self._given(
            Channel.RINGS, self.pair.pack(Kind.RX, rows.tobytes(), at % (1 << 32), count)
        )

    def _counters(self, records: list[Any], index: int, count: int) -> Act:
        rows = np.zeros(len(records), SA_COUNTERS)
        for number, (handle, *fields) in enumerate(records):
            sizes = [SA_COUNTERS[name].itemsize for name in SA_COUNTERS.names[1:]]
            values = [field % (1 << 8 * size) for field, size in zip(fields, sizes, strict=True)]
            rows[number] = (self._handle(handle), *values)
        count = _u16(len(records) + count)
        message = self.pair.pack(Kind.COUNTERS, rows.tobytes(), index % (1 << 32), count)
        return self._given(Channel.RINGS, message)

    def _handle(self, handle: Any) -> int:
        """A number, or {"s": n} for the n-th SA of the driver."""
        if isinstance(handle, dict):
            known = [sa.handle for sa in self.pair.host.sas]
            return known[handle["s"] % len(known)]
        return handle % (1 << 32)

    def _resolved(self, tree: Any) -> Any:
        if isinstance(tree, dict) and set(tree) == {"t"}:
            tokens = self.pair.tokens()
            return tokens[tree["t"] % len(tokens)][0] if tokens else tree["t"]
        if isinstance(tree, dict) and set(tree) == {"s"}:
            return self._handle(tree)
        if isinstance(tree, list):
            return [self._resolved(node) for node in tree]
        return tree


def _u16(number: int) -> int:
    return number % (1 << 16)


def _actions() -> list[control.AnyQuery]:
    """What is going on in the host while its card talks."""
    requests: list[bytes] = []
    for command in COMMANDS[:12]:
        ip.run(command, lambda request: requests.append(request) or [], {"nic0": 2, "lo": 1})
    return [
        *(control.Netlink(request) for request in requests),
        control.Send([PACKET] * 3), control.Send([FRAMES[8][14:]]), control.Mib(),
        control.Counters(), control.Census(), control.Quiesce(), control.Receive(),
        control.SetLink("nic0", mtu=1400), control.SetLink("nic0", up=False),
        control.Netlink(bytes.fromhex("10000000120005030100000000000000")),  # dump SAs
        control.Discard(),
    ]  # fmt: skip


def _replies() -> list[Any]:
    state = c.SaState(1, 5, (1, 0), 9, 5, True, True, False, 7, 700, 1, 2, 3, 4, 5)
    replies = [
        reply_tree(0), reply_tree(0, handle=77, generation=3), reply_tree(0, sa=state),
        reply_tree(0, status=2, syndrome=0x1201, text="refused"), reply_tree(0, status=77),
        reply_tree(0, values={"tx": 5, "queued": 0, "rx": 0, "sas": 1, "keys": 2}),
        reply_tree(0, caps=parse_card("tiny")),
    ]  # fmt: skip
    sessions: list[Any] = []
    for number in range(22):
        for reply in replies:
            answer = ["reply", [{"t": 0}, *reply[1:]]]
            sessions.append([["do", number], answer, answer, ["card"]])
    sessions.append([["do", 0], ["wait", 3], ["reply", [{"t": 0}]], ["wait", 9], ["card"]])
    sessions.append([["raw", 0, bytes(30)], ["msg", 0, int(Kind.REPLY), 0, 0, b"\x90"]])
    return sessions


def _events() -> list[Any]:
    sessions: list[Any] = [
        [["events", [msgspec.to_builtins(Event(kind, handle, 1))], 0, 1], ["card"]]
        for kind in range(7)
        for handle in (0, 1, 1 << 24 | 1)
    ]
    sessions.append([["events", [[1, 1, 1]] * 20, 0, 20], ["events", [], 5, 0], ["wait", 2]])
    sessions.append([["events", [[1, 1, 1]], -1, 1], ["events", {"a": 1}, 0, 3]])
    return sessions


def _rings() -> list[Any]:
    sessions: list[Any] = []
    for frame in (*FRAMES, *SEALED):
        for flags in (0, 1, 2):
            sessions.append([["rx", [[0, 0, flags, 0, {"s": 0}, 1, frame]], 0, 0]])
    sessions.append([["rx", [[0, 0, 2, n, {"s": 1}, 1, SEALED[1]] for n in (11, 9, 99)], 0, 0]])
    sessions.append([["do", 12], ["msg", 2, int(Kind.TX_DONE), 0, 3, b""], ["card"]])
    for totals in ([1, 9, 900, 9, 0, 0, 0, 0], [1, 2**64 - 1, 2**64 - 1, 2**64 - 1, 9, 9, 9, 3]):
        sessions.append([["counters", [[{"s": 0}, *totals]], 0, 0], ["do", 21], ["card"]])
    sessions.append([["counters", [[7, 1, 1, 1, 1, 1, 1, 1, 1]] * 3, 9, 2], ["wait", 2]])
    return sessions


def _control() -> list[Any]:
    queries: list[control.AnyQuery] = [
        *_actions(), control.NetlinkMore(1), control.NetlinkTogether([bytes(16)] * 2),
        control.Notifications(), control.Listen([1, 2], 5), control.Trace(), control.Info(),
        control.Sysctl("net.core.xfrm_aevent_etime", 5), control.SetNetworks(["10.0.0.0/8"]),
        control.AddDevice("nic1"), control.SetClockForward(5), control.Capture(True),
    ]  # fmt: skip
    trees = [msgspec.to_builtins(query, builtin_types=(bytes,)) for query in queries]
    trees += examples(control.AnyQuery)
    trees += [
        {"type": "AddFault", "spec": {"site": "mailbox", "kind": "drop", "times": 1, "name": "x"}},
        {"type": "RemoveFault", "name": "x"}, {"type": "ResetFaults"}, {"type": "ListFaults"},
        {"type": "FaultLog", "after": 0},
    ]  # fmt: skip
    return [[["ctl", [5, tree]], ["card"]] for tree in trees]


_SEEDS: dict[str, Callable[[], list[Any]]] = {
    "replies": _replies, "events": _events, "rings": _rings, "control": _control,
}  # fmt: skip
