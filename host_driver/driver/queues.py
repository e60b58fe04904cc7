# SPDX-License-Identifier: Apache-2.0
"""The host's ends of the rings: packets into DMA memory and descriptors, and the way back.

TX: packet -> queue of TXQUEUE_LEN -> DMA slot, descriptor -> messages of at most BURST -> credits
    one with a sec_path is ESP for crypto offload: its descriptor names the SA
RX: descriptors -> checked against their slots -> Ethernet -> Skb with SA -> stack -> credits

A doorbell or completion that got lost shows when nothing moves for RECONCILE_INTERVAL_MS while
packets are out: a Fence tells how far the card came, and after a second look the doorbell is rung
again from the same slots, or the missing credits are taken back (F-RNG-01).
"""

import errno
from collections import Counter, deque
from collections.abc import Callable

import numpy as np

from host_driver.driver.sa import Sa, SaTable
from host_driver.netdev import (
    CRYPTO_DONE,
    CRYPTO_GENERIC_ERROR,
    CRYPTO_SUCCESS,
    TRANSPORT_ESP_AUTH_FAILED,
    TUNNEL_ESP_AUTH_FAILED,
    NetDevice,
    SecPath,
    Skb,
)
from host_driver.sleep import Completion
from proto.frame import INDEX_MASK, FrameError, Kind, Message, pack
from proto.layouts import DESCRIPTOR, RxFlag, TxFlag
from proto.limits import (
    BUFFER_BYTES,
    BURST,
    ETHERNET_BYTES,
    RECONCILE_INTERVAL_MS,
    RING_SIZE,
    TXQUEUE_LEN,
)
from proto.link.dma import Dma, rx_offset, tx_offset
from proto.link.ring import Consumer, Producer, RingError
from proto.status import Drop
from proto.xfrm import MODE_TRANSPORT

ETHERTYPES = {4: b"\x08\x00", 6: b"\x86\xdd"}
WATCHDOG_NS = RECONCILE_INTERVAL_MS * 1_000_000

Send = Callable[[bytes], None]


class TxQueue:
    """The transmit side. `send` puts framed bytes on the RINGS channel."""

    def __init__(
        self,
        dma: Dma,
        mac: bytes,
        peer_mac: bytes,
        sas: SaTable,
        send: Send,
        counters: Counter[str],
    ) -> None:
        self._dma = dma
        self._sas = sas
        self._memory = dma.memory.data
        self._addresses = peer_mac + mac
        self._send = send
        self._counters = counters
        self._queue: deque[Skb] = deque()
        self._producer = Producer(RING_SIZE)
        self._descriptors = np.zeros(RING_SIZE, DESCRIPTOR)
        self._accepted = self._taken = 0  # packets, ever
        self._drains: deque[tuple[int, Completion]] = deque()
        self._watchdog_ns = 0
        self._confirmed: int | None = None

    @property
    def index(self) -> int:
        """Running number of the next packet."""
        return self._producer.index

    @property
    def idle(self) -> bool:
        """Nothing is queued and the card is done with everything."""
        return not self._queue and not self._producer.outstanding

    def space(self) -> int:
        """Packets that the queue still takes."""
        return TXQUEUE_LEN - len(self._queue)

    def enqueue(self, skb: Skb) -> int:
        """Take one packet; returns 0, EPROTO for what is no IP packet, ENOBUFS when full."""
        if not skb.data or skb.data[0] >> 4 not in ETHERTYPES:
            self._counters["tx_not_ip"] += 1
            return errno.EPROTO
        if not self.space():
            self._counters["tx_queue_full"] += 1
            return errno.ENOBUFS
        self._queue.append(skb)
        self._accepted += 1
        return 0

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
        while count := min(BURST, self._producer.credits, len(self._queue)):
            if not self._producer.outstanding:
                self._watchdog_ns = now_ns + WATCHDOG_NS
            first = self._producer.take(count)
            for index in range(first, first + count):
                self._place(index & INDEX_MASK, self._queue.popleft())
            self._ring(first, count)
            self._counters["tx_packets"] += count
            moved = True
        return moved

    def done(self, message: Message, now_ns: int) -> None:
        """TX_DONE: `count` credits came back."""
        try:
            self._producer.refill(message.count)
        except RingError:
            self._counters["tx_done_unexpected"] += 1
            return
        self._note_taken(message.count)
        self._watchdog_ns = now_ns + WATCHDOG_NS
        self._confirmed = None

    def deadline_ns(self) -> int | None:
        """When to look at the watchdog, while packets are out."""
        return self._watchdog_ns if self._producer.outstanding else None

    def stalled(self, now_ns: int) -> bool:
        """Whether the card should be asked (by a Fence) how far it came; repairs what the last
        answer showed and nothing changed since."""
        if not self._producer.outstanding or now_ns < self._watchdog_ns:
            return False
        self._watchdog_ns = now_ns + WATCHDOG_NS
        if self._confirmed is not None:
            self._repair(self._confirmed)
        return True

    def confirm(self, arrived: int, queued: int) -> None:
        """The card's answer: index behind the last descriptor that arrived, and how many of them it
        still holds because the wire is slow. Used only if nothing moves until the next look."""
        self._confirmed = None if queued else arrived

    def _repair(self, arrived: int) -> None:
        unseen = (self._producer.index - arrived) & INDEX_MASK
        if unseen > self._producer.outstanding:
            self._counters["tx_index_unexpected"] += 1
            return
        missing = self._producer.outstanding - unseen
        self._producer.refill(missing)
        self._note_taken(missing)
        while unseen:
            count = min(BURST, unseen)
            self._counters["tx_rung_again"] += count
            self._ring((self._producer.index - unseen) & INDEX_MASK, count)
            unseen -= count

    def _place(self, index: int, skb: Skb) -> None:
        """The frame into the DMA slot of its ring position, and its descriptor beside it."""
        frame = b"".join((self._addresses, ETHERTYPES[skb.data[0] >> 4], skb.data))
        offset = tx_offset(index)
        self._memory[offset : offset + len(frame)] = frame
        flags, handle, generation = TxFlag(0), 0, 0
        if skb.protect:
            flags |= TxFlag.PROTECT
        if skb.sealed:
            flags |= TxFlag.SEALED
        if skb.sec_path is not None:  # of an SA that is gone meanwhile, the card drops it
            flags, sa = TxFlag.CRYPTO, self._sas.of(skb.sec_path.x)
            handle, generation = (sa.handle, sa.generation) if sa else (0, 0)
        self._descriptors[index % RING_SIZE] = (offset, len(frame), flags, 0, handle, generation)

    def _ring(self, first: int, count: int) -> None:
        slots = (first + np.arange(count)) % RING_SIZE
        body = self._dma.gather(self._descriptors[slots])
        self._send(pack(Kind.TX, body, first, count))


