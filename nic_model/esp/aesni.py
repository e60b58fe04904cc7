# SPDX-License-Identifier: Apache-2.0
"""AES-GCM for ESP on 128-bit vectors: AES-NI and PCLMULQDQ.

Counter mode keeps eight blocks in flight, GHASH sums eight products before one reduction. A block
that takes part in GHASH or counts is held byte-reversed, so that the block of SP 800-38D is a
128-bit integer. The AAD and the length block join the products of their neighbours: a packet of
less than 112 bytes has one reduction.

Text that ends within a block is read and written as the last 16 bytes of the text, shifted; only
texts shorter than 16 bytes go byte by byte. No access leaves the text or what is made of it.
"""

import numpy as np

from nic_model.esp.kernels import kernels_of, load_short
from nic_model.esp.keys import END, ROUNDS_AT
from nic_model.esp.simd import (
    add32,
    aesenc,
    aesenclast,
    clmul00,
    clmul01,
    clmul10,
    clmul11,
    high_half,
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
from nic_model.jit import inline

U0, U8, U32 = np.uint64(0), np.uint64(8), np.uint64(32)
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
def _load_tail(text, n):
    """The last n % 16 bytes of the text, zeros behind them."""
    if n < 16:
        return load_short(text, n)
    return shift_down(load(text + n - 16), 16 - (n & 15))


@inline
def _xor_tail(text, n, shift, stream):
    """Apply a key stream block to the last n % 16 bytes of the text."""
    if n >= 16:
        r = n & 15
        to = text + n - r + shift
        made = shift_up(xor(_load_tail(text, n), stream), 16 - r)
        store(to + r - 16, xor(made, shift_down(load(to - 16), r)))  # behind the end of the last
        return
    for i in range(n):
        word = low_half(stream) if i < 8 else high_half(stream)
        byte = load_byte(text + i) ^ (word >> (U8 * np.uint64(i & 7)))
        store_byte(text + i + shift, byte)


@inline
def _xor_block(at, shift, stream):
    store(at + shift, xor(load(at), stream))


@inline
def _xor_seven(at, shift, a, b, c, d, e, f, g):
    _xor_block(at, shift, a)
    _xor_block(at + 16, shift, b)
    _xor_block(at + 32, shift, c)
    _xor_block(at + 48, shift, d)
    _xor_block(at + 64, shift, e)
    _xor_block(at + 80, shift, f)
    _xor_block(at + 96, shift, g)


@inline
def _xor_eight(at, shift, a, b, c, d, e, f, g, h):
    _xor_seven(at, shift, a, b, c, d, e, f, g)
    _xor_block(at + 112, shift, h)


@inline
def _xor_rest(text, n, at, shift, streams):
    """Apply the key stream to what is left of the text from `at` on: less than 128 bytes."""
    a, b, c, d, e, f, g, h = streams
    left = text + n - at
    last = a
    if left >= 16:
        _xor_block(at, shift, a)
        last = b
    if left >= 32:
        _xor_block(at + 16, shift, b)
        last = c
    if left >= 48:
        _xor_block(at + 32, shift, c)
        last = d
    if left >= 64:
        _xor_block(at + 48, shift, d)
        last = e
    if left >= 80:
        _xor_block(at + 64, shift, e)
        last = f
    if left >= 96:
        _xor_block(at + 80, shift, f)
        last = g
    if left >= 112:
        _xor_block(at + 96, shift, g)
        last = h
    if left & 15:
        _xor_tail(text, n, shift, last)


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
def walk(keys, salt, iv, aad_high, aad_low, aad_len, text, shift, n, opening):
    """Crypt the n bytes at `text` to what lies `shift` bytes behind; returns the tag.

    The tag is masked by the first key stream block, so the walk starts with a group of seven: the
    counters with 2 (SP 800-38D 7.1), the products with the AAD.
    """
    first = first_count(salt, iv)
    mask, a, b, c, d, e, f, g = _encrypt8(keys, first)
    h = g
    zero = make(U0, U0)
    header = make(aad_low, aad_high)
    lengths = make(np.uint64(n) * U8, np.uint64(aad_len) * U8)  # in bits
    hashed = 0 if opening else shift  # the ciphertext, seen from the text
    y = zero
    at = text
    if n < 112:
        sums = add_product((zero, zero, zero), keys, ((n + 15) >> 4) + 2, header)
    else:
        count = add32(first, 8)
        _xor_seven(at, shift, a, b, c, d, e, f, g)
        sums = add_product((zero, zero, zero), keys, 8, header)
        y = reduce(_sum_seven(sums, keys, at + hashed))
        at += 112
        while text + n - at >= 128:
            a, b, c, d, e, f, g, h = _encrypt8(keys, count)
            _xor_eight(at, shift, a, b, c, d, e, f, g, h)
            sums = add_product((zero, zero, zero), keys, 8, xor(y, reverse(load(at + hashed))))
            y = reduce(_sum_seven(sums, keys, at + 16 + hashed))
            count = add32(count, 8)
            at += 128
        if text + n > at:
            a, b, c, d, e, f, g, h = _encrypt8(keys, count)
        sums = (zero, zero, zero)
    _xor_rest(text, n, at, shift, (a, b, c, d, e, f, g, h))
    y = _sum_rest(sums, y, keys, text + hashed, n, at + hashed, lengths)
    return xor(mask, reverse(y))


seal, unseal = kernels_of(walk)
