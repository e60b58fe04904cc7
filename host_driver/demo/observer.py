# SPDX-License-Identifier: Apache-2.0
"""The observer: reads the wire and judges every frame with its own ESP (RFC 4303, RFC 4106).

It shares no code with the card: AES-GCM comes from `cryptography`, packets are taken apart here.
"""

import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from host_driver.demo.cast import KEY_BYTES, Sa, ends_of

ESP = 50
ESP_HEADER_BYTES, IV_BYTES = 8, 8
ETHERNET_BYTES = 14


def ip_header_bytes(packet: bytes) -> int:
    """Length of the IP header; the recording has no IPv6 extension headers."""
    return (packet[0] & 15) * 4 if packet[0] >> 4 == 4 else 40


def is_esp(packet: bytes) -> bool:
    """Whether the packet's protocol is ESP."""
    protocol = packet[9] if packet[0] >> 4 == 4 else packet[6]
    return protocol == ESP


def ipv4_checksum(header: bytes) -> int:
    """RFC 791 checksum of a header whose checksum field is zero."""
    total: int = sum(struct.unpack(f">{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def _clear_packet(header: bytes, payload: bytes, next_header: int) -> bytes:
    """The packet as it was before ESP: protocol, length and checksum put back."""
    clear = bytearray(header)
    if clear[0] >> 4 == 6:
        clear[4:6] = len(payload).to_bytes(2)
        clear[6] = next_header
    else:
        clear[2:4] = (len(clear) + len(payload)).to_bytes(2)
        clear[9] = next_header
        clear[10:12] = bytes(2)
        clear[10:12] = ipv4_checksum(bytes(clear)).to_bytes(2)
    return bytes(clear) + payload


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
        start = ip_header_bytes(packet)
        spi, number = struct.unpack_from(">II", packet, start)
        sa = self.sas.get(spi)
        if sa is None:
            self.complaints.append(f"SPI {spi:#x} belongs to no SA")
            return None
        body = start + ESP_HEADER_BYTES
        iv, sealed = packet[body : body + IV_BYTES], packet[body + IV_BYTES :]
        aad = packet[start:body]
        try:
            clear = AESGCM(sa.key[:KEY_BYTES]).decrypt(sa.key[KEY_BYTES:] + iv, sealed, aad)
        except InvalidTag:
            self.complaints.append(f"SPI {spi:#x} number {number}: the ICV is wrong")
            return None
        self._follow(spi, number, iv)
        padding, next_header = clear[-2], clear[-1]
        if clear[-2 - padding : -2] != bytes(range(1, padding + 1)):  # RFC 4303 2.4
            self.complaints.append(f"SPI {spi:#x} number {number}: the padding is not 1, 2, 3, ...")
        return _clear_packet(packet[:start], clear[: -2 - padding], next_header)

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
