# SPDX-License-Identifier: Apache-2.0
"""AES-GCM of the card, in the form that this process chose, against OpenSSL and published vectors.

test_esp_forms.py runs this file again for the other forms. Tests named `short` are those that plain
Python can do as well.
"""

import ctypes
import errno
import json
import mmap
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nic_model import esp
from nic_model.esp import keys, plain, portable
from nic_model.jit import config, types
from proto.status import OffloadError

VECTORS = Path(__file__).parent.parent / "vectors" / "gcm"
BEFORE, TO = 3, 13  # bytes in front of the text, and of what is made of it: nothing is aligned
GUARD = 0xA5

compiled_only = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="there are no compiled types")


def row_of(key: bytes) -> np.ndarray:
    row = np.zeros(esp.KEY_BYTES, np.uint8)
    esp.expand_key(key, row)
    return row


def words(aad: bytes) -> tuple[np.uint64, np.uint64, int]:
    """AAD as the kernels take it."""
    whole = aad.ljust(16, b"\0")
    return np.uint64(int.from_bytes(whole[:8])), np.uint64(int.from_bytes(whole[8:])), len(aad)


def split(nonce: bytes) -> tuple[np.uint32, np.uint64]:
    return np.uint32(int.from_bytes(nonce[:4], "big")), np.uint64(int.from_bytes(nonce[4:], "big"))


def packet(text: bytes, icv: bytes = b"") -> np.ndarray:
    """Guard bytes, text, ICV, guard bytes."""
    guarded = bytes([GUARD]) * BEFORE + text + icv + bytes([GUARD]) * 33
    return np.frombuffer(guarded, np.uint8).copy()


def made(target: np.ndarray, length: int) -> bytes:
    """What stands in a target; the guard bytes around it must have survived."""
    assert (target[:TO] == GUARD).all()
    assert (target[TO + length :] == GUARD).all()
    return target[TO : TO + length].tobytes()


def target_of(length: int) -> np.ndarray:
    return np.full(TO + length + 33, GUARD, np.uint8)


def sealed(key: bytes, nonce: bytes, aad: bytes, text: bytes) -> bytes:
    """Ciphertext and tag from the card, which leaves the text as it is."""
    source, target, tag = packet(text), target_of(len(text)), np.zeros(16, np.uint8)
    before = source.copy()
    esp.seal(
        row_of(key), *split(nonce), *words(aad),
        source, BEFORE, target, TO, len(text), tag,
    )  # fmt: skip
    assert (source == before).all()
    return made(target, len(text)) + tag.tobytes()


def unsealed(key: bytes, nonce: bytes, aad: bytes, text: bytes, icv: bytes) -> bytes | None:
    """Clear text from the card, or None. The ciphertext stays as it is."""
    source, target = packet(text, icv), target_of(len(text))
    before = source.copy()
    good = esp.unseal(
        row_of(key), *split(nonce), *words(aad),
        source, BEFORE, target, TO, len(text), BEFORE + len(text), len(icv),
    )  # fmt: skip
    assert (source == before).all()
    clear = made(target, len(text))
    return clear if good else None


def published() -> Iterator[Any]:
    for path in sorted(VECTORS.glob("*.json")):
        for vector in json.loads(path.read_text())["vectors"]:
            values = {name: bytes.fromhex(vector[name]) for name in vector if name != "case"}
            yield pytest.param(values, id=f"{path.stem}-{vector['case']}")


@pytest.mark.parametrize("vector", list(published()))
def test_short_published_vectors(vector: dict[str, bytes]) -> None:
    key, nonce, aad = vector["key"], vector["nonce"], vector["aad"]
    assert sealed(key, nonce, aad, vector["plaintext"]) == vector["ciphertext"] + vector["tag"]
    assert unsealed(key, nonce, aad, vector["ciphertext"], vector["tag"]) == vector["plaintext"]


@pytest.mark.parametrize("aad_bytes", [0, 8, 12, 16])
@pytest.mark.parametrize("key_bytes", [16, 24, 32])
def test_short_lengths_agree_with_openssl(key_bytes: int, aad_bytes: int) -> None:
    check_lengths([1, 15, 16, 17, 31, 113, 128], key_bytes, aad_bytes)


@pytest.mark.parametrize("aad_bytes", [8, 12])
@pytest.mark.parametrize("key_bytes", [16, 24, 32])
def test_every_length_agrees_with_openssl(key_bytes: int, aad_bytes: int) -> None:
    check_lengths([*range(601), 881, 896, 1000, 1420, 1500, 4095, 9000], key_bytes, aad_bytes)


