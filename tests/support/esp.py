# SPDX-License-Identifier: Apache-2.0
"""SAs and policies as `ip xfrm` words, packets, and scapy's ESP as the other end."""

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation

from support.core import Core

A, B, A6, B6 = "10.1.0.1", "10.1.0.2", "fd00:1::1", "fd00:1::2"
SPI = 0x1000
GCM = "aead 'rfc4106(gcm(aes))' 0x0102030405060708090a0b0c0d0e0f1011121314 128"


def material(length: int) -> bytes:
    return bytes(range(3, 3 + length))


def hexed(length: int) -> str:
    return f"0x{material(length).hex()}"


def aead(name: str, length: int, bits: int) -> str:
    return f"aead {name!r} {hexed(length)} {bits}"


def scapy_sa(crypt: str, key: int, auth: str | None, auth_key: int, esn: bool, **how):
    return SecurityAssociation(
        ESP, spi=SPI, crypt_algo=crypt, crypt_key=material(key), auth_algo=auth,
        auth_key=material(auth_key) if auth else None, esn_en=esn, **how,
    )  # fmt: skip


def state(algorithm: str, mode: str = "transport", extra: str = "", ends=(A, B), spi=SPI) -> str:
    return (
        f"xfrm state add src {ends[0]} dst {ends[1]} proto esp spi {spi:#x} reqid {spi} "
        f"mode {mode} {algorithm} {extra}"
    )


def policy(dir: str = "out", *templates: str, ends=(A, B)) -> str:
    return f"xfrm policy add src {ends[0]} dst {ends[1]} dir {dir} " + " ".join(templates)


def template(spi: int = SPI, mode: str = "transport", ends=None) -> str:
    where = f"src {ends[0]} dst {ends[1]} " if ends else ""
    return f"tmpl {where}proto esp reqid {spi} mode {mode}"


def datagram(size: int = 50, ends=(A, B), **how) -> bytes:
    """A UDP packet; sizes and contents tell packets apart."""
    family = IPv6 if ":" in ends[0] else IP
    body = bytes(i & 255 for i in range(size))
    return bytes(family(src=ends[0], dst=ends[1], **how) / UDP(sport=9, dport=10) / body)


def parsed(packet: bytes):
    return (IP if packet[0] >> 4 == 4 else IPv6)(packet)


def pair(*commands: str, mtu: int = 1500) -> tuple[Core, Core]:
    """Sender and receiver with the same SAs and policies; each its own random numbers."""
    cores = Core(mtu=mtu, seed=1), Core(mtu=mtu, seed=2)
    for core in cores:
        core.add(*commands)
    return cores


def tunnel(outer, inner, extra: str = "") -> tuple[Core, Core]:
    ours = template(mode="tunnel", ends=outer)
    return pair(
        state(GCM, "tunnel", f"replay-window 32 flag af-unspec {extra}", ends=outer),
        policy("out", ours, ends=inner),
        policy("in", ours, ends=inner),
    )
