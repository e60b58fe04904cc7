# SPDX-License-Identifier: Apache-2.0
"""What a router with a small MTU makes of an IPv4 frame: fragments (RFC 791 3.2).

It ignores "don't fragment", as broken ones do. IPv6 has no such routers: its frames stay whole.
"""

from proto.limits import ETHERNET_BYTES

_IPV4 = b"\x08\x00"
_HEADER_MIN = 20
_MORE, _OFFSET_MASK = 0x2000, 0x1FFF
_UNIT = 8  # offsets count in these


def fragments(frame: bytes, payload: int) -> list[bytes]:
    """The frame in pieces of at most `payload` bytes behind the IP header, rounded down to 8.

    Options are copied into each, also those that should not be. A frame that fits, or is no IPv4,
    is the only piece.
    """
    ip = frame[ETHERNET_BYTES:]
    if frame[12:ETHERNET_BYTES] != _IPV4 or len(ip) < _HEADER_MIN:
        return [frame]
    header_bytes = 4 * (ip[0] & 15)
    end = min(int.from_bytes(ip[2:4]), len(ip))
    step = max(payload // _UNIT, 1) * _UNIT
    if header_bytes < _HEADER_MIN or end - header_bytes <= step:
        return [frame]
    old = int.from_bytes(ip[6:8])
    pieces = []
    for at in range(header_bytes, end, step):
        data = ip[at : min(at + step, end)]
        offset = (old & _OFFSET_MASK) + (at - header_bytes) // _UNIT
        more = old & _MORE or (_MORE if at + step < end else 0)
        header = _header(ip[:header_bytes], header_bytes + len(data), more | offset & _OFFSET_MASK)
        pieces.append(frame[:ETHERNET_BYTES] + header + data)
    return pieces


def _header(old: bytes, total: int, flags_offset: int) -> bytes:
    header = bytearray(old)
    header[2:4] = total.to_bytes(2)
    header[6:8] = flags_offset.to_bytes(2)
    header[10:12] = bytes(2)
    words = sum(int.from_bytes(header[at : at + 2]) for at in range(0, len(header), 2))
    while words >> 16:
        words = (words & 0xFFFF) + (words >> 16)
    header[10:12] = (words ^ 0xFFFF).to_bytes(2)
    return bytes(header)
