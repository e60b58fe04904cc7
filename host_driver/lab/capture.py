# SPDX-License-Identifier: Apache-2.0
"""Captures of a lab: the clear side of every host and the wire, in one pcapng file."""

import os
from pathlib import Path
from typing import NamedTuple

from host_driver import control
from host_driver.lab.asking import World
from host_driver.lab.pcapng import LINKTYPE_ETHERNET, LINKTYPE_RAW, PcapngWriter
from host_driver.lab.record import Frame


class _Tapped(NamedTuple):
    """One packet at one tap point; sorts by time."""

    time_ns: int
    interface: int
    data: bytes
    comment: str


class Capture:
    """Recording from now on. Interfaces: host0, host1 (raw IP, clear), then wire (Ethernet)."""

    def __init__(self, world: World, hosts: int) -> None:
        self._world = world
        self._hosts = range(hosts)
        self._clear: list[_Tapped] = []
        for number in self._hosts:
            world.ask(number, control.Capture(True))
        with world.wire() as wire:
            self._first_frame = wire.recorded

    def write(self, path: Path) -> int:
        """Write everything since the start, in order of time; -> the number of packets.

        What is protected on the wire is clear in there, so a new file is for its owner only.
        """
        self._collect()
        with self._world.wire() as wire:
            frames = wire.frames(self._first_frame)
        on_wire = len(self._hosts)
        packets = self._clear + [
            _Tapped(frame.time, on_wire, frame.data, _origin(frame)) for frame in frames
        ]
        packets.sort(key=lambda packet: packet.time_ns)  # stable: equal times keep their order
        interfaces = [(f"host{number}", LINKTYPE_RAW) for number in self._hosts]
        interfaces.append(("wire", LINKTYPE_ETHERNET))
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            writer = PcapngWriter(file, interfaces)
            for packet in packets:
                writer.packet(packet.interface, packet.time_ns, packet.data, packet.comment)
        return len(packets)

    def stop(self) -> None:
        """Let the hosts stop recording; what was recorded can still be written."""
        self._collect()
        for number in self._hosts:
            self._world.ask(number, control.Capture(False))

    def _collect(self) -> None:
        for number in self._hosts:
            while records := self._world.ask(number, control.Capture()).value:
                self._clear += [
                    _Tapped(time_ns, number, data, f"clear, {direction}")
                    for time_ns, direction, data in records
                ]


def _origin(frame: Frame) -> str:
    return "injected" if frame.src is None else f"sent by card{frame.src}"
