# SPDX-License-Identifier: Apache-2.0
"""Many packets of the stack as one block of bytes, and the keys of their flows, found all at once.

A packet is plain when its flow stands at fixed places: TCP or UDP, behind an IPv4 header without
options or right behind an IPv6 header, whole, and not shorter than its header says (`flow.decode`
is the judge of all others). The key of its flow is then the protocol and what lies from the source
address to the ports: 13 bytes in IPv4, 37 in IPv6.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from host_driver.xfrm.flow import TCP, UDP

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

SMALL = 8  # packets; looking at fewer at once costs more than one by one
NO_KEY = b""  # of a packet that is not plain
_PLAIN_IPV4, _IPV6 = 0x45, 6  # version and header length; version
_FRAGMENT_BITS = 0x3FFF  # of IPv4's fragment word: more to come, or an offset
_PORTS_BYTES = 4
# Headers at any byte of a block, the ports behind them included.
_HEAD4 = np.dtype({
    "names": ["total", "fragment", "proto", "ends"], "formats": [">u2", ">u2", "u1", "V12"],
    "offsets": [2, 6, 9, 12], "itemsize": 24,
})  # fmt: skip
_HEAD6 = np.dtype({
    "names": ["payload", "proto", "ends"], "formats": [">u2", "u1", "V36"],
    "offsets": [4, 6, 8], "itemsize": 44,
})  # fmt: skip
_IPV6_BYTES = 40
PADDING = bytes(_HEAD6.itemsize)  # so that a header may be read behind the last packet


@dataclass(frozen=True, slots=True)
class Burst:
    """Packets in `block`: the bytes, then padding. `starts` and `lengths` have one entry each."""

    block: bytes
    starts: Ints
    lengths: Ints

    def __len__(self) -> int:
        return len(self.starts)

    @classmethod
    def of(cls, packets: Sequence[bytes]) -> "Burst":
        """Of whatever the stack sends; a packet may be empty."""
        lengths = np.array([len(packet) for packet in packets], np.int64)
        return cls(b"".join((*packets, PADDING)), np.cumsum(lengths) - lengths, lengths)

    def some(self, first: int, end: int) -> list[bytes]:
        """The packets from number `first` to before `end`."""
        block, starts = self.block, self.starts[first:end]
        ends = starts + self.lengths[first:end]
        bounds = zip(starts.tolist(), ends.tolist(), strict=True)
        return [block[start:end] for start, end in bounds]

    def ipv6(self) -> Bools:
        """Which packets begin as IPv6 does; an empty one says nothing of use."""
        six: Bools = self._first_bytes() >> 4 == _IPV6
        return six

    def keys(self, exact: bool = False) -> list[bytes]:
        """The key of each packet's flow, NO_KEY where it is not plain, or has bytes behind its end
        and `exact` forbids it. Keys of one flow that are all there is are one object."""
        first = self._first_bytes()
        if (first == _PLAIN_IPV4).all():
            return self._keys4(self.starts, self.lengths, exact)
        keys = [NO_KEY] * len(self)
        for found, of in ((first == _PLAIN_IPV4, self._keys4), (first >> 4 == _IPV6, self._keys6)):
            at = np.flatnonzero(found)
            if len(at):
                of_family = of(self.starts[at], self.lengths[at], exact)
                for number, key in zip(at.tolist(), of_family, strict=True):
                    keys[number] = key
        return keys

    def _first_bytes(self) -> npt.NDArray[np.uint8]:
        return np.frombuffer(self.block, np.uint8)[self.starts]

    def _heads(self, starts: Ints, head: np.dtype[np.void]) -> npt.NDArray[np.void]:
        """Copies of the headers at `starts`. Plain bytes are copied faster than fields."""
        places = len(self.block) - head.itemsize + 1
        at = np.ndarray(places, f"V{head.itemsize}", self.block, strides=(1,))
        return at[starts].view(head)

    def _keys4(self, starts: Ints, lengths: Ints, exact: bool) -> list[bytes]:
        heads = self._heads(starts, _HEAD4)
        total = heads["total"]
        plain = (heads["fragment"] & _FRAGMENT_BITS == 0) & (total >= _HEAD4.itemsize)
        return _keys(heads, plain & (total == lengths if exact else total <= lengths))

    def _keys6(self, starts: Ints, lengths: Ints, exact: bool) -> list[bytes]:
        heads = self._heads(starts, _HEAD6)
        total = heads["payload"].astype(np.int64) + _IPV6_BYTES
        plain = total >= _IPV6_BYTES + _PORTS_BYTES
        return _keys(heads, plain & (total == lengths if exact else total <= lengths))


def _keys(heads: npt.NDArray[np.void], plain: Bools) -> list[bytes]:
    """Protocol and ends of each; NO_KEY where not plain, or neither TCP nor UDP."""
    proto, ends = heads["proto"], heads["ends"]
    plain = plain & ((proto == UDP) | (proto == TCP))
    keys = np.empty(len(heads), [("proto", "u1"), ("ends", ends.dtype)])
    keys["proto"], keys["ends"] = proto, ends
    joined = keys.tobytes()
    size = keys.itemsize
    if joined == joined[:size] * len(heads):
        found = [joined[:size]] * len(heads)
    else:
        found = keys.view(f"V{size}").tolist()
    if not plain.all():
        for number in np.flatnonzero(~plain).tolist():
            found[number] = NO_KEY
    return found
