# SPDX-License-Identifier: Apache-2.0
"""ESP found, put together and opened: what sender's and receiver's side of the observer share."""

from collections.abc import Hashable

from host_driver.simulate.esp import BadEsp, Esp, Inside
from host_driver.simulate.headers import (
    ESP,
    IPIP,
    IPV6_IN,
    UDP,
    Parsed,
    carrying,
    checksum,
    parse,
)
from host_driver.simulate.ledger import SaAsked

UDP_BYTES = 8
REMEMBERED = 1 << 15  # opened packets, and fragments
CE = 3
DF = 0x40  # in byte 6 of an IPv4 header


def esp_at(packet: bytes, parsed: Parsed) -> int | None:
    """Where the ESP header of a whole packet is, if it can have one: native, or in UDP behind what
    is no IKE marker and no keepalive (RFC 3948 2)."""
    if parsed.fragment:
        return None
    if parsed.proto == ESP:
        return parsed.at
    at = parsed.at + UDP_BYTES
    if parsed.proto == UDP and parsed.end - at >= UDP_BYTES and any(packet[at : at + 4]):
        return at
    return None


def udp_end(packet: bytes, parsed: Parsed) -> int:
    """Where a UDP datagram says that it ends; native ESP ends with its packet."""
    if parsed.proto != UDP:
        return parsed.end
    return parsed.at + int.from_bytes(packet[parsed.at + 4 : parsed.at + 6])


def inner_of(sa: SaAsked, packet: bytes, parsed: Parsed, inside: Inside) -> bytes | None:
    """The packet that ESP protected: in transport mode behind the headers in front of ESP, in
    tunnel mode the whole payload. None where the mode carries no such thing."""
    if sa.mode == "transport":
        return carrying(packet, parsed.at, parsed.next_at, inside.next_header, inside.payload)
    inner = parse(inside.payload)
    version = {IPIP: 4, IPV6_IN: 6}.get(inside.next_header)
    if inner is None or inner.version != version:
        return None
    return inside.payload[: inner.end]  # behind it there is TFC padding (RFC 4303 2.7)


def marked(inner: bytes, outer: bytes) -> bytes:
    """An inner packet that learns of congestion from its tunnel (RFC 6040 4.2)."""
    if dsfield(outer) & CE != CE or not dsfield(inner) & CE or dsfield(inner) & CE == CE:
        return inner
    value, changed = dsfield(inner) | CE, bytearray(inner)
    if inner[0] >> 4 == 6:
        changed[0], changed[1] = 0x60 | value >> 4, (value & 15) << 4 | inner[1] & 15
        return bytes(changed)
    changed[1] = value
    return _summed(changed)


def pieced(packet: bytes) -> bytes:
    """A packet that was in pieces on its way: whoever cut it up has cleared DF (RFC 791 2.3)."""
    changed = bytearray(packet)
    if packet[0] >> 4 == 6 or not packet[6] & DF:
        return packet
    changed[6] &= ~DF
    return _summed(changed)


def _summed(packet: bytearray) -> bytes:
    """An IPv4 packet with its checksum made anew."""
    size = (packet[0] & 15) * 4
    packet[10:12] = bytes(2)
    packet[10:12] = checksum(bytes(packet[:size])).to_bytes(2)
    return bytes(packet)


def dsfield(packet: bytes) -> int:
    """TOS or traffic class: DSCP and ECN."""
    return packet[1] if packet[0] >> 4 == 4 else (packet[0] & 15) << 4 | packet[1] >> 4


class Opener:
    """The reference ESP with a memory: both ends of a frame, and its replays, open the same."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, int, int | None, bytes], Inside | str] = {}

    def open(self, sa: SaAsked, body: bytes, high: int | None) -> Inside | str:
        """What is inside the ESP `body` under the key of an SA, or BadEsp.reason."""
        name = (sa.key, sa.icv_bytes, high, body)
        if name not in self._known:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            try:
                opened: Inside | str = Esp(sa.spi, sa.key, sa.icv_bytes, high).open_body(body)
            except BadEsp as bad:
                opened = bad.reason
            self._known[name] = opened
        return self._known[name]


class Pieces:
    """Fragments of ESP packets, put together as software does (RFC 791, RFC 8200 4.5)."""

    def __init__(self) -> None:
        self._parts: dict[Hashable, dict[int, tuple[bytes, bool, bytes, Parsed]]] = {}

    def add(self, place: Hashable, packet: bytes, parsed: Parsed) -> bytes | None:
        """The whole packet that the last missing piece completes, else None."""
        if len(self._parts) >= REMEMBERED:
            self._parts.clear()
        name = (place, parsed.src, parsed.dst, parsed.ident, parsed.version)
        parts = self._parts.setdefault(name, {})
        parts[parsed.offset] = (packet[parsed.at : parsed.end], parsed.more, packet, parsed)
        payload = b""
        while True:
            part = parts.get(len(payload))
            if part is None:
                return None
            payload += part[0]
            if not part[1]:
                break
            if not part[0]:
                return None
        del self._parts[name]
        return _whole(parts[0][2], parts[0][3], payload)


def _whole(first: bytes, parsed: Parsed, payload: bytes) -> bytes:
    """The first piece's headers without their fragment marks, around all of the payload."""
    if parsed.version == 4:
        head = bytearray(first)
        head[6:8] = bytes((head[6] & 0x40, 0))
        return carrying(bytes(head), parsed.at, parsed.next_at, parsed.proto, payload)
    head = bytearray(first[: parsed.at - 8])  # ESP's fragments have their fragment header last
    at = 6
    while at != parsed.next_at and head[at] != 44:
        at = 40 if at == 6 else at + 8 + head[at + 1] * 8
    return carrying(bytes(head), parsed.at - 8, at, parsed.proto, payload)
