# SPDX-License-Identifier: Apache-2.0
"""AES-GCM for ESP on 256-bit vectors: VAES, VPCLMULQDQ and AVX2, for CPUs without AVX-512.

As in vaes.py the text is walked from 16 bytes before its start, so that the first counter block,
which masks the tag, and the AAD share a vector with the first block of text. There are no masks
here: what begins or ends within a vector is read and written as blocks, as in aesni.py, which also
takes the texts of at most one block.

The products of a stride are summed between AES rounds: on opening those of the same stride, as its
ciphertext is there already, on sealing those of the stride before.
"""

import numpy as np

from nic_model.esp import aesni
from nic_model.esp.kernels import kernels_of
from nic_model.esp.keys import END
from nic_model.esp.rounds import last_rounds, nine_rounds, nine_rounds_and_sum, sum_products
from nic_model.esp.simd import keep, load, make, reverse, shift_down, shift_up, store
from nic_model.esp.simd import xor as xor_block
from nic_model.esp.wide import add_count, count_up, lane, pair, put, take, xor
from nic_model.jit import inline

U0, U8 = np.uint64(0), np.uint64(8)
LANES = 2
STRIDE = 7  # vectors
STRIDE_BYTES = 32 * STRIDE
_nine, _next = nine_rounds(STRIDE), add_count(LANES * STRIDE)
_take, _take_but_one = take(LANES, STRIDE), take(LANES, STRIDE - 1)
_take_one, _count_up, _low, _high = take(LANES, 1), count_up(LANES), lane(0), lane(1)


@inline
def _wide(block):
    """The block in lane 0, zeros in lane 1."""
    return pair(block, make(U0, U0))


@inline
def _one(vector):
    """A tuple of one; numba joins tuples, but does not unpack them into each other."""
    return (vector,)


@inline
def _fold(sums):
    """The sums of both lanes together."""
    low, middle, high = sums
    return (
        xor_block(_low(low), _high(low)),
        xor_block(_low(middle), _high(middle)),
        xor_block(_low(high), _high(high)),
    )


@inline
def _reduce(sums):
    """The sums of both lanes as one element of GF(2^128)."""
    return aesni.reduce(_fold(sums))


@inline
def _take_end(at, r):
    """The last r (1..32) bytes of a text, from `at` on, zeros behind them."""
    last = load(at + r - 16)
    if r > 16:
        return pair(load(at), shift_down(last, 32 - r))
    return _wide(shift_down(last, 16 - r))


@inline
def _put_end(to, r, made):
    """Write the last r (1..32) bytes that are made; the block before them is written already."""
    if r > 16:
        before, end = _low(made), shift_up(_high(made), 32 - r)
        store(to, before)
        store(to + r - 16, xor_block(end, shift_down(before, r - 16)))
    else:
        end = shift_up(_low(made), 16 - r)
        store(to + r - 16, xor_block(end, shift_down(load(to - 16), r)))


@inline
def _keep_end(r, made):
    """The first r (1..32) bytes of a vector, zeros behind them."""
    return pair(keep(_low(made), min(r, 16)), keep(_high(made), max(r - 16, 0)))


@inline
def _take_head(at, lead):
    """The vector at `at`, whose lower block does not belong to the text if it is the first one."""
    if lead:
        return pair(make(U0, U0), load(at + 16))
    return _take_one(at)[0]


@inline
def _put_head(to, lead, made):
    """Write what is made of what `_take_head` read."""
    if lead:
        store(to + 16, _high(made))
    else:
        put(to, (made,))


@inline
def _hash_head(lead, made):
    """What is hashed of what `_put_head` wrote."""
    if lead:
        return pair(make(U0, U0), _high(made))
    return made


@inline
def _rest0(keys, count, at, shift, left, lead, y, lengths, opening):
    """The GHASH of a text that has ended, and no mask."""
    zero = make(U0, U0)
    sums = aesni.add_product((zero, zero, zero), keys, 1, xor_block(y, lengths))
    return aesni.reduce(sums), zero


