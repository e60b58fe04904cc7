# SPDX-License-Identifier: Apache-2.0
"""What must stand around the ESP of a packet that is sent: the headers of its SA, and of a tunnel.

What an outer header takes from the packet inside is what kernels 6.12 and 7.3 were seen to do:

    hop limit   64 (RFC 4301 5.1.2 leaves it to the device)
    DSCP, ECN   of the inner packet, ECT(0) for CE (RFC 3168 9.1.1)
    DF          of an inner IPv4 packet, set for IPv6; with DF the identification is 0
    flow label  of an inner IPv6 packet, else 0
"""

from host_driver.simulate.esp import TRAILER_BYTES
from host_driver.simulate.headers import Parsed, checksum, checksum_good
from host_driver.simulate.ledger import SaAsked
from host_driver.simulate.opening import CE, DF, UDP_BYTES, dsfield, udp_end
from host_driver.simulate.tracks import Seen, ends_of

HOP_LIMIT, ECT_0 = 64, 2
ESP_BYTES = 16  # SPI, number and IV
FLOW_LABEL = 0xF_FFFF


def outer_problem(seen: Seen, sa: SaAsked) -> str:
    """What is wrong around the ESP of a frame: addresses, checksums, UDP header, alignment, and in
    tunnel mode what the outer header has of the inner one."""
    packet, parsed = seen.packet, seen.parsed
    if packet is None or parsed is None:
        return ""
    if not checksum_good(packet):
        return "a wrong header checksum"
    if sa.mode == "tunnel" and (ends := ends_of(parsed)) != (sa.src, sa.dst):
        return f"outer addresses {ends[0]} > {ends[1]}"
    if sa.encap is not None and (problem := _udp_problem(packet, parsed, sa.encap)):
        return problem
    if not seen.piece and (parsed.end - parsed.at - sa.icv_bytes) % 4:
        return "a payload that is no multiple of 4 bytes (RFC 4303 2.4)"
    if sa.mode == "tunnel" and seen.inner is not None:
        return _tunnel_problem(packet, seen.inner)
    return ""


def sealed_bytes(sa: SaAsked, packet: Parsed) -> int:
    """How long a packet gets when an SA seals it (RFC 4303 2, 3.1; TX-30)."""
    head, size = packet.at, packet.end - packet.at
    if sa.mode == "tunnel":
        head, size = 40 if ":" in sa.src else 20, packet.end
    padded = -(-(size + TRAILER_BYTES) // 4) * 4
    return head + (UDP_BYTES if sa.encap else 0) + ESP_BYTES + padded + sa.icv_bytes


def _udp_problem(packet: bytes, parsed: Parsed, ports: tuple[int, int]) -> str:
    """The UDP header of an encapsulation: no checksum in IPv4, a right one in IPv6 (RFC 3948 2.1,
    RFC 8200 8.1)."""
    if (parsed.sport, parsed.dport) != ports:
        return f"UDP ports {parsed.sport}, {parsed.dport}"
    if udp_end(packet, parsed) != parsed.end:
        return "a UDP length that is not that of the packet"
    told = int.from_bytes(packet[parsed.at + 6 : parsed.at + UDP_BYTES])
    if packet[0] >> 4 == 4:
        return f"a UDP checksum {told:#x} around ESP in IPv4" if told else ""
    datagram = packet[parsed.at : parsed.end]
    pseudo = parsed.src + parsed.dst + len(datagram).to_bytes(4) + parsed.proto.to_bytes(4)
    return "" if told and checksum(pseudo + datagram) == 0 else "a wrong UDP checksum"


def _tunnel_problem(outer: bytes, inner: bytes) -> str:
    """What an outer header should have of the inner one, and has not."""
    limit = outer[8] if outer[0] >> 4 == 4 else outer[7]
    if limit != HOP_LIMIT:
        return f"hop limit {limit} of its tunnel"
    value = dsfield(inner)
    due = value & ~CE | ECT_0 if value & CE == CE else value
    if dsfield(outer) != due:
        return f"DSCP and ECN {dsfield(outer):#x} of its tunnel, {due:#x} are due"
    if outer[0] >> 4 == 6:
        label, due = _flow_label(outer), _flow_label(inner) if inner[0] >> 4 == 6 else 0
        return "" if label == due else f"flow label {label:#x} of its tunnel, {due:#x} is due"
    whole = inner[0] >> 4 == 6 or bool(inner[6] & DF)
    if bool(outer[6] & DF) != whole:
        return f"a tunnel that {'may' if whole else 'must not'} be cut up, unlike what is inside"
    ident = int.from_bytes(outer[4:6])
    return f"identification {ident:#x} of what nobody may cut up" if ident and whole else ""


def _flow_label(packet: bytes) -> int:
    return int.from_bytes(packet[:4]) & FLOW_LABEL
