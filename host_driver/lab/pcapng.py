# SPDX-License-Identifier: Apache-2.0
"""Writing captures: pcapng with one interface per tap point, and keys for Wireshark on request.

Format: draft-ietf-opsawg-pcapng (section header, interface description and enhanced packet blocks).
"""

import errno
import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from proto.status import OffloadError

LINKTYPE_ETHERNET = 1
LINKTYPE_RAW = 101

_SECTION, _INTERFACE, _PACKET = 0x0A0D_0D0A, 1, 6
_BYTE_ORDER = 0x1A2B_3C4D
_OPT_END, _OPT_COMMENT, _IF_NAME, _IF_TSRESOL, _SHB_USERAPPL = 0, 1, 2, 9, 4
_NANOSECONDS = b"\x09"  # if_tsresol: units of 10^-9 s


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _block(kind: int, body: bytes, options: bytes = b"") -> bytes:
    if options:
        options += struct.pack("<HH", _OPT_END, 0)
    length = 12 + len(body) + len(options)
    return struct.pack("<II", kind, length) + body + options + struct.pack("<I", length)


class PcapngWriter:
    """Writes one section; the interfaces are declared first and numbered from 0."""

    def __init__(self, file: IO[bytes], interfaces: Sequence[tuple[str, int]]) -> None:
        """`interfaces`: (name, LINKTYPE_*) pairs."""
        section = struct.pack("<IHHq", _BYTE_ORDER, 1, 0, -1)
        file.write(_block(_SECTION, section, _option(_SHB_USERAPPL, b"xfrmnic")))
        for name, linktype in interfaces:
            options = _option(_IF_NAME, name.encode()) + _option(_IF_TSRESOL, _NANOSECONDS)
            file.write(_block(_INTERFACE, struct.pack("<HHI", linktype, 0, 0), options))
        self._file = file

    def packet(self, interface: int, time_ns: int, data: bytes, comment: str = "") -> None:
        """One packet as the tap point saw it, `time_ns` since the Unix epoch."""
        high, low = time_ns >> 32, time_ns & 0xFFFF_FFFF
        header = struct.pack("<IIIII", interface, high, low, len(data), len(data))
        options = _option(_OPT_COMMENT, comment.encode()) if comment else b""
        self._file.write(_block(_PACKET, header + _padded(data), options))


class EspKey(NamedTuple):
    """One SA for Wireshark. `key` is AES key and salt, as `ip xfrm` takes it; never in repr."""

    src: str
    dst: str
    spi: int
    key: bytes
    icv_bytes: int

    def __repr__(self) -> str:
        return f"EspKey({self.src} {self.dst} {self.spi:#x} <{len(self.key) * 8} bits>)"


def write_esp_keys(path: Path, keys: Iterable[EspKey]) -> None:
    """Write Wireshark's `esp_sa` preference file, mode 0600. It holds keys in clear.

    Raises OffloadError(EEXIST) instead of writing into a file that is there, whoever may read that.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise OffloadError(
            errno.EEXIST, f"key file {path} exists already, remove it first"
        ) from None
    with os.fdopen(handle, "w") as file:
        for key in keys:
            family = "IPv6" if ":" in key.src else "IPv4"
            cipher = f"AES-GCM with {key.icv_bytes} octet ICV [RFC4106]"
            spi, secret = f"{key.spi:#010x}", f"0x{key.key.hex()}"
            fields = (family, key.src, key.dst, spi, cipher, secret, "NULL", "")
            file.write(",".join(f'"{field}"' for field in fields) + "\n")
