# SPDX-License-Identifier: Apache-2.0
"""ESP in software against scapy's, algorithm by algorithm; keys go with their SA."""

import errno

import pytest
from scapy.layers.inet import IP

from support.core import Core
from support.esp import (
    GCM,
    SPI,
    A,
    B,
    aead,
    datagram,
    hexed,
    pair,
    parsed,
    policy,
    scapy_sa,
    state,
    template,
)  # fmt: skip


def both(cipher: str, key: int, mac: str, mac_key: int, bits: int) -> str:
    return (
        f"auth-trunc {mac!r} {hexed(mac_key)} {bits} enc {cipher!r} {hexed(key) if key else ''!r}"
    )


# Our words -> scapy's names, cipher key, MAC and its key.
ALGORITHMS = [
    (aead("rfc4106(gcm(aes))", 20, 128), "AES-GCM", 20, None, 0),
    (aead("rfc4106(gcm(aes))", 36, 128), "AES-GCM", 36, None, 0),
    (aead("rfc4309(ccm(aes))", 19, 128), "AES-CCM", 19, None, 0),
    (aead("rfc7539esp(chacha20,poly1305)", 36, 128), "CHACHA20-POLY1305", 36, None, 0),
    (aead("rfc4543(gcm(aes))", 20, 128), "AES-NULL-GMAC", 20, None, 0),
    (both("cbc(aes)", 16, "hmac(sha1)", 20, 96), "AES-CBC", 16, "HMAC-SHA1-96", 20),
    (both("cbc(aes)", 32, "hmac(sha256)", 32, 128), "AES-CBC", 32, "SHA2-256-128", 32),
    (both("cbc(aes)", 24, "hmac(sha384)", 48, 192), "AES-CBC", 24, "SHA2-384-192", 48),
    (both("cbc(aes)", 16, "hmac(sha512)", 64, 256), "AES-CBC", 16, "SHA2-512-256", 64),
    (both("cbc(des3_ede)", 24, "hmac(md5)", 16, 96), "3DES", 24, "HMAC-MD5-96", 16),
    (both("rfc3686(ctr(aes))", 20, "cmac(aes)", 16, 96), "AES-CTR", 20, "AES-CMAC-96", 16),
    (both("cipher_null", 0, "hmac(sha1)", 20, 96), "NULL", 0, "HMAC-SHA1-96", 20),
]


@pytest.mark.parametrize(("ours", "crypt", "key", "auth", "auth_key"), ALGORITHMS)
@pytest.mark.parametrize("esn", [False, True], ids=["32-bit", "esn"])
def test_algorithms(ours, crypt, key, auth, auth_key, esn):
    """Scapy opens what we seal, and we open what scapy seals."""
    core, high = Core(), 5 if esn else 0
    number = f"replay-oseq 6 replay-oseq-hi {high} replay-seq 6 replay-seq-hi {high}"
    core.add(
        state(ours, extra=f"replay-window 32 flag esn {number}" if esn else "replay-window 32")
    )
    core.add(policy("out", template()))
    theirs = scapy_sa(crypt, key, auth, auth_key, esn)
    for size in (0, 1, 15, 16, 33, 1200):
        assert core.net.output(datagram(size)) == 0
        (sent,) = core.take()
        got = theirs.decrypt(parsed(sent), esn_en=esn, esn=high)
        assert bytes(got) == datagram(size)
    for number, size in enumerate((0, 1, 17, 1200), 7):
        sealed = theirs.encrypt(IP(datagram(size)), seq_num=number, esn_en=esn, esn=high)
        assert core.receive(bytes(sealed)) == datagram(size)
        damaged = bytearray(
            bytes(theirs.encrypt(IP(datagram(9)), seq_num=90, esn_en=esn, esn=high))
        )
        damaged[-1] ^= 1
        assert core.receive(bytes(damaged)) is None
    assert core.moved() == {"XfrmInStateProtoError": 4}
    assert core.state(SPI).stats.integrity_failed == 4


@pytest.mark.parametrize("icv", [64, 96])
@pytest.mark.parametrize("name", ["rfc4106(gcm(aes))", "rfc4309(ccm(aes))"])
def test_short_icv(name, icv):
    """Both ends are ours here; recorded packets with a short ICV are in tests/interop."""
    core = Core()
    core.add(state(aead(name, 20 if "gcm" in name else 19, icv), extra="replay-window 32"))
    core.add(policy("out", template()))
    for size in range(8):
        assert core.net.output(datagram(size)) == 0
        (sent,) = core.take()
        assert core.receive(sent[:-1] + bytes((sent[-1] ^ 1,))) is None
        assert core.receive(sent) == datagram(size)


@pytest.mark.parametrize("algorithm", [
    both("cbc(serpent)", 16, "hmac(sha1)", 20, 96), both("cbc(aes)", 16, "xcbc(aes)", 16, 96),
    both("cbc(aes)", 16, "hmac(rmd160)", 20, 96),
])  # fmt: skip
def test_what_is_not_computed_is_dropped(algorithm):
    core = Core()
    core.add(state(algorithm), policy("out", template()))
    assert core.net.output(datagram()) == -errno.EPROTONOSUPPORT
    assert core.take() == [] and core.moved() == {"XfrmOutStateProtoError": 1}
    sealed = IP(src=A, dst=B, proto=50) / (SPI.to_bytes(4, "big") + bytes(60))
    assert core.receive(bytes(sealed)) is None
    assert core.moved() == {"XfrmInStateProtoError": 1}
    assert core.state(SPI).curlft.packets == 0


def test_keys_are_gone_with_the_sa():
    a, _ = pair(state(GCM), policy("out", template()))
    x = a.state(SPI)
    key = x.aead.key
    assert a.net.output(datagram()) == 0 and any(key)
    a.add("xfrm state flush")
    assert len(key) == 0 and x.aead is None
