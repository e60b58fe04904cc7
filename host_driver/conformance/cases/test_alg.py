# SPDX-License-Identifier: Apache-2.0
"""ALG-*: algorithms, their keys and what they put on the wire."""

import errno

import pytest

from host_driver.conformance import messages, packets, texts
from host_driver.conformance.bench import Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import aead, new_sa
from host_driver.conformance.subject import Subject
from proto.xfrm import Attr

LONG_KEY = bytes(range(100, 140))


def add(host: Subject, value: bytes, *, offload: bool = False, spi: int = 0x1000) -> int:
    """NEWSA with this ALG_AEAD, in software or on the device."""
    attributes = {Attr.ALG_AEAD: value}
    if offload:
        attributes[Attr.OFFLOAD_DEV] = messages.offload(host.ifindex, 4)
    return host.request(new_sa(spi=spi, attributes=attributes)).errno


@rule("ALG-01")
def test_icv_lengths_are_three_algorithms(bench: Bench) -> None:
    """rfc4106(gcm(aes)) with an ICV of 64, 96 or 128 bits is known in software; any other is
    ENOSYS, as an unknown name is."""
    host = bench.host()
    for icv_bits in (0, 32, 80, 112, 120, 129, 136, 256):
        assert add(host, aead(icv_bits=icv_bits)) == errno.ENOSYS, icv_bits
    for name in (b"gcm(aes)", b"aes-gcm", b"rfc4106(gcm(aes-generic))"):
        assert add(host, aead(name=name)) == errno.ENOSYS, name
    for icv_bits in (64, 96, 128):
        assert add(host, aead(icv_bits=icv_bits), spi=icv_bits) == 0, icv_bits


@rule("ALG-02", "ALG-04")
@pytest.mark.parametrize("key_bytes", [20, 28, 36])
@pytest.mark.parametrize("offload", [False, True])
def test_the_salt_ends_the_key(bench: Bench, key_bytes: int, offload: bool) -> None:
    """AES key, then 4 bytes of salt, key_len counts both; on the wire 8 bytes of IV stand before
    the ciphertext, and salt and IV are the nonce."""
    host = bench.host()
    key = LONG_KEY[:key_bytes]
    assert add(host, aead(key), offload=offload) == 0
    host.ok(texts.policy(host.dev if offload else None))
    sent = [packets.udp(bytes((n,)) * 30) for n in range(4)]
    assert host.send(sent) == [0] * 4
    sealed = bench.on_the_wire()
    esp = packets.Esp(key=key)
    assert [esp.open(packet) for packet in sealed] == sent
    ivs = {packet[28:36] for packet in sealed}
    assert len(ivs) == 4


@rule("ALG-03")
@pytest.mark.parametrize("key_bytes", [0, 4, 16, 19, 21, 24, 32, 35, 37, 40])
def test_a_wrong_key_size_is_einval(bench: Bench, key_bytes: int) -> None:
    """A key that AES or the salt cannot have: EINVAL, and the driver is not called."""
    host = bench.host()
    for offload in (False, True):
        assert add(host, aead(LONG_KEY[:key_bytes]), offload=offload) == errno.EINVAL
    assert host.order() == ""
    assert host.states() == []


@rule("ALG-05")
@pytest.mark.parametrize(
    ("name", "key_bytes"),
    [(b"rfc4543(gcm(aes))", 20), (b"rfc7539esp(chacha20,poly1305)", 36)],
)
def test_algorithms_that_devices_refuse(bench: Bench, name: bytes, key_bytes: int) -> None:
    """GMAC and ChaCha20-Poly1305 are known in software; the driver, asked for them, refuses."""
    host = bench.host()
    value = aead(LONG_KEY[:key_bytes], name=name)
    assert add(host, value) == 0
    assert host.order() == ""
    assert add(host, value, offload=True, spi=0x1001) != 0
    assert host.order() == "A"
    assert len(host.states()) == 1


@rule("ALG-06")
@pytest.mark.parametrize(
    ("card", "keys", "icvs"),
    [
        ("full", (20, 28, 36), (64, 96, 128)),
        ("cx6dx", (20, 36), (128,)),
        ("full:key_bits=256,icv_bytes=12/16", (36,), (96, 128)),
    ],
)
def test_a_card_says_what_it_can(
    bench: Bench, card: str, keys: tuple[int, ...], icvs: tuple[int, ...]
) -> None:
    """AES-GCM with 128, 192 and 256 bits and three ICV lengths, each of which a card may lack: what
    it lacks the driver refuses, what it has goes on the wire and opens."""
    host = bench.host(card=card)
    spi = 0x1000
    for key_bytes in (20, 28, 36):
        for icv_bits in (64, 96, 128):
            spi += 1
            added = add(host, aead(LONG_KEY[:key_bytes], icv_bits), offload=True, spi=spi)
            assert (added == 0) == (key_bytes in keys and icv_bits in icvs), (key_bytes, icv_bits)
