# SPDX-License-Identifier: Apache-2.0
"""The receive queue of the host: descriptors -> checked against their slots -> Ethernet -> Skb with
SA -> stack, and the slots back to the card.

Every packet is delivered or counted once. What no card can say in good faith, such as a slot that
is not written yet or a length beyond it, puts the queue in ERR (`proto.queue`): nothing is read any
more until `driver.queue_health` has brought it back.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from host_driver.driver.provenance import esp_of, opened_as_expected, opened_by, should_be_open
from host_driver.driver.rx_flows import RxBurst, RxFlows
from host_driver.driver.sa import Sa, SaTable
from host_driver.driver.tx_queue import Send
from host_driver.driver.tx_slots import ETHERTYPES
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
from host_driver.xfrm.burst import PADDING, SMALL, Burst
from proto.frame import FrameError, Kind, Message, pack
from proto.layouts import RX_HIGH_SHIFT, RxFlag
from proto.limits import (
    BUFFER_BYTES,
    ETHERNET_BYTES,
    RECONCILE_INTERVAL_MS,
    RING_SIZE,
    SLOT_BYTES,
)
from proto.link.dma import Dma, rx_offset, slots_of, unmark
from proto.link.ring import Consumer, RingError, Stale, distance
from proto.queue import QueueState
from proto.status import Drop
from proto.xfrm import MODE_TRANSPORT

KNOWN_FLAGS = RxFlag.CRYPTO_DONE | RxFlag.CRYPTO
LOST_NS = RECONCILE_INTERVAL_MS * 1_000_000
ETH_P_IP, ETH_P_IPV6 = (int.from_bytes(ETHERTYPES[version]) for version in (4, 6))
_IPV4_BYTES, _IPV6_BYTES = 20, 40
SHORTEST_BYTES = ETHERNET_BYTES + _IPV4_BYTES  # of a frame with a header to look at


class RxQueue:
    """The receive side of one device. `netif_rx` is the way to the stack; `error` says why it is in
    ERR. `unenforced` is asked whether a packet in clear is one of a policy that the card has lost;
    `flows` is the table of those whose packets pass together.
    """

    def __init__(
        self,
        dma: Dma,
        dev: NetDevice,
        sas: SaTable,
        send: Send,
        netif_rx: Callable[[Skb], None],
        counters: Counter[str],
        unenforced: Callable[[bytes], bool] = lambda packet: False,
        flows: RxFlows | None = None,
    ) -> None:
        self.state = QueueState.RDY
        self.epoch = 0
        self.error = ""
        self._dma = dma
        self._memory = dma.memory.data
        self._dev = dev
        self._sas = sas
        self._unenforced = unenforced
        self._flows = flows
        self._send = send
        self._netif_rx = netif_rx
        self._counters = counters
        self._consumer = Consumer(RING_SIZE)
        self._missing: tuple[int, int] | None = None  # at which index, since when

    @property
    def index(self) -> int:
        """Running number of the next packet."""
        return self._consumer.index

    @property
    def idle(self) -> bool:
        """Nothing has to be repaired."""
        return self.state is QueueState.RDY

    def arrived(self, message: Message) -> None:
        """RX: take packets, then give their slots back, and those of lost messages before them."""
        if not self._account(message):
            return
        try:
            descriptors = self._dma.scatter(message.body, message.count)
        except FrameError as error:
            self._counters["rx_malformed"] += message.count
            self.fail(str(error))
            return
        slots, marks = slots_of(message.index, message.count)
        written = self._dma.rx_marks[slots] == marks
        if not self._dma.shared:  # they came behind the descriptors
            written[:] = True
        self._take_all(message.index, descriptors, written)
        self._give_back(message.index, message.count)

    def _take_all(
        self, index: int, descriptors: npt.NDArray[np.void], written: npt.NDArray[np.bool_]
    ) -> None:
        """In their order: many at once where they are of known flows, else one by one."""
        burst = self._burst(index, descriptors, written)
        rows, position = descriptors.tolist(), 0
        while position < len(rows):
            if self.state is not QueueState.RDY:
                self._counters["rx_flushed"] += len(rows) - position
                return
            known = burst.deliver(position) if burst else 0
            if known:
                self._counters["rx_packets"] += known
                position += known
                continue
            if not written[position]:  # F-RNG-05, F-RNG-06
                self._counters["rx_not_written"] += 1
                self.fail(f"packet {index + position} is announced and not written")
            else:
                before = self._flows.delivered if self._flows else 0
                copied = burst.frame(position) if burst else None
                self._take_one(index + position, rows[position], copied)
                if burst and self._flows and self._flows.delivered > before:
                    burst.learn(position)
            position += 1

    def _burst(
        self, index: int, descriptors: npt.NDArray[np.void], written: npt.NDArray[np.bool_]
    ) -> RxBurst | None:
        """The packets of a message, copied, so that nobody changes them after a look: who is not
        known is judged by the copy, too. None where each has to be looked at anyway."""
        flows, count = self._flows, len(descriptors)
        if flows is None or count < SMALL or not flows.open or not written.all():
            return None
        slots, _ = slots_of(index, count)
        offsets, lengths = descriptors["offset"], descriptors["length"].astype(np.int64)
        in_place = (offsets == rx_offset(0) + slots * BUFFER_BYTES).all()
        if not in_place or lengths.max() > SLOT_BYTES or lengths.min() < SHORTEST_BYTES:
            return None
        first = int(lengths[0])
        if (lengths == first).all():
            buffers = np.ndarray(
                RING_SIZE, f"V{first}", self._memory, rx_offset(0), (BUFFER_BYTES,)
            )
            frames: list[Any] = [buffers[slots]]
        else:
            ends = zip(offsets.tolist(), (offsets + lengths).tolist(), strict=True)
            frames = [self._memory[start:end] for start, end in ends]
        starts = np.cumsum(lengths) - lengths + ETHERNET_BYTES
        block = b"".join((*frames, PADDING))
        packets = Burst(block, starts, lengths - ETHERNET_BYTES)
        octets = np.frombuffer(block, np.uint8)
        types = octets[starts - 2].astype(np.int64) << 8 | octets[starts - 1]
        good = types == np.where(packets.ipv6(), ETH_P_IPV6, ETH_P_IP)
        return RxBurst(flows, packets, flows.labels(packets, descriptors, good))

    def lost(self, message: Message) -> None:
        """The packets of this message will never be seen; their slots go back all the same."""
        if self._account(message):
            self._counters["rx_lost"] += message.count
            self._give_back(message.index, message.count)

    def _account(self, message: Message) -> bool:
        if self.state is not QueueState.RDY:
            self._counters["rx_while_stopped"] += 1
            return False  # its packets are counted by their index, when the queue comes back
        try:
            lost = self._consumer.arrived(message.index, message.count)
        except Stale:
            self._counters["rx_stale"] += 1
            return False
        except RingError as error:
            self._counters["rx_index_unexpected"] += 1
            self.fail(str(error))
            return False
        self._counters["rx_lost"] += lost
        if not message.count:
            self.fail("a message without packets")
        return bool(message.count)

    def _give_back(self, index: int, count: int) -> None:
        """All slots before `index + count` are free again; saying it twice changes nothing."""
        self._send(pack(Kind.RX_DONE, index=index, count=count, epoch=self.epoch))

    def fail(self, error: str) -> None:
        """Stop: until `recovered` nothing is read. The first error counts."""
        if self.state is QueueState.RDY:
            self.state, self.error = QueueState.ERR, error

    def recovered(self, index: int) -> None:
        """The card goes on at `index`; what it had delivered before is lost."""
        self._counters["rx_drop_reset"] += min(max(distance(index, self.index), 0), RING_SIZE)
        self._consumer.restart(index)
        self._missing = None
        self.state, self.error = QueueState.RDY, ""

    def restart(self, epoch: int) -> None:
        """A card that begins at 0 in a new epoch."""
        self.epoch = epoch
        unmark(self._dma.rx_marks)
        self._consumer.restart(0)
        self.recovered(0)

    def confirm(self, produced: int, done: int, now_ns: int) -> None:
        """The card's answer to a Fence: the index of its next packet, and that up to which it knows
        slots to be free. What is missing for LOST_NS while nothing moves will never come."""
        if self.state is not QueueState.RDY:
            return
        missing = distance(produced, self.index)
        if missing <= 0:
            self._missing = None
        elif self._missing is None or self._missing[0] != self.index:
            self._missing = self.index, now_ns
        elif now_ns - self._missing[1] >= LOST_NS and missing <= RING_SIZE:
            self._counters["rx_lost"] += missing
            self._consumer.restart(produced)
        if distance(self.index, done) > 0:
            self._give_back(self.index, 0)

    def _take_one(self, index: int, row: tuple[int, ...], copied: bytes | None) -> None:
        """One descriptor; its frame is read once, if it was not `copied` before."""
        slot, (offset, length) = rx_offset(index), row[:2]
        if offset != slot or length > SLOT_BYTES:
            self._counters["rx_malformed"] += 1
            self.fail(f"{length} bytes at {offset} do not lie in the slot at {slot}")
            return
        self._take(copied or bytes(self._memory[offset : offset + length]), *row[2:])

    def _take(self, frame: bytes, flags: int, syndrome: int, handle: int, generation: int) -> None:
        """One frame, with what the card says of it."""
        data = frame[ETHERNET_BYTES:]
        if not data or (flags & ~KNOWN_FLAGS and not flags & RxFlag.CRYPTO):
            self._counters["rx_malformed"] += 1
        elif ETHERTYPES.get(data[0] >> 4) != frame[ETHERNET_BYTES - 2 : ETHERNET_BYTES]:
            self._counters["rx_not_ip"] += 1
        elif not _is_whole(data):
            self._counters["rx_length"] += 1
        elif flags & RxFlag.CRYPTO:
            high = flags >> RX_HIGH_SHIFT
            self._take_crypto(data, high, syndrome, self._sas.find(handle, generation))
        elif syndrome:  # RX-03: an error status is dropped silently by the stack
            self._counters["rx_error_status"] += 1
        elif not self._dev.up:
            self._counters["rx_device_down"] += 1
        elif not flags & RxFlag.CRYPTO_DONE:
            self._take_clear(data)
        elif (sa := self._sas.find(handle, generation)) is None:  # RX-11: by an SA that is gone
            self._counters["rx_drop_sadb_miss"] += 1
        elif not opened_by(self._sas, sa, data):
            self._counters["rx_drop_provenance"] += 1
        else:
            self._deliver(Skb(data, sec_path=SecPath(sa.x), in_dev=self._dev))

    def _take_clear(self, data: bytes) -> None:
        if should_be_open(self._sas, data):
            self._counters["rx_drop_not_opened"] += 1
        elif self._unenforced(data):
            self._counters["rx_drop_policy_missing"] += 1
        else:
            self._deliver(Skb(data, in_dev=self._dev))

    def _take_crypto(self, data: bytes, high: int, syndrome: int, sa: Sa | None) -> None:
        """An ESP packet with what the card made of it (OBJ-32); taking it apart is the host's."""
        if sa is None:  # RX-11
            self._counters["rx_drop_sadb_miss"] += 1
            return
        esp = esp_of(sa, data)
        if not esp:
            self._counters["rx_drop_provenance"] += 1
            return
        status = CRYPTO_SUCCESS
        if not syndrome and not opened_as_expected(sa, esp, high):
            syndrome = Drop.INTEGRITY
        if syndrome == Drop.INTEGRITY:
            transport = sa.x.props.mode == MODE_TRANSPORT
            status = TRANSPORT_ESP_AUTH_FAILED if transport else TUNNEL_ESP_AUTH_FAILED
        elif syndrome:
            status = CRYPTO_GENERIC_ERROR
        self._deliver(Skb(data, sec_path=SecPath(sa.x, CRYPTO_DONE, status), in_dev=self._dev))

    def _deliver(self, skb: Skb) -> None:
        self._counters["rx_packets"] += 1
        self._netif_rx(skb)


def _is_whole(packet: bytes) -> bool:
    """Whether an IP packet is as long as its header says (F-DP-22); the card cuts padding off."""
    if packet[0] >> 4 == 4:
        return len(packet) >= _IPV4_BYTES and int.from_bytes(packet[2:4]) == len(packet)
    return len(packet) >= _IPV6_BYTES and _IPV6_BYTES + int.from_bytes(packet[4:6]) == len(packet)
