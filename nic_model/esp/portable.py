# SPDX-License-Identifier: Apache-2.0
"""AES-GCM for ESP in plain integers: runs on any CPU, and as plain Python under NUMBA_DISABLE_JIT.

One block at a time, no scratch memory. See plain.py for what is and what is not constant time.
"""

import numpy as np

from nic_model.esp.keys import END, ROUNDS_AT
from nic_model.esp.plain import BYTE, LOW32, U8, U32, encrypt_block, multiply, swap32
from nic_model.jit import inline, njit

ICV_LENGTH_MIN, ICV_LENGTH_MAX = 8, 16  # RFC 4106 6
U0, U1, U2, U56 = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(56)


@inline
def _read_block(source, at, length):
    """The `length` (at most 16) bytes at source[at] as a block (high, low), zeros behind them."""
    high, low = U0, U0
    if length >= 16:
        for i in range(8):
            high = (high << U8) | np.uint64(source[at + i])
            low = (low << U8) | np.uint64(source[at + 8 + i])
        return high, low
    for i in range(length):
        byte = np.uint64(source[at + i])
        shift = U56 - U8 * np.uint64(i & 7)
        if i < 8:
            high |= byte << shift
        else:
            low |= byte << shift
    return high, low


@inline
def _read_power_one(ctx):
    """H / x from the key row, as (high, low)."""
    high, low = U0, U0
    for i in range(8):
        low = (low << U8) | np.uint64(ctx[END - 9 - i])
        high = (high << U8) | np.uint64(ctx[END - 1 - i])
    return high, low


@inline
def _key_stream(ctx, salt, iv, counter):
    """AES of the block salt | iv | counter (RFC 4106 4), as two words, lowest byte first."""
    a, b, c, d = encrypt_block(
        ctx.view(np.uint32),
        np.int64(ctx[ROUNDS_AT]),
        swap32(np.uint64(salt)),
        swap32(np.uint64(iv) >> U32),
        swap32(np.uint64(iv) & LOW32),
        swap32(counter),
    )
    return a | (b << U32), c | (d << U32)


@njit
def _crypt(ctx, salt, iv, source, at, target, to, n):
    """CTR mode from source[at:at+n] to target[to:to+n]; its first block has counter 2 (SP 800-38D
    7.1)."""
    counter = U2
    for block in range(0, n, 16):
        first, second = _key_stream(ctx, salt, iv, counter)
        counter += U1
        for i in range(block, min(block + 16, n)):
            word = first if i & 15 < 8 else second
            byte = (word >> (U8 * np.uint64(i & 7))) & BYTE
            target[to + i] = source[at + i] ^ np.uint8(byte)


@njit
def _digest(ctx, salt, iv, aad_high, aad_low, aad_len, buf, off, n):
    """The tag of the ciphertext buf[off:off+n] as (high, low): GHASH, masked by counter block 1."""
    kh, kl = _read_power_one(ctx)
    high, low = aad_high, aad_low
    if aad_len > 0:
        high, low = multiply(high, low, kh, kl)
    for block in range(0, n, 16):
        xh, xl = _read_block(buf, off + block, n - block)
        high, low = multiply(high ^ xh, low ^ xl, kh, kl)
    high ^= np.uint64(aad_len) * U8  # lengths in bits: AAD, then text
    low ^= np.uint64(n) * U8
    high, low = multiply(high, low, kh, kl)
    first, second = _key_stream(ctx, salt, iv, U1)
    high ^= (swap32(first & LOW32) << U32) | swap32(first >> U32)
    low ^= (swap32(second & LOW32) << U32) | swap32(second >> U32)
    return high, low


@njit
def seal(ctx, salt, iv, aad_high, aad_low, aad_len, source, at, target, to, n, tag):
    """Encrypt source[at:at+n] to target[to:to+n] and write the 16-byte tag to tag[0:16].

    ctx       uint8[KEY_BYTES], a row of expand_key
    salt, iv  uint32, uint64: the nonce is salt (4 bytes) | iv (8 bytes), big-endian (RFC 4106 4)
    aad_high, aad_low, aad_len   the AAD as two uint64, big-endian, zeros behind its 0..16 bytes
    source, at, target, to, n   uint8[::1] and int64; the two places do not overlap, and nothing
              outside of them is read or written
    tag       uint8[::1] of at least 16 bytes
    """
    _crypt(ctx, salt, iv, source, at, target, to, n)
    high, low = _digest(ctx, salt, iv, aad_high, aad_low, aad_len, target, to, n)
    for i in range(8):
        shift = U56 - U8 * np.uint64(i)
        tag[i] = np.uint8((high >> shift) & BYTE)
        tag[8 + i] = np.uint8((low >> shift) & BYTE)


@njit
def unseal(ctx, salt, iv, aad_high, aad_low, aad_len, source, at, target, to, n, icv_at, icv_len):
    """Authenticate source[at:at+n] by the ICV source[icv_at:icv_at+icv_len], and decrypt it to
    target[to:to+n].

    Arguments as of seal. False where the ICV is wrong, and for an icv_len outside 8..16 (RFC 4106
    6): what then stands in the target is of no use. The comparison takes the same time wherever the
    ICV differs.
    """
    if icv_len < ICV_LENGTH_MIN or icv_len > ICV_LENGTH_MAX:
        return False
    high, low = _digest(ctx, salt, iv, aad_high, aad_low, aad_len, source, at, n)
    difference = U0
    for i in range(icv_len):
        word = high if i < 8 else low
        expected = (word >> (U56 - U8 * np.uint64(i & 7))) & BYTE
        difference |= expected ^ np.uint64(source[icv_at + i])
    if difference != U0:
        return False
    _crypt(ctx, salt, iv, source, at, target, to, n)
    return True
