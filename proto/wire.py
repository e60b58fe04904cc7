# SPDX-License-Identifier: Apache-2.0
"""Frames in a WIRE message: `count` lengths (u32, little-endian), then the frames back to back; and
what a frame shows of its SA."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from proto.frame import FrameError
from proto.limits import ETHERNET_BYTES, FRAME_MAX_BYTES
from proto.xfrm import IPPROTO_ESP


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """Frames that stand back to back in `data` (uint8), `lengths` (int64, bytes) of them."""

    lengths: npt.NDArray[np.int64]
    data: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.lengths)

    @classmethod
    def of(cls, frames: Sequence[bytes | memoryview]) -> Self:
        """Copies of single frames."""
        lengths = np.array([len(frame) for frame in frames], np.int64)
        return cls(lengths, np.frombuffer(b"".join(frames), np.uint8))

    @classmethod
    def unpack(cls, body: bytes | memoryview, count: int) -> Self:
        """The body of a WIRE message, which stays where it is and is only read. Raises FrameError
        when the announced lengths do not add up to it, or announce nothing."""
        if not count:
            raise FrameError("a WIRE message without frames")
        if len(body) < 4 * count:
            raise FrameError(f"{count} frame lengths do not fit a body of {len(body)} bytes")
        lengths = np.frombuffer(body, "<u4", count).astype(np.int64)
        data = np.frombuffer(memoryview(body).toreadonly(), np.uint8, offset=4 * count)
        total = int(lengths.sum())
        if total != len(data) or int(lengths.max()) > FRAME_MAX_BYTES:
            raise FrameError(f"frame lengths add up to {total}, {len(data)} bytes came")
        return cls(lengths, data)

    def parts(self) -> tuple[bytes, memoryview]:
        """The body of a WIRE message, in two parts."""
        return self.lengths.astype("<u4").tobytes(), self.data.data

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Where each frame begins in `data`."""
        ends: npt.NDArray[np.int64] = np.cumsum(self.lengths)
        return ends - self.lengths

    def split(self, count: int) -> tuple[Self, Self]:
        """The first `count` frames, and the others."""
        at = int(self.lengths[:count].sum())
        first = type(self)(self.lengths[:count], self.data[:at])
        return first, type(self)(self.lengths[count:], self.data[at:])

    def each(self) -> list[bytes]:
        """Copies of them, one by one."""
        raw, ends = self.data.tobytes(), np.cumsum(self.lengths).tolist()
        return [raw[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def pack_frames(frames: Sequence[bytes | memoryview]) -> bytes:
    """The body of a WIRE message."""
    return b"".join(Frames.of(frames).parts())


def unpack_frames(body: bytes | memoryview, count: int) -> list[bytes]:
    """The frames as byte strings. Raises FrameError like `Frames.unpack`."""
    return Frames.unpack(body, count).each()


def esp_spi(frame: bytes) -> int | None:
    """The SPI of an Ethernet frame whose IPv4 or IPv6 header is followed by ESP, else None."""
    kind, ip = frame[12:ETHERNET_BYTES], frame[ETHERNET_BYTES:]
    if kind == b"\x08\x00" and len(ip) >= 20:
        at = 4 * (ip[0] & 15)
        protocol = ip[9]
    elif kind == b"\x86\xdd" and len(ip) >= 40:
        at, protocol = 40, ip[6]
    else:
        return None
    return (
        int.from_bytes(ip[at : at + 4]) if protocol == IPPROTO_ESP and len(ip) >= at + 4 else None
    )
