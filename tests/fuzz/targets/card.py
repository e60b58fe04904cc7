# SPDX-License-Identifier: Apache-2.0
"""Everything that a card reads: commands, rings, wire frames, its control channel.

An input is a list of records, each one message:

    ["cmd", [token, [opcode, fields...]]]         ["body", bytes]      a COMMAND
    ["tx", [packet...], index, count]             ["wire", [frame...], index, count]
    ["esp", spi, seq, inner, next header, pad, where to flip or None, cut]   sealed well
    ["done", kind, count]                         ["ctl", [id, [request...]]]
    ["msg", channel, kind, index, count, body]    ["raw", channel, bytes]
    ["cut", size, record]                         ["flip", bit, record]
    ["take", epoch]                               INIT_FUNCTION with this epoch

`{"h": n}` stands for the n-th handle, `{"k": 0}` for the next token and `{"k": 1}` for the last one
again. Judged after each message: it was refused and counted once,
or it did what it says; frames and packets are conserved; nothing clear leaves while everything is
to be protected.
"""

import struct
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from fuzz.bench import CHANNELS, HERE, KEY, THERE, Bench, frames_of, policy_command, sa_command
from fuzz.examples import examples
from fuzz.frames import FRAMES, SEALED, SPIS, esp_frame, ipv4
from fuzz.target import Outcome, Trees, encode, plain, require, tree_of
from proto import commands as c
from proto.codec import decode
from proto.faults import FaultSpec
from proto.frame import Channel, Kind, Message, unpack
from proto.layouts import DESCRIPTOR, TxFlag
from proto.management import Answer, AnyRequest

RECORDS_MAX = 12
MAIN = {"mailbox": Kind.COMMAND, "rings": Kind.TX, "wire": Kind.WIRE, "control": Kind.CONTROL}
EPOCHS_TRIED = 6
REFUSALS = ("msg_malformed", "msg_stale", "cmd_refused", "tx_stale", "rx_stale")
PROTECTED = ipv4(HERE[:4], THERE[:4], 17, struct.pack(">HHHH", 5, 6, 16, 0) + b"KNOWNTXT")


