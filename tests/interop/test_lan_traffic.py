# SPDX-License-Identifier: Apache-2.0
"""Recorded traffic of a real LAN: protected packets leave as ESP and arrive byte for byte."""

from collections import Counter

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation

from host_driver.demo import LAN_PCAP
from host_driver.lab import Lab
from host_driver.lab.pcap import read_pcap

A4, B4, A6, B6 = "10.1.0.1", "10.1.0.2", "fd00:1::1", "fd00:1::2"
FLOWS = {(A4, B4): 0x1001, (B4, A4): 0x1002, (A6, B6): 0x1003, (B6, A6): 0x1004}


def key(spi: int) -> bytes:
    return bytes((spi * 7 + i) & 255 for i in range(20))


@pytest.fixture(scope="module", params=["sim", "process"])
def pair(request):
    with Lab(target=request.param, hosts=2, card="full", seed=4) as lab:
        for (src, dst), spi in FLOWS.items():
            ends = f"src {src} dst {dst}"
            sender = 0 if src in (A4, A6) else 1
            for index, host in enumerate(lab.hosts):
                dir = "out" if index == sender else "in"
                for command in (
                    f"xfrm state add {ends} proto esp spi {spi:#x} reqid {spi} mode transport "
                    f"aead 'rfc4106(gcm(aes))' 0x{key(spi).hex()} 128 "
                    f"offload packet dev nic0 dir {dir}",
                    f"xfrm policy add {ends} dir {dir} tmpl {ends} proto esp reqid {spi} "
                    "mode transport offload packet dev nic0",
                ):
                    assert host.ip(command).stderr == "", command
        yield lab


def addresses(packet: bytes) -> tuple[str, str]:
    layer = (IP if packet[0] >> 4 == 4 else IPv6)(packet)
    return layer.src, layer.dst


def opened(esp_ip: bytes) -> tuple[bytes, bytes]:
    """The clear packet twice: as `cryptography` opens it, and as scapy does."""
    layer = (IP if esp_ip[0] >> 4 == 4 else IPv6)(esp_ip)
    spi = FLOWS[layer.src, layer.dst]
    esp = bytes(layer.payload)
    clear = AESGCM(key(spi)[:16]).decrypt(key(spi)[16:] + esp[8:16], esp[16:], esp[:8])
    body, next_header = clear[: -2 - clear[-2]], clear[-1]
    rebuilt = type(layer)(esp_ip[: len(esp_ip) - len(esp)])
    if isinstance(layer, IP):
        rebuilt.proto, rebuilt.len, rebuilt.chksum = next_header, None, None
    else:
        rebuilt.nh, rebuilt.plen = next_header, None
    sa = SecurityAssociation(ESP, spi=spi, crypt_algo="AES-GCM", crypt_key=key(spi))
    return bytes(rebuilt / body), bytes(sa.decrypt(layer))


def test_lan_traffic_is_protected_and_arrives_whole(pair):
    a, b = pair.hosts
    sent = {0: [], 1: []}
    for frame in read_pcap(LAN_PCAP):
        if frame.data[12:14] not in (b"\x08\x00", b"\x86\xdd"):
            continue
        packet = frame.data[14:]
        if addresses(packet) in FLOWS:
            sent[0 if addresses(packet)[0] in (A4, A6) else 1].append(packet)
    assert len(sent[0]) + len(sent[1]) > 2600

    assert set(a.send(sent[0])) == {0}
    assert set(b.send(sent[1])) == {0}
    pair.settle()
    assert b.receive() == sent[0]
    assert a.receive() == sent[1]

    by_host = {0: [], 1: []}
    for frame in pair.wire.frames():
        packet = frame.data[14:]
        assert (packet[9] if packet[0] >> 4 == 4 else packet[6]) == 50, "clear packet on the wire"
        by_host[frame.src].append(packet)
    for source, packets in sent.items():
        assert len(by_host[source]) == len(packets)
        for esp, packet in zip(by_host[source], packets, strict=True):
            assert opened(esp) == (packet, packet)
    seen = by_host[0] + by_host[1]
    sealed = [packet[20 if packet[0] >> 4 == 4 else 40 :] for packet in seen]
    ivs = Counter((esp[:4], esp[8:16]) for esp in sealed)
    assert max(ivs.values()) == 1, "an IV came twice under one SA"

    for host, out, into in ((a, 0, 1), (b, 1, 0)):
        counters = host.nic.counters()
        drops = sum(count for name, count in counters.items() if "_drop_" in name)
        assert counters["tx_packets"] == len(sent[out])
        assert counters["rx_packets"] == len(sent[into])
        assert drops == 0
