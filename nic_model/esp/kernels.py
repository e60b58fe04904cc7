# SPDX-License-Identifier: Apache-2.0
"""seal and unseal of a form on vectors, made of its walk.

A walk is (keys, salt, iv, aad_high, aad_low, aad_len, text, shift, n, opening) -> tag: it crypts
the n bytes at the address `text` to what lies `shift` bytes behind. Places are addresses, because
to pass arrays would pass seven words for each.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from nic_model.esp.portable import ICV_LENGTH_MAX, ICV_LENGTH_MIN
from nic_model.esp.simd import (
    address,
    high_half,
    keep,
    load,
    load_byte,
    low_half,
    make,
    store,
    xor,
)
from nic_model.jit import inline, njit

U0, U8 = np.uint64(0), np.uint64(8)
SEAL, OPEN = np.bool_(False), np.bool_(True)  # False itself would make numba compile per value


@inline
def load_short(at, length):
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
def _differs(tag, icv, icv_len):
    """Whether the icv_len bytes at `icv` are not those of the tag."""
    if icv_len == ICV_LENGTH_MAX:
        difference = xor(tag, load(icv))
    else:
        difference = xor(keep(tag, icv_len), load_short(icv, icv_len))
    return (low_half(difference) | high_half(difference)) != U0


def kernels_of(walk: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """seal and unseal; portable.py says what they take."""

    @njit
    def seal_at(keys, salt, iv, aad_high, aad_low, aad_len, text, shift, n, tag):
        store(tag, walk(keys, salt, iv, aad_high, aad_low, aad_len, text, shift, n, SEAL))

    @inline
    def seal(ctx, salt, iv, aad_high, aad_low, aad_len, source, at, target, to, n, tag):
        """Encrypt source[at:at+n] to target[to:to+n]."""
        text, shift = address(source) + at, address(target) + to - address(source) - at
        keys = address(ctx)
        seal_at(keys, salt, iv, aad_high, aad_low, aad_len, text, shift, n, address(tag))

    @njit
    def unseal_at(keys, salt, iv, aad_high, aad_low, aad_len, text, shift, n, icv, icv_len):
        if icv_len < ICV_LENGTH_MIN or icv_len > ICV_LENGTH_MAX:
            return False
        tag = walk(keys, salt, iv, aad_high, aad_low, aad_len, text, shift, n, OPEN)
        return not _differs(tag, icv, icv_len)

    @inline
    def unseal(
        ctx, salt, iv, aad_high, aad_low, aad_len, source, at, target, to, n, icv_at, icv_len
    ):
        """Decrypt source[at:at+n] to target[to:to+n], if its ICV is good."""
        text, shift = address(source) + at, address(target) + to - address(source) - at
        keys, icv = address(ctx), address(source) + icv_at
        return unseal_at(keys, salt, iv, aad_high, aad_low, aad_len, text, shift, n, icv, icv_len)

    return seal, unseal
