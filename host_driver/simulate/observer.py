# SPDX-License-Identifier: Apache-2.0
"""The observer: follows every frame with its own ESP, window and matching, outside the system.

    frame of a card   -> taken apart -> opened by an SA of its host -> matched to what a stack sent
    frame to a host   -> what RFC 4303 3.4 makes of it there        -> waits for its delivery
    delivery          -> the frame that brought it

It remembers for the whole run: numbers and IVs by key, whatever restarts in between.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterator

from host_driver.simulate.arrival import Receiver
from host_driver.simulate.headers import ESP, Parsed, ip_of, parse
from host_driver.simulate.ledger import Delivered, Ledger, Step, Submitted
from host_driver.simulate.opening import Opener, Pieces, esp_at, inner_of
from host_driver.simulate.tracks import Seen, Track, Tracks
from host_driver.simulate.window import SPACE

HIGHS = 4  # ESN halves around the one due that are tried, to say what went wrong


class Observer:
    """`seen` are the frames of the last step followed, `matched` its deliveries with the frame that
    brought each; `repeated` those that the same frame had brought before, `unknown` those that no
    frame brought. `ivs` counts by key."""

    def __init__(self, hosts: int) -> None:
        self.tracks = Tracks()
        self.seen: list[Seen] = []
        self.matched: list[tuple[Delivered, Seen]] = []
        self.repeated: list[tuple[Delivered, Seen]] = []
        self.unknown: list[Delivered] = []
        self.ivs: defaultdict[bytes, Counter[bytes]] = defaultdict(Counter)
        self.handles: dict[tuple[int, str, int], int] = {}  # host, kind, handle: whose it is
        self._opener = Opener()
        self._receivers = [Receiver(host, self._opener) for host in range(hosts)]
        self._waiting: list[defaultdict[bytes, deque[Submitted]]] = [
            defaultdict(deque) for _ in range(hosts)
        ]
        self._pieces = Pieces()

    def follow(self, ledger: Ledger, step: Step) -> None:
        """Take one step in: SAs first, then what stacks sent, frames, deliveries."""
        self.tracks.learn(ledger.sas[len(self.tracks) :])
        for one in step.submitted:
            if not one.errno:
                self._waiting[one.host][cut(one.packet)].append(one)
        self.seen = list(self._frames(step))
        self._deliveries(step)

    def on_the_way(self, host: int) -> list[Submitted]:
        """Packets that a stack sent and the wire has not seen."""
        return [one for queue in self._waiting[host].values() for one in queue]

    def give_up(self, host: int) -> None:
        """What was on the way will not come any more: it was dropped."""
        self._waiting[host].clear()

    def forget_handles(self, host: int) -> None:
        """A driver that probes anew may begin its handles anew."""
        self.handles = {name: whose for name, whose in self.handles.items() if name[0] != host}

    def forget(self, before_step: int) -> None:
        """Let go of frames so old that nobody can deliver them."""
        for receiver in self._receivers:
            receiver.forget(before_step)

    # --- frames ---

    def _frames(self, step: Step) -> Iterator[Seen]:
        for frame in step.frames:
            packet = ip_of(frame.data)
            parsed = parse(packet) if packet is not None else None
            if packet is not None and parsed is not None:
                packet = packet[: parsed.end]
            seen = Seen(frame, step.number, packet, parsed)
            if frame.src is not None and packet is not None and parsed is not None:
                self._sent(seen, packet, parsed)
            if frame.dst is not None:
                self._receivers[frame.dst].arrived(seen, self.tracks)
            yield seen

    def _sent(self, seen: Seen, packet: bytes, parsed: Parsed) -> None:
        """A frame of a card: which SA of its host sealed it, and which packet is inside."""
        host = seen.frame.src
        assert host is not None
        if parsed.proto == ESP and parsed.fragment:
            whole = self._pieces.add(host, packet, parsed)
            found = parse(whole) if whole is not None else None
            seen.piece = True
            if whole is None or found is None:
                return
            packet, parsed = whole, found
        at = esp_at(packet, parsed)
        if at is None or not self._by_sa(seen, host, packet, parsed, at):
            seen.esp = at is not None and parsed.proto == ESP
            if not seen.esp:
                seen.submitted = self._take(host, packet)
            return
        seen.submitted = self._take(host, seen.inner or b"")

    def _by_sa(self, seen: Seen, host: int, packet: bytes, parsed: Parsed, at: int) -> bool:
        """Find the SA that opens the ESP at packet[at:], newest first."""
        body = packet[at : parsed.end]
        seen.spi, low = int.from_bytes(body[:4]), int.from_bytes(body[4:8])
        for track in reversed(self.tracks.named(host, "out", seen.spi)):
            for high in _highs(track, low):
                inside = self._opener.open(track.sa, body, high)
                if not isinstance(inside, str):
                    seen.esp, seen.out = True, track
                    seen.expected_high = track.expected_high(low)
                    seen.number = (high or 0) * SPACE + low
                    seen.iv, seen.padding = body[8:16], inside.padding
                    seen.next_header = inside.next_header
                    seen.inner = inner_of(track.sa, packet, parsed, inside)
                    self._note(track, seen, len(inside.payload))
                    return True
        seen.foreign = self._of_another(host, seen.spi, body)
        return False

    def _of_another(self, host: int, spi: int, body: bytes) -> Track | None:
        """An SA out of another host that opens the packet."""
        low = int.from_bytes(body[4:8])
        for other in range(len(self._receivers)):
            for track in self.tracks.named(other, "out", spi) if other != host else []:
                opened = self._opener.open(track.sa, body, track.expected_high(low))
                if not isinstance(opened, str):
                    return track
        return None

    def _note(self, track: Track, seen: Seen, size: int) -> None:
        seen.before, track.number = track.number, max(track.number, seen.number)
        self.ivs[track.sa.key][seen.iv] += 1
        seen.iv_uses = self.ivs[track.sa.key][seen.iv]
        track.sent += 1
        track.sent_bytes += size
        track.last_bytes = seen.sealed = size
        seen.nth, seen.bytes_before = track.sent, track.sent_bytes - size
        track.looked_at(seen.frame.time)

    def _take(self, host: int, packet: bytes) -> Submitted | None:
        queue = self._waiting[host].get(cut(packet))
        if not queue:
            return None
        one = queue.popleft()
        if not queue:
            del self._waiting[host][cut(packet)]
        return one

    # --- deliveries ---

    def _deliveries(self, step: Step) -> None:
        self.unknown, self.repeated, self.matched = [], [], []
        for one in step.delivered:
            seen, again = self._receivers[one.host].brought(cut(one.packet))
            if seen is None:
                self.unknown.append(one)
            elif again:
                self.repeated.append((one, seen))
            else:
                self.matched.append((one, seen))
            if seen is not None:
                seen.delivered += 1
                _delivered(seen)
        if step.settled:
            for receiver in self._receivers:
                receiver.rest(step.number)

    def brought_changed(self, one: Delivered) -> bool:
        """See `Receiver.brought_changed`."""
        return self._receivers[one.host].brought_changed(cut(one.packet))


def _delivered(seen: Seen) -> None:
    """Count a delivery on the SA that opened the packet."""
    track = seen.into
    if track is None:
        return
    seen.top_before = track.delivered_top
    track.delivered[seen.number_in] += 1
    track.delivered_top = max(track.delivered_top, seen.number_in)
    track.delivered_bytes += seen.size
    track.last_bytes = seen.size


def _highs(track: Track, low: int) -> list[int | None]:
    """ESN halves to try, the one that is due first; without ESN there is none."""
    due = track.expected_high(low)
    if due is None:
        return [None]
    near = sorted({*range(max(0, due - HIGHS), due + HIGHS + 1), 0} - {due})
    return [due, *near]


def cut(packet: bytes) -> bytes:
    """The packet without what a link may have put behind it."""
    parsed = parse(packet)
    return packet if parsed is None else packet[: parsed.end]
