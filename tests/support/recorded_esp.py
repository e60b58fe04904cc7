# SPDX-License-Identifier: Apache-2.0
"""ESP packets as recordings and labs have them, taken apart and opened with `cryptography`."""

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

UDP, UDP_BYTES = 17, 8
# What IKE daemons set for their socket; the card does not ask policies about ESP of its SAs.
BYPASS = "xfrm policy add src {src} dst {dst} proto udp dport 4500 dir in priority 0 action allow"


class EspPacket:
    """One packet, cut where its header says how: headers, UDP, ESP."""

    def __init__(self, packet: bytes) -> None:
        self.packet = packet
        four = packet[0] >> 4 == 4
        header = 20 if four else 40
        self.header, rest = packet[:header], packet[header:]
        udp = (packet[9] if four else packet[6]) == UDP
        self.udp = rest[:UDP_BYTES] if udp else b""
        self.esp = rest[len(self.udp) :]

    @property
    def before_iv(self) -> bytes:
        """Everything in front of the IV, but a UDP checksum, which depends on it."""
        return self.header + self.udp[:6] + self.esp[:8]

    @property
    def iv(self) -> bytes:
        """The 8 bytes behind the ESP header."""
        return self.esp[8:16]

    def open(self, sa: dict, high: int | None) -> bytes:
        """The clear bytes with their trailer; `high` is that half of an ESN. Raises InvalidTag."""
        icv = sa["icv_bits"] // 8
        nonce, tag = bytes.fromhex(sa["salt"]) + self.iv, self.esp[-icv:]
        mode = modes.GCM(nonce, tag, min_tag_length=icv)
        gcm = Cipher(algorithms.AES(bytes.fromhex(sa["key"])), mode).decryptor()
        esn = b"" if high is None else high.to_bytes(4, "big")
        gcm.authenticate_additional_data(self.esp[:4] + esn + self.esp[4:8])
        return gcm.update(self.esp[16:-icv]) + gcm.finalize()
