# SPDX-License-Identifier: Apache-2.0
"""What the wire remembers: its last frames, as they entered it.

Under load frames come in batches, and most are never asked for; so a batch is kept as it came, and
taken apart when somebody looks.
"""

from collections import deque
from typing import NamedTuple

from proto.wire import Frames


class Frame(NamedTuple):
    """One Ethernet frame as it entered the wire, before any fault.

    `time` in ns of the lab's clock; `src` the host whose card sent it, None when injected; `dst`
    the host whose card it goes to, None where the wire ends in the open.
    """

    data: bytes
    time: int
    src: int | None
    dst: int | None


class _Batch(NamedTuple):
    """More than one of them: smaller than as many of these, and slower to read."""

    frames: Frames
    time: int
    src: int | None
    dst: int | None


class Record:
    """The last `most` frames; `dropped` counts older ones that are gone."""

    def __init__(self, most: int) -> None:
        self.dropped = 0
        self._most = most
        self._held = 0
        self._batches: deque[Frame | _Batch] = deque()

    @property
    def total(self) -> int:
        """Frames ever recorded."""
        return self.dropped + self._held

    def add(self, frames: Frames, time: int, src: int | None, dst: int | None) -> None:
        """Remember frames, and let go of as many of the oldest as are too many."""
        if len(frames) == 1:
            self._batches.append(Frame(frames.data.tobytes(), time, src, dst))
        else:
            self._batches.append(_Batch(frames, time, src, dst))
        self._held += len(frames)
        while self._held > self._most:
            oldest = self._batches.popleft()
            count = 1 if isinstance(oldest, Frame) else len(oldest.frames)
            more = min(self._held - self._most, count)
            if isinstance(oldest, _Batch) and more < count:
                rest = oldest.frames.split(more)[1]
                self._batches.appendleft(oldest._replace(frames=rest))
            self._held -= more
            self.dropped += more

    def frames(self, start: int = 0) -> list[Frame]:
        """The frames from number `start` on, as far as they are still here, oldest first."""
        found: list[Frame] = []
        number = self.total
        for batch in reversed(self._batches):
            if number <= start:
                break
            if isinstance(batch, Frame):
                number -= 1
                found.append(batch)
                continue
            number -= len(batch.frames)
            some = batch.frames.split(max(0, start - number))[1]
            frames = [Frame(data, *batch[1:]) for data in some.each()]
            found += reversed(frames)
        found.reverse()
        return found

    def forget(self) -> None:
        """Let go of all of them."""
        self.dropped += self._held
        self._held = 0
        self._batches.clear()
