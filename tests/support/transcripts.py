# SPDX-License-Identifier: Apache-2.0
"""Replays the recorded commands of a kernel at the hosts of a simulated lab.

Names of devices are the lab's in what we run and the recording's in what we compare. Only clocks,
ids that the kernel drew and ports that `ping` drew are left out of a comparison.
"""

import re
import shlex
import struct
from dataclasses import asdict
from ipaddress import ip_address
from typing import Any

from host_driver.ip import format_notification
from host_driver.lab import Lab
from proto import netlink
from proto.xfrm import AF_INET, AF_INET6, IPPROTO_ESP, Attr, Group, Msg
from proto.xfrm_structs import ReplayState, ReplayStateEsn, UserSaId, UserSaInfo
from tests.support.tap import Tap, recorded

# How each environment of the recordings is made here; `pair` and `dummy` have no offload.
DRIVERS = {
    "bare": None,
    "nsim": "tests.support.netdevsim:Netdevsim",
    "pair": "tests.support.netdevsim:Veth",
    "dummy": "tests.support.netdevsim:Veth",
}
DEVICES = ("nsim0", "va", "vb", "d0")
ADDRESS = {"A": "10.1.0.1", "B": "10.1.0.2"}
PEER = {"A": "B", "B": "A"}

_DATE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
_PROBE = re.compile(r"proto udp sport \d+ dport 1025")  # `ping` looks for its source address
_KEY = re.compile(r'(argument ")0x[^"]*(" is wrong: ALGO-KEYMAT)')
_PING = re.compile(r"(\d+) packets transmitted, (\d+) received")
_SENT = re.compile(r"sendto\(b'x'\*(\d+),\('([0-9.]+)',(\d+)\)")
_ERRNO = re.compile(r"errno (\d+)")


class Difference(AssertionError):
    """What we said, and what the kernel's side said."""


def timeless(text: str) -> str:
    """Text without clocks and without what was drawn by chance."""
    text = _DATE.sub("DATE", text)
    text = _PROBE.sub("proto udp sport ANY dport 1025", text)
    return _KEY.sub(r"\1<<Keys hidden>>\2", text)  # on purpose, ours never shows a key


