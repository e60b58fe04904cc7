# SPDX-License-Identifier: Apache-2.0
"""AES-GCM for ESP on 512-bit vectors: VAES, VPCLMULQDQ and AVX-512.

The text is walked from 16 bytes before its start. So the first counter block, which masks the tag,
and the AAD, which is the first block of GHASH, share a vector with the first three blocks of text,
and every later vector is four counters on. The length block joins the last vector. A packet of at
most STRIDE_BYTES - 16 bytes has one reduction; in a longer one the products of a stride are summed
between the AES rounds of the next.

Masks keep every access within the text and what is made of it.
"""

import numpy as np

from nic_model.esp import simd
from nic_model.esp.aesni import first_count
from nic_model.esp.kernels import kernels_of
from nic_model.esp.keys import END
from nic_model.esp.rounds import (
    last_rounds,
    nine_rounds,
    nine_rounds_and_sum,
    reduce,
)
from nic_model.esp.simd import make, reverse
from nic_model.esp.simd512 import LANES, keep, place, put, sum_to_end, take
from nic_model.esp.wide import add_count, count_up, lane, xor
from nic_model.jit import inline

U0, U1, U8 = np.uint64(0), np.uint64(1), np.uint64(8)
STRIDE = 7  # vectors; a shorter rest and the length block fit into the powers of H
STRIDE_BYTES = 64 * STRIDE
ALL = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
TEXT = np.uint64(0xFFFF_FFFF_FFFF_0000)  # of the first vector: no text in its first block
FIRST, WHOLE = (TEXT, ALL, ALL), (ALL, ALL, ALL)
_take, _nine, _next = take(STRIDE), nine_rounds(STRIDE), add_count(4 * STRIDE)
_count_up, _first_lane = count_up(LANES), lane(0)


@inline
def _apply(to, texts, streams, edges, opening):
    """Write texts ^ streams to `to`; returns what was made and what is hashed of the two."""
    made = xor(texts, streams)
    put(to, edges, made)
    if opening:
        return made, texts
    return made, keep(edges, made)


@inline
def _powers(keys, k):
    """Address of H^k, below it in memory the higher powers, above it the lower ones."""
    return keys + END - 16 * k


def _make_rest(n):
    """The end of a walk that has n vectors left."""
    take_n, nine_n = take(n), nine_rounds(n)

    @inline
    def rest(keys, count, at, shift, left, lead, y, lengths, opening):
        """Crypt `left` bytes from `at` on; returns the GHASH and the first vector made."""
        here = left - 64 * (n - 1)  # bytes in the last vector; below 0: text ends before it
        edges = lead, ALL >> np.uint64(max(-here, 0)), (U1 << np.uint64(max(here, 0))) - U1
        blocks = ((left + 15) >> 4) + 1
        in_last = blocks - 4 * (n - 1)
        streams = last_rounds(keys, nine_n(keys, count))
        made, hashed = _apply(at + shift, take_n(at, edges), streams, edges, opening)
        mask = ALL >> np.uint64(64 - 16 * in_last)
        end = place(lengths, in_last - 1)
        sums = sum_to_end(_powers(keys, blocks), mask, y, end, hashed)
        return reduce(sums), made[0]

    return rest


_rest1, _rest2, _rest3, _rest4 = (_make_rest(n) for n in (1, 2, 3, 4))
_rest5, _rest6, _rest7, _rest8 = (_make_rest(n) for n in (5, 6, 7, 8))


@inline
def _rest(keys, count, at, shift, left, lead, y, lengths, opening):
    """The rest of a walk in as many vectors as `left` bytes and the length block need."""
    vectors = (left + 15 + 16 + 48) >> 6
    if vectors <= 4:
        if vectors == 1:
            return _rest1(keys, count, at, shift, left, lead, y, lengths, opening)
        if vectors == 2:
            return _rest2(keys, count, at, shift, left, lead, y, lengths, opening)
        if vectors == 3:
            return _rest3(keys, count, at, shift, left, lead, y, lengths, opening)
        return _rest4(keys, count, at, shift, left, lead, y, lengths, opening)
    if vectors == 5:
        return _rest5(keys, count, at, shift, left, lead, y, lengths, opening)
    if vectors == 6:
        return _rest6(keys, count, at, shift, left, lead, y, lengths, opening)
    if vectors == 7:
        return _rest7(keys, count, at, shift, left, lead, y, lengths, opening)
    return _rest8(keys, count, at, shift, left, lead, y, lengths, opening)


@inline
def _walk(keys, salt, iv, aad_high, aad_low, aad_len, text, shift, n, opening):
    """Crypt the n bytes at `text` to what lies `shift` bytes behind; returns the tag."""
    count = _count_up(first_count(salt, iv))
    y = place(make(aad_low, aad_high), np.int64(0))
    lengths = make(np.uint64(n) * U8, np.uint64(aad_len) * U8)  # in bits
    at, left = text - 16, n + 16
    if left < STRIDE_BYTES:
        y, made = _rest(keys, count, at, shift, left, TEXT, y, lengths, opening)
        return simd.xor(_first_lane(made), reverse(_first_lane(y)))

    streams = last_rounds(keys, _nine(keys, count))
    made, hashed = _apply(at + shift, _take(at, FIRST), streams, FIRST, opening)
    mask = _first_lane(made[0])
    at += STRIDE_BYTES
    left -= STRIDE_BYTES
    count = _next(count)
    powers = _powers(keys, 4 * STRIDE)
    while left >= STRIDE_BYTES:
        states, sums = nine_rounds_and_sum(keys, count, powers, y, hashed)
        streams = last_rounds(keys, states)
        y = reduce(sums)
        _, hashed = _apply(at + shift, _take(at, WHOLE), streams, WHOLE, opening)
        at += STRIDE_BYTES
        left -= STRIDE_BYTES
        count = _next(count)
    nothing = place(make(U0, U0), np.int64(0))
    y = reduce(sum_to_end(powers, ALL, y, nothing, hashed))
    y, _ = _rest(keys, count, at, shift, left, ALL, y, lengths, opening)
    return simd.xor(mask, reverse(_first_lane(y)))


seal, unseal = kernels_of(_walk)
