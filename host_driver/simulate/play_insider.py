# SPDX-License-Identifier: Apache-2.0
"""An insider: a peer that has the key of an SA and does not keep the rules.

What it seals is authentic, so only what comes behind the ICV can stop it: window, trailer, mode,
the SA's selector, policies (RFC 4303 3.4, RFC 4301 5.2). An honest one is among them.
"""

import struct
from collections.abc import Callable

from host_driver.conformance.packets import ip, udp
from host_driver.lab.record import Frame
from host_driver.simulate import play_sa, traffic
from host_driver.simulate.actions import Attack
from host_driver.simulate.esp import TRAILER_BYTES, Esp
from host_driver.simulate.flows import FLOWS, Flow
from host_driver.simulate.headers import ESP, IPIP, IPV6_IN, UDP, header_bytes, ip_of, protocol
from host_driver.simulate.ledger import SaAsked
from host_driver.simulate.opening import CE, UDP_BYTES
from host_driver.simulate.play import Player

NO_NEXT_HEADER = 59
STRANGERS = {4: "10.99.0.7", 6: "fd00:99::7"}


def sealed(player: Player, action: Attack) -> list[bytes]:
    """IP packets of an insider, sealed for an SA of the host that is attacked."""
    sas = [sa for sa in player.ledger.live_sas(action.host) if sa.direction == "in"]
    sa = player.choose(action, sas, play_sa.name_of)
    if sa is None:
        return []
    flow, way = FLOWS[(sa.reqid - 1) // 2], (sa.reqid - 1) % 2
    make = INSIDE[action.kind]
    packets = []
    for one in range(action.count):
        tag = f"{action.id}.insider{one};"
        number = _number(player, sa, action, one)
        congested = action.kind == "insider-honest" and sa.mode == "tunnel" and action.number % 2
        clear = _marked(flow, way, tag, sa) if congested else make(flow, way, tag, sa)
        packets.append(_packet(sa, number, clear, CE if congested else 0))
    return packets


def _number(player: Player, sa: SaAsked, action: Attack, one: int) -> int:
    """The next number, or one far ahead or behind, as the kind wants it: half of the latter lie
    where what was the highest number before has its bit, and at the edge of the window, where the
    oldest that it covers and the newest that it does not lie side by side."""
    top = _top(player, sa)
    far, edge = divmod(action.number, 2)
    if action.kind == "insider-ahead":
        number = top + 1 + action.number
    elif action.kind == "insider-behind" and edge and one == 0 < action.count - 1:
        number = top + sa.window + 1  # so that no number of the window was used
    elif action.kind == "insider-behind":
        places = (1, sa.window - 1, sa.window, sa.window + 1)
        number = max(1, top - (places[(far + one) % len(places)] if edge else far % 300))
    else:
        number = top + 1
    number &= (1 << 64) - 1 if sa.esn else 0xFFFF_FFFF
    player.insiders[sa.number] = max(number, top)
    return number


def _top(player: Player, sa: SaAsked) -> int:
    """The highest number of this key on the wire, honest or not; ESN's high half is inferred."""
    top = max(sa.sequence, player.insiders.get(sa.number, 0))
    for step in player.ledger.steps[sa.asked_step :]:
        for frame in step.frames:
            low = _low(frame, sa)
            if low is not None:
                number = top & ~0xFFFF_FFFF | low
                if sa.esn and number < top - (1 << 31):
                    number += 1 << 32
                top = max(top, number)
    return top


def _low(frame: Frame, sa: SaAsked) -> int | None:
    """The sequence number of a frame that a card sent for this SA."""
    packet = None if frame.src is None else ip_of(frame.data)
    if packet is None:
        return None
    at = header_bytes(packet) + (UDP_BYTES if sa.encap else 0)
    if protocol(packet) != (UDP if sa.encap else ESP) or len(packet) < at + 8:
        return None
    spi, low = struct.unpack_from(">II", packet, at)
    return int(low) if spi == sa.spi else None


def _packet(sa: SaAsked, number: int, clear: bytes, tos: int = 0) -> bytes:
    """ESP around what has its trailer already, behind the SA's outer header."""
    high = number >> 32 if sa.esn else None
    esp = Esp(sa.spi, sa.key, sa.icv_bytes, high).sealed(clear, number & 0xFFFF_FFFF)
    if sa.encap is None:
        return ip(esp, ESP, sa.src, sa.dst, tos=tos)
    head = struct.pack(">HHHH", *sa.encap, UDP_BYTES + len(esp), 0)
    return ip(head + esp, UDP, sa.src, sa.dst)


def _with_trailer(inner: bytes, following: int) -> bytes:
    pad = -(len(inner) + TRAILER_BYTES) % 4
    return inner + bytes(range(1, pad + 1)) + bytes((pad, following))


def _inside(packet: bytes, sa: SaAsked) -> bytes:
    """What the SA's mode puts inside."""
    if sa.mode == "tunnel":
        return _with_trailer(packet, IPIP if packet[0] >> 4 == 4 else IPV6_IN)
    return _with_trailer(packet[header_bytes(packet) :], protocol(packet))


def _honest(flow: Flow, way: int, tag: str, sa: SaAsked) -> bytes:
    return _inside(traffic.udp(flow, way, tag, 40), sa)


def _marked(flow: Flow, way: int, tag: str, sa: SaAsked) -> bytes:
    """What understands congestion marks; a router in the tunnel may have set one (RFC 6040 4.2)."""
    return _inside(traffic.KINDS["marked"](flow, way, tag, 40, 0), sa)


def _other_port(flow: Flow, way: int, tag: str, sa: SaAsked) -> bytes:
    return _inside(traffic.udp(flow, way, tag, 40, 0, 7), sa)


def _stranger(flow: Flow, way: int, tag: str, sa: SaAsked) -> bytes:
    """From an address that the SA is not for (RFC 4301 5.2)."""
    source = STRANGERS[flow.family]
    return _inside(udp(tag.encode(), 4000, 5000, source, flow.host(way, 0)[1]), sa)


def _trailer(flow: Flow, way: int, tag: str, sa: SaAsked) -> bytes:
    """A pad length beyond what there is."""
    return tag.encode()[:8].ljust(10) + bytes((250, UDP))


def _dummy(flow: Flow, way: int, tag: str, sa: SaAsked) -> bytes:
    """RFC 4303 2.6: to be discarded silently."""
    return _with_trailer(tag.encode(), NO_NEXT_HEADER)


def _mode(flow: Flow, way: int, tag: str, sa: SaAsked) -> bytes:
    """What the other mode would put inside."""
    packet = traffic.udp(flow, way, tag, 40)
    if sa.mode == "tunnel":
        return _with_trailer(packet[header_bytes(packet) :], UDP)
    return _with_trailer(packet, IPIP if packet[0] >> 4 == 4 else IPV6_IN)


def _cut(flow: Flow, way: int, tag: str, sa: SaAsked) -> bytes:
    """A packet inside that is shorter than it says."""
    packet = traffic.udp(flow, way, tag, 40)
    return _with_trailer(packet[:-9] if sa.mode == "tunnel" else b"\0\x01\x02", UDP)


def _empty(flow: Flow, way: int, tag: str, sa: SaAsked) -> bytes:
    return _with_trailer(b"", UDP)


INSIDE: dict[str, Callable[[Flow, int, str, SaAsked], bytes]] = {
    "insider-honest": _honest,
    "insider-ahead": _honest,
    "insider-behind": _honest,
    "insider-port": _other_port,
    "insider-stranger": _stranger,
    "insider-trailer": _trailer,
    "insider-dummy": _dummy,
    "insider-mode": _mode,
    "insider-cut": _cut,
    "insider-empty": _empty,
}
