# SPDX-License-Identifier: Apache-2.0
"""The reference driver on its card under either kernel: no rule broken, nothing left behind."""

import struct

import pytest

from host_driver.lab import Lab
from host_driver.xfrm.profile import PROFILES

SA = (
    "xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi {spi} reqid 1 mode transport "
    "aead rfc4106(gcm(aes)) 0x0102030405060708090a0b0c0d0e0f1011121314 128 {more} "
    "offload packet dev nic0 dir {dir}"
)
POLICY = (
    "xfrm policy {verb} src 10.0.0.1 dst 10.0.0.2 dir {dir} priority {priority} "
    "tmpl proto esp reqid 1 mode transport offload packet dev nic0"
)
LIMITS = "limit packet-soft 5 limit packet-hard 10"


def udp(size: int = 32) -> bytes:
    head = struct.pack(">BBHHHBBH", 0x45, 0, 28 + size, 1, 0, 64, 17, 0)
    addresses = bytes((10, 0, 0, 1, 10, 0, 0, 2))
    return head + addresses + struct.pack(">HHHH", 4000, 9, 8 + size, 0) + bytes(size)


@pytest.fixture(params=PROFILES)
def lab(request):
    with Lab(hosts=2, profile=request.param, seed=3) as lab:
        yield lab


def told(host, text: str) -> None:
    result = host.ip(text)
    assert result.rc == 0, result.stderr


def test_a_life_from_acquire_to_expiry(lab):
    a, b = lab.hosts
    told(a, POLICY.format(verb="add", dir="out", priority=0))
    assert (a.send([udp()]), a.mib()["XfrmOutNoStates"]) == ([0], 1)
    told(b, SA.format(spi="0x1000", dir="in", more=LIMITS))
    told(b, POLICY.format(verb="add", dir="in", priority=0))
    told(a, SA.format(spi="0x1000", dir="out", more=LIMITS))
    assert a.send([udp()] * 12) == [0] * 12
    lab.settle()
    assert len(b.receive()) == 10
    told(a, POLICY.format(verb="update", dir="out", priority=7))
    assert a.ip(SA.format(spi="0x1001", dir="out", more="")).rc == 0
    told(a, "xfrm state flush")
    for host in (a, b):
        host.set_link("nic0", up=False)
    lab.advance(1)
    lab.settle()
    for host in (a, b):
        assert [e for e in host.trace() if "rule" in e or "error" in e] == []
        ours = {n: v for n, v in host.nic.counters().items() if n.startswith("driver_")}
        assert ours.get("driver_exceptions", 0) == ours.get("driver_atomic_violations", 0) == 0
        assert set(host.nic.census().values()) == {0}


def test_an_update_changes_what_the_card_enforces(lab):
    """TRACE-08 differs between the kernels, what the driver makes of it does not."""
    a, b = lab.hosts
    told(a, SA.format(spi="0x1000", dir="out", more="limit packet-hard 100"))
    told(a, POLICY.format(verb="add", dir="out", priority=0))
    told(b, SA.format(spi="0x1000", dir="in", more=""))
    told(b, POLICY.format(verb="add", dir="in", priority=0))
    update = SA.replace("state add", "state update")
    told(a, update.format(spi="0x1000", dir="out", more="limit packet-hard 4"))
    lab.settle()
    a.send([udp()] * 9)
    lab.settle()
    assert len(b.receive()) == 4
