# SPDX-License-Identifier: Apache-2.0
"""Packets for cases, and an ESP of the suite's own (RFC 4303, RFC 4106) on `cryptography`.

It shares no code with the card or the core, so what it seals and opens judges both.
"""

import ipaddress
import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from host_driver.conformance.messages import DESTINATION, KEY, SOURCE

ETHERNET_BYTES = 14
UDP, ESP, IPIP, IPV6_IN = 17, 50, 4, 41
SALT_BYTES, IV_BYTES = 4, 8


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data[: len(data) & ~1]))
    total += data[-1] << 8 if len(data) & 1 else 0
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ip(
    payload: bytes, proto: int = UDP, src: str = SOURCE, dst: str = DESTINATION, *, ttl: int = 64,
    ident: int = 1, flags: int = 0x4000, tos: int = 0,
) -> bytes:  # fmt: skip
    """An IPv4 or IPv6 packet; `flags` is IPv4's fragment word (DF is 0x4000)."""
    source, target = ipaddress.ip_address(src).packed, ipaddress.ip_address(dst).packed
    if len(source) == 16:
        return (
            struct.pack(">IHBB", 6 << 28 | tos << 20, len(payload), proto, ttl)
            + source
            + target
            + payload
        )
    head = struct.pack(">BBHHHBBH", 0x45, tos, 20 + len(payload), ident, flags, ttl, proto, 0)
    head += source + target
    return head[:10] + checksum(head).to_bytes(2) + head[12:] + payload


def udp(
    data: bytes = b"clear text", sport: int = 4000, dport: int = 5000, src: str = SOURCE,
    dst: str = DESTINATION, **fields: int,
) -> bytes:  # fmt: skip
    """An IP packet with a UDP datagram whose checksum is right."""
    source, target = ipaddress.ip_address(src).packed, ipaddress.ip_address(dst).packed
    length = 8 + len(data)
    pseudo = source + target + struct.pack(">HH", UDP, length)
    body = struct.pack(">HHHH", sport, dport, length, 0) + data
    body = body[:6] + (checksum(pseudo + body) or 0xFFFF).to_bytes(2) + body[8:]
    return ip(body, UDP, src, dst, **fields)


def frame(packet: bytes, to: bytes = bytes(6), source: bytes = b"\x02peer\x01") -> bytes:
    """The packet in an Ethernet frame."""
    return to + source + (b"\x08\0" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet


def header_bytes(packet: bytes) -> int:
    """Length of the IP header, without IPv6 extension headers."""
    return (packet[0] & 15) * 4 if packet[0] >> 4 == 4 else 40


def protocol(packet: bytes) -> int:
    """Protocol of IPv4, next header of IPv6."""
    return packet[9] if packet[0] >> 4 == 4 else packet[6]


def _carrying(packet: bytes, proto: int, payload: bytes) -> bytes:
    """The packet's IP header around another payload."""
    size = header_bytes(packet)
    head = bytearray(packet[:size])
    if size == 40 and head[0] >> 4 == 6:
        head[4:6], head[6] = len(payload).to_bytes(2), proto
    else:
        head[2:4], head[9], head[10:12] = (size + len(payload)).to_bytes(2), proto, bytes(2)
        head[10:12] = checksum(bytes(head)).to_bytes(2)
    return bytes(head) + payload


def with_option(packet: bytes) -> bytes:
    """An IPv4 packet with three no-operations and an end of options in its header."""
    head = bytearray(packet[:20]) + b"\x01\x01\x01\0"
    head[0], head[2:4], head[10:12] = 0x46, (len(packet) + 4).to_bytes(2), bytes(2)
    head[10:12] = checksum(bytes(head)).to_bytes(2)
    return bytes(head) + packet[20:]


def broken(packet: bytes) -> bytes:
    """An ESP packet with a bit of its ICV turned over."""
    return packet[:-1] + bytes((packet[-1] ^ 1,))


@dataclass(frozen=True)
class Esp:
    """One AES-GCM SA of the suite. `high` is the ESN high half, None without ESN."""

    spi: int = 0x1000
    key: bytes = KEY
    icv_bytes: int = 16
    high: int | None = None

    def seal(self, packet: bytes, seq: int, outer: bytes | None = None) -> bytes:
        """The packet protected: in transport mode, or whole behind the header of `outer`."""
        size = 0 if outer else header_bytes(packet)
        inner, following = packet[size:], protocol(packet)
        if outer:
            following = IPIP if packet[0] >> 4 == 4 else IPV6_IN
        return _carrying(outer or packet, ESP, self.body(inner, following, seq))

    def body(self, inner: bytes, following: int, seq: int, iv: bytes | None = None) -> bytes:
        """ESP header, IV, ciphertext and ICV."""
        pad = -(len(inner) + 2) % 4
        clear = inner + bytes(range(1, pad + 1)) + bytes((pad, following))
        iv = iv or struct.pack(">II", self.high or 0, seq)
        sealed = self._cipher().encrypt(self.key[-SALT_BYTES:] + iv, clear, self._aad(seq))
        return struct.pack(">II", self.spi, seq) + iv + sealed[: len(clear) + self.icv_bytes]

    def open(self, packet: bytes, *, tunnel: bool = False) -> bytes:
        """The clear packet inside. Raises cryptography.exceptions.InvalidTag; 16-byte ICV only."""
        at = header_bytes(packet)
        spi, seq = struct.unpack_from(">II", packet, at)
        assert spi == self.spi, f"SPI {spi:#x}, not {self.spi:#x}"
        iv, sealed = packet[at + 8 : at + 16], packet[at + 16 :]
        clear = self._cipher().decrypt(self.key[-SALT_BYTES:] + iv, sealed, self._aad(seq))
        inner = clear[: -2 - clear[-2]]
        return inner if tunnel else _carrying(packet, clear[-1], inner)

    def _cipher(self) -> AESGCM:
        return AESGCM(self.key[:-SALT_BYTES])

    def _aad(self, seq: int) -> bytes:
        high = b"" if self.high is None else self.high.to_bytes(4)
        return self.spi.to_bytes(4) + high + seq.to_bytes(4)


def spi(packet: bytes) -> int:
    """The SPI of an ESP packet; 0 of any other."""
    at = header_bytes(packet)
    return int.from_bytes(packet[at : at + 4]) if is_esp(packet) else 0


def is_esp(packet: bytes) -> bool:
    """Whether the packet is ESP, not encapsulated in UDP."""
    return protocol(packet) == ESP
