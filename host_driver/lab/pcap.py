# SPDX-License-Identifier: Apache-2.0
"""Reading pcap files: enough of the format to send recorded traffic, and no more.

A capture that was cut off, or that two writers shared, has places that are no records. The reader
steps over them and says how many bytes it stepped over: a record is believed only if its header is
sane and so is the header behind it, because a record that was overwritten half way ends in the
middle of something else.
"""

import errno
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from proto.limits import ETHERNET_BYTES
from proto.status import OffloadError

FILE_HEADER_BYTES = 24
RECORD_HEADER_BYTES = 16
RECORD_MAX_BYTES = 262_144
LINKTYPE_ETHERNET, LINKTYPE_RAW = 1, 101
PCAPNG_MAGIC = b"\x0a\x0d\x0d\x0a"

# First four bytes -> byte order and units per second of the time stamps' fraction.
MAGICS = {
    b"\xd4\xc3\xb2\xa1": ("<", 1_000_000),
    b"\xa1\xb2\xc3\xd4": (">", 1_000_000),
    b"\x4d\x3c\xb2\xa1": ("<", 1_000_000_000),
    b"\xa1\xb2\x3c\x4d": (">", 1_000_000_000),
}


class Record(NamedTuple):
    """One captured frame (Ethernet) or packet (raw IP)."""

    time_ns: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Recording:
    """A whole file; iterating gives its records. `skipped_bytes` belong to no believable record."""

    linktype: int
    records: list[Record]
    skipped_bytes: int

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def packets(self) -> list[bytes]:
        """The IP packets among the records."""
        found = (ip_packet(record.data, self.linktype) for record in self.records)
        return [packet for packet in found if packet is not None]


class _Records:
    """The records of a file behind its header."""

    def __init__(self, raw: bytes, order: str, per_second: int) -> None:
        self.raw = raw
        self.header = struct.Struct(order + "IIII")
        self.per_second = per_second

    def sane(self, at: int) -> bool:
        """Whether a record header may stand at `at`; the cut-off end of the file may, too."""
        if at + RECORD_HEADER_BYTES > len(self.raw):
            return True
        _, fraction, captured, original = self.header.unpack_from(self.raw, at)
        return bool(fraction < self.per_second and 0 < captured <= original <= RECORD_MAX_BYTES)

    def take(self, at: int) -> tuple[Record, int] | None:
        """The record at `at` and the place behind it, or None where no record is to be believed."""
        if at + RECORD_HEADER_BYTES > len(self.raw) or not self.sane(at):
            return None
        seconds, fraction, captured, _ = self.header.unpack_from(self.raw, at)
        end = at + RECORD_HEADER_BYTES + captured
        if end > len(self.raw) or not self.sane(end):
            return None
        time_ns = seconds * 1_000_000_000 + fraction * (1_000_000_000 // self.per_second)
        return Record(time_ns, self.raw[at + RECORD_HEADER_BYTES : end]), end


def read_pcap(path: Path) -> Recording:
    """All records of a file. Raises OSError, and OffloadError(EINVAL) for another format."""
    raw = path.read_bytes()
    if raw[:4] == PCAPNG_MAGIC:
        raise OffloadError(
            errno.EINVAL, f"{path} is a pcapng file; convert it with `editcap -F pcap IN OUT`"
        )
    if raw[:4] not in MAGICS or len(raw) < FILE_HEADER_BYTES:
        raise OffloadError(
            errno.EINVAL, f"{path} is no pcap file: it begins with 0x{raw[:4].hex()}"
        )
    order, per_second = MAGICS[raw[:4]]
    (linktype,) = struct.unpack_from(order + "I", raw, 20)
    if linktype not in (LINKTYPE_ETHERNET, LINKTYPE_RAW):
        raise OffloadError(
            errno.EINVAL,
            f"{path} has link type {linktype}, known are 1 (Ethernet) and 101 (raw IP)",
        )
    source = _Records(raw, order, per_second)
    records, skipped, at = [], 0, FILE_HEADER_BYTES
    while at < len(raw):
        taken = source.take(at)
        if taken is None:
            at, skipped = at + 1, skipped + 1
        else:
            records.append(taken[0])
            at = taken[1]
    return Recording(linktype, records, skipped)


def ip_packet(data: bytes, linktype: int = LINKTYPE_ETHERNET) -> bytes | None:
    """The IP packet in a frame without Ethernet padding, or None if there is no whole one."""
    packet = data[ETHERNET_BYTES:] if linktype == LINKTYPE_ETHERNET else data
    if linktype == LINKTYPE_ETHERNET and data[12:14] not in (b"\x08\x00", b"\x86\xdd"):
        return None
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        length = int.from_bytes(packet[2:4])
    elif len(packet) >= 40 and packet[0] >> 4 == 6:
        length = 40 + int.from_bytes(packet[4:6])
    else:
        return None
    return packet[:length] if 20 <= length <= len(packet) else None
