# SPDX-License-Identifier: Apache-2.0
"""Frames of every sort, and ESP that is sealed well and has anything inside."""

import struct

from fuzz.bench import HERE, KEY, SALT, THERE
from host_driver.simulate.esp import Esp

SPIS = (0x2000, 0x3000, 0x4000, 0x6000, 0x7777)  # in, tunnel with ESN, crypto, in UDP, unknown
FRAME_MAX_BYTES = 9600


def ipv4(src: bytes, dst: bytes, proto: int, payload: bytes, fragment: int = 0) -> bytes:
    """A packet behind an Ethernet header."""
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, fragment, 64, proto, 0, src, dst
    )
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return bytes(12) + b"\x08\x00" + head[:10] + struct.pack(">H", checksum) + head[12:] + payload


def ipv6(following: int, payload: bytes) -> bytes:
    """A packet from ::1 to ::2 behind an Ethernet header."""
    ends = bytes(15) + b"\x01" + bytes(15) + b"\x02"
    head = struct.pack(">IHBB", 6 << 28, len(payload), following, 64) + ends
    return bytes(12) + b"\x86\xdd" + head + payload


def esp_frame(
    spi: int, seq: int, inner: bytes, following: int, pad: int | None, flip: int | None, cut: int
) -> bytes:
    """ESP to HERE with a right ICV over anything; `pad` is what the trailer says (None: right),
    then one bit flipped, then the end cut off."""
    high = (seq >> 32) % (1 << 32) if spi == 0x3000 else None
    esp = Esp(spi % (1 << 32), KEY + SALT, 16, high)
    if pad is not None:
        inner, pad = inner + bytes((pad % 256, following % 256)), None
        following = inner[-1]
    body = bytearray(esp.body(inner[:9000], following % 256, seq % (1 << 32)))
    if flip is not None:
        body[flip // 8 % len(body)] ^= 1 << flip % 8
    del body[len(body) - cut % len(body) :]
    if spi == 0x6000:
        udp = struct.pack(">HHHH", 9, 9, 8 + len(body), 0)
        return ipv4(THERE[:4], HERE[:4], 17, udp + bytes(body))
    return ipv4(THERE[:4], HERE[:4], 50, bytes(body))


_A, _B = HERE[:4], THERE[:4]
_UDP = struct.pack(">HHHH", 5, 6, 16, 0) + b"KNOWNTXT"

FRAMES = (
    ipv4(_A, _B, 17, _UDP),
    ipv4(_B, _A, 17, _UDP),
    ipv4(_A, _B, 6, bytes(20) + b"KNOWNTXT"),
    ipv4(_A, _B, 17, _UDP, 0x2000),  # first fragment
    ipv4(_A, _B, 17, _UDP, 3),  # last fragment
    ipv4(_A, _B, 17, b""),
    ipv4(_A, _B, 4, ipv4(_A, _B, 17, _UDP)[14:]),
    ipv4(_A, _B, 17, struct.pack(">HHHH", 9, 9, 9, 0) + b"\xff"),  # NAT keepalive
    ipv6(17, _UDP),
    ipv6(0, bytes((43, 0, 1, 4, 0, 0, 0, 0)) + bytes((17, 0, 0, 0, 0, 0, 0, 0)) + _UDP),
    ipv6(44, bytes((17, 0, 0, 1, 0, 0, 0, 5)) + _UDP),
    ipv6(60, bytes((60, 0, 1, 4, 0, 0, 0, 0)) * 9 + bytes((59, 0, 1, 4, 0, 0, 0, 0))),
    bytes(12) + b"\x08\x06" + bytes(28),  # ARP
    bytes(12) + b"\x81\x00\x00\x05" + ipv4(_A, _B, 17, _UDP)[12:],  # VLAN
    bytes(14),
    b"",
)
SEALED = (
    esp_frame(0x5000, 1, _UDP, 17, None, None, 0),
    esp_frame(0x2000, 1, _UDP, 17, None, None, 0),
    esp_frame(0x2000, 2, b"", 59, None, None, 0),
)
