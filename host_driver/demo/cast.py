# SPDX-License-Identifier: Apache-2.0
"""Who plays: the two hosts, their SAs and policies as `ip xfrm` text, and the recorded traffic."""

import random
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from host_driver.lab.pcap import ip_packet, read_pcap

KEY_BYTES, SALT_BYTES = 16, 4  # AES-128; RFC 4106 section 4
HOST_A_MAC = bytes.fromhex("02000000000a")  # who is who in the recording

A4, B4, A6, B6 = "10.1.0.1", "10.1.0.2", "fd00:1::1", "fd00:1::2"


@dataclass(frozen=True)
class Sa:
    """One SA, as both ends install it. `sender` is the index of the host that uses it outbound."""

    spi: int
    src: str
    dst: str
    sender: int
    reqid: int
    key: bytes = field(repr=False)

    def add(self, direction: str, limits: str = "") -> str:
        """The command that offers it to nic0."""
        window = "replay-window 64 " if direction == "in" else ""
        return (
            f"xfrm state add src {self.src} dst {self.dst} proto esp spi {self.spi:#x} "
            f"reqid {self.reqid} mode transport {window}"
            f"aead 'rfc4106(gcm(aes))' 0x{self.key.hex()} 128 "
            f"{limits}{' ' if limits else ''}offload packet dev nic0 dir {direction}"
        )

    def delete(self) -> str:
        """The command that takes it back."""
        return f"xfrm state delete src {self.src} dst {self.dst} proto esp spi {self.spi:#x}"

    def policy(self, direction: str) -> str:
        """The policy that asks for it, in either direction."""
        return (
            f"xfrm policy add src {self.src} dst {self.dst} dir {direction} "
            f"tmpl src {self.src} dst {self.dst} proto esp reqid {self.reqid} mode transport "
            f"offload packet dev nic0"
        )

    def direction(self, host: int) -> str:
        """`out` at the sender, `in` at the other host."""
        return "out" if host == self.sender else "in"


class Keys:
    """Draws SAs with keys of their own. Demo keys come from the seed, so they protect nothing."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def sa(self, spi: int, src: str, dst: str, reqid: int) -> Sa:
        """A new SA; the sender follows from the source address."""
        key = self._rng.randbytes(KEY_BYTES + SALT_BYTES)
        return Sa(spi, src, dst, 0 if src in (A4, A6) else 1, reqid, key)

    def first_four(self) -> list[Sa]:
        """Both directions of IPv4 and of IPv6."""
        ends = ((A4, B4), (B4, A4), (A6, B6), (B6, A6))
        return [self.sa(0x1001 + n, src, dst, n + 1) for n, (src, dst) in enumerate(ends)]


def without_key(command: str) -> str:
    """A command as it may be shown."""
    return " ".join("0x<key>" if len(word) > 34 else word for word in command.split(" "))


@dataclass(frozen=True)
class Traffic:
    """The recording: `sent[host]` are that host's packets in their order."""

    sent: tuple[list[bytes], list[bytes]]
    skipped_bytes: int


def recorded(path: Path) -> Traffic:
    """Share the packets of a recording out to the hosts that sent them. Raises as read_pcap."""
    recording = read_pcap(path)
    sent: tuple[list[bytes], list[bytes]] = ([], [])
    for record in recording:
        packet = ip_packet(record.data, recording.linktype)
        if packet is not None:
            sent[0 if record.data[6:12] == HOST_A_MAC else 1].append(packet)
    return Traffic(sent, recording.skipped_bytes)


def ends_of(packet: bytes) -> tuple[str, str]:
    """Source and destination address of an IP packet."""
    if packet[0] >> 4 == 4:
        return str(ip_address(packet[12:16])), str(ip_address(packet[16:20]))
    return str(ip_address(packet[8:24])), str(ip_address(packet[24:40]))
