# SPDX-License-Identifier: Apache-2.0
"""AES-GCM for ESP on 128-bit vectors: AES-NI and PCLMULQDQ.

Counter mode keeps eight blocks in flight, GHASH sums eight products before one reduction. A block
that takes part in GHASH or counts is held byte-reversed, so that the block of SP 800-38D is a
128-bit integer. The AAD and the length block join the products of their neighbours: a packet of
less than 112 bytes has one reduction.

Text that ends within a block is read and written as the last 16 bytes of the text, shifted; only
texts shorter than 16 bytes go byte by byte. No access leaves the text.
"""

import numpy as np

from nic_model.esp.keys import END, ROUNDS_AT
from nic_model.esp.portable import ICV_LENGTH_MAX, ICV_LENGTH_MIN
from nic_model.esp.simd import (
    add32,
    address,
    aesenc,
    aesenclast,
    clmul00,
    clmul01,
    clmul10,
    clmul11,
    high_half,
    keep,
    load,
    load_byte,
    low_half,
    lower64,
    make,
    raise64,
    reverse,
    shift_down,
    shift_up,
    store,
    store_byte,
    swap,
    xor,
)
from nic_model.jit import inline, njit

U0, U8, U32 = np.uint64(0), np.uint64(8), np.uint64(32)
SEAL, OPEN = np.bool_(False), np.bool_(True)  # False itself would make numba compile per value
FOLD = np.uint64(0xC200000000000000)  # x^7 + x^2 + x + 1 reversed, without its lowest term


@inline
def first_count(salt, iv):
    """The counter block salt | iv | 1 (RFC 4106 4), reversed."""
    iv = np.uint64(iv)
    return make((iv << U32) | np.uint64(1), (np.uint64(salt) << U32) | (iv >> U32))


@inline
def _encrypt8(keys, count):
    """Key stream of eight counter blocks from `count` on."""
    rounds = np.int64(load_byte(keys + ROUNDS_AT))
    key = load(keys)
    a, b = xor(reverse(count), key), xor(reverse(add32(count, 1)), key)
    c, d = xor(reverse(add32(count, 2)), key), xor(reverse(add32(count, 3)), key)
    e, f = xor(reverse(add32(count, 4)), key), xor(reverse(add32(count, 5)), key)
    g, h = xor(reverse(add32(count, 6)), key), xor(reverse(add32(count, 7)), key)
    for i in range(1, rounds):
        key = load(keys + 16 * i)
        a, b, c, d = aesenc(a, key), aesenc(b, key), aesenc(c, key), aesenc(d, key)
        e, f, g, h = aesenc(e, key), aesenc(f, key), aesenc(g, key), aesenc(h, key)
    key = load(keys + 16 * rounds)
    a, b, c, d = aesenclast(a, key), aesenclast(b, key), aesenclast(c, key), aesenclast(d, key)
    e, f, g, h = aesenclast(e, key), aesenclast(f, key), aesenclast(g, key), aesenclast(h, key)
    return a, b, c, d, e, f, g, h


@inline
def add_product(sums, keys, k, block):
    """Add block * H^k to the unreduced sums (low, middle, high); block is reversed."""
    low, middle, high = sums
    power = load(keys + END - 16 * k)
    low = xor(low, clmul00(block, power))
    middle = xor(middle, xor(clmul01(block, power), clmul10(block, power)))
    return low, middle, xor(high, clmul11(block, power))


@inline
def reduce(sums):
    """The sums as one element of GF(2^128); multiply in plain.py has the arithmetic."""
    low, middle, high = sums
    fold = make(U0, FOLD)
    low = xor(low, raise64(middle))
    high = xor(high, lower64(middle))
    low = xor(swap(low), clmul01(low, fold))
    low = xor(swap(low), clmul01(low, fold))
    return xor(high, low)


@inline
def _load_short(at, length):
    """The `length` (less than 16) bytes at `at`, zeros behind them."""
    low, high = U0, U0
    for i in range(length):
        byte = load_byte(at + i) << (U8 * np.uint64(i & 7))
        if i < 8:
            low |= byte
        else:
            high |= byte
    return make(low, high)


@inline
def _load_tail(text, n):
    """The last n % 16 bytes of the text, zeros behind them."""
    if n < 16:
        return _load_short(text, n)
    return shift_down(load(text + n - 16), 16 - (n & 15))


@inline
def _xor_tail(text, n, stream):
    """Apply a key stream block to the last n % 16 bytes of the text."""
    if n >= 16:
        at = text + n - 16
        store(at, xor(load(at), shift_up(stream, 16 - (n & 15))))
        return
    for i in range(n):
        word = low_half(stream) if i < 8 else high_half(stream)
        store_byte(text + i, load_byte(text + i) ^ (word >> (U8 * np.uint64(i & 7))))


@inline
def _xor_block(at, stream):
    store(at, xor(load(at), stream))


@inline
def _xor_seven(at, a, b, c, d, e, f, g):
    _xor_block(at, a)
    _xor_block(at + 16, b)
    _xor_block(at + 32, c)
    _xor_block(at + 48, d)
    _xor_block(at + 64, e)
    _xor_block(at + 80, f)
    _xor_block(at + 96, g)


@inline
def _xor_eight(at, a, b, c, d, e, f, g, h):
    _xor_seven(at, a, b, c, d, e, f, g)
    _xor_block(at + 112, h)