def _make_rest(n):
    """The end of a walk that has n vectors left."""
    nine_n, take_middle = nine_rounds(n), take(LANES, max(n - 2, 0))

    @inline
    def crypt(at, shift, r, lead, streams, opening):
        """Crypt n vectors, the last one of r bytes; returns what is hashed."""
        last = at + 32 * (n - 1)
        texts = _one(_take_head(at, lead)) + take_middle(at + 32) + _one(_take_end(last, r))
        made = xor(texts, streams)
        _put_head(at + shift, lead, made[0])
        put(at + shift + 32, made[1:-1])
        _put_end(last + shift, r, made[-1])
        if opening:
            return texts
        return _one(_hash_head(lead, made[0])) + made[1:-1] + _one(_keep_end(r, made[-1]))

    @inline
    def crypt_one(at, shift, r, _lead, streams, opening):
        """As crypt, for one vector, which is never the first of a text."""
        texts = (_take_end(at, r),)
        made = xor(texts, streams)
        _put_end(at + shift, r, made[0])
        if opening:
            return texts
        return (_keep_end(r, made[0]),)

    crypt_n = crypt if n > 1 else crypt_one

    @inline
    def rest(keys, count, at, shift, left, lead, y, lengths, opening):
        """Crypt `left` bytes from `at` on; returns the GHASH and the first key stream block."""
        r = left - 32 * (n - 1)
        streams = last_rounds(keys, nine_n(keys, count))
        hashed = crypt_n(at, shift, r, lead, streams, opening)
        if r > 16:  # the length block stands alone
            sums = _fold(sum_products(keys + END - 32 * n - 16, _wide(y), hashed))
            y = aesni.reduce(aesni.add_product(sums, keys, 1, lengths))
        else:
            ending = hashed[:-1] + _one(pair(_low(hashed[-1]), reverse(lengths)))
            y = _reduce(sum_products(keys + END - 32 * n, _wide(y), ending))
        return y, _low(streams[0])

    return rest


_rest1, _rest2, _rest3, _rest4 = (_make_rest(n) for n in (1, 2, 3, 4))
_rest5, _rest6, _rest7 = (_make_rest(n) for n in (5, 6, 7))


@inline
def _rest(keys, count, at, shift, left, lead, y, lengths, opening):
    """The rest of a walk in as many vectors as `left` bytes need."""
    vectors = (left + 31) >> 5
    if vectors <= 3:
        if vectors == 0:
            return _rest0(keys, count, at, shift, left, lead, y, lengths, opening)
        if vectors == 1:
            return _rest1(keys, count, at, shift, left, lead, y, lengths, opening)
        if vectors == 2:
            return _rest2(keys, count, at, shift, left, lead, y, lengths, opening)
        return _rest3(keys, count, at, shift, left, lead, y, lengths, opening)
    if vectors == 4:
        return _rest4(keys, count, at, shift, left, lead, y, lengths, opening)
    if vectors == 5:
        return _rest5(keys, count, at, shift, left, lead, y, lengths, opening)
    if vectors == 6:
        return _rest6(keys, count, at, shift, left, lead, y, lengths, opening)
    return _rest7(keys, count, at, shift, left, lead, y, lengths, opening)


@inline
def _strides(keys, count, at, shift, left, y, opening):
    """Crypt what whole strides there are, at least one; returns where the rest begins, its counter,
    how long it is, the GHASH up to there and the mask of the tag."""
    powers = keys + END - 32 * STRIDE
    before = shift + 32 - STRIDE_BYTES  # to what was made one stride ago, behind its head
    texts = _one(_take_head(at, True)) + _take_but_one(at + 32)
    if opening:
        states, sums = nine_rounds_and_sum(keys, count, powers, _wide(y), texts)
        streams = last_rounds(keys, states)
        y = _reduce(sums)
    else:
        streams = last_rounds(keys, _nine(keys, count))
    mask = _low(streams[0])
    made = xor(texts, streams)
    _put_head(at + shift, True, made[0])
    put(at + shift + 32, made[1:])
    head = _hash_head(True, made[0])
    at += STRIDE_BYTES
    left -= STRIDE_BYTES
    count = _next(count)
    while left >= STRIDE_BYTES:
        hashed = _take(at) if opening else _one(head) + _take_but_one(at + before)
        states, sums = nine_rounds_and_sum(keys, count, powers, _wide(y), hashed)
        streams = last_rounds(keys, states)
        y = _reduce(sums)
        made = xor(_take(at), streams)
        put(at + shift, made)
        head = made[0]
        at += STRIDE_BYTES
        left -= STRIDE_BYTES
        count = _next(count)
    if not opening:
        hashed = _one(head) + _take_but_one(at + before)
        y = _reduce(sum_products(powers, _wide(y), hashed))
    return count, at, left, y, mask


@inline
def _walk(keys, salt, iv, aad_high, aad_low, aad_len, text, shift, n, opening):
    """Crypt the n bytes at `text` to what lies `shift` bytes behind; returns the tag."""
    if n <= 16:
        return aesni.walk(keys, salt, iv, aad_high, aad_low, aad_len, text, shift, n, opening)
    count = _count_up(aesni.first_count(salt, iv))
    y = make(aad_low, aad_high)
    lengths = make(np.uint64(n) * U8, np.uint64(aad_len) * U8)  # in bits
    at, left = text - 16, n + 16
    lead = left < STRIDE_BYTES
    mask = make(U0, U0)
    if not lead:
        count, at, left, y, mask = _strides(keys, count, at, shift, left, y, opening)
    y, stream = _rest(keys, count, at, shift, left, lead, y, lengths, opening)
    if lead:
        mask = stream
    return xor_block(mask, reverse(y))


seal, unseal = kernels_of(_walk)
