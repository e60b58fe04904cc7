# SPDX-License-Identifier: Apache-2.0
"""A host and its card taken out of a simulated lab, with hands on every message between them."""

from typing import Any

import msgspec

from fuzz.bench import CARD
from fuzz.commands import SETUP
from fuzz.target import require
from host_driver import control, ip
from host_driver.lab import Lab
from proto import commands as c
from proto.clock import NS
from proto.codec import decode
from proto.frame import Channel, Kind, Message, pack, unpack

PUMPS_MAX = 2000
CALM_S = 40  # longer than any wait of the host


class Pair:
    """`held`: messages of the host that the card has not seen. The wire takes all and gives none
    by itself. Time stands still but for `wait`."""

    def __init__(self) -> None:
        self.lab = Lab(target="sim", hosts=1, card=CARD, seed=1)
        self.lab.start()
        for command in SETUP:
            result = self.lab.hosts[0].ip(command)
            require(result.rc == 0, f"a valid request was refused: {result.stderr}")
        world: Any = self.lab._world
        nodes = {node.name: node.party for node in world._simulator.nodes}
        self.host, self.card = nodes["host0"], nodes["card0"]
        self.now_ns = world.now_ns()
        self.held: list[tuple[Channel, bytes]] = []
        self.answers: dict[int, control.Answer] = {}
        self._asked = 1_000_000
        self._wire_index = 0

    def close(self) -> None:
        """Let go of the tables."""
        self.lab.close()

    def to_host(self, channel: Channel, raw: bytes) -> None:
        """One message for the host; what it sends is held."""
        for to, sent in self.host.step(self.now_ns, [(channel, raw)]):
            if to is Channel.CONTROL:
                self._note(unpack(sent))
            else:
                self.held.append((to, bytes(sent)))

    def pack(self, kind: Kind, body: bytes = b"", index: int = 0, count: int = 0) -> bytes:
        """A message of the host's epoch."""
        return pack(kind, body, index, count, self.host.epoch)

    def _note(self, message: Message) -> None:
        if message.kind is Kind.CONTROL:
            answer = decode(message.body, control.Answer)
            self.answers[answer.id] = answer

    def ask(self, query: control.AnyQuery) -> int:
        """Ask the host something, without waiting; -> the number of the answer."""
        self._asked += 1
        body = msgspec.msgpack.encode(control.Ask(self._asked, query))
        self.to_host(Channel.CONTROL, pack(Kind.CONTROL, body))
        return self._asked

    def tokens(self) -> list[tuple[int, str]]:
        """Token and opcode of commands that are held."""
        found = []
        for channel, raw in self.held:
            if channel is Channel.MAILBOX:
                token, command = msgspec.msgpack.decode(unpack(raw).body)[:2]
                found.append((token, command[0]))
        return found

    def pump(self) -> None:
        """Card and host talk until neither has anything to say."""
        for _ in range(PUMPS_MAX):
            if not self.held:
                return
            held, self.held = self.held, []
            self._to_card(held)
        require(False, "host and card talk for ever")

    def _to_card(self, messages: list[tuple[Channel, bytes]]) -> None:
        for channel, raw in self.card.step(self.now_ns, messages):
            if channel is Channel.WIRE:
                self._wire(unpack(raw))
            else:
                self.to_host(channel, raw)

    def _wire(self, message: Message) -> None:
        if message.kind is Kind.WIRE:
            done = pack(Kind.WIRE_DONE, count=message.count, epoch=self.card.boot)
            self.held.append((Channel.WIRE, done))

    def frame(self, frame: bytes) -> None:
        """A frame from the wire, to the card and on to the host."""
        body = len(frame).to_bytes(4, "little") + frame
        raw = pack(Kind.WIRE, body, self._wire_index, 1, self.card.boot)
        self.held.append((Channel.WIRE, raw))
        self._wire_index += 1
        self.pump()

    def wait(self, seconds: float) -> None:
        """Let time pass, from deadline to deadline."""
        until_ns = self.now_ns + round(seconds * NS)
        for _ in range(PUMPS_MAX):
            self.pump()
            due = [party.deadline_ns() for party in (self.host, self.card)]
            next_ns = min((ns for ns in due if ns is not None), default=until_ns)
            if next_ns >= until_ns:
                self.now_ns = until_ns
                return
            self.now_ns = max(self.now_ns, next_ns)
            self.to_host(Channel.RINGS, b"")  # an empty message: counted, and time has passed
            self._to_card([])
        require(False, "the host is due for ever")

    def ip(self, command: str) -> ip.Result:
        """A command, and everything that follows from it."""

        def transact(request: bytes) -> list[bytes]:
            number = self.ask(control.Netlink(request))
            self.pump()
            if number not in self.answers:
                self.wait(CALM_S)
            require(number in self.answers, f"no answer to {command}")
            answer = self.answers.pop(number)
            require(not answer.errno, f"{command}: {answer.text}")
            return answer.blobs

        return ip.run(command, transact, {"lo": 1, "nic0": 2})

    def census(self) -> dict[str, int]:
        """Objects on the card, without asking it."""
        return dict(self.card.objects.census())


def reply_tree(token: int, **fields: Any) -> Any:
    """A Reply as a tree."""
    return msgspec.to_builtins(c.Reply(token, **fields), builtin_types=(bytes,))
