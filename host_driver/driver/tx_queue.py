# SPDX-License-Identifier: Apache-2.0
"""The transmit queue of the host: packets into DMA memory, descriptors into the ring, completions.

    packet -> queue of TXQUEUE_LEN -> DMA slot, descriptor -> messages of at most BURST -> completed

One with a sec_path is ESP for crypto offload: its descriptor names the SA. Completions say how far
the card is done, so the next one heals a lost one. In state ERR (`proto.queue`) nothing new goes
out; `driver.queue_health` finds what got lost, and brings the queue back.
"""

import errno
from collections import Counter, deque
from collections.abc import Callable

import numpy as np

from host_driver.driver.sa import SaTable
from host_driver.driver.tx_slots import ETHERTYPES, Run, TxSlots
from host_driver.netdev import Skb
from host_driver.sleep import Completion
from proto.frame import INDEX_MASK, Kind, Message, pack
from proto.layouts import COMPLETION_ERROR
from proto.limits import BURST, RECONCILE_INTERVAL_MS, RING_SIZE, TX_TIMEOUT_MS, TXQUEUE_LEN
from proto.link.dma import Dma, unmark
from proto.link.ring import Producer, RingError, Stale, distance
from proto.queue import CompletionError, QueueState

WATCHDOG_NS = RECONCILE_INTERVAL_MS * 1_000_000
TX_TIMEOUT_NS = TX_TIMEOUT_MS * 1_000_000

Send = Callable[[bytes], None]


def syndrome_name(syndrome: int) -> str:
    """How texts call the syndrome of an error completion."""
    known = syndrome in CompletionError.__members__.values()
    return CompletionError(syndrome).name.lower() if known else f"syndrome {syndrome}"


