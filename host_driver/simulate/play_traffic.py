# SPDX-License-Identifier: Apache-2.0
"""What stacks send, and what attackers put on the wire."""

import struct
from collections.abc import Callable

import msgspec

from host_driver.conformance.packets import frame as ethernet
from host_driver.conformance.packets import ip
from host_driver.lab.record import Frame
from host_driver.simulate import play_insider, traffic
from host_driver.simulate.actions import Attack, Send
from host_driver.simulate.flows import FLOWS
from host_driver.simulate.ledger import Injected, Origin
from host_driver.simulate.play import Answer, Player
from host_driver.simulate.play_sa import NOTHING

ETHERNET_BYTES, ESP, ICV_BYTES = 14, 50, 16
STRAY_SPI = 0xDEAD0000
RECENT_STEPS = 60


def send(player: Player, action: Send) -> Answer:
    """Packets of one way, and so many back."""
    answer = Answer()
    for way, count in ((action.way, action.count), (1 - action.way, action.reply)):
        packets = [
            traffic.build(
                action.flow, way, action.kind, f"{action.id}.{way}.{one};", action.size,
                action.member,
            )
            for one in range(count)
        ]  # fmt: skip
        if packets:
            answer = player.send(way, packets)
    return answer


def attack(player: Player, action: Attack) -> Answer:
    """A frame from nobody arrives at a host's card."""
    kind, make = ATTACKS[action.kind]
    frames = make(player, action)
    if not frames:
        return NOTHING
    number, now_ns = player.step.number, player.lab.now_ns()
    for data in frames:
        player.step.injected.append(Injected(number, action.host, data, kind, now_ns))
    player.lab.wire.inject(host=action.host, frames=frames)
    return Answer(0, f"{len(frames)} frames")


def _seen(player: Player, action: Attack) -> list[Frame]:
    """Frames that a card sent to this host not long ago."""
    return _recent(player, action, lambda frame: frame.dst == action.host)


def _recent(player: Player, action: Attack, wanted: Callable[[Frame], bool]) -> list[Frame]:
    """Frames of cards, as many as asked; a frame is named by its step and its place there."""
    frames = [
        (f"{step.id} {place}", frame)
        for step in player.ledger.steps[-RECENT_STEPS:]
        for place, frame in enumerate(step.frames)
        if frame.src is not None and wanted(frame)
    ]
    first = player.choose(action, frames, lambda named: named[0])
    if first is None:
        return []
    at = frames.index(first)
    return [frame for _, frame in frames[at : at + action.count]]


def _replay(player: Player, action: Attack) -> list[bytes]:
    return [frame.data for frame in _seen(player, action)]


def _flipped(player: Player, action: Attack) -> list[bytes]:
    """One bit behind the Ethernet header of what was seen before, or one of the last ICV_BYTES of a
    packet that was not, so that nothing but its ICV is wrong."""
    place, fresh = divmod(action.number, 2)
    if not fresh:
        return [_flip(frame.data, action.number) for frame in _seen(player, action)]
    return [
        _flip(frame, 8 * (len(frame) - ETHERNET_BYTES) - 1 - place % (8 * ICV_BYTES))
        for frame in _insider(player, msgspec.structs.replace(action, kind="insider-honest"))
    ]


def _flip(data: bytes, number: int) -> bytes:
    bit = 8 * ETHERNET_BYTES + number % (8 * max(1, len(data) - ETHERNET_BYTES))
    broken = bytearray(data)
    if bit // 8 < len(broken):
        broken[bit // 8] ^= 1 << bit % 8
    return bytes(broken)


def _forged(player: Player, action: Attack) -> list[bytes]:
    """ESP with another sequence number, under the old ICV."""
    return [_renumbered(frame.data, action.number) for frame in _seen(player, action)]


def _renumbered(data: bytes, number: int) -> bytes:
    at = ETHERNET_BYTES + (40 if data[ETHERNET_BYTES] >> 4 == 6 else 20) + 4
    if len(data) < at + 4:
        return data
    (before,) = struct.unpack_from(">I", data, at)
    return data[:at] + struct.pack(">I", (before + number) & 0xFFFF_FFFF) + data[at + 4 :]


def _truncated(player: Player, action: Attack) -> list[bytes]:
    return [frame.data[: action.number % len(frame.data)] for frame in _seen(player, action)]


def _padded(player: Player, action: Attack) -> list[bytes]:
    """Bytes behind the end that the IP header tells (F-WIR-08)."""
    return [frame.data + bytes(1 + action.number % 20) for frame in _seen(player, action)]


def _reflected(player: Player, action: Attack) -> list[bytes]:
    """A host's own frames come back to it."""
    own = _recent(player, action, lambda frame: frame.src == action.host)
    return [frame.data for frame in own]


def _clear(player: Player, action: Attack) -> list[bytes]:
    """Clear packets of a flow that may have to be protected, towards its receiver."""
    way, kind = 1 - action.host, CLEAR_KINDS[action.number % len(CLEAR_KINDS)]
    return [
        _framed(
            player, action,
            traffic.build(action.flow, way, kind, f"{action.id}.clear{one};", 40, 0),
        )
        for one in range(action.count)
    ]  # fmt: skip


CLEAR_KINDS = ("udp", "port", "tcp")


def _stray(player: Player, action: Attack) -> list[bytes]:
    """ESP with an SPI that nobody gave out."""
    source, target = FLOWS[action.flow].outer(1 - action.host)
    body = struct.pack(">II", STRAY_SPI + action.number % 8, action.number & 0xFFFF) + bytes(40)
    return [_framed(player, action, ip(body, ESP, source, target))] * action.count


def _insider(player: Player, action: Attack) -> list[bytes]:
    return [_framed(player, action, packet) for packet in play_insider.sealed(player, action)]


def _framed(player: Player, action: Attack, packet: bytes) -> bytes:
    return ethernet(packet, player.hosts[action.host].nic.mac)


ATTACKS: dict[str, tuple[Origin, Callable[[Player, Attack], list[bytes]]]] = {
    "replay": ("replay", _replay),
    "bitflip": ("bitflip", _flipped),
    "forged": ("forged", _forged),
    "truncated": ("bitflip", _truncated),
    "padded": ("replay", _padded),
    "reflected": ("stray", _reflected),
    "clear": ("clear", _clear),
    "stray": ("stray", _stray),
    **dict.fromkeys(play_insider.INSIDE, ("insider", _insider)),
}
KINDS = tuple(ATTACKS)
