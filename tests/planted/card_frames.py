# SPDX-License-Identifier: Apache-2.0
"""Bugs of a card: headers around ESP, frames that leave too often, and replay windows."""

import struct
from collections.abc import Callable
from typing import Any

import pytest

from host_driver.xfrm.headers import with_checksum
from nic_model import rx_queue
from nic_model.tables import TX_PACKETS
from planted.plant import RX_ARGUMENTS, around_rx, around_tx, bug, created, rows, wrap
from proto import commands as c
from proto.status import Drop
from proto.wire import Frames

ETHERNET_BYTES, ESP, UDP_BYTES = 14, 50, 8


def leave(arguments: dict[str, Any], frames: list[bytes]) -> int:
    """These frames are on the wire instead; returns how many they are."""
    leaves = Frames.of(frames)
    arguments["out"][: len(leaves.data)] = leaves.data
    arguments["lengths"][: len(leaves)] = leaves.lengths
    return len(leaves)


def sent(arguments: dict[str, Any]) -> list[bytes]:
    """The frames of a burst."""
    lengths = arguments["lengths"][: arguments["count"]]
    return [bytes(frame) for frame in Frames(lengths, arguments["out"]).each()]


def in_tunnels(patch: pytest.MonkeyPatch, change: Callable[[bytearray], object]) -> None:
    """Change the outer header of what leaves through a tunnel."""

    def after(t: Any, _: Any, a: dict[str, Any]) -> int:
        tunnels = {int(t.sa[row]["spi"]) for row in rows(t, c.OUT) if t.sa[row]["tunnel"]}
        return leave(a, [_changed(frame, tunnels, change) for frame in sent(a)])

    around_tx(patch, after)


def _changed(frame: bytes, tunnels: set[int], change: Callable[[bytearray], object]) -> bytes:
    packet = bytearray(frame[ETHERNET_BYTES:])
    version = packet[0] >> 4
    proto, at = (packet[9], 20) if version == 4 else (packet[6], 40)
    if proto != ESP or int.from_bytes(packet[at : at + 4]) not in tunnels:
        return frame
    change(packet)
    return frame[:ETHERNET_BYTES] + (with_checksum(packet) if version == 4 else bytes(packet))


# --- headers ---


@bug(14, seed=0, steps=44)
def hop_limit_of_the_last_hop(patch: pytest.MonkeyPatch) -> None:
    """The packets of a tunnel may make one hop."""

    def change(packet: bytearray) -> None:
        packet[8 if packet[0] >> 4 == 4 else 7] = 1

    in_tunnels(patch, change)


@bug(14, seed=1, steps=34)
def dscp_not_copied(patch: pytest.MonkeyPatch) -> None:
    """The outer header has neither DSCP nor ECN."""

    def change(packet: bytearray) -> None:
        if packet[0] >> 4 == 4:
            packet[1] = 0
        else:
            packet[0], packet[1] = packet[0] & 0xF0, packet[1] & 0x0F

    in_tunnels(patch, change)


@bug(14, seed=1, steps=12)
def tunnels_may_be_cut_up(patch: pytest.MonkeyPatch) -> None:
    """The outer header says that routers may cut the packet up, whatever is inside."""

    def change(packet: bytearray) -> None:
        packet[6] &= 0xBF if packet[0] >> 4 == 4 else 0xFF

    in_tunnels(patch, change)


@bug(10, 11, 14, seed=0, steps=21)
def first_frame_sent_again(patch: pytest.MonkeyPatch) -> None:
    """Behind a burst of several its first frame comes once more, and counts."""

    def after(t: Any, _: Any, a: dict[str, Any]) -> int:
        frames = sent(a)
        if 3 < len(frames) < len(a["lengths"]):
            frames.append(frames[0])
            t.totals[TX_PACKETS] += 1
        return leave(a, frames)

    around_tx(patch, after)


# --- windows ---


@bug(21, seed=0, steps=68)
def window_in_whole_words(patch: pytest.MonkeyPatch) -> None:
    """A window has as many packets as fill whole words of its bitmap."""
    created(patch, replay_window=lambda cmd: cmd.replay_window // 32 * 32 or cmd.replay_window)


@bug(18, 21, seed=0, steps=50)
def window_only_with_esn(patch: pytest.MonkeyPatch) -> None:
    """Without ESN no window is kept."""
    created(patch, replay_window=lambda cmd: cmd.replay_window if cmd.esn else 0)


@bug(19, seed=0, steps=83)
def window_before_the_icv(patch: pytest.MonkeyPatch) -> None:
    """A forged packet with a number far ahead moves the window."""

    def burst(original: Any, t: Any, *arguments: Any) -> int:
        count: int = original(t, *arguments)
        a = dict(zip(RX_ARGUMENTS, arguments, strict=True))
        for i in range(a["n"]):
            if a["verdict"][i] == Drop.INTEGRITY:
                start = int(a["offsets"][i]) + ETHERNET_BYTES
                _move(t, bytes(a["frames"][start : start + 60]))
        return count

    wrap(patch, rx_queue, "rx_burst", burst)


def _move(t: Any, packet: bytes) -> None:
    proto, at = (packet[9], 20) if packet[0] >> 4 == 4 else (packet[6], 40)
    spi, low = struct.unpack_from(">II", packet, at if proto == ESP else at + UDP_BYTES)
    for row in rows(t, c.IN):
        sa = t.sa[row]
        high, top = divmod(int(sa["seq"]), 1 << 32)
        if int(sa["spi"]) == spi and sa["window"] and low > top:
            sa["head"] = (int(sa["head"]) + low - top) % int(sa["window"])
            sa["seq"] = high << 32 | low


@bug(33, seed=0, steps=57)
def replays_forgotten(patch: pytest.MonkeyPatch) -> None:
    """How many replays an SA has refused is forgotten with every burst."""

    def after(t: Any, _: Any, a: Any) -> None:
        t.sa["replay"][rows(t, c.IN)] = 0

    around_rx(patch, after)
