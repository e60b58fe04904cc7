# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of AES-GCM in plain 64-bit integers: one AES block, one product in GF(2^128).

Both run compiled and as plain Python, so no step may overflow 64 bits. The state of AES is four
columns as FIPS-197 numbers them, each a word whose lowest byte is row 0. An element of GF(2^128) is
the 16-byte block of SP 800-38D read as a big-endian number, in two halves (high, low): the bits
stand in reverse, the coefficient of x^0 is the highest.

The AES tables are indexed by secret bytes, so this is not constant time; the product is.
"""

import numpy as np
import numpy.typing as npt

from nic_model.jit import inline, njit

Words = npt.NDArray[np.uint32]

U1, U2, U7 = np.uint64(1), np.uint64(2), np.uint64(7)
U8, U16, U24, U32 = np.uint64(8), np.uint64(16), np.uint64(24), np.uint64(32)
U57, U62, U63 = np.uint64(57), np.uint64(62), np.uint64(63)
BYTE = np.uint64(0xFF)
LOW32 = np.uint64(0xFFFFFFFF)

# Every fourth bit: a product of two such numbers keeps its sums (at most 8) within four bits.
HOLES0, HOLES1 = np.uint64(0x1111111111111111), np.uint64(0x2222222222222222)
HOLES2, HOLES3 = np.uint64(0x4444444444444444), np.uint64(0x8888888888888888)


def _double(value: int) -> int:
    """`value` times x in the field of AES (FIPS-197 4.2.1, xtime)."""
    return (value << 1) ^ (0x11B if value & 0x80 else 0)


def _make_sbox() -> npt.NDArray[np.uint8]:
    """The S-box of FIPS-197 5.1.1: the inverse in GF(2^8), then an affine map."""
    power = [1]  # powers of x + 1, a generator: the inverse of power[i] is power[255 - i]
    while len(power) < 255:
        power.append(power[-1] ^ _double(power[-1]))
    sbox = np.zeros(256, np.uint8)
    sbox[0] = 0x63
    for i, value in enumerate(power):
        inverse = power[-i % 255]
        # The affine map adds the inverse rotated by 0 to 4 bits: shift, then fold the overflow.
        spread = inverse ^ inverse << 1 ^ inverse << 2 ^ inverse << 3 ^ inverse << 4
        sbox[value] = (spread & 0xFF) ^ (spread >> 8) ^ 0x63
    return sbox


def _make_round_table(row: int) -> Words:
    """SubBytes and MixColumns of one byte in `row`: the column that it adds to the state."""
    column = [3, 1, 1, 2]  # coefficients of rows 3, 2, 1, 0 for a byte in row 0 (FIPS-197 5.1.3)
    table = np.zeros(256, np.uint32)
    for value, s in enumerate(SBOX.tolist()):
        times = (0, s, _double(s), _double(s) ^ s)
        word = int.from_bytes(bytes(times[c] for c in column[row:] + column[:row]), "big")
        table[value] = word
    return table


SBOX = _make_sbox()
T0, T1, T2, T3 = (_make_round_table(row) for row in range(4))


@inline
def swap32(value):
    """The four bytes of a 32-bit `value` (uint64) in reverse order."""
    value = ((value & np.uint64(0x00FF00FF)) << U8) | ((value >> U8) & np.uint64(0x00FF00FF))
    return ((value << U16) | (value >> U16)) & LOW32


@inline
def _mix(key, a, b, c, d):
    """One column of a round: rows 0 to 3 come from four columns (ShiftRows)."""
    word = T0[a & BYTE] ^ T1[(b >> U8) & BYTE] ^ T2[(c >> U16) & BYTE] ^ T3[d >> U24]
    return np.uint64(word ^ key)


@inline
def _substitute(key, a, b, c, d):
    """One column of the last round, which has no MixColumns."""
    low = np.uint64(SBOX[a & BYTE]) | (np.uint64(SBOX[(b >> U8) & BYTE]) << U8)
    high = (np.uint64(SBOX[(c >> U16) & BYTE]) << U16) | (np.uint64(SBOX[d >> U24]) << U24)
    return (low | high) ^ np.uint64(key)


@njit
def encrypt_block(keys, rounds, a, b, c, d):
    """AES of one block (FIPS-197 5.1): four columns in (uint64), four columns out.

    `keys` holds 4 * (rounds + 1) round key words (uint32), their lowest byte first.
    """
    a ^= np.uint64(keys[0])
    b ^= np.uint64(keys[1])
    c ^= np.uint64(keys[2])
    d ^= np.uint64(keys[3])
    at = 4
    for _ in range(1, rounds):
        w = _mix(keys[at], a, b, c, d)
        x = _mix(keys[at + 1], b, c, d, a)
        y = _mix(keys[at + 2], c, d, a, b)
        d = _mix(keys[at + 3], d, a, b, c)
        a, b, c = w, x, y
        at += 4
    return (
        _substitute(keys[at], a, b, c, d),
        _substitute(keys[at + 1], b, c, d, a),
        _substitute(keys[at + 2], c, d, a, b),
        _substitute(keys[at + 3], d, a, b, c),
    )


@inline
def _carryless32(x, y):
    """Product of two 32-bit polynomials over GF(2): integer products with holes for the carries."""
    x0, x1, x2, x3 = x & HOLES0, x & HOLES1, x & HOLES2, x & HOLES3
    y0, y1, y2, y3 = y & HOLES0, y & HOLES1, y & HOLES2, y & HOLES3
    z0 = (x0 * y0) ^ (x1 * y3) ^ (x2 * y2) ^ (x3 * y1)
    z1 = (x0 * y1) ^ (x1 * y0) ^ (x2 * y3) ^ (x3 * y2)
    z2 = (x0 * y2) ^ (x1 * y1) ^ (x2 * y0) ^ (x3 * y3)
    z3 = (x0 * y3) ^ (x1 * y2) ^ (x2 * y1) ^ (x3 * y0)
    return (z0 & HOLES0) | (z1 & HOLES1) | (z2 & HOLES2) | (z3 & HOLES3)


@inline
def _carryless64(x, y):
    """Product of two 64-bit polynomials over GF(2), as (high, low) (Karatsuba)."""
    x1, x0, y1, y0 = x >> U32, x & LOW32, y >> U32, y & LOW32
    low = _carryless32(x0, y0)
    high = _carryless32(x1, y1)
    middle = _carryless32(x0 ^ x1, y0 ^ y1) ^ low ^ high
    return high ^ (middle >> U32), low ^ (middle << U32)


@njit
def multiply(xh, xl, kh, kl):
    """x times h in GF(2^128) (SP 800-38D 6.3) as (high, low), where k = h / x is given.

    The product of two reversed numbers comes out reversed and one bit low; the division by x, done
    once when the key is set up, takes that bit back.
    """
    high1, high0 = _carryless64(xh, kh)
    low1, low0 = _carryless64(xl, kl)
    mid1, mid0 = _carryless64(xh ^ xl, kh ^ kl)
    mid1 ^= high1 ^ low1
    mid0 ^= high0 ^ low0
    low1 ^= mid0
    high0 ^= mid1
    # Fold the low half up, 64 bits at a time: x^128 = x^7 + x^2 + x + 1, reversed.
    low1 ^= (low0 << U63) ^ (low0 << U62) ^ (low0 << U57)
    high0 ^= low0 ^ (low0 >> U1) ^ (low0 >> U2) ^ (low0 >> U7)
    high0 ^= (low1 << U63) ^ (low1 << U62) ^ (low1 << U57)
    high1 ^= low1 ^ (low1 >> U1) ^ (low1 >> U2) ^ (low1 >> U7)
    return high1, high0
