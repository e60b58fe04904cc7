# SPDX-License-Identifier: Apache-2.0
"""The key row: all that the kernels read of one SA's key, and how a key becomes one.

    bytes     0..239   round keys of FIPS-197, in the order of the bytes
    byte      240      number of rounds: 10, 12 or 14
    bytes   256..767   H^32 / x, H^31 / x .. H / x, 16 bytes each, lowest byte first

H is the hash key of SP 800-38D; its powers go downwards so that a product over k blocks reads k of
them in order. What the division by x is for stands at `plain.multiply`.

The expansion works in place in the row: no copy of the key or of its schedule stays behind.
"""

import errno

import numpy as np
import numpy.typing as npt

from nic_model.esp.plain import (
    BYTE,
    SBOX,
    U1,
    U8,
    U32,
    U57,
    U62,
    U63,
    encrypt_block,
    multiply,
    swap32,
)
from nic_model.jit import njit
from proto.status import OffloadError

KEY_BYTES = 768
KEY_LENGTHS = (16, 24, 32)
ROUNDS_AT = 240
POWERS = 32
POWERS_AT = 256
END = 768  # H^k stands 16 * k bytes before the end


@njit
def _expand_rounds(row, key_length):
    """The round keys behind the key that stands at the start of the row (FIPS-197 5.2)."""
    in_key = key_length // 4
    rounds = in_key + 6
    constant = 1
    for i in range(in_key, 4 * (rounds + 1)):
        at = 4 * i
        a, b, c, d = row[at - 4], row[at - 3], row[at - 2], row[at - 1]
        if i % in_key == 0:
            a, b, c, d = np.uint8(SBOX[b] ^ constant), SBOX[c], SBOX[d], SBOX[a]
            constant = (constant << 1) ^ (0x11B if constant & 0x80 else 0)
        elif in_key > 6 and i % in_key == 4:
            a, b, c, d = SBOX[a], SBOX[b], SBOX[c], SBOX[d]
        back = at - key_length
        row[at] = row[back] ^ a
        row[at + 1] = row[back + 1] ^ b
        row[at + 2] = row[back + 2] ^ c
        row[at + 3] = row[back + 3] ^ d
    row[ROUNDS_AT] = rounds


@njit
def _expand_powers(row):
    """The powers of H = AES_K(0), from the round keys that stand in the row."""
    zero = np.uint64(0)
    rounds = np.int64(row[ROUNDS_AT])
    a, b, c, d = encrypt_block(row.view(np.uint32), rounds, zero, zero, zero, zero)
    h_high = (swap32(a) << U32) | swap32(b)
    h_low = (swap32(c) << U32) | swap32(d)
    carry = h_high >> U63
    high = (h_high << U1) | (h_low >> U63)  # h / x, see multiply
    low = (h_low << U1) | carry
    high ^= (carry << U63) ^ (carry << U62) ^ (carry << U57)
    power_high, power_low = high, low
    for k in range(1, POWERS + 1):
        at = END - 16 * k
        for i in range(8):
            shift = U8 * np.uint64(i)
            row[at + i] = (power_low >> shift) & BYTE
            row[at + 8 + i] = (power_high >> shift) & BYTE
        power_high, power_low = multiply(power_high, power_low, high, low)


def expand_key(key: bytes | memoryview, out: npt.NDArray[np.uint8]) -> None:
    """Write the row of an AES key of 16, 24 or 32 bytes into `out` (uint8[KEY_BYTES]).

    A pure function of the key. Raises OffloadError EINVAL for another length; `out` is then
    untouched.
    """
    if len(key) not in KEY_LENGTHS:
        raise OffloadError(
            errno.EINVAL, f"AES key of {len(key)} bytes; the card takes 16, 24 or 32"
        )
    out[:] = 0
    out[: len(key)] = np.frombuffer(key, np.uint8)
    _expand_rounds(out, len(key))
    _expand_powers(out)
