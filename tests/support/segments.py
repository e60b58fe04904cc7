# SPDX-License-Identifier: Apache-2.0
"""What a large packet becomes, each piece built anew by scapy."""

from scapy.layers.inet import IP, TCP
from scapy.packet import Packet, Raw


def expected(head: Packet, payload: bytes, mss: int) -> list[bytes]:
    """The pieces of `head` and `payload`; lengths and checksums are scapy's."""
    pieces = []
    for first in range(0, len(payload), mss):
        piece = head.copy() / Raw(payload[first : first + mss])
        if IP in piece:
            piece[IP].id = (piece[IP].id + first // mss) & 0xFFFF
        if TCP in piece:
            flags = str(piece[TCP].flags)
            if first:
                flags = flags.replace("C", "")
            if first + mss < len(payload):
                flags = flags.replace("P", "").replace("F", "")
            piece[TCP].flags = flags
            piece[TCP].seq = (piece[TCP].seq + first) & 0xFFFF_FFFF
        pieces.append(bytes(piece))
    return pieces
