# SPDX-License-Identifier: Apache-2.0
"""After DELSA a key is gone: from the memory of card and host, and from all that they wrote."""

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from host_driver.lab import Lab
from support.memory import count_in_memory

# FIPS-197 appendix A.1: the key and its first and last derived round key.
NEEDLES = [
    bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c"),
    bytes.fromhex("a0fafe1788542cb123a339392a6c7605"),
    bytes.fromhex("d014f9a8c9ee2589e13f0cc8b6630ca6"),
]
SALT = bytes.fromhex("5ea1b2c9")
ADD = (
    "xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x1000 reqid 1 mode transport "
    f"aead 'rfc4106(gcm(aes))' 0x{(NEEDLES[0] + SALT).hex()} 128 offload packet dev nic0 dir out"
)
CLEAR = bytes(Ether() / IP(src="10.9.9.9", dst="10.9.9.8") / UDP() / bytes(1400))
DELETE = "xfrm state delete dst 10.0.0.2 proto esp spi 0x1000"


MAC = bytes.fromhex("7d11ea5500c3a99120f1e8d7c6b5a493")
SOFTWARE = [
    f"aead 'rfc4106(gcm(aes))' 0x{(NEEDLES[0] + SALT).hex()} 128",
    f"auth-trunc 'hmac(sha256)' 0x{MAC.hex()} 128 enc 'cbc(aes)' 0x{NEEDLES[0].hex()}",
]


@pytest.mark.parametrize("algorithm", SOFTWARE, ids=["aead", "cipher-and-mac"])
def test_software_leaves_no_key_either(algorithm):
    with Lab(target="process", hosts=2, card="full", seed=3) as lab:
        a, b = lab.hosts
        for host in lab.hosts:
            for command in (
                "xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x1000 reqid 1 "
                f"mode transport replay-window 32 {algorithm}",
                "xfrm policy add src 10.0.0.1 dst 10.0.0.2 dir out "
                "tmpl proto esp reqid 1 mode transport",
            ):
                assert host.ip(command).stderr == ""
        packets = [bytes(IP(src="10.0.0.1", dst="10.0.0.2") / UDP() / bytes(n)) for n in range(20)]
        assert set(a.send(packets)) == {0}
        lab.settle()
        assert b.receive() == packets
        for host in lab.hosts:
            assert host.ip(DELETE).rc == 0
            host.notifications()
            lab.wire.inject(host=host.number, frames=[CLEAR] * 4)
        lab.settle()
        assert [len(host.receive()) for host in lab.hosts] == [4, 4]
        for name, pid in lab.pids().items():
            assert not any(count_in_memory(pid, [*NEEDLES, MAC]).values()), name


@pytest.mark.parametrize("link", ["ipc", "tcp"])
def test_a_deleted_key_is_nowhere(link):
    with Lab(target="process", hosts=1, card="full", seed=3, link=link) as lab:
        (host,) = lab.hosts
        pids = lab.pids()
        assert host.ip(ADD).stderr == ""
        lab.settle()
        assert all(count_in_memory(pids["card0"], NEEDLES).values()), "a live schedule is found"
        assert count_in_memory(pids["host0"], NEEDLES)[NEEDLES[0]], "a live key is found"

        assert host.ip(DELETE).rc == 0
        host.notifications()  # NEWSA and DELSA carry the key, as the kernel's do (UAPI-64)
        # ZeroMQ's output buffer keeps the end of the longest answer until there is a longer one.
        lab.wire.inject(host=0, frames=[CLEAR] * 4)
        lab.settle()
        assert len(host.receive()) == 4
        for name, pid in pids.items():
            assert not any(count_in_memory(pid, NEEDLES).values()), name

        assert lab.run_dir is not None
        written = b"".join(path.read_bytes() for path in lab.run_dir.rglob("*.log"))
        said = repr((host.trace(), host.nic.counters(), host.nic.census())).encode()
        for needle in NEEDLES:
            assert needle not in written
            assert needle.hex().encode() not in written + said