def check_lengths(lengths: list[int], key_bytes: int, aad_bytes: int) -> None:
    rng = random.Random(key_bytes * 100 + aad_bytes)
    key = rng.randbytes(key_bytes)
    oracle = AESGCM(key)
    for length in lengths:
        nonce, aad, text = rng.randbytes(12), rng.randbytes(aad_bytes), rng.randbytes(length)
        expected = oracle.encrypt(nonce, text, aad)
        assert sealed(key, nonce, aad, text) == expected, length
        assert unsealed(key, nonce, aad, expected[:-16], expected[-16:]) == text, length


@pytest.mark.parametrize("icv_bytes", [8, 12, 16])
def test_short_icv_agrees_with_openssl(icv_bytes: int) -> None:
    rng = random.Random(icv_bytes)
    key, nonce, aad, text = (rng.randbytes(size) for size in (16, 12, 8, 100))
    both = sealed(key, nonce, aad, text)
    icv = both[100 : 100 + icv_bytes]
    mode = modes.GCM(nonce, icv, min_tag_length=icv_bytes)
    oracle = Cipher(algorithms.AES(key), mode).decryptor()
    oracle.authenticate_additional_data(aad)
    assert oracle.update(both[:100]) + oracle.finalize() == text
    assert unsealed(key, nonce, aad, both[:100], icv) == text


@pytest.mark.parametrize("icv_bytes", [0, 1, 4, 7])
def test_short_icv_below_rfc_4106_is_refused(icv_bytes: int) -> None:
    both = AESGCM(bytes(16)).encrypt(bytes(12), bytes(32), bytes(8))
    icv = both[32 : 32 + icv_bytes]
    assert unsealed(bytes(16), bytes(12), bytes(8), both[:32], icv) is None


def flipped(value: bytes, bit: int) -> bytes:
    changed = bytearray(value)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("icv_bytes", [8, 12, 16])
@pytest.mark.parametrize("length", [5, 37, 150])
def test_any_flipped_bit_is_refused(length: int, icv_bytes: int) -> None:
    rng = random.Random(length)
    key, nonce, aad, text = (rng.randbytes(size) for size in (16, 12, 12, length))
    both = AESGCM(key).encrypt(nonce, text, aad)
    cipher, icv = both[:length], both[length : length + icv_bytes]
    assert unsealed(key, nonce, aad, cipher, icv) == text
    for bit in range(8 * length):
        assert unsealed(key, nonce, aad, flipped(cipher, bit), icv) is None
    for bit in range(8 * len(aad)):
        assert unsealed(key, nonce, flipped(aad, bit), cipher, icv) is None
    for bit in range(8 * icv_bytes):
        assert unsealed(key, nonce, aad, cipher, flipped(icv, bit)) is None
    for bit in range(96):
        assert unsealed(key, flipped(nonce, bit), aad, cipher, icv) is None


def test_short_oracle_refuses_what_the_card_refuses() -> None:
    both = AESGCM(bytes(16)).encrypt(bytes(12), b"text", bytes(8))
    with pytest.raises(InvalidTag):
        AESGCM(bytes(16)).decrypt(bytes(12), flipped(both, 0), bytes(8))
    assert unsealed(bytes(16), bytes(12), bytes(8), flipped(both[:4], 0), both[4:]) is None


