# SPDX-License-Identifier: Apache-2.0
"""Where things wait for the user: delivered packets, notifications, the recorded clear side.

Every queue is bounded; what does not fit is dropped and counted. `take` never gives more than fits
one answer, so a user asks until nothing is left.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence

from proto.limits import (
    MESSAGE_MAX_BYTES,
    NOTIFICATION_QUEUE,
    SOCKET_RCVBUF_BYTES,
    WIRE_RECORD_FRAMES,
)
from proto.xfrm import Group

ANSWER_MAX_BYTES = MESSAGE_MAX_BYTES // 2

Record = tuple[int, str, bytes]


def _take(queue: deque[bytes], limit: int) -> list[bytes]:
    taken: list[bytes] = []
    room = ANSWER_MAX_BYTES
    while queue and len(taken) < limit and (not taken or len(queue[0]) <= room):
        room -= len(queue[0])
        taken.append(queue.popleft())
    return taken


class PacketSocket:
    """IP packets delivered to the stack, at most SOCKET_RCVBUF_BYTES of them."""

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters
        self._packets: deque[bytes] = deque()
        self._bytes = 0
        self.delivered = 0

    def put(self, packet: bytes) -> None:
        """Deliver one packet."""
        if self._bytes + len(packet) > SOCKET_RCVBUF_BYTES:
            self._counters["socket_overrun"] += 1
            return
        self._packets.append(packet)
        self._bytes += len(packet)
        self.delivered += 1

    def put_all(self, packets: Sequence[bytes]) -> None:
        """Deliver packets in their order."""
        size = sum(map(len, packets))
        if self._bytes + size > SOCKET_RCVBUF_BYTES:
            for packet in packets:
                self.put(packet)
            return
        self._packets.extend(packets)
        self._bytes += size
        self.delivered += len(packets)

    def take(self, limit: int) -> list[bytes]:
        """At most `limit` packets, oldest first."""
        packets = _take(self._packets, limit)
        self._bytes -= sum(map(len, packets))
        return packets

    def discard(self) -> tuple[int, int]:
        """Let go of all packets; how many there were, and bytes."""
        found = len(self._packets), self._bytes
        self._packets.clear()
        self._bytes = 0
        return found


class Notifications:
    """Multicast messages of the core; `groups` are those listened to, at first every one, and
    `room` the messages that the listener's buffer takes. `now_ns` tells when one is sent."""

    def __init__(self, counters: Counter[str], now_ns: Callable[[], int]) -> None:
        self._counters = counters
        self._now_ns = now_ns
        self._messages: deque[bytes] = deque()
        self._times_ns: deque[int] = deque()  # of the messages, one each
        self.groups = frozenset(Group)
        self.room = NOTIFICATION_QUEUE
        self.sent = 0

    def listening(self, group: Group) -> bool:
        """Whether anybody hears this group (TX-16)."""
        return group in self.groups

    def multicast(self, group: Group, message: bytes) -> int:
        """Queue one message; returns how many listeners took it (0: none, or its queue is full)."""
        if group not in self.groups:
            return 0
        if len(self._messages) >= self.room:
            self._counters["notification_overrun"] += 1
            return 0
        self._messages.append(message)
        self._times_ns.append(self._now_ns())
        self.sent += 1
        return 1

    def take(self) -> tuple[list[bytes], list[int]]:
        """Messages since the last call, oldest first, and the time of each."""
        messages = _take(self._messages, NOTIFICATION_QUEUE)
        return messages, [self._times_ns.popleft() for _ in messages]


class ClearSide:
    """A recorder between stack and driver, as a packet capture on the device would see it."""

    def __init__(self) -> None:
        self.on = False
        self._records: deque[Record] = deque(maxlen=WIRE_RECORD_FRAMES)

    def record(self, now_ns: int, direction: str, packet: bytes) -> None:
        """Keep one packet if recording; `direction` is "in" or "out"."""
        if self.on:
            self._records.append((now_ns, direction, packet))

    def take(self) -> list[Record]:
        """What was recorded since the last call, oldest first."""
        taken: list[Record] = []
        room = ANSWER_MAX_BYTES
        while self._records and (not taken or len(self._records[0][2]) <= room):
            room -= len(self._records[0][2])
            taken.append(self._records.popleft())
        return taken