class Stage:
    """The two namespaces of one recording, as hosts of a lab."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.hosts = dict(zip("AB", lab.hosts, strict=False))
        self._counted = {name: host.mib() for name, host in self.hosts.items()}
        for host in lab.hosts:
            host.listen()
        self.tap = Tap(self.hosts["A"])
        self._ids: dict[str, str] = {}  # as recorded -> as drawn here
        self._echo_id = 0

    def ours(self, words: list[str]) -> list[str]:
        """The recorded words with our device and our ids."""
        words = ["nic0" if word in DEVICES else word for word in words]
        return [self._ids.get(word, word) for word in words]

    def theirs(self, text: str, recorded: str) -> str:
        """Our text with the recording's device and ids."""
        device = next((name for name in DEVICES if name in recorded), "nic0")
        text = text.replace("nic0", device)
        for theirs, ours in self._ids.items():
            text = text.replace(ours, theirs)
        return text

    def compare_messages(self, record: dict[str, Any]) -> None:
        """The last command in A sent and was answered the recorded bytes. Raises Difference."""
        ours, theirs = self.tap.take(), recorded(record)
        text = shlex.join(record["argv"])
        differ(f"requests of {text}", [asked for asked, _ in ours], [asked for asked, _ in theirs])
        for (_, answers), (_, wanted) in zip(ours, theirs, strict=True):
            differ(f"answers to {text}", [*map(self.recorded_ids, answers)], wanted)

    def recorded_ids(self, message: bytes) -> bytes:
        """A message of ours with the SPIs that the kernel drew."""
        for theirs, ours in self._ids.items():
            drawn, there = (int(word, 0).to_bytes(4, "big") for word in (ours, theirs))
            message = message.replace(drawn, there)
        return message

    def play(self, command: dict[str, Any]) -> None:
        """Do what the recording did. Raises Difference."""
        argv = command.get("argv")
        if argv is None:
            self._act(command)
        elif "xfrm" in argv and argv[0] == "ip":
            self._ip(command)
        else:
            self._program(command)

    def _ip(self, command: dict[str, Any]) -> None:
        host = self.hosts[command["ns"]]
        self.tap.take()
        result = host.ip(shlex.join(self.ours(command["argv"])))
        self.lab.settle()
        if "allocspi" in command["argv"] and result.rc == command["rc"] == 0:
            self._learn(result.stdout, command["stdout"])
        for what in ("rc", "stdout", "stderr"):
            ours, theirs = getattr(result, what), command[what]
            if what != "rc":
                ours, theirs = timeless(self.theirs(ours, theirs)), timeless(theirs)
            differ(shlex.join(command["argv"]) + f" {what}", ours, theirs)

    def _learn(self, ours: str, theirs: str) -> None:
        """An SPI is drawn by chance from the range that the command gave."""
        found = [re.findall("spi (0x[0-9a-f]+)", text) for text in (theirs, ours)]
        self._ids |= {a: b for a, b in zip(*found, strict=True) if a != b}

    def _program(self, command: dict[str, Any]) -> None:
        argv, host = command["argv"], self.hosts[command["ns"]]
        match argv:
            case ["ip", "link", "set", _, "up" | "down" as state]:
                host.set_link(up=state == "up")
            case ["ethtool", "-K", _, "esp-hw-offload", state]:
                host.set_link(esp_hw_offload=state == "on")
            case ["sysctl", "-w", setting]:
                host.sysctl(*setting.split("="))
            case ["ping", *_]:
                self._ping(command)
            case ["python3", "-c", program]:
                self._send(command, program)
            case ["ethtool", "-k", _] | ["cat", *_]:
                pass
            case _:
                raise Difference(f"no way to do {argv}")
        self.lab.settle()

    def _act(self, command: dict[str, Any]) -> None:
        action = command["action"]
        if action.startswith("start: ip xfrm monitor"):
            self.lab.advance(1.0)  # which the recorder waited for its monitor, too
            self.hosts["A"].notifications()
            self.hosts["A"].listen(*Group)
        elif action == "stop monitor":
            recorded = command["monitor_stdout"]
            said = "".join(map(self._printed, self.hosts["A"].notifications()))
            differ("monitor", timeless(self.theirs(said, recorded)), timeless(recorded))
        elif action.startswith("sleep"):
            self.lab.advance(float(action.split()[1]))
            self.lab.settle()
        elif action == "xfrm_stat_delta":
            if "injected_ip_packet" in command:
                self._inject(command)
            self._compare_counters(command)
        else:
            raise Difference(f"no way to do {action}")

    def _inject(self, command: dict[str, Any]) -> None:
        """A packet arrives at B; what its SA and its UDP socket had of it."""
        host, packet = self.hosts["B"], bytes.fromhex(command["injected_ip_packet"])
        ethertype = b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"
        frame = host.nic.mac + b"\2inject"[:6] + ethertype + packet
        self.lab.wire.inject(host=host.number, frames=[frame])
        self.lab.settle()
        delivered = sum(map(_sound_datagram, host.receive()))
        differ("delivered", delivered, command["delivered_to_udp_socket"])
        differ("SA after", _state_after(host, command), command["sa_after"])

    def _printed(self, message: bytes) -> str:
        devices = {dev["name"]: dev["ifindex"] for dev in self.hosts["A"].devices()}
        return format_notification(message, devices)

    def _compare_counters(self, command: dict[str, Any]) -> None:
        for name, host in self.hosts.items():
            now, before = host.mib(), self._counted[name]
            self._counted[name] = now
            delta = {counter: now[counter] - before[counter] for counter in now}
            moved = {counter: by for counter, by in delta.items() if by}
            differ(f"counters of {name}", moved, command["delta"].get(name, {}))

    def _send(self, command: dict[str, Any], program: str) -> None:
        """A datagram of a socket; prints what the program of the recording prints."""
        size, target, port = _sent(program)
        name = command["ns"]
        error = self.hosts[name].send([udp(ADDRESS[name], target, 40_000, port, size)])[0]
        recorded = _ERRNO.match(command["stdout"])
        differ("errno of the send", error, int(recorded[1]) if recorded else 0)

    def _ping(self, command: dict[str, Any]) -> None:
        """Echo requests, answered by the other host's stack, which is us.

        `ping` connects a datagram socket first, which makes three look-ups. They show only where no
        SA is there, so we send datagrams in their place only there.
        """
        name, argv = command["ns"], command["argv"]
        host, peer = self.hosts[name], self.hosts[PEER[name]]
        addresses = ADDRESS[name], ADDRESS[PEER[name]]
        recorded = _PING.search(command["stdout"])
        assert recorded is not None
        interval = float(argv[argv.index("-i") + 1]) if "-i" in argv else 1.0
        if command["rc"]:
            host.send([udp(*addresses, 40_000, 1025, 0)] * 3)
        self._echo_id += 1
        received = 0
        for number in range(int(recorded[1])):
            if number:
                self.lab.advance(interval)
            host.send([echo(*addresses, 8, self._echo_id, number + 1)])
            self.lab.settle()
            for packet in peer.receive():
                assert packet[20] == 8, packet.hex()
                peer.send([echo(addresses[1], addresses[0], 0, self._echo_id, number + 1)])
            self.lab.settle()
            received += len(host.receive())
        differ(shlex.join(argv), received, int(recorded[2]))


