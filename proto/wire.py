# SPDX-License-Identifier: Apache-2.0
"""Frames in a WIRE message: `count` lengths (u32, little-endian), then the frames back to back; and
what a frame shows of its SA."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from proto.frame import FrameError
from proto.limits import ETHERNET_BYTES, FRAME_MAX_BYTES
from proto.xfrm import IPPROTO_ESP


def pack_frames(frames: Sequence[bytes | memoryview]) -> bytes:
    """The body of a WIRE message."""
    lengths = np.array([len(frame) for frame in frames], "<u4").tobytes()
    return b"".join((lengths, *frames))


def unpack_lengths(
    body: bytes | memoryview, count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Offsets and lengths (shape (count,)) of the frames in the uint8 array that follows them.

    Raises FrameError when the announced lengths do not add up to the body.
    """
    if len(body) < 4 * count:
        raise FrameError(f"{count} frame lengths do not fit a body of {len(body)} bytes")
    lengths = np.frombuffer(body, "<u4", count).astype(np.int64)
    data = np.frombuffer(body, np.uint8, offset=4 * count)
    if int(lengths.sum()) != len(data) or (count and int(lengths.max()) > FRAME_MAX_BYTES):
        raise FrameError(f"frame lengths add up to {int(lengths.sum())}, {len(data)} bytes came")
    return np.cumsum(lengths) - lengths, lengths, data


def unpack_frames(body: bytes | memoryview, count: int) -> list[bytes]:
    """The frames as byte strings. Raises FrameError like `unpack_lengths`."""
    offsets, lengths, data = unpack_lengths(body, count)
    raw = data.tobytes()
    return [raw[int(o) : int(o) + int(n)] for o, n in zip(offsets, lengths, strict=True)]


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
