# SPDX-License-Identifier: Apache-2.0
"""Bytes in memory, for kernels: words in network order, and copies.

Indices are unsigned: numba looks at each signed one for a count from the end, and that keeps the
bytes of a word from becoming one instruction.
"""

from typing import Any

import numpy as np

from nic_model.jit import cgutils, config, inline, intrinsic, types

_U1, _U2, _U3, _U4 = (np.uint64(at) for at in (1, 2, 3, 4))
_U8, _U16, _U24, _U32 = (np.uint64(bits) for bits in (8, 16, 24, 32))


@inline
def load16(buf, at):
    """Two bytes, network order."""
    i = np.uint64(at)
    return np.int64(buf[i]) << 8 | np.int64(buf[i + _U1])


@inline
def _load32(buf, i):
    """Four bytes from the unsigned index i on, unsigned."""
    upper = np.uint64(buf[i]) << _U24 | np.uint64(buf[i + _U1]) << _U16
    return upper | np.uint64(buf[i + _U2]) << _U8 | np.uint64(buf[i + _U3])


@inline
def load32(buf, at):
    """Four bytes, network order."""
    return np.int64(_load32(buf, np.uint64(at)))


@inline
def load64(buf, at):
    """Eight bytes, network order, unsigned."""
    i = np.uint64(at)
    return _load32(buf, i) << _U32 | _load32(buf, i + _U4)


@inline
def store16(buf, at, value):
    """Two bytes, network order."""
    i = np.uint64(at)
    buf[i] = np.uint8(value >> 8 & 0xFF)
    buf[i + _U1] = np.uint8(value & 0xFF)


@inline
def store32(buf, at, value):
    """Four bytes, network order."""
    store16(buf, at, value >> 16)
    store16(buf, at + 2, value)


@inline
def store64(buf, at, value):
    """Eight bytes, network order, unsigned."""
    store32(buf, at, np.int64(value >> _U32))
    store32(buf, at + 4, np.int64(value & np.uint64(0xFFFF_FFFF)))


@intrinsic
def _move(_typing: Any, target: Any, _to: Any, source: Any, _at: Any, _n: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        places = []
        for number in (0, 2):
            array = context.make_array(signature.args[number])(context, builder, args[number])
            places.append(builder.gep(array.data, [args[number + 1]]))
        cgutils.raw_memmove(builder, *places, args[4], 1)
        return context.get_dummy_value()

    return types.void(target, types.int64, source, types.int64, types.int64), build


@inline
def _copy(target, to, source, at, n):
    _move(target, to, source, at, n)


def _copy_in_python(target: Any, to: int, source: Any, at: int, n: int) -> None:
    target[to : to + n] = source[at : at + n]


# (target, to, source, at, n): n bytes from source[at:] to target[to:]; the areas may overlap.
copy = _copy_in_python if config.DISABLE_JIT else _copy