def _state_after(host: Any, command: dict[str, Any]) -> dict[str, Any]:
    """What GETSA of the recording's SA (ESP, SPI 0x1000, without a mark) says."""
    family = AF_INET if command["injected_ip_packet"][0] == "4" else AF_INET6
    local = ADDRESS["B"] if family == AF_INET else "fd00:1::2"
    daddr = ip_address(local).packed.ljust(16, b"\0")
    request = netlink.message(Msg.GETSA, UserSaId(daddr, 0x1000, family, IPPROTO_ESP).pack(), 1)
    msg = next(netlink.messages(host.netlink(request)[0]))
    if msg.type != Msg.NEWSA:
        return {"errno": -struct.unpack_from("<i", msg.payload)[0]}
    info = UserSaInfo.unpack(msg.payload)
    after = {
        "cur_bytes": info.curlft.bytes,
        "cur_packets": info.curlft.packets,
        "stats": asdict(info.stats),
    }
    values = netlink.attributes(msg.payload, UserSaInfo.size()).values
    if Attr.REPLAY_VAL in values:
        return after | {"replay_val": asdict(ReplayState.unpack(values[Attr.REPLAY_VAL]))}
    esn = values[Attr.REPLAY_ESN_VAL]
    words = struct.unpack(f"<{len(esn) // 4 - 6}I", esn[24:])
    return after | {
        "replay_esn": asdict(ReplayStateEsn.unpack(esn)) | {"bmp": [f"{w:#x}" for w in words]}
    }


def _sound_datagram(packet: bytes) -> bool:
    """Whether a UDP socket gets this IPv4 packet."""
    header = (packet[0] & 15) * 4
    datagram = packet[header:]
    pseudo = packet[12:20] + struct.pack(">HH", packet[9], len(datagram))
    padded = pseudo + datagram + bytes(len(datagram) % 2)
    return packet[9] == 17 and (datagram[6:8] == b"\0\0" or not _checksum(padded))


def _sent(program: str) -> tuple[int, str, int]:
    found = _SENT.search(program)
    if found is None:
        raise Difference(f"no way to do {program}")
    return int(found[1]), found[2], int(found[3])


def differ(what: str, ours: object, theirs: object) -> None:
    """Raises Difference unless both are equal."""
    if ours != theirs:
        raise Difference(f"{what}\nours:\n{ours}\ntheirs:\n{theirs}")


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ipv4(source: str, target: str, protocol: int, payload: bytes) -> bytes:
    """An IPv4 packet with DF set, as the recording's hosts send."""
    ends = b"".join(bytes(map(int, address.split("."))) for address in (source, target))
    fields = (0x45, 0, 20 + len(payload), 0, 0x4000, 64, protocol)
    head = struct.pack(">BBHHHBBH", *fields, 0) + ends
    return struct.pack(">BBHHHBBH", *fields, _checksum(head)) + ends + payload


def udp(source: str, target: str, sport: int, dport: int, size: int) -> bytes:
    """A datagram of `size` bytes, without a checksum."""
    return ipv4(source, target, 17, struct.pack(">4H", sport, dport, 8 + size, 0) + b"x" * size)


def echo(source: str, target: str, kind: int, id: int, number: int) -> bytes:
    """What `ping` sends (8) and is answered (0): 56 bytes of data."""
    body = struct.pack(">HH", id, number) + bytes(56)
    head = struct.pack(">BB", kind, 0)
    return ipv4(
        source, target, 1, head + _checksum(head + b"\0\0" + body).to_bytes(2, "big") + body
    )
