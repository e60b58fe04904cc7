# SPDX-License-Identifier: Apache-2.0
"""After DELSA a key is gone: from both processes' memory and from all that they ever wrote."""

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from support.memory import count_in_memory

from host_driver.lab import Lab

KEY = bytes.fromhex("c3a51f7e96d2480bb7e1f05a6c93d428") + bytes.fromhex("5ea1b2c9")
ADD = (
    "xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x1000 reqid 1 mode transport "
    f"aead 'rfc4106(gcm(aes))' 0x{KEY.hex()} 128 offload packet dev nic0 dir out"
)


def schedule(key: bytes) -> list[bytes]:
    """The key, the second and the last round key of AES-128 (FIPS-197 5.2), and H."""
    sbox = _sbox()
    words = [list(key[i : i + 4]) for i in range(0, 16, 4)]
    round_constant = 1
    for i in range(4, 44):
        word = words[-1]
        if i % 4 == 0:
            word = [sbox[b] for b in (*word[1:], word[0])]
            word[0] ^= round_constant
            round_constant = (round_constant << 1) ^ (0x11B if round_constant & 0x80 else 0)
        words.append([a ^ b for a, b in zip(words[i - 4], word, strict=True)])
    rounds = [bytes(sum(words[4 * r : 4 * r + 4], [])) for r in range(11)]
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305
    assert encryptor.update(bytes(16)) != bytes(16)
    return [rounds[0], rounds[1], rounds[10]]


def _sbox() -> list[int]:
    """AES S-box by its definition: inverse in GF(2^8), then the affine map."""

    def times(a: int, b: int) -> int:
        product = 0
        while b:
            product ^= a if b & 1 else 0
            a = (a << 1) ^ (0x11B if a & 0x80 else 0)
            b >>= 1
        return product

    table = []
    for value in range(256):
        inverse = next((x for x in range(256) if times(value, x) == 1), 0)
        bits = inverse
        for shift in range(1, 5):
            bits ^= ((inverse << shift) | (inverse >> (8 - shift))) & 0xFF
        table.append(bits ^ 0x63)
    return table


@pytest.fixture(scope="module")
def needles():
    return schedule(KEY[:16])


def test_a_deleted_key_is_nowhere(needles, tmp_path):
    with Lab(target="process", hosts=1, card="full", seed=3) as lab:
        (host,) = lab.hosts
        pids = lab.pids()
        assert host.ip(ADD).stderr == ""
        lab.settle()
        in_card = count_in_memory(pids["card0"], needles)
        assert all(in_card.values()), "the search itself must find a live key schedule"
        assert host.ip("xfrm state delete dst 10.0.0.2 proto esp spi 0x1000").rc == 0
        lab.settle()
        for name, pid in pids.items():
            assert not any(count_in_memory(pid, needles).values()), name
        written = b"".join(
            path.read_bytes()
            for path in lab.run_dir.rglob("*")
            if path.is_file() and path.name.endswith(".log")
        )
        for needle in needles:
            assert needle not in written
            assert needle.hex().encode() not in written
        assert KEY.hex() not in repr(host.trace())
        assert KEY.hex() not in repr(host.nic.counters())
