# SPDX-License-Identifier: Apache-2.0
"""DMA memory: RING_SIZE transmit buffers of TX_BUFFER_BYTES, then as many receive buffers of
BUFFER_BYTES.

Host and card map the same file, or, where the link is inline, each has memory of its own and the
packets of a message travel behind its descriptors. All else is the same on both.

The first four bytes of a buffer are its mark, in one cache line with the packet's headers, written
when the packet is: running index + 1, big endian. A buffer with another mark holds an older packet,
whatever a descriptor says.
"""

import errno
import mmap
import os
import stat
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from proto.frame import FrameError
from proto.layouts import DESCRIPTOR
from proto.limits import BUFFER_BYTES, DMA_BYTES, MARK_BYTES, RING_SIZE, RX_OFFSET, TX_BUFFER_BYTES
from proto.status import OffloadError


def tx_offset(index: int) -> int:
    """Where the packet of transmit ring position `index` lies."""
    return (index % RING_SIZE) * TX_BUFFER_BYTES + MARK_BYTES


def rx_offset(index: int) -> int:
    """Where the packet of receive ring position `index` lies."""
    return RX_OFFSET + (index % RING_SIZE) * BUFFER_BYTES + MARK_BYTES


def slots_of(index: int, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
    """Ring positions of `count` running indices, and the marks that belong there."""
    indices = index + np.arange(count)
    return indices % RING_SIZE, (indices + 1).astype(np.uint32)


def unmark(marks: npt.NDArray[np.uint32]) -> None:
    """No buffer holds a packet any more. A mark that is not set is not written: buffers that were
    never used take no memory, and a file of them has nothing to give back."""
    marks[marks != 0] = 0


def _check(path: Path, found: os.stat_result) -> None:
    """Clear packets will lie in there: it must be ours alone, under one name."""
    ours = found.st_uid == os.geteuid() and found.st_nlink == 1 and stat.S_ISREG(found.st_mode)
    if not ours or found.st_mode & 0o077:
        raise OffloadError(
            errno.EPERM, f"DMA file {path} must be a file of user {os.geteuid()} with mode 0600"
        )
    if found.st_size != DMA_BYTES:
        raise FrameError(f"DMA file {path} is not {DMA_BYTES} bytes long")


def _marks(buffers: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """The marks of RING_SIZE buffers."""
    words: npt.NDArray[np.uint32] = buffers.reshape(RING_SIZE, -1)[:, :MARK_BYTES].view(">u4")
    return words[:, 0]


class Dma:
    """The region as `memory`, a uint8 array of shape (DMA_BYTES,). `shared` False: inline link.

    `tx_marks`, `rx_marks`: shape (RING_SIZE,), views of the marks.
    """

    def __init__(self, memory: npt.NDArray[np.uint8], *, shared: bool) -> None:
        self.memory = memory
        self.shared = shared
        self._mapping: mmap.mmap | None = None
        self.tx_marks, self.rx_marks = _marks(memory[:RX_OFFSET]), _marks(memory[RX_OFFSET:])

    @classmethod
    def private(cls) -> Self:
        """Memory of this side alone, for an inline link."""
        return cls._anonymous(shared=False)

    @classmethod
    def anonymous(cls) -> Self:
        """Memory that host and card share within one process."""
        return cls._anonymous(shared=True)

    @classmethod
    def _anonymous(cls, *, shared: bool) -> Self:
        mapping = mmap.mmap(-1, DMA_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        dma = cls(np.frombuffer(mapping, np.uint8), shared=shared)
        dma._mapping = mapping
        return dma

    def release(self) -> None:
        """Let go of anonymous memory at once, whoever still refers to it: it reads as zeros."""
        if self._mapping is not None:
            self._mapping.madvise(mmap.MADV_DONTNEED)

    @classmethod
    def create(cls, path: Path) -> Self:
        """A new file, readable by its owner only. Raises FileExistsError."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.ftruncate(handle, DMA_BYTES)
        return cls._map(handle)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The file that the launcher created. Raises OSError, FrameError for a wrong size, and
        OffloadError(EPERM) for a file that somebody else made or can open (F-SEC-01)."""
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            _check(path, os.fstat(handle))
        except BaseException:
            os.close(handle)
            raise
        return cls._map(handle)

    @classmethod
    def _map(cls, handle: int) -> Self:
        try:
            return cls(np.frombuffer(mmap.mmap(handle, DMA_BYTES), np.uint8), shared=True)
        finally:
            os.close(handle)

    def gather(self, descriptors: npt.NDArray[np.void]) -> bytes:
        """The body of a ring message: descriptors and, on an inline link, their packets."""
        if self.shared:
            return descriptors.tobytes()
        packets = (
            self.memory[int(d["offset"]) : int(d["offset"]) + int(d["length"])].tobytes()
            for d in descriptors
        )
        return b"".join((descriptors.tobytes(), *packets))

    def scatter(self, body: bytes | memoryview, count: int) -> npt.NDArray[np.void]:
        """The inverse: descriptors, shape (count,); inline packets land at their offsets.

        Raises FrameError when the body does not hold what the descriptors announce, or when one of
        them points outside the region.
        """
        if len(body) < count * DESCRIPTOR.itemsize:
            raise FrameError(f"{count} descriptors do not fit a body of {len(body)} bytes")
        descriptors = np.frombuffer(body, DESCRIPTOR, count)
        ends = descriptors["offset"].astype(np.int64) + descriptors["length"]
        if count and int(ends.max()) > DMA_BYTES:
            raise FrameError(f"a descriptor ends at byte {int(ends.max())} of {DMA_BYTES}")
        payload = memoryview(body)[count * DESCRIPTOR.itemsize :]
        expected = 0 if self.shared else int(descriptors["length"].astype(np.int64).sum())
        if len(payload) != expected:
            raise FrameError(f"{expected} packet bytes are announced, {len(payload)} came")
        position = 0
        if not self.shared:
            for descriptor in descriptors:
                offset, length = int(descriptor["offset"]), int(descriptor["length"])
                self.memory[offset : offset + length] = np.frombuffer(
                    payload, np.uint8, length, position
                )
                position += length
        return descriptors
