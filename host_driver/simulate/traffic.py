# SPDX-License-Identifier: Apache-2.0
"""Packets of a flow, good and bad. No two of a run are the same, where there is room to tell."""

import struct
from collections.abc import Callable

from host_driver.conformance.packets import checksum, ip, with_option
from host_driver.conformance.packets import udp as udp_packet
from host_driver.simulate.flows import DPORT, FLOWS, Flow

TCP, ICMP, ICMPV6, HOP_BY_HOP, DESTINATION_OPTIONS, ODD = 6, 1, 58, 0, 60, 99
SPORTS = range(4000, 4997)
MORE_FRAGMENTS, DONT_FRAGMENT = 0x2000, 0x4000


def payload(tag: str, size: int) -> bytes:
    """`size` bytes that begin with the tag."""
    told = tag.encode()
    return (told + bytes(range(256)) * (1 + size // 256))[:size]


def _ident(tag: str) -> int:
    """An IPv4 identification that differs from tag to tag (RFC 6864)."""
    return checksum(tag.encode() + b"\0" * (len(tag) % 2))


def _ip(flow: Flow, way: int, tag: str, body: bytes, proto: int, member: int, **more: int) -> bytes:
    source, target = flow.host(way, member)
    if ":" in source:
        return _labelled(ip(body, proto, source, target, **more), tag)
    more.setdefault("ident", _ident(tag))
    return ip(body, proto, source, target, **more)


def _labelled(packet: bytes, tag: str) -> bytes:
    """An IPv6 packet whose flow label tells it from others (RFC 6437)."""
    return packet[:2] + _ident(tag).to_bytes(2) + packet[4:]


def udp(flow: Flow, way: int, tag: str, size: int, member: int = 0, dport: int = DPORT) -> bytes:
    """A UDP datagram whose data begins with the tag."""
    source, target = flow.host(way, member)
    sport = SPORTS[_ident(tag) % len(SPORTS)]
    if ":" in source:
        return _labelled(udp_packet(payload(tag, size), sport, dport, source, target), tag)
    return udp_packet(payload(tag, size), sport, dport, source, target, ident=_ident(tag))


def _other_port(flow: Flow, way: int, tag: str, size: int, member: int) -> bytes:
    return udp(flow, way, tag, size, member, DPORT + 1)


def _transport(
    flow: Flow, way: int, tag: str, body: bytes, proto: int, at: int, member: int
) -> bytes:
    """A packet whose checksum field at `at` is right, pseudo header included."""
    packet = _ip(flow, way, tag, body, proto, member)
    size = len(packet) - len(body)
    ends = packet[12:20] if size == 20 else packet[8:40]
    total = checksum(ends + struct.pack(">HH", proto, len(body)) + body)
    return packet[: size + at] + total.to_bytes(2) + packet[size + at + 2 :]


def _tcp(flow: Flow, way: int, tag: str, size: int, member: int) -> bytes:
    head = struct.pack(">HHIIBBHHH", SPORTS[0], DPORT, _ident(tag), 1, 0x50, 0x18, 512, 0, 0)
    return _transport(flow, way, tag, head + payload(tag, size), TCP, 16, member)


def _ping(flow: Flow, way: int, tag: str, size: int, member: int) -> bytes:
    if ":" in flow.host(way, member)[0]:
        body = struct.pack(">BBHHH", 128, 0, 0, 7, _ident(tag)) + payload(tag, size)
        return _transport(flow, way, tag, body, ICMPV6, 2, member)
    body = struct.pack(">BBHHH", 8, 0, 0, 7, _ident(tag)) + payload(tag, size)
    body = body[:2] + checksum(body).to_bytes(2) + body[4:]
    return _ip(flow, way, tag, body, ICMP, member)


def _odd(flow: Flow, way: int, tag: str, size: int, member: int) -> bytes:
    """A protocol that nobody knows."""
    return _ip(flow, way, tag, payload(tag, size), ODD, member)


def _fragment(flow: Flow, way: int, tag: str, size: int, member: int) -> bytes:
    """The first fragment of an IPv4 datagram, or one with IPv6's fragment header."""
    body = udp(flow, way, tag, max(size, 64) & ~7, member)
    if body[0] >> 4 == 6:
        head = struct.pack(">BBHI", 17, 0, 1, _ident(tag))
        return _ip(flow, way, tag, head + body[40:], 44, member)
    return _ip(flow, way, tag, body[20:], 17, member, flags=MORE_FRAGMENTS)


def _may_fragment(flow: Flow, way: int, tag: str, size: int, member: int) -> bytes:
    """Without "don't fragment", or IPv6, which knows none."""
    body = payload(tag, size)
    if ":" in flow.host(way, member)[0]:
        return _ip(flow, way, tag, body, ODD, member)
    return _ip(flow, way, tag, body, ODD, member, flags=0)


def _marked(flow: Flow, way: int, tag: str, size: int, member: int) -> bytes:
    """With DSCP and ECN in the header."""
    return _ip(flow, way, tag, payload(tag, size), ODD, member, tos=0xB9)


def _last_hop(flow: Flow, way: int, tag: str, size: int, member: int) -> bytes:
    return _ip(flow, way, tag, payload(tag, size), ODD, member, ttl=1)


def _options(flow: Flow, way: int, tag: str, size: int, member: int) -> bytes:
    """IPv4 options, or IPv6 destination options in front of UDP."""
    packet = udp(flow, way, tag, size, member)
    if packet[0] >> 4 == 6:
        head = struct.pack(">BBBB", 17, 0, 1, 4) + bytes(4)
        return _ip(flow, way, tag, head + packet[40:], DESTINATION_OPTIONS, member)
    return with_option(packet)


def _cut(flow: Flow, way: int, tag: str, size: int, member: int) -> bytes:
    """Shorter than its header says."""
    packet = udp(flow, way, tag, size, member)
    return packet[: max(21, len(packet) - 9)]


def _long(flow: Flow, way: int, tag: str, size: int, member: int) -> bytes:
    """Longer than its header says, as padded by a link."""
    return udp(flow, way, tag, size, member) + b"\xee" * 7


def _wrong_version(flow: Flow, way: int, tag: str, size: int, member: int) -> bytes:
    packet = udp(flow, way, tag, size, member)
    return b"\x75" + packet[1:]


def _header_beyond(flow: Flow, way: int, tag: str, size: int, member: int) -> bytes:
    """An IPv4 header length beyond the packet; of IPv6, a payload length."""
    packet = bytearray(udp(flow, way, tag, 0, member))
    if packet[0] >> 4 == 6:
        packet[4:6] = b"\xff\xff"
    else:
        packet[0] = 0x4F
    return bytes(packet)


Builder = Callable[[Flow, int, str, int, int], bytes]
KINDS: dict[str, Builder] = {
    "udp": udp, "port": _other_port, "tcp": _tcp, "ping": _ping, "odd": _odd, "marked": _marked,
    "fragmentable": _may_fragment, "fragment": _fragment, "options": _options, "cut": _cut,
    "long": _long, "ttl": _last_hop, "version": _wrong_version, "header": _header_beyond,
}  # fmt: skip


def build(flow: int, way: int, kind: str, tag: str, size: int, member: int) -> bytes:
    """One packet; `tag` says whose it is, `member` which hosts of a network talk."""
    return KINDS[kind](FLOWS[flow], way, tag, size, member)