class RxQueue:
    """The receive side of one device. `netif_rx` is the way to the stack."""

    def __init__(
        self,
        dma: Dma,
        dev: NetDevice,
        sas: SaTable,
        send: Send,
        netif_rx: Callable[[Skb], None],
        counters: Counter[str],
    ) -> None:
        self._dma = dma
        self._memory = dma.memory.data
        self._dev = dev
        self._sas = sas
        self._send = send
        self._netif_rx = netif_rx
        self._counters = counters
        self._consumer = Consumer(RING_SIZE)

    @property
    def index(self) -> int:
        """Running number of the next packet."""
        return self._consumer.index

    def arrived(self, message: Message) -> None:
        """RX: take packets, then give their slots back, and those of lost messages before them."""
        if not self._account(message):
            return
        try:
            descriptors = self._dma.scatter(message.body, message.count)
        except FrameError:
            self._counters["rx_malformed"] += message.count
        else:
            for position, descriptor in enumerate(descriptors.tolist()):
                self._take(rx_offset(message.index + position), *descriptor)

    def lost(self, message: Message) -> None:
        """The packets of this message will never be seen; their slots go back all the same."""
        if self._account(message):
            self._counters["rx_lost"] += message.count

    def _account(self, message: Message) -> bool:
        try:
            lost = self._consumer.arrived(message.index, message.count)
        except RingError:
            self._counters["rx_index_unexpected"] += 1
            return False
        self._counters["rx_lost"] += lost
        if message.count + lost:
            self._send(pack(Kind.RX_DONE, index=message.index, count=message.count + lost))
        return True

    def _take(
        self,
        slot: int,
        offset: int,
        length: int,
        flags: int,
        syndrome: int,
        handle: int,
        generation: int,
    ) -> None:
        """One descriptor: every packet is delivered or counted once."""
        if offset != slot or not ETHERNET_BYTES < length <= BUFFER_BYTES:
            self._counters["rx_malformed"] += 1
            return
        frame = bytes(self._memory[offset : offset + length])
        data = frame[ETHERNET_BYTES:]
        if ETHERTYPES.get(data[0] >> 4) != frame[ETHERNET_BYTES - 2 : ETHERNET_BYTES]:
            self._counters["rx_not_ip"] += 1
        elif flags & RxFlag.CRYPTO:
            self._take_crypto(data, syndrome, self._sas.find(handle, generation))
        elif syndrome:  # RX-03: an error status is dropped silently by the stack
            self._counters["rx_error_status"] += 1
        elif not self._dev.up:
            self._counters["rx_device_down"] += 1
        elif not flags & RxFlag.CRYPTO_DONE:
            self._deliver(Skb(data, in_dev=self._dev))
        elif sa := self._sas.find(handle, generation):
            self._deliver(Skb(data, sec_path=SecPath(sa.x), in_dev=self._dev))
        else:  # RX-11: decrypted by an SA that is gone
            self._counters["rx_drop_sadb_miss"] += 1

    def _take_crypto(self, data: bytes, syndrome: int, sa: Sa | None) -> None:
        """An ESP packet with what the card made of it (OBJ-32); taking it apart is the host's."""
        if sa is None:  # RX-11
            self._counters["rx_drop_sadb_miss"] += 1
            return
        status = CRYPTO_SUCCESS
        if syndrome == Drop.INTEGRITY:
            transport = sa.x.props.mode == MODE_TRANSPORT
            status = TRANSPORT_ESP_AUTH_FAILED if transport else TUNNEL_ESP_AUTH_FAILED
        elif syndrome:
            status = CRYPTO_GENERIC_ERROR
        self._deliver(Skb(data, sec_path=SecPath(sa.x, CRYPTO_DONE, status), in_dev=self._dev))

    def _deliver(self, skb: Skb) -> None:
        self._counters["rx_packets"] += 1
        self._netif_rx(skb)