class TxQueue:
    """The transmit side. `send` puts framed bytes on the RINGS channel; `error` says why it is in
    ERR."""

    def __init__(
        self,
        dma: Dma,
        mac: bytes,
        peer_mac: bytes,
        sas: SaTable,
        send: Send,
        counters: Counter[str],
    ) -> None:
        self.state = QueueState.RDY
        self.epoch = 0
        self.error = ""
        self.progress = Completion()  # done when the next completion has come
        self._dma = dma
        self._slots = TxSlots(dma, mac, peer_mac, sas)
        self._send = send
        self._counters = counters
        self._queue: deque[Skb | Run] = deque()
        self._queued = 0  # packets
        self._producer = Producer(RING_SIZE)
        self._accepted = self._taken = 0  # packets, ever
        self._drains: deque[tuple[int, Completion]] = deque()
        self._watchdog_ns = 0
        self._moved_ns = 0
        self._confirmed: tuple[int, int] | None = None

    @property
    def index(self) -> int:
        """Running number of the next packet."""
        return self._producer.index

    @property
    def first(self) -> int:
        """Running number of the oldest packet that is out; `index` when none is."""
        return self._producer.first

    @property
    def outstanding(self) -> int:
        """Packets on the ring that the card has not completed."""
        return self._producer.outstanding

    @property
    def idle(self) -> bool:
        """Nothing is queued, the card is done with everything, and nothing has to be repaired."""
        return not self._queue and not self.outstanding and self.state is QueueState.RDY

    def space(self) -> int:
        """Packets that the queue still takes."""
        return TXQUEUE_LEN - self._queued

    def enqueue(self, skb: Skb) -> int:
        """Take one packet; returns 0, EPROTO for what is no IP packet, ENOBUFS when full."""
        if not skb.data or skb.data[0] >> 4 not in ETHERTYPES:
            self._counters["tx_not_ip"] += 1
            return errno.EPROTO
        if not self.space():
            self._counters["tx_queue_full"] += 1
            return errno.ENOBUFS
        self._append(skb, 1)
        return 0

    def enqueue_run(self, run: Run) -> None:
        """Take IP packets for which there is `space`."""
        assert len(run) <= self.space(), "more than was asked for"
        self._append(run, len(run))

    def _append(self, packets: Skb | Run, count: int) -> None:
        self._queue.append(packets)
        self._queued += count
        self._accepted += count

    def drained(self) -> Completion:
        """Completes when the card is done with all packets that were accepted until now."""
        drain = Completion()
        self._drains.append((self._accepted, drain))
        self._note_taken(0)
        return drain

    def _note_taken(self, count: int) -> None:
        self._taken += count
        while self._drains and self._drains[0][0] <= self._taken:
            self._drains.popleft()[1].complete()

    def flush(self, now_ns: int) -> bool:
        """Put queued packets on the ring as far as credits go; whether anything moved."""
        moved = False
        while self.state is QueueState.RDY and (
            count := min(BURST, self._producer.credits, self._queued)
        ):
            if not self.outstanding:
                self._note_moved(now_ns)
            first = self._producer.take(count)
            self._place(first, count)
            self._ring(first, count)
            self._counters["tx_packets"] += count
            moved = True
        return moved

    def _place(self, first: int, count: int) -> None:
        """The oldest `count` packets into ring positions from `first` on."""
        at, end = first, first + count
        while at < end:
            packets = self._queue.popleft()
            if isinstance(packets, Skb):
                self._slots.place(at & INDEX_MASK, packets)
                at += 1
                continue
            now, later = packets.split(end - at)
            self._slots.place_run(at & INDEX_MASK, now)
            at += len(now)
            if later is not None:
                self._queue.appendleft(later)
        self._queued -= count
        self._slots.mark(first, count)

    def done(self, message: Message, now_ns: int) -> None:
        """TX_DONE: what the card is done with, and what of it went wrong."""
        if len(message.body) % COMPLETION_ERROR.itemsize:
            self.fail("an error completion is cut short")
            return
        if message.count or not message.body:
            self._completed(message, now_ns)
        for record in np.frombuffer(message.body, COMPLETION_ERROR).tolist():
            index, count, syndrome, _ = record
            if syndrome == CompletionError.FLUSHED:
                self._counters["tx_flushed"] += count
                continue
            self._counters["tx_errors"] += 1
            self.fail(f"packet {index}: {syndrome_name(syndrome)}")
        self.progress, progress = Completion(), self.progress
        progress.complete()

    def _completed(self, message: Message, now_ns: int) -> None:
        ahead = distance(message.index, self._producer.first)
        try:
            done = self._producer.completed(message.index, message.count)
        except Stale:
            self._counters["tx_done_stale"] += 1
            return
        except RingError:
            self._counters["tx_done_unexpected"] += 1
            self.fail(f"packet {message.index + message.count - 1} was completed and never sent")
            return
        self._counters["tx_done_lost"] += max(0, ahead)
        self._note_taken(done)
        self._note_moved(now_ns)

    def _note_moved(self, now_ns: int) -> None:
        self._moved_ns = now_ns
        self._watchdog_ns = now_ns + WATCHDOG_NS
        self._confirmed = None

    def fail(self, error: str) -> None:
        """Stop: until `recovered` nothing goes out. The first error counts."""
        if self.state is QueueState.RDY:
            self.state, self.error = QueueState.ERR, error

    def recovered(self, arrived: int) -> None:
        """The card is empty and goes on at `index`. What did not arrive there, `arrived` being the
        index behind the last that did, is lost for good: a packet is not sent twice."""
        lost = min(max(distance(self.index, arrived), 0), self.outstanding)
        self._counters["tx_drop_reset"] += lost
        self._note_taken(self.outstanding)
        self._producer.restart(self.index)
        self._confirmed = None
        self.state, self.error = QueueState.RDY, ""

    def restart(self, epoch: int) -> None:
        """A card that begins at 0 in a new epoch, and knows nothing of what was out."""
        self.recovered(self._producer.first)
        self.epoch = epoch
        self._producer.restart(0)
        unmark(self._dma.tx_marks)

    def purge(self) -> None:
        """Packets that wait for a ring that is gone are dropped."""
        self._counters["tx_drop_carrier"] += self._queued
        self._note_taken(self._queued)
        self._queue.clear()
        self._queued = 0

    def drop_large(self) -> None:
        """Large packets that wait for a card that cuts none are dropped."""
        kept = deque(one for one in self._queue if not one.gso_size)
        lost = self._queued - sum(1 if isinstance(one, Skb) else len(one) for one in kept)
        self._counters["tx_drop_reset"] += lost
        self._note_taken(lost)
        self._queue = kept
        self._queued -= lost

    def deadline_ns(self) -> int | None:
        """When to look at the watchdog, while packets are out."""
        return self._watchdog_ns if self.outstanding else None

    def stalled(self, now_ns: int) -> bool:
        """Whether the card should be asked (by a Fence) how far it came; repairs what the last
        answer showed and nothing changed since. After TX_TIMEOUT_MS the queue has failed."""
        if not self.outstanding or now_ns < self._watchdog_ns:
            return False
        self._watchdog_ns = now_ns + WATCHDOG_NS
        if self._confirmed is not None:
            self._repair(*self._confirmed)
        if self.outstanding and now_ns - self._moved_ns >= TX_TIMEOUT_NS:
            self._counters["tx_timeouts"] += 1
            self.fail(f"no completion for {TX_TIMEOUT_MS // 1000} s, {self.outstanding} are out")
        return True

    def confirm(self, arrived: int, done: int) -> None:
        """The card's answer: the index behind the last descriptor that arrived, and that up to
        which it is done. Used only if nothing moves until the next look."""
        self._confirmed = (arrived, done)

    def _repair(self, arrived: int, done: int) -> None:
        unseen = distance(self.index, arrived)
        completed = distance(done, self._producer.first)
        if not 0 <= unseen <= self.outstanding or not 0 <= completed <= self.outstanding:
            self._counters["tx_index_unexpected"] += 1
            self.fail(f"the card is at {arrived}, done up to {done}, of {self.index}")
            return
        self._producer.refill(completed)
        self._note_taken(completed)
        while unseen and self.state is QueueState.RDY:
            count = min(BURST, unseen)
            self._counters["tx_rung_again"] += count
            self._ring((self.index - unseen) & INDEX_MASK, count)
            unseen -= count

    def _ring(self, first: int, count: int) -> None:
        body = self._dma.gather(self._slots.descriptors(first, count))
        self._send(pack(Kind.TX, body, first, count, self.epoch))