@inline
def _xor_rest(text, n, at, streams):
    """Apply the key stream to what is left of the text from `at` on: less than 128 bytes."""
    a, b, c, d, e, f, g, h = streams
    left = text + n - at
    last = a
    if left >= 16:
        _xor_block(at, a)
        last = b
    if left >= 32:
        _xor_block(at + 16, b)
        last = c
    if left >= 48:
        _xor_block(at + 32, c)
        last = d
    if left >= 64:
        _xor_block(at + 48, d)
        last = e
    if left >= 80:
        _xor_block(at + 64, e)
        last = f
    if left >= 96:
        _xor_block(at + 80, f)
        last = g
    if left >= 112:
        _xor_block(at + 96, g)
        last = h
    if left & 15:
        _xor_tail(text, n, last)


@inline
def _sum_seven(sums, keys, at):
    """Add seven blocks of ciphertext, the last one times H."""
    for k in range(7, 0, -1):
        sums = add_product(sums, keys, k, reverse(load(at + 112 - 16 * k)))
    return sums


@inline
def _sum_rest(sums, y, keys, text, n, at, lengths):
    """Reduce the sums with what is left of the ciphertext and the length block: the GHASH."""
    end = text + n
    k = ((end - at + 15) >> 4) + 1
    while end - at >= 16:
        sums = add_product(sums, keys, k, xor(y, reverse(load(at))))
        y = make(U0, U0)
        k -= 1
        at += 16
    if end > at:
        sums = add_product(sums, keys, 2, xor(y, reverse(_load_tail(text, n))))
        y = make(U0, U0)
    return reduce(add_product(sums, keys, 1, xor(y, lengths)))


@inline
def _walk(ctx, salt, iv, aad, aad_len, text, n, opening):
    """Crypt the n bytes of text in place; returns the tag.

    The tag is masked by the first key stream block, so the walk starts with a group of seven: the
    counters with 2 (SP 800-38D 7.1), the products with the AAD. In every group the ciphertext is
    hashed, on opening before it is decrypted.
    """
    keys = address(ctx)
    first = first_count(salt, iv)
    mask, a, b, c, d, e, f, g = _encrypt8(keys, first)
    h = g
    zero = make(U0, U0)
    header = reverse(keep(load(aad), aad_len))
    lengths = make(np.uint64(n) * U8, np.uint64(aad_len) * U8)  # in bits
    y = zero
    at = text
    if n < 112:
        sums = add_product((zero, zero, zero), keys, ((n + 15) >> 4) + 2, header)
    else:
        count = add32(first, 8)
        if not opening:
            _xor_seven(at, a, b, c, d, e, f, g)
        y = reduce(_sum_seven(add_product((zero, zero, zero), keys, 8, header), keys, at))
        if opening:
            _xor_seven(at, a, b, c, d, e, f, g)
        at += 112
        while text + n - at >= 128:
            a, b, c, d, e, f, g, h = _encrypt8(keys, count)
            if not opening:
                _xor_eight(at, a, b, c, d, e, f, g, h)
            sums = add_product((zero, zero, zero), keys, 8, xor(y, reverse(load(at))))
            y = reduce(_sum_seven(sums, keys, at + 16))
            if opening:
                _xor_eight(at, a, b, c, d, e, f, g, h)
            count = add32(count, 8)
            at += 128
        if text + n > at:
            a, b, c, d, e, f, g, h = _encrypt8(keys, count)
        sums = (zero, zero, zero)
    if not opening:
        _xor_rest(text, n, at, (a, b, c, d, e, f, g, h))
    y = _sum_rest(sums, y, keys, text, n, at, lengths)
    if opening:
        _xor_rest(text, n, at, (a, b, c, d, e, f, g, h))
    return xor(mask, reverse(y))


@njit
def seal(ctx, salt, iv, aad, aad_len, buf, off, n, tag):
    """Encrypt buf[off:off+n] in place and write the tag to tag[0:16]; see seal in portable.py."""
    text = address(buf) + off
    store(address(tag), _walk(ctx, salt, iv, address(aad), aad_len, text, n, SEAL))


@njit
def _put_back(ctx, salt, iv, aad, aad_len, buf, off, n):
    """Encrypt again what was decrypted and is not to be kept."""
    _walk(ctx, salt, iv, address(aad), aad_len, address(buf) + off, n, SEAL)


@inline
def differs(tag, icv, icv_len):
    """Whether the icv_len bytes at `icv` are not those of the tag."""
    if icv_len == ICV_LENGTH_MAX:
        difference = xor(tag, load(icv))
    else:
        difference = xor(keep(tag, icv_len), _load_short(icv, icv_len))
    return (low_half(difference) | high_half(difference)) != U0


@njit
def unseal(ctx, salt, iv, aad, aad_len, buf, off, n, icv_off, icv_len):
    """Decrypt buf[off:off+n] if its ICV is good; see unseal in portable.py."""
    if icv_len < ICV_LENGTH_MIN or icv_len > ICV_LENGTH_MAX:
        return False
    expected = _walk(ctx, salt, iv, address(aad), aad_len, address(buf) + off, n, OPEN)
    if differs(expected, address(buf) + icv_off, icv_len):
        _put_back(ctx, salt, iv, aad, aad_len, buf, off, n)
        return False
    return True
