# SPDX-License-Identifier: Apache-2.0
"""The observer: reads the wire and judges every frame with the reference ESP (`simulate.esp`)."""

import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from host_driver.demo.cast import Sa, ends_of
from host_driver.simulate.esp import (
    HEADER_BYTES,
    IV_BYTES,
    BadEsp,
    Esp,
    is_esp,
    padding_as_written,
)
from host_driver.simulate.headers import ETHERNET_BYTES, carrying, header_bytes

TOLD = {
    "short": "it is too short for ESP",
    "integrity": "the ICV is wrong",
    "trailer": "its pad length is beyond the payload",
}


@dataclass
class Observer:
    """Knows SAs by SPI. `opened` counts ESP packets by SPI, `sequence` holds the last number."""

    sas: dict[int, Sa] = field(default_factory=dict)
    opened: Counter[int] = field(default_factory=Counter)
    sequence: dict[int, int] = field(default_factory=dict)
    ivs: set[tuple[int, bytes]] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)

    def learn(self, sas: Iterable[Sa]) -> None:
        """Be told of SAs before they are used."""
        self.sas.update({sa.spi: sa for sa in sas})

    def open(self, packet: bytes) -> bytes | None:
        """The clear packet inside an ESP packet, or None and a complaint."""
        start = header_bytes(packet)
        spi, number = struct.unpack_from(">II", packet, start)
        sa = self.sas.get(spi)
        if sa is None:
            self.complaints.append(f"SPI {spi:#x} belongs to no SA")
            return None
        body = packet[start:]
        try:
            inside = Esp(spi, sa.key).open_body(body)
        except BadEsp as bad:
            self.complaints.append(f"SPI {spi:#x} number {number}: {TOLD[bad.reason]}")
            return None
        self._follow(spi, number, body[HEADER_BYTES : HEADER_BYTES + IV_BYTES])
        if not padding_as_written(inside):  # RFC 4303 2.4
            self.complaints.append(f"SPI {spi:#x} number {number}: the padding is not 1, 2, 3, ...")
        next_at = 9 if packet[0] >> 4 == 4 else 6  # the recording has no extension headers
        return carrying(packet, start, next_at, inside.next_header, inside.payload)

    def _follow(self, spi: int, number: int, iv: bytes) -> None:
        """Numbers begin at 1 and rise by 1 (RFC 4303 3.3.3); no IV comes twice (RFC 4106 3.1)."""
        wanted = self.sequence.get(spi, 0) + 1
        if number != wanted:
            self.complaints.append(f"SPI {spi:#x}: number {number} where {wanted} was due")
        if (spi, iv) in self.ivs:
            self.complaints.append(f"SPI {spi:#x} number {number}: the IV was used before")
        self.sequence[spi] = number
        self.ivs.add((spi, iv))
        self.opened[spi] += 1

    def judge(self, frames: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
        """Take frames in wire order; give the packets inside, and those that went in clear."""
        inside, clear = [], []
        for frame in frames:
            packet = frame[ETHERNET_BYTES:]
            if not is_esp(packet):
                clear.append(packet)
                continue
            opened = self.open(packet)
            if opened is not None:
                inside.append(opened)
        return inside, clear

    def flows(self) -> set[tuple[str, str]]:
        """The ends of all SAs: what lies between them must be protected."""
        return {(sa.src, sa.dst) for sa in self.sas.values()}

    def in_clear_although_covered(self, clear: Iterable[bytes]) -> int:
        """How many of the packets that went in clear lie between the ends of an SA."""
        return sum(ends_of(packet) in self.flows() for packet in clear)