class CardTarget(Trees):
    """A card alone. `area` chooses what the seeds are about."""

    files = ("nic_model/", "proto/codec.py", "proto/frame.py", "proto/wire.py", "proto/link/",
             "proto/management.py", "proto/faults")  # fmt: skip
    words = (b"\x91" * 1500, b"\x81\xa1x" * 700, b"\xdd\xff\xff\xff\xff")

    def __init__(self, area: str) -> None:
        self.name = f"card-{area}"
        self._area = area
        self.bench: Any = None
        self._records: dict[str, Callable[..., tuple[Channel, bytes]]] = {
            "cmd": lambda tree: (Channel.MAILBOX, self._command(tree)),
            "body": lambda body: (Channel.MAILBOX, self.bench.pack(Kind.COMMAND, body)),
            "tx": lambda packets, index, count: (
                Channel.RINGS, self.bench.tx([self._packet(p) for p in packets], index, count)
            ),
            "wire": lambda frames, index, count: (
                Channel.WIRE, self.bench.wire([f[:9600] for f in frames], index, count)
            ),
            "esp": lambda *fields: (Channel.WIRE, self.bench.wire([esp_frame(*fields)])),
            "done": lambda kind, count: (
                CHANNELS[Kind(kind)], self.bench.pack(Kind(kind), count=count % (1 << 16))
            ),
            "ctl": lambda tree: (
                Channel.CONTROL, self.bench.pack(Kind.CONTROL, encode(self._resolved(tree)))
            ),
            "msg": lambda channel, kind, index, count, body: (
                Channel(channel), self.bench.pack(Kind(kind), body, index, count % (1 << 16))
            ),
            "raw": lambda channel, raw: (Channel(channel), bytes(memoryview(raw))),
            "take": lambda epoch: (Channel.MAILBOX, self.bench.take(epoch % (1 << 32))),
            "cut": self._cut,
            "flip": self._flip,
        }  # fmt: skip

    def seeds(self) -> list[bytes]:
        sessions = _SEEDS[self._area]()
        broken = [[["cut", 30, s[0]], ["flip", 99, s[0]], s[0]] for s in sessions[:4]]
        return [encode(records) for records in sessions + broken]

    def reset(self) -> None:
        if self.bench is not None:
            self.bench.close()
        self.bench = Bench()
        self._all_protected = True

    def run(self, data: bytes) -> Outcome:
        outcome = Outcome(0)
        records = tree_of(data)
        for record in records[:RECORDS_MAX] if isinstance(records, list) else ():
            message = self._message(record)
            if message is not None:
                outcome.offered += 1
                self._offer(*message, outcome)
        return outcome

    def check(self) -> None:
        """The card works as ever: emptied, it takes the same objects, and protects a packet."""
        self.bench.firmware.faults.reset()
        self.bench.boot()
        before = self.bench.firmware.epoch
        for epoch in range(before + 1, before + EPOCHS_TRIED):  # some were used already
            self.bench.step(Channel.MAILBOX, self.bench.take(epoch % (1 << 32)))
        require(self.bench.firmware.epoch != before, "no host can take the card")
        census = self.bench.command(c.QueryCensus()).values
        require(not any(census.values()), f"a card that was taken has {census}")
        self.reset()
        out = self.bench.step(*self._message(["tx", [[0, 0, 0, 0, 0, 0, PROTECTED]], 0, 0]))
        (frame,) = frames_of(out)
        require(frame[23] == 50 and b"KNOWNTXT" not in frame, "a packet left in clear")

    # One message.

    def _message(self, record: Any) -> tuple[Channel, bytes] | None:
        """Channel and bytes; what is no record is the body of a message, if it can be."""
        try:
            return self._records[record[0]](*record[1:])
        except (KeyError, IndexError, TypeError, ValueError, OverflowError, struct.error,
                AttributeError, RecursionError):  # fmt: skip
            return self._body(record)

    def _body(self, record: Any) -> tuple[Channel, bytes] | None:
        kind = MAIN[self._area]
        try:
            return CHANNELS[kind], self.bench.pack(kind, encode(record), 0, 1)
        except (TypeError, ValueError, OverflowError, RecursionError):
            return None

    def _cut(self, size: int, record: Any) -> tuple[Channel, bytes]:
        channel, raw = self._message(record) or (Channel.RINGS, b"")
        return channel, raw[: size % (len(raw) + 1)]

    def _flip(self, bit: int, record: Any) -> tuple[Channel, bytes]:
        channel, raw = self._message(record) or (Channel.RINGS, bytes(1))
        broken = bytearray(raw)
        broken[bit // 8 % len(raw)] ^= 1 << bit % 8
        return channel, bytes(broken)

    def _command(self, tree: Any) -> bytes:
        return self.bench.pack(Kind.COMMAND, encode(self._resolved(tree)))

    def _packet(self, packet: list[Any]) -> list[Any]:
        return [self._resolved(field) for field in packet]

    def _resolved(self, tree: Any) -> Any:
        """With handles in the place of `{"h": n}`, and tokens in that of `{"k": n}`."""
        if isinstance(tree, dict) and set(tree) == {"k"}:
            return self.bench.token(bool(tree["k"]))
        if isinstance(tree, dict) and set(tree) == {"h"}:
            return self.bench.handles[tree["h"] % len(self.bench.handles)]
        if isinstance(tree, list):
            return [self._resolved(node) for node in tree]
        if isinstance(tree, dict):
            return {key: self._resolved(node) for key, node in tree.items()}
        return tree

    def _offer(self, channel: Channel, raw: bytes, outcome: Outcome) -> None:
        bench = self.bench
        before, armed = bench.counters(), bench.firmware.faults.armed
        out = bench.step(channel, raw)
        out += bench.give_back(out)
        after = bench.counters()
        moved = {name: n - before.get(name, 0) for name, n in after.items()}
        require(min(moved.values()) >= 0, "a counter went back")
        refused = sum(moved[name] for name in REFUSALS)
        dropped = sum(n for name, n in moved.items() if "_drop_" in name)
        outcome.refused += refused + dropped
        outcome.features |= {name for name, n in moved.items() if n}
        outcome.features |= {("out", message.kind, message.count > 1) for message in out}
        if not armed and not bench.firmware.faults.armed:
            self._judge(channel, raw, out, moved, outcome)
        if channel is Channel.MAILBOX and not moved["msg_malformed"] and not moved["cmd_refused"]:
            self._all_protected = False  # whatever it was, it may have made a bypass

    def _judge(
        self,
        channel: Channel,
        raw: bytes,
        out: list[Message],
        moved: dict[str, int],
        outcome: Outcome,
    ) -> None:
        malformed = moved["msg_malformed"] + moved["msg_stale"]
        require(malformed <= 1, "one message was counted twice")
        if malformed:
            told = {m.kind for m in out} - {Kind.TX_DONE, Kind.EVENTS, Kind.WIRE_DONE}
            require(not told, f"a malformed message was answered with {told}")
            return
        message = unpack(raw)
        if message.kind is Kind.COMMAND:
            self._judge_reply(out, moved, outcome)
        elif message.kind is Kind.CONTROL:
            self._judge_answer(out, outcome)
        elif message.kind is Kind.TX and not moved["tx_stale"]:
            self.bench.tx_index = (message.index + message.count) % (1 << 32)
        elif message.kind is Kind.WIRE:
            self.bench.wire_index = (message.index + message.count) % (1 << 32)
        drops = {way: _sum(moved, f"{way}_drop_") for way in ("tx", "rx")}
        sent = sum(m.count for m in out if m.kind is Kind.WIRE)
        given = moved["tx_descriptors"] + moved["tx_segmented"]
        require(given == sent + drops["tx"], f"packets out: {moved}")
        arrived = message.count if message.kind is Kind.WIRE else 0
        require(arrived == moved["rx_delivered"] + drops["rx"], f"packets in: {moved}")
        sealed = any(flags & TxFlag.SEALED for flags in _flags(message))  # the host said so
        if self._all_protected and message.kind is Kind.TX and not sealed:
            require(not any(map(_clear, frames_of(out))), "a packet left in clear")

    def _judge_reply(self, out: list[Message], moved: dict[str, int], outcome: Outcome) -> None:
        replies = [decode(m.body, c.Reply) for m in out if m.kind is Kind.REPLY]
        require(len(replies) == 1, f"{len(replies)} replies to one command")
        (reply,) = replies
        outcome.features |= {("status", reply.status, reply.syndrome), plain(reply.text)}
        if moved["cmd_refused"]:
            require(reply.status and reply.syndrome and reply.text, "a refusal without its reason")
        if moved_on := reply.values.get("boot"):
            require(moved_on == self.bench.firmware.boot, "another boot")
            self.bench.begin()
        if reply.handle:
            self.bench.handles.append(reply.handle)
            del self.bench.handles[24:-8]

    def _judge_answer(self, out: list[Message], outcome: Outcome) -> None:
        answers = [decode(m.body, Answer) for m in out if m.kind is Kind.CONTROL]
        require(len(answers) == 1, f"{len(answers)} answers to one request")
        (answer,) = answers
        require(not answer.errno or answer.text, "a refusal without a word")
        outcome.features |= {("errno", answer.errno), plain(answer.text)}
        outcome.refused += bool(answer.errno)


def _sum(moved: dict[str, int], prefix: str) -> int:
    return sum(n for name, n in moved.items() if name.startswith(prefix))


def _flags(message: Message) -> list[int]:
    """Of the descriptors of a TX message."""
    if message.kind is not Kind.TX or len(message.body) < message.count * DESCRIPTOR.itemsize:
        return []  # such a one is older than what was seen, and nobody looked into it
    return np.frombuffer(message.body, DESCRIPTOR, message.count)["flags"].tolist()


def _clear(frame: bytes) -> bool:
    """Whether an IPv4 packet is neither ESP nor ESP in UDP."""
    return frame[12:14] == b"\x08\x00" and frame[23] != 50 and b"KNOWNTXT" in frame


def _tree(command: c.Command) -> Any:
    return msgspec.to_builtins(command, builtin_types=(bytes,))


def _mailbox() -> list[Any]:
    h = [{"h": n} for n in range(20)]
    commands: list[c.Command] = [
        c.QueryCaps(), c.CreateKey(KEY), c.DestroyKey(1), c.DestroySa(1), c.StopSa(1),
        c.QuerySa(1), c.CreateSaRule(1), c.DestroyRule(1), c.QueryCounters(), c.QueryCensus(),
        c.SetPort(mtu=1500), c.Fence(), c.Teardown(), c.AdvanceEsn(1, 1 << 33),
        c.SetLimits(handle=1, packets=9, soft_packets=5),
        sa_command(1, c.OUT, esn=True, seq=1 << 32, packets=9, soft_packets=5, bytes=9000),
        sa_command(1, c.IN, spi=0x99, mode=1, bitmap=(1, 2), replay_window=64, seq=70),
        policy_command(c.OUT, spi=7, mode=1, tmpl_family=2, tmpl_saddr=HERE, tmpl_daddr=THERE),
        policy_command(c.IN, action=c.BLOCK, protect=False), c.InitFunction(9),
        c.ListObjects(1), c.ListObjects(2, after=1, cookie=1),
        c.SetQueue(0, 2), c.SetQueue(1, 2), c.SetQueue(0, 0), c.SetQueue(0, 1, 5),
    ]  # fmt: skip
    sessions: list[Any] = []
    new, again = {"k": 0}, {"k": 1}
    for command in commands:
        tree = _tree(command)
        sessions.append([["cmd", [new, tree]], ["cmd", [again, tree]]])
        for place, field in enumerate(tree):
            if field == 1 and place == 1:  # a handle, or the key of an SA
                for handle in h[:8]:
                    tree = [*tree[:1], handle, *tree[2:]]
                    sessions.append([["cmd", [new, tree]]] * 2)
    sessions += [[["cmd", [new, tree]]] for tree in examples(c.AnyCommand)]
    sessions.append([["take", 9], ["take", 9], ["cmd", [new, ["QueryCensus"]]], ["take", 0]])
    sessions.append([["body", b""], ["body", b"\x92\x01\x91"], ["raw", 0, b"\0" * 40]])
    return sessions


LARGE = ipv4(HERE[:4], THERE[:4], 17, struct.pack(">HHHH", 5, 6, 20_008, 0) + bytes(20_000))


def _rings() -> list[Any]:
    packets = [[0, 0, flags, 0, 0, 0, frame] for frame in FRAMES for flags in (0, 1)]
    crypto = [0, 0, 2, 0, {"h": 12}, 1, SEALED[0]]
    return [
        [["tx", [packet], 0, 0]] for packet in packets
    ] + [
        [["tx", packets[:6], 0, 0], ["tx", packets[:1], 5, 0]],
        [["tx", [crypto, [0, 0, 4, 0, 0, 0, SEALED[0]]], 0, 0]],
        [["done", int(Kind.RX_DONE), 1], ["done", int(Kind.WIRE_DONE), 1]],
        [["msg", int(Channel.RINGS), int(Kind.TX), 0, 1, bytes(16)]],
        [["msg", int(Channel.RINGS), int(Kind.RX_DONE), 0, 1, b""], ["raw", 2, bytes(20)]],
        *([["tx", [[0, 0, flags, 0, 300, 0, frame]], 0, 0]]
          for frame in (FRAMES[0], LARGE) for flags in (8, 9)),
    ]  # fmt: skip


def _wire() -> list[Any]:
    sessions: list[Any] = [[["wire", [frame], 0, 0]] for frame in (*FRAMES, *SEALED)]
    for number, spi in enumerate(SPIS):
        inner = PROTECTED if spi == 0x3000 else PROTECTED[20:]
        following = 4 if spi == 0x3000 else 17
        sessions.append([["esp", spi, 8 + number, inner, following, None, None, 0]])
        sessions.append([["esp", spi, 9, inner, following, 3, 40, 0]] * 2)
    sessions.append([["wire", list(FRAMES[:5]), 0, 0], ["wire", list(FRAMES[:2]), 9, 1]])
    sessions.append([["msg", int(Channel.WIRE), int(Kind.WIRE), 0, 1, b"\x04\0\0\0abcd"]])
    return sessions


def _control() -> list[Any]:
    spec = msgspec.to_builtins(FaultSpec(site="card.command", kind="status", times=1))
    requests: list[Any] = [
        {"type": "Info"}, {"type": "Census"}, {"type": "Counters"}, {"type": "ResetFaults"},
        {"type": "ListFaults"}, {"type": "FaultLog", "after": 0},
        {"type": "RemoveFault", "name": "x"}, {"type": "AddFault", "spec": spec},
        {"type": "AddFault", "spec": {"site": "card.table", "kind": "full", "name": "x"}},
    ]  # fmt: skip
    query = [["cmd", [{"k": 0}, ["QueryCensus"]]], ["cmd", [{"k": 0}, ["CreateKey", KEY]]]]
    requests += examples(AnyRequest)
    return [[["ctl", [7, request]], *query] for request in requests]


_SEEDS: dict[str, Callable[[], list[Any]]] = {
    "mailbox": _mailbox, "rings": _rings, "wire": _wire, "control": _control,
}  # fmt: skip
