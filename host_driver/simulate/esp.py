# SPDX-License-Identifier: Apache-2.0
"""The reference ESP (RFC 4303, RFC 4106) on `cryptography`: what it seals and opens judges both
core and card, so it shares no code with either. Demo and conformance suite judge by it, too.
"""

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from host_driver.simulate.headers import (
    ESP,
    IPIP,
    IPV6_IN,
    carrying,
    header_bytes,
    protocol,
)

HEADER_BYTES, IV_BYTES, TRAILER_BYTES, SALT_BYTES = 8, 8, 2, 4


class BadEsp(Exception):
    """What RFC 4303 3.4 rejects. `reason` is "short", "integrity" or "trailer"."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Inside(NamedTuple):
    """What an ESP packet carried: `payload` without padding, `padding` and the trailer's byte."""

    payload: bytes
    next_header: int
    padding: bytes


@dataclass(frozen=True)
class Esp:
    """AES-GCM under one key (AES key, then 4 bytes of salt) as one SPI uses it.

    `high` is the ESN high half that goes into the AAD, None without ESN (RFC 4106 5).
    """

    spi: int
    key: bytes = field(repr=False)
    icv_bytes: int = 16
    high: int | None = None

    def seal(self, packet: bytes, seq: int, outer: bytes | None = None) -> bytes:
        """The packet protected: in transport mode, or whole behind the header of `outer`."""
        size = 0 if outer else header_bytes(packet)
        inner, following = packet[size:], protocol(packet)
        if outer:
            following = IPIP if packet[0] >> 4 == 4 else IPV6_IN
        return _around(outer or packet, ESP, self.body(inner, following, seq))

    def body(self, inner: bytes, following: int, seq: int, iv: bytes | None = None) -> bytes:
        """ESP header, IV, ciphertext and ICV."""
        pad = -(len(inner) + TRAILER_BYTES) % 4
        return self.sealed(inner + bytes(range(1, pad + 1)) + bytes((pad, following)), seq, iv)

    def sealed(self, clear: bytes, seq: int, iv: bytes | None = None) -> bytes:
        """The same for a payload that has its trailer already, a right one or a wrong one."""
        iv = iv or struct.pack(">II", self.high or 0, seq)
        sealer = self._cipher(modes.GCM(self._nonce(iv))).encryptor()
        sealer.authenticate_additional_data(self._aad(seq))
        sealed = sealer.update(clear) + sealer.finalize()
        return struct.pack(">II", self.spi, seq) + iv + sealed + sealer.tag[: self.icv_bytes]

    def open(self, packet: bytes, *, tunnel: bool = False) -> bytes:
        """The clear packet inside an IP packet whose payload is ESP. Raises BadEsp."""
        at = header_bytes(packet)
        spi = int.from_bytes(packet[at : at + 4])
        assert spi == self.spi, f"SPI {spi:#x}, not {self.spi:#x}"
        inside = self.open_body(packet[at:])
        return inside.payload if tunnel else _around(packet, inside.next_header, inside.payload)

    def open_body(self, body: bytes) -> Inside:
        """What is inside ESP header, IV, ciphertext and ICV. Raises BadEsp.

        RFC 4303 3.4.4: the ICV first, then the trailer. The padding is given, not judged.
        """
        text = body[HEADER_BYTES + IV_BYTES : -self.icv_bytes]
        if len(body) < HEADER_BYTES + IV_BYTES + TRAILER_BYTES + self.icv_bytes:
            raise BadEsp("short")
        seq, iv = int.from_bytes(body[4:8]), body[HEADER_BYTES : HEADER_BYTES + IV_BYTES]
        tag = body[-self.icv_bytes :]
        mode = modes.GCM(self._nonce(iv), tag, min_tag_length=self.icv_bytes)
        opener = self._cipher(mode).decryptor()
        opener.authenticate_additional_data(self._aad(seq))
        clear = opener.update(text)
        try:
            opener.finalize()
        except InvalidTag:
            raise BadEsp("integrity") from None
        end = len(clear) - TRAILER_BYTES - clear[-2]
        if end < 0:
            raise BadEsp("trailer")
        return Inside(clear[:end], clear[-1], clear[end:-TRAILER_BYTES])

    def _cipher(self, mode: modes.GCM) -> Cipher[modes.GCM]:
        return Cipher(algorithms.AES(self.key[:-SALT_BYTES]), mode)

    def _nonce(self, iv: bytes) -> bytes:
        return self.key[-SALT_BYTES:] + iv  # RFC 4106 section 4

    def _aad(self, seq: int) -> bytes:
        high = b"" if self.high is None else self.high.to_bytes(4)
        return self.spi.to_bytes(4) + high + seq.to_bytes(4)


def _around(packet: bytes, proto: int, payload: bytes) -> bytes:
    """The packet's IP header, without extension headers, around another payload."""
    next_at = 9 if packet[0] >> 4 == 4 else 6
    return carrying(packet, header_bytes(packet), next_at, proto, payload)


def padding_as_written(inside: Inside) -> bool:
    """Whether the padding is 1, 2, 3, ... (RFC 4303 2.4)."""
    return inside.padding == bytes(range(1, len(inside.padding) + 1))


def spi(packet: bytes) -> int:
    """The SPI of an ESP packet; 0 of any other."""
    at = header_bytes(packet)
    return int.from_bytes(packet[at : at + 4]) if is_esp(packet) else 0


def is_esp(packet: bytes) -> bool:
    """Whether the packet is ESP, not encapsulated in UDP."""
    return protocol(packet) == ESP