@pytest.fixture
def pages() -> Iterator[list[np.ndarray]]:
    """Two pages, each between two that no one may touch."""
    size = mmap.PAGESIZE
    mapping = mmap.mmap(-1, 5 * size)
    whole = np.frombuffer(mapping, np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    for number in (0, 2, 4):
        start = ctypes.c_void_p(whole.ctypes.data + number * size)
        assert libc.mprotect(start, ctypes.c_size_t(size), 0) == 0
    yield [whole[size : 2 * size], whole[3 * size : 4 * size]]
    del whole


@compiled_only
@pytest.mark.parametrize("at_end", [True, False], ids=["end", "start"])
def test_no_access_beyond_the_buffers(pages: list[np.ndarray], at_end: bool) -> None:
    """Source, target, ICV, key row and tag touch a forbidden page in turn; an access to it is
    fatal."""

    def at_edge(size: int, page: int = 0) -> np.ndarray:
        return pages[page][len(pages[page]) - size :] if at_end else pages[page][:size]

    def touching(array: np.ndarray) -> np.ndarray:
        at_edge(array.size)[:] = array
        return at_edge(array.size)

    salt_iv = np.uint32(1), np.uint64(2)
    row, aad, tag = row_of(bytes(16)), words(bytes(8)), np.zeros(16, np.uint8)
    for length in (*range(1, 150), 255, 256, 300, *range(415, 530), 895, 1420):
        esp.seal(row, *salt_iv, *aad, at_edge(length), 0, at_edge(length, 1), 0, length, tag)
        for icv_bytes in (8, 12, 16):
            clear, both = at_edge(length), at_edge(length + icv_bytes, 1)
            esp.seal(row, *salt_iv, *aad, clear, 0, both, 0, length, tag)
            both[length:] = tag[:icv_bytes]
            assert esp.unseal(row, *salt_iv, *aad, both, 0, clear, 0, length, length, icv_bytes)
    text, out = np.zeros(200, np.uint8), np.zeros(200, np.uint8)
    esp.seal(touching(row), *salt_iv, *aad, text, 0, out, 0, 200, tag)
    esp.seal(row, *salt_iv, *aad, text, 0, out, 0, 200, touching(tag))


# FIPS-197 appendix A: key and last round key.
KEY_SCHEDULES = [
    ("2b7e151628aed2a6abf7158809cf4f3c", "d014f9a8c9ee2589e13f0cc8b6630ca6"),
    ("8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b", "e98ba06f448c773c8ecc720401002202"),
    (
        "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
        "fe4890d1e6188d0b046df344706c631e",
    ),
]
# FIPS-197 appendix C: what 00112233..ff becomes under the key 000102.. of 16, 24, 32 bytes.
BLOCKS = [
    (16, "69c4e0d86a7b0430d8cdb78070b4c55a"),
    (24, "dda97ca4864cdfe06eaf70a0ec0d7191"),
    (32, "8ea2b7ca516745bfeafc49904b496089"),
]


@pytest.mark.parametrize(("key", "last"), KEY_SCHEDULES, ids=["128", "192", "256"])
def test_short_key_schedule_of_fips_197(key: str, last: str) -> None:
    row = row_of(bytes.fromhex(key))
    rounds = int(row[keys.ROUNDS_AT])
    assert rounds == len(key) // 8 + 6
    assert row[: len(key) // 2].tobytes().hex() == key
    assert row[16 * rounds : 16 * rounds + 16].tobytes().hex() == last


@pytest.mark.parametrize(("key_bytes", "expected"), BLOCKS)
def test_short_block_of_fips_197(key_bytes: int, expected: str) -> None:
    row = row_of(bytes(range(key_bytes)))
    block = bytes(0x11 * i for i in range(16))
    columns = (np.uint64(int.from_bytes(block[i : i + 4], "little")) for i in range(0, 16, 4))
    out = plain.encrypt_block(row.view(np.uint32), np.int64(row[keys.ROUNDS_AT]), *columns)
    assert b"".join(int(word).to_bytes(4, "little") for word in out).hex() == expected


def test_short_key_row_is_small() -> None:
    assert esp.KEY_BYTES <= 768


def test_short_key_row_depends_on_nothing_but_the_key() -> None:
    used = row_of(bytes(range(32)))
    esp.expand_key(bytes(16), used)
    assert (used == row_of(bytes(16))).all()


@pytest.mark.parametrize("length", [0, 15, 17, 20, 36, 64])
def test_short_key_of_another_length_is_refused(length: int) -> None:
    row = np.full(esp.KEY_BYTES, GUARD, np.uint8)
    with pytest.raises(OffloadError) as refusal:
        esp.expand_key(bytes(length), row)
    assert refusal.value.errno == errno.EINVAL
    assert f"{length} bytes" in refusal.value.text
    assert (row == GUARD).all()


@compiled_only
def test_inferred_types_are_unsigned() -> None:
    """Mixed signedness turns uint64 into int64 or float64 without a word: here it would show."""
    word, whole = np.uint64(1), np.int64(16)
    # Called one by one: a caller that comes from the cache does not load what it calls.
    unsealed(bytes(16), bytes(12), bytes(8), b"text", bytes(16))
    plain.multiply(word, word, word, word)
    plain.encrypt_block(np.zeros(44, np.uint32), np.int64(10), word, word, word, word)
    two, four = types.UniTuple(types.uint64, 2), types.UniTuple(types.uint64, 4)
    expected = [(plain.multiply, two), (plain.encrypt_block, four), (esp.unseal, types.boolean)]
    if esp.BACKEND == "portable":
        row, data = np.zeros(esp.KEY_BYTES, np.uint8), np.zeros(16, np.uint8)
        portable._digest(row, np.uint32(1), word, word, word, whole, data, np.int64(0), whole)
        expected.append((portable._digest, two))
    for kernel, result in expected:
        signatures = kernel.nopython_signatures
        assert signatures
        assert all(signature.return_type == result for signature in signatures)
