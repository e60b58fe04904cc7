# SPDX-License-Identifier: Apache-2.0
"""Strategies for IP packets whose lengths and checksums are right, and fragments of them."""

import ipaddress
import struct

from hypothesis import strategies as st

from host_driver.conformance.packets import ESP, UDP, checksum, header_bytes, ip, protocol, udp
from host_driver.testing.values import TrafficSelector, address_pairs, families, ports

TCP, FRAGMENT_HEADER = 6, 44
MORE_FRAGMENTS = 0x2000  # of IPv4's fragment word
UNIT = 8  # fragment offsets count in these
TAIL = {4: 28, 6: 48}  # IP and UDP header
# Bytes behind the UDP header: none, one, around a block of AES, and what fills the MTU.
SIZES = (0, 1, 2, 3, 13, 14, 15, 16, 17)


def _sizes(family: int, mtu: int) -> st.SearchStrategy[int]:
    most = mtu - TAIL[family]
    return st.sampled_from((*SIZES, most - 1, most)) | st.integers(0, most)


def _data(family: int, mtu: int) -> st.SearchStrategy[bytes]:
    """Bytes that tell packets apart and cost Hypothesis little: a size and a first byte."""
    return st.builds(
        lambda size, first: bytes((first + i) & 0xFF for i in range(size)),
        _sizes(family, mtu), st.integers(0, 255),
    )  # fmt: skip


@st.composite
def udp_packets(
    draw: st.DrawFn, family: int | None = None, ends: tuple[str, str] | None = None,
    mtu: int = 1400,
) -> bytes:  # fmt: skip
    """An IP packet with a UDP datagram, between two hosts of one network or `ends`."""
    src, dst = ends or draw(address_pairs(family))
    data = draw(_data(4 if "." in src else 6, mtu))
    return udp(data, draw(ports()), draw(ports()), src, dst)


def tcp(
    data: bytes, sport: int, dport: int, src: str, dst: str, seq: int = 1, flags: int = 0x18
) -> bytes:
    """An IP packet with a TCP segment without options; `flags` 0x18 is PSH and ACK."""
    source, target = ipaddress.ip_address(src).packed, ipaddress.ip_address(dst).packed
    head = struct.pack(">HHIIBBHHH", sport, dport, seq, 1, 5 << 4, flags, 0xFFFF, 0, 0)
    pseudo = source + target + struct.pack(">HH", TCP, len(head) + len(data))
    head = head[:16] + checksum(pseudo + head + data).to_bytes(2) + head[18:]
    return ip(head + data, TCP, src, dst)


@st.composite
def tcp_packets(
    draw: st.DrawFn, family: int | None = None, ends: tuple[str, str] | None = None,
    mtu: int = 1400,
) -> bytes:  # fmt: skip
    """An IP packet with a TCP segment."""
    src, dst = ends or draw(address_pairs(family))
    data = draw(_data(4 if "." in src else 6, mtu - 12))
    return tcp(data, draw(ports()), draw(ports()), src, dst, draw(st.integers(0, (1 << 32) - 1)))


@st.composite
def esp_packets(
    draw: st.DrawFn, family: int | None = None, ends: tuple[str, str] | None = None,
    spi: int | None = None,
) -> bytes:  # fmt: skip
    """ESP that nobody made: an SPI, a sequence number, and bytes of any length, also too few."""
    src, dst = ends or draw(address_pairs(family))
    number = draw(st.integers(0, (1 << 32) - 1)) if spi is None else spi
    seq = draw(st.integers(0, (1 << 32) - 1))
    rest = draw(st.binary(max_size=80))
    return ip(struct.pack(">II", number, seq) + rest, ESP, src, dst)


def packets(
    family: int | None = None, ends: tuple[str, str] | None = None, mtu: int = 1400
) -> st.SearchStrategy[bytes]:
    """UDP or TCP."""
    return udp_packets(family, ends, mtu) | tcp_packets(family, ends, mtu)


def _host(network: str) -> st.SearchStrategy[str]:
    """An address of a network; of large ones an address near its begin."""
    whole = ipaddress.ip_network(network)
    return st.integers(0, min(whole.num_addresses, 8) - 1).map(lambda n: str(whole[n]))


@st.composite
def packets_of(draw: st.DrawFn, selector: TrafficSelector, mtu: int = 1400) -> bytes:
    """A packet that the selector covers."""
    src, dst = draw(_host(selector.src)), draw(_host(selector.dst))
    proto = selector.proto or draw(st.sampled_from((UDP, TCP)))
    data = draw(_data(selector.family, mtu - 12))
    if proto not in (UDP, TCP):
        return ip(data, proto, src, dst)
    sport, dport = selector.sport or draw(ports()), selector.dport or draw(ports())
    make = udp if proto == UDP else tcp
    return make(data, sport, dport, src, dst)


def fragments(packet: bytes, size: int, ident: int = 1) -> list[bytes]:
    """The packet in fragments with `size` bytes of payload each, rounded down to a multiple of 8.

    One that fits stays whole. Raises ValueError for a size below 8.
    """
    step = size // UNIT * UNIT
    if not step:
        raise ValueError(f"fragments of {size} bytes, the smallest have {UNIT}")
    at = header_bytes(packet)
    payload = packet[at:]
    if len(payload) <= step:
        return [packet]
    make = _fragment4 if packet[0] >> 4 == 4 else _fragment6
    starts = range(0, len(payload), step)
    return [
        make(packet, payload[start : start + step], start, start != starts[-1], ident)
        for start in starts
    ]


def _fragment4(packet: bytes, piece: bytes, start: int, more: bool, ident: int) -> bytes:
    head = bytearray(packet[: header_bytes(packet)])
    word = start // UNIT | (MORE_FRAGMENTS if more else 0)
    struct.pack_into(">HHH", head, 2, len(head) + len(piece), ident, word)
    head[10:12] = bytes(2)
    head[10:12] = checksum(bytes(head)).to_bytes(2)
    return bytes(head) + piece


def _fragment6(packet: bytes, piece: bytes, start: int, more: bool, ident: int) -> bytes:
    head = bytearray(packet[:40])
    extension = struct.pack(">BxHI", protocol(packet), start | more, ident)
    head[4:6], head[6] = (len(extension) + len(piece)).to_bytes(2), FRAGMENT_HEADER
    return bytes(head) + extension + piece


@st.composite
def fragmented(draw: st.DrawFn, family: int | None = None) -> list[bytes]:
    """A packet of 100 bytes and more in at least two fragments, in order."""
    version = draw(families()) if family is None else family
    packet = draw(packets(version).filter(lambda one: len(one) > 100))
    return fragments(packet, draw(st.integers(UNIT, len(packet) - TAIL[version])), ident=7)
