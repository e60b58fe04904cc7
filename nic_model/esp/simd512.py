# SPDX-License-Identifier: Apache-2.0
"""Vectors of four blocks under masks, which AVX-512 has.

A mask has one bit for each byte of a vector, the lowest for byte 0; no memory is touched where a
bit is 0. The edges of a tuple are three masks: of its first vector, its last but one, its last.

The instructions need AVX-512 and abort the process elsewhere: see select.py.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from nic_model.esp import simd, wide
from nic_model.esp.rounds import Sum
from nic_model.esp.simd import I8, I64, call
from nic_model.esp.wide import WideType, byte_reversed, pack, picked, pointer, unpack, words_of
from nic_model.jit import intrinsic, types

LANES = 4
WIDE = WideType(LANES)
I1x64 = ir.VectorType(ir.IntType(1), 64)
I8x64 = ir.VectorType(I8, 64)
ZERO = wide.zero(LANES)


def load(builder: Any, address: Any, offset: int, mask: Any = None) -> Any:
    """The vector at the address, zeros where the mask has 0."""
    if mask is None:
        return wide.load(builder, address, offset, LANES)
    where = pointer(builder, address, offset, I8x64)
    zeros = ir.Constant(I8x64, [0] * 64)
    bits = builder.bitcast(mask, I1x64)
    name = "llvm.masked.load.v64i8.p0"
    return builder.bitcast(call(builder, name, I8x64, [where, bits, zeros]), words_of(LANES))


def store(builder: Any, address: Any, offset: int, value: Any, mask: Any = None) -> None:
    """Write the vector to the address, where the mask has 1."""
    if mask is None:
        wide.store(builder, address, offset, value)
        return
    where, bits = pointer(builder, address, offset, I8x64), builder.bitcast(mask, I1x64)
    name = "llvm.masked.store.v64i8.p0"
    call(builder, name, ir.VoidType(), [builder.bitcast(value, I8x64), where, bits])


EDGES = types.UniTuple(types.uint64, 3)


def _masks(builder: Any, n: int, edges: Any) -> list[Any]:
    """A mask or None for each of n vectors, from those of the first and of the last two."""
    first, *ends = unpack(builder, edges)
    masks = [None] * max(n - 2, 0) + ends[-n:]
    masks[0] = first if masks[0] is None else builder.and_(first, masks[0])
    return masks


def take(n: int) -> Callable[..., Any]:
    """(address, edges) -> the n vectors there, zeros where the masks have 0."""

    @intrinsic
    def operation(_typing: Any, _address: Any, _edges: Any) -> Any:
        def build(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            masks = _masks(builder, n, args[1])
            vectors = [load(builder, args[0], 64 * i, mask) for i, mask in enumerate(masks)]
            return pack(context, builder, WIDE, vectors)

        return types.UniTuple(WIDE, n)(types.int64, EDGES), build

    return operation


@intrinsic
def put(_typing: Any, _address: Any, _edges: Any, vectors: Any) -> Any:
    """Write vectors to memory, where the masks have 1."""

    def build(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        values = unpack(builder, args[2])
        for i, mask in enumerate(_masks(builder, len(values), args[1])):
            store(builder, args[0], 64 * i, values[i], mask)
        return context.get_dummy_value()

    return types.void(types.int64, EDGES, vectors), build


@intrinsic
def keep(_typing: Any, _edges: Any, vectors: Any) -> Any:
    """Vectors with zeros where the masks have 0."""

    def build(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        values = unpack(builder, args[1])
        for i, mask in enumerate(_masks(builder, len(values), args[0])):
            if mask is not None:
                whole = builder.bitcast(values[i], I8x64)
                zeros = ir.Constant(I8x64, [0] * 64)
                kept = builder.select(builder.bitcast(mask, I1x64), whole, zeros)
                values[i] = builder.bitcast(kept, words_of(LANES))
        return pack(context, builder, WIDE, values)

    return vectors(EDGES, vectors), build


@intrinsic
def place(_typing: Any, _block: Any, _lane: Any) -> Any:
    """The block in one lane (0..3), zeros in the others."""

    def build(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        each = picked(builder, args[0], args[0], [0, 1] * LANES)
        bits = builder.shl(
            ir.Constant(I8, 3), builder.trunc(builder.shl(args[1], ir.Constant(I64, 1)), I8)
        )
        mask = builder.bitcast(bits, ir.VectorType(ir.IntType(1), 8))
        return builder.select(mask, each, ZERO)

    return WIDE(simd.VECTOR, types.int64), build


@intrinsic
def sum_to_end(_typing: Any, _powers: Any, _mask: Any, _y: Any, _end: Any, hashed: Any) -> Any:
    """`rounds.sum_products` of the end of a text: `end` is added to the last vector, beside which
    only those powers are read for which the mask has 1.
    """

    def build(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        powers, mask, y, end, packed = args
        blocks = [byte_reversed(builder, block) for block in unpack(builder, packed)]
        blocks[0] = builder.xor(blocks[0], y)
        blocks[-1] = builder.xor(blocks[-1], end)
        total = Sum(builder)
        for i, block in enumerate(blocks):
            masked = mask if i == len(blocks) - 1 else None
            total.add(block, load(builder, powers, 64 * i, masked))
        return pack(context, builder, WIDE, total.sums)

    return types.UniTuple(WIDE, 3)(types.int64, types.uint64, WIDE, WIDE, hashed), build
