# SPDX-License-Identifier: Apache-2.0
"""The wire between two cards, a party of its own outside both: it records, breaks and forwards.

    card 0 --WIRE--> record -> faults -> queue of port 1 --WIRE--> card 1
           <--DONE-- when forwarded (or when a fault dropped it)

With one card the wire ends in the open: frames are recorded and gone. Nothing is ever lost without
a fault, because a card gets its credits back only when its frames were handed on.

A card that starts says HELLO with its boot id, and its port begins anew: frames and credits of an
earlier boot are stale. Where a card has died the link is down, and frames to it are lost.
"""

import errno
from collections import Counter, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from host_driver.lab.fragments import fragments
from host_driver.lab.record import Frame, Record
from proto.faults import FaultTable
from proto.frame import FrameError, Kind, Message, pack, pack_parts, unpack
from proto.hello import decode_hello
from proto.limits import (
    BURST,
    FRAME_MAX_BYTES,
    RING_SIZE,
    WIRE_CREDITS,
    WIRE_RECORD_FRAMES,
)
from proto.link.ring import Consumer, Producer
from proto.status import OffloadError
from proto.wire import Frames, esp_spi

SITE = "wire"
FRAGMENT_BYTES = 64


class _Queued(NamedTuple):
    """Frames on their way. `owner`: the port that gets their credits when they leave, None for
    nobody."""

    frames: Frames
    owner: "_Port | None"


@dataclass(slots=True)
class _Route:
    """Where a frame goes, and to whom its credit with the last of the `left` it has become."""

    dst: int | None
    owner: "_Port | None"
    left: int = 1


class _Port:
    """The wire's end at one boot of one card."""

    def __init__(self, boot: int = 0) -> None:
        self.boot = boot
        self.carrier = True  # a card is there
        self.plugged = True  # and a cable
        self.told = True  # so the card believes
        self.arriving = Consumer(WIRE_CREDITS)
        self.leaving = Producer(RING_SIZE)  # the card's receive ring: then no frame finds it full
        self.queue: deque[_Queued] = deque()
        self.done = 0

    @property
    def reachable(self) -> bool:
        """Whether frames arrive at the card."""
        return self.carrier and self.plugged


