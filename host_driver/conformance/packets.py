# SPDX-License-Identifier: Apache-2.0
"""Packets for cases, and the reference ESP under the suite's key.

The ESP shares no code with the card or the core (`simulate.esp`), so what it seals and opens judges
both.
"""

import ipaddress
import struct
from dataclasses import dataclass, field

from host_driver.conformance.messages import DESTINATION, KEY, SOURCE
from host_driver.simulate import esp
from host_driver.simulate.esp import is_esp, spi
from host_driver.simulate.headers import (
    ESP,
    ETHERNET_BYTES,
    UDP,
    checksum,
    header_bytes,
    protocol,
)

__all__ = [
    "ESP", "ETHERNET_BYTES", "UDP", "Esp", "broken", "checksum", "frame", "header_bytes", "ip",
    "is_esp", "protocol", "spi", "udp", "with_option",
]  # fmt: skip


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
class Esp(esp.Esp):
    """One AES-GCM SA of the suite, see `simulate.esp.Esp`."""

    spi: int = 0x1000
    key: bytes = field(default=KEY, repr=False)
