# SPDX-License-Identifier: Apache-2.0
"""The transmit ring as memory: frames in their DMA slots, descriptors beside them, marks behind.

A single packet is placed with all that an Skb says about it; a run of plain ones is placed at once:

    addresses and type of Ethernet in front, the packets behind, a descriptor each

Packets of one length at even distances are one copy, of one length anywhere two, and of different
lengths one for each.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from host_driver.driver.sa import SaTable
from host_driver.netdev import Skb
from host_driver.xfrm.burst import Bools, Ints
from proto.frame import INDEX_MASK
from proto.layouts import DESCRIPTOR, TxFlag
from proto.limits import ETHERNET_BYTES, GSO_MAX_BYTES, RING_SIZE, TX_BUFFER_BYTES
from proto.link.dma import Dma, slots_of, tx_offset

ETHERTYPES = {4: b"\x08\x00", 6: b"\x86\xdd"}

# Where fields stand in the first 64 bits of a DESCRIPTOR, which is little-endian.
LENGTH_SHIFT, FLAGS_SHIFT = 32, 48


@dataclass(frozen=True, slots=True)
class Run:
    """IP packets that go out one after the other as they are: each begins in `block` at its entry
    of `starts` and has `lengths` bytes. `protect` and `gso_size` are those of an Skb."""

    block: bytes
    starts: Ints
    lengths: Ints
    protect: Bools
    ipv6: Bools
    gso_size: int = 0

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, some: slice) -> "Run":
        return Run(
            self.block, self.starts[some], self.lengths[some], self.protect[some], self.ipv6[some],
            self.gso_size,
        )  # fmt: skip

    def split(self, count: int) -> "tuple[Run, Run | None]":
        """The first `count` packets or all, and what is left."""
        return (self, None) if count >= len(self) else (self[:count], self[count:])


class TxSlots:
    """What the card reads. Running indices are taken modulo RING_SIZE."""

    def __init__(self, dma: Dma, mac: bytes, peer_mac: bytes, sas: SaTable) -> None:
        self._dma = dma
        self._sas = sas
        self._memory = dma.memory.data
        self._addresses = peer_mac + mac
        self._heads = np.array(
            [self._addresses + ETHERTYPES[4], self._addresses + ETHERTYPES[6]],
            f"V{ETHERNET_BYTES}",
        )
        self._descriptors = np.zeros(RING_SIZE, DESCRIPTOR)
        self._words = self._descriptors.view("<i8").reshape(RING_SIZE, -1)
        self._offsets = tx_offset(0) + np.arange(RING_SIZE) * TX_BUFFER_BYTES

    def descriptors(self, first: int, count: int) -> npt.NDArray[np.void]:
        """Those of `count` running indices; a view where the ring does not end between them."""
        at = first % RING_SIZE
        if at + count <= RING_SIZE:
            return self._descriptors[at : at + count]
        slots, _ = slots_of(first, count)
        copied: npt.NDArray[np.void] = self._descriptors[slots]
        return copied

    def mark(self, first: int, count: int) -> None:
        """Say that the packets of `count` running indices are written (proto.link.dma)."""
        at, marks = first % RING_SIZE, np.arange(first + 1, first + count + 1)
        before_wrap = RING_SIZE - at
        self._dma.tx_marks[at : at + count] = marks[:before_wrap] & INDEX_MASK
        self._dma.tx_marks[: max(count - before_wrap, 0)] = marks[before_wrap:] & INDEX_MASK

    def place(self, index: int, skb: Skb) -> None:
        """One frame and its descriptor."""
        frame = b"".join((self._addresses, ETHERTYPES[skb.data[0] >> 4], skb.data))
        assert len(frame) <= ETHERNET_BYTES + GSO_MAX_BYTES, "longer than what is segmented"
        offset = tx_offset(index)
        self._memory[offset : offset + len(frame)] = frame
        flags, handle, generation = TxFlag(0), 0, 0
        if skb.protect:
            flags |= TxFlag.PROTECT
        if skb.sealed:
            flags |= TxFlag.SEALED
        if skb.gso_size:
            flags |= TxFlag.SEGMENT
            handle = skb.gso_size
        if skb.sec_path is not None:  # of an SA that is gone meanwhile, the card drops it
            flags, sa = TxFlag.CRYPTO, self._sas.of(skb.sec_path.x)
            handle, generation = (sa.handle, sa.generation) if sa else (0, 0)
        self._descriptors[index % RING_SIZE] = (offset, len(frame), flags, 0, handle, generation)

    def place_run(self, index: int, run: Run) -> None:
        """The frames of a run and their descriptors, from running index `index` on."""
        at = index % RING_SIZE
        before_wrap, after_wrap = run.split(RING_SIZE - at)
        self._place_run(at, before_wrap)
        if after_wrap is not None:
            self._place_run(0, after_wrap)

    def _place_run(self, at: int, run: Run) -> None:
        """The same where the end of the ring is not crossed."""
        end = at + len(run)
        self._column(f"V{ETHERNET_BYTES}", 0)[at:end] = self._heads[run.ipv6.view(np.uint8)]
        if (run.lengths == run.lengths[0]).all():
            packet = f"V{int(run.lengths[0])}"
            self._column(packet, ETHERNET_BYTES)[at:end] = _packets(run, packet)
        else:
            places = self._offsets[at:end] + ETHERNET_BYTES
            table = zip(places.tolist(), run.starts.tolist(), run.lengths.tolist(), strict=True)
            block = memoryview(run.block)
            for place, start, length in table:
                self._memory[place : place + length] = block[start : start + length]

        # Words of DESCRIPTOR: offset, length and flags; handle. Syndrome and generation are 0.
        words = self._words[at:end]
        flags = run.protect * np.int64(TxFlag.PROTECT << FLAGS_SHIFT)
        if run.gso_size:
            flags |= TxFlag.SEGMENT << FLAGS_SHIFT
        words[:, 0] = self._offsets[at:end] | run.lengths + ETHERNET_BYTES << LENGTH_SHIFT | flags
        words[:, 1] = run.gso_size

    def _column(self, kind: str, behind: int) -> npt.NDArray[np.void]:
        """As many bytes of every packet's place as `kind` has, from byte `behind` on."""
        return np.ndarray(RING_SIZE, kind, self._memory, tx_offset(0) + behind, (TX_BUFFER_BYTES,))


def _packets(run: Run, packet: str) -> npt.NDArray[np.void]:
    """The packets of a run that are all of one length, `packet` being the type of one."""
    starts, count = run.starts, len(run)
    first = int(starts[0])
    step = int(starts[1]) - first if count > 1 else 0
    if step >= 0 and (starts == first + step * np.arange(count)).all():
        return np.ndarray(count, packet, run.block, first, (step,))
    places = len(run.block) - int(run.lengths[0]) + 1
    return np.ndarray(places, packet, run.block, strides=(1,))[starts]