class Wire:
    """The party. Ports are numbered like the hosts; they take the place of channels in `step`.

    `counters` by name: `from_N`, `to_N`, `injected_N` (frames), `open_end`, `fault_dropped`,
    `no_carrier` (frames where a card is dead or a cable is out), `lost` (gaps in a card's index),
    `malformed` and `stale` (messages), `record_dropped` (oldest records, when full).
    """

    def __init__(self, ports: int, record_frames: int = WIRE_RECORD_FRAMES) -> None:
        self.counters: Counter[str] = Counter()
        self.faults = FaultTable()
        self._ports = [_Port() for _ in range(ports)]
        self._record = Record(record_frames)
        self._injected: list[tuple[int, bytes]] = []
        self._greetings: Counter[int] = Counter()

    # --- the party ---

    def step(self, now_ns: int, inputs: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """Take HELLO, WIRE and WIRE_DONE of the cards, give the last two. Bad ones are counted."""
        for port, raw in inputs:
            try:
                self._take(now_ns, port, unpack(raw))
            except (ValueError, msgspec.MsgspecError):
                self.counters["malformed"] += 1
        for port, data in self._injected:
            self.counters[f"injected_{port}"] += 1
            self._enter(Frames.of([data]), now_ns, None, port)
        self._injected.clear()
        self._release(now_ns)
        return self._send()

    def deadline_ns(self) -> int | None:
        """At once where something waits that can leave, else when a fault lets a frame go."""
        can_leave = any(
            (port.queue and port.leaving.credits) or (port.told != port.plugged)
            for port in self._ports
        )
        return 0 if can_leave or self._injected else self.faults.deadline_ns()

    # --- what the lab does with it ---

    def frames(self, start: int = 0) -> list[Frame]:
        """What was recorded, oldest first; `start` counts frames since the lab began."""
        return self._record.frames(start)

    @property
    def recorded(self) -> int:
        """Frames recorded since the lab began, those that the recorder dropped again included."""
        return self._record.total

    def forget(self) -> None:
        """Let go of all frames recorded so far; `frames` goes on counting."""
        self._record.forget()
        self.counters["record_dropped"] = self._record.dropped

    def inject(self, port: int, frames: Sequence[bytes]) -> None:
        """Let frames arrive at a card. Raises OffloadError(EMSGSIZE), and then injects none."""
        for data in frames:
            if len(data) > FRAME_MAX_BYTES:
                raise OffloadError(
                    errno.EMSGSIZE,
                    f"frame of {len(data)} bytes, the wire carries {FRAME_MAX_BYTES}",
                )
        self._injected.extend((port, bytes(data)) for data in frames)

    def attach(self, port: int, boot: int) -> None:
        """A card has begun a life at this port. Frames that wait there wait for it."""
        before = self._ports[port]
        self._ports[port] = now = _Port(boot)
        now.queue, now.plugged = before.queue, before.plugged

    def greetings(self, port: int | None = None) -> int:
        """How often a card has said HELLO here, or all of them."""
        return self._greetings.total() if port is None else self._greetings[port]

    def detach(self, port: int) -> None:
        """The card at this port is dead."""
        end = self._ports[port]
        end.carrier = False
        end.leaving.restart(0)
        while end.queue:
            self._lose(*end.queue.popleft())

    def set_carrier(self, port: int, up: bool) -> None:
        """Pull the cable of a card, or put it in again. What is on it is lost."""
        end = self._ports[port]
        end.plugged = up
        while end.queue and not up:
            self._lose(*end.queue.popleft())

    def index(self, port: int) -> int:
        """Number of the next frame from that card, as the card counts them."""
        return self._ports[port].arriving.index

    def quiet(self, stopped: Collection[int] = ()) -> bool:
        """Whether nothing waits here and every frame handed on was taken. What waits for cards that
        are `stopped` does not count."""
        busy = self.faults.held > 0 or any(
            port.queue or port.leaving.outstanding
            for number, port in enumerate(self._ports)
            if number not in stopped
        )
        return not busy and not self._injected

    # --- inside ---

    def _take(self, now_ns: int, port: int, message: Message) -> None:
        end = self._ports[port]
        if message.kind is Kind.HELLO:
            self.attach(port, decode_hello(message.body).boot)
            self._greetings[port] += 1
        elif message.epoch != end.boot:
            self.counters["stale"] += 1
        elif message.kind is Kind.WIRE_DONE:
            end.leaving.refill(message.count)
        elif message.kind is Kind.WIRE:
            frames = Frames.unpack(message.body, message.count)
            lost = end.arriving.arrived(message.index, message.count)
            self.counters["lost"] += lost
            end.done += lost  # the credits of a lost message must not be lost with it
            self.counters[f"from_{port}"] += len(frames)
            if end.plugged:
                self._enter(frames, now_ns, port, 1 - port if len(self._ports) == 2 else None)
            else:
                self._lose(frames, end)
        else:
            raise FrameError(f"{message.kind.name} has no business on the wire")

    def _enter(self, frames: Frames, now_ns: int, src: int | None, dst: int | None) -> None:
        """Record, break, queue. The port that they came from gets their credits."""
        self._record.add(frames, now_ns, src, dst)
        self.counters["record_dropped"] = self._record.dropped
        owner = None if src is None else self._ports[src]
        if not self.faults.armed:
            self._forward(frames, dst, owner)
            return
        for data in frames.each():
            self._break(Frame(data, now_ns, src, dst), owner)

    def _break(self, frame: Frame, owner: _Port | None) -> None:
        """What faults do to one frame. Its credit is due with the last of what it became."""
        route = _Route(frame.dst, owner)
        held = self.faults.held
        results = self._broken(frame, route)
        route.left = len(results) + self.faults.held - held
        if not route.left:
            self.counters["fault_dropped"] += 1
            self._credit(owner, 1)
        for data in results:
            self._pass(data, route)
        self._release(frame.time)

    def _broken(self, frame: Frame, route: _Route) -> list[bytes]:
        """What faults leave of a frame for now; the rest is held."""
        facts = _facts(frame)
        pieces = [frame.data]
        for fired in self.faults.fire(SITE, facts, frame.time):  # fragment, its only other kind
            size = fired.value if isinstance(fired.value, int) else FRAGMENT_BYTES
            pieces = [part for one in pieces for part in fragments(one, size)]
            fired.rng.shuffle(pieces)
        results = []
        for piece in pieces:
            results += self.faults.apply(SITE, piece, facts, frame.time, route)
        return results

    def _release(self, now_ns: int) -> None:
        for released in self.faults.due(now_ns):
            self._pass(bytes(released.data), released.context)

    def _pass(self, data: bytes, route: _Route) -> None:
        """Let one of the frames that a frame became go on."""
        route.left -= 1
        owner = None if route.left else route.owner
        self._forward(Frames.of([data[:FRAME_MAX_BYTES]]), route.dst, owner)

    def _forward(self, frames: Frames, dst: int | None, owner: _Port | None) -> None:
        """Queue frames for the card at the other end."""
        if dst is None:
            self.counters["open_end"] += len(frames)
            self._credit(owner, len(frames))
        elif not self._ports[dst].reachable:
            self._lose(frames, owner)
        else:
            self._ports[dst].queue.append(_Queued(frames, owner))

    def _lose(self, frames: Frames, owner: _Port | None) -> None:
        self.counters["no_carrier"] += len(frames)
        self._credit(owner, len(frames))

    @staticmethod
    def _credit(owner: _Port | None, count: int) -> None:
        if owner is not None:
            owner.done += count

    def _batch(self, port: _Port) -> list[Frames]:
        """Take as many frames from the queue of a port as go into one message."""
        batch, room = [], min(port.leaving.credits, BURST)
        while port.queue and room:
            frames, owner = port.queue.popleft()
            some, rest = frames.split(room)
            if len(rest):
                port.queue.appendleft(_Queued(rest, owner))
            self._credit(owner, len(some))
            batch.append(some)
            room -= len(some)
        return batch

    def _send(self) -> list[tuple[int, bytes]]:
        outputs = []
        for number, port in enumerate(self._ports):
            while port.queue and port.leaving.credits:
                batch = self._batch(port)
                lengths, data = zip(*(frames.parts() for frames in batch), strict=True)
                count = sum(map(len, batch))
                index = port.leaving.take(count)
                message = pack_parts(Kind.WIRE, (*lengths, *data), index, count, port.boot)
                outputs.append((number, message))
                self.counters[f"to_{number}"] += count
        for number, port in enumerate(self._ports):
            if port.told != port.plugged:
                port.told = port.plugged
                link = pack(Kind.LINK, count=int(port.plugged), epoch=port.boot)
                outputs.append((number, link))
            if port.done:
                outputs.append((number, pack(Kind.WIRE_DONE, count=port.done, epoch=port.boot)))
                port.done = 0
        return outputs


def _facts(frame: Frame) -> dict[str, object]:
    """What a fault may match: src and dst host ("none"), esp (0 or 1), spi ("0x1000")."""
    spi = esp_spi(frame.data)
    return {
        "src": frame.src,
        "dst": frame.dst,
        "esp": int(spi is not None),
        "spi": None if spi is None else f"{spi:#x}",
    }
