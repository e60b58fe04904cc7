# SPDX-License-Identifier: Apache-2.0
"""The transmit queue: descriptors wait in order, `pump` takes bursts of them while the wire gives
credits; a lost doorbell (gap in the index) waits in its place too, so that completions keep order.

The first error stops the queue (`proto.queue`): the descriptor that caused it completes with a
syndrome, those behind it as flushed, and so does everything that still arrives until the host has
moved the queue back to RDY. A doorbell that comes twice is no error.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nic_model.asking import Asking
from nic_model.data_faults import SITE_TX, alter_sealed, judge_descriptor
from nic_model.datapath import tx_burst
from nic_model.port import Port
from nic_model.tables import TX, Tables
from proto.frame import INDEX_MASK, FrameError, Kind, Message, pack
from proto.layouts import COMPLETION_ERROR, TxFlag
from proto.limits import BURST, FRAME_MAX_BYTES, GSO_MAX_SEGMENTS, RING_SIZE
from proto.link.dma import Dma, slots_of
from proto.link.ring import Consumer, RingError, Stale
from proto.queue import CompletionError, QueueState
from proto.status import Drop
from proto.wire import Frames


@dataclass(slots=True)
class _Waiting:
    """Descriptors of one message, `lost` ring positions before them; `index` is their first."""

    index: int
    lost: int
    descriptors: npt.NDArray[np.void]


class TxQueue:
    """Descriptors in, batches of frames for the wire and completions out."""

    def __init__(self, t: Tables, dma: Dma, port: Port, asking: Asking) -> None:
        self.state = QueueState.RDY
        self.epoch = 0  # of the host
        self.counters = dict.fromkeys(("tx_descriptors", "tx_lost", "tx_stale", "tx_errors"), 0)
        self._t = t
        self._dma = dma
        self._port = port
        self._asking = asking
        self._stalled = False  # by a fault
        self._ring = Consumer(RING_SIZE)
        self._waiting: deque[_Waiting] = deque()
        self._done = 0  # positions to complete
        self._errors: list[tuple[int, int, int, int]] = []  # COMPLETION_ERROR, to report
        self._frames: list[bytes] = []
        self._out = np.zeros(BURST * FRAME_MAX_BYTES, np.uint8)
        self._out_length = np.zeros(BURST, np.int64)
        self._verdict = np.zeros(BURST, np.uint8)

    @property
    def index(self) -> int:
        """Number of the descriptor expected next."""
        return self._ring.index

    @property
    def queued(self) -> int:
        """Descriptors that wait for wire credits."""
        return sum(len(waiting.descriptors) for waiting in self._waiting)

    @property
    def held(self) -> int:
        """Ring positions that arrived, or were lost, and are not completed."""
        return sum(one.lost + len(one.descriptors) for one in self._waiting) + self._done

    def restart(self, index: int) -> None:
        """Go on at `index` with an empty queue, ready."""
        self._waiting.clear()
        self._errors.clear()
        self._done = 0
        self._ring.restart(index)
        self._stalled = False
        self.state = QueueState.RDY

    def transmit(self, message: Message) -> None:
        """Queue a TX message. Raises FrameError or RingError for one that cannot be, and then the
        queue is in ERR."""
        before = self._ring.index
        try:
            if not message.count:
                raise FrameError("a TX message without descriptors")
            lost = self._ring.arrived(message.index, message.count)
            if self.held + lost + message.count > RING_SIZE:
                raise RingError(f"{message.count} descriptors come without credits")
            descriptors = self._dma.scatter(message.body, message.count).copy()
        except Stale:
            self.counters["tx_stale"] += 1
            return
        except ValueError as error:
            self._ring.restart(before)
            of_ring = isinstance(error, RingError)
            self.fail(
                CompletionError.LOCAL_QUEUE_OPERATION if of_ring else CompletionError.LOCAL_LENGTH
            )
            raise
        if not self._dma.shared:  # what came behind the descriptors is written now
            slots, marks = slots_of(message.index, message.count)
            self._dma.tx_marks[slots] = marks
        self._waiting.append(_Waiting(message.index, lost, descriptors))
        self.counters["tx_descriptors"] += message.count
        self.counters["tx_lost"] += lost
        if self.state is QueueState.RDY:
            self.pump()
        else:
            self._flush_waiting()

    def pump(self) -> None:
        """Send what waits, as far as the wire gives credits."""
        while self._waiting and self._port.credits and not self._stalled:
            first = self._waiting[0]
            if self._asking.armed:
                count, failed = self._send_one(first.index, first.descriptors[:1])
            else:
                count, failed = self._burst(first.index, first.descriptors[:BURST])
            if not count:
                break
            self._done += first.lost + count
            first.lost = 0
            first.index += count
            first.descriptors = first.descriptors[count:]
            if not len(first.descriptors):
                self._waiting.popleft()
            if failed:
                self._stop()

    def _send_one(self, index: int, descriptor: npt.NDArray[np.void]) -> tuple[int, bool]:
        """One descriptor, asking for faults; how many are done, and whether the queue stops."""
        if descriptor[0]["flags"] & TxFlag.SEGMENT and self._port.credits < GSO_MAX_SEGMENTS:
            return 0, False  # asked once, when it is sure to go
        departure = judge_descriptor(self._asking, descriptor[0])
        if departure.stall:
            self._stalled = True
            self._asking.later(departure.stall, SITE_TX, self._resume)
            return 0, False
        if departure.unwritten:
            slots, _ = slots_of(index, 1)
            self._dma.tx_marks[slots] ^= 0x5555
        if not departure.dropped and not departure.syndrome:
            return self._burst(index, descriptor)
        self._t.drops[TX, Drop.ENGINE] += 1
        if departure.syndrome:
            self._report(index, 1, departure.syndrome, Drop.ENGINE)
        return 1, bool(departure.syndrome)

    def _resume(self) -> None:
        self._stalled = False
        self.pump()

    def _burst(self, index: int, descriptors: npt.NDArray[np.void]) -> tuple[int, bool]:
        """Descriptors, as far as credits go; how many are done, and whether the queue stops."""
        bad = self._t.drops[TX, Drop.DESCRIPTOR]
        lengths = self._out_length[: self._port.credits]
        taken, sent = tx_burst(
            self._t,
            self._dma.memory,
            index,
            descriptors,
            len(descriptors),
            self._port.mtu,
            self._out,
            lengths,
            self._verdict,
        )
        if sent:
            lengths = lengths[:sent]
            frames = Frames(lengths, self._out[: int(lengths.sum())])
            if self._asking.armed:
                frames = Frames.of([alter_sealed(self._asking, one) for one in frames.each()])
            self._frames.append(self._port.batch(frames))
        if self._t.drops[TX, Drop.DESCRIPTOR] == bad:
            return taken, False
        at = int(np.flatnonzero(self._verdict[:taken] == Drop.DESCRIPTOR)[0])
        self._report(index + at, 1, CompletionError.LOCAL_PROTECTION, Drop.DESCRIPTOR)
        self._report(index + at + 1, taken - at - 1, CompletionError.FLUSHED, Drop.FLUSHED)
        return taken, True

    def fail(self, syndrome: CompletionError) -> None:
        """An error of the queue, not of one descriptor: it stops."""
        if self.state is QueueState.RDY:
            self._errors.append((self._ring.index, 0, syndrome, Drop.NONE))
            self._stop()

    def _stop(self) -> None:
        self.state = QueueState.ERR
        self.counters["tx_errors"] += 1
        self._flush_waiting()

    def abandon(self) -> None:
        """Nothing that waits is sent any more."""
        self._flush_waiting()

    def _flush_waiting(self) -> None:
        """Complete what waits without sending it: each of these packets counts as FLUSHED."""
        while self._waiting:
            one = self._waiting.popleft()
            self._flush(one.index, len(one.descriptors))
            self._done += one.lost + len(one.descriptors)

    def _flush(self, index: int, count: int) -> None:
        self._t.drops[TX, Drop.FLUSHED] += count
        self._report(index, count, CompletionError.FLUSHED, Drop.FLUSHED)

    def _report(self, index: int, count: int, syndrome: int, drop: Drop) -> None:
        if count:
            self._errors.append((index & INDEX_MASK, count, syndrome, drop))

    def frames(self) -> list[bytes]:
        """WIRE messages since the last call."""
        frames, self._frames = self._frames, []
        return frames

    def completions(self) -> list[bytes]:
        """The TX_DONE message for what was completed since the last call, if anything was."""
        if not self._done and not self._errors:
            return []
        first = (self._ring.index - self.held) & INDEX_MASK
        body = np.array(self._errors, COMPLETION_ERROR).tobytes()
        message = pack(Kind.TX_DONE, body, first, self._done, self.epoch)
        self._done = 0
        self._errors = []
        return [message]
