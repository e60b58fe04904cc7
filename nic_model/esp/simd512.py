# SPDX-License-Identifier: Apache-2.0
"""A 512-bit vector type for numba: four blocks of 16 bytes, and what AES-GCM does to several.

Lane 0 is the lowest block. Operations on more than one vector take and give tuples of them and are
written out here, vector by vector, so that the schedule of a kernel is the one that stands here.
Memory is an int64 address, as in simd.py. A mask has one bit for each byte of a vector, the lowest
for byte 0; no memory is touched where a bit is 0. The edges of a tuple are three masks: of its
first vector, its last but one, its last.

The instructions need VAES, VPCLMULQDQ and AVX-512 and abort the process elsewhere: see select.py.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from nic_model.esp import simd
from nic_model.esp.simd import I8, I32, I64, call
from nic_model.jit import intrinsic, models, register_model, types

I1x64 = ir.VectorType(ir.IntType(1), 64)
I8x64 = ir.VectorType(I8, 64)
I32x16 = ir.VectorType(I32, 16)
I64x8 = ir.VectorType(I64, 8)
LANES = 4
ZERO = ir.Constant(I64x8, [0] * 8)
REVERSED = [16 * lane + 15 - i for lane in range(LANES) for i in range(16)]


class WideType(types.Type):  # type: ignore[misc]
    """numba's type of a vector of four blocks; it has no Python object."""

    def __init__(self) -> None:
        super().__init__(name="Vector512")


WIDE = WideType()


@register_model(WideType)
class _WideModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, frontend_type: Any) -> None:
        super().__init__(manager, frontend_type, I64x8)


def pack(context: Any, builder: Any, vectors: Sequence[Any]) -> Any:
    """A tuple of vectors, as numba has it."""
    return context.make_tuple(builder, types.UniTuple(WIDE, len(vectors)), vectors)


def unpack(builder: Any, values: Any) -> list[Any]:
    """The members of a tuple."""
    return [builder.extract_value(values, i) for i in range(values.type.count)]


def picked(builder: Any, a: Any, b: Any, words: Sequence[int]) -> Any:
    """Those of the sixteen 64-bit words of a and b."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(words)), list(words)))


def byte_reversed(builder: Any, a: Any) -> Any:
    """The bytes of every block in reverse order."""
    a = builder.bitcast(a, I8x64)
    zeros = ir.Constant(I8x64, [0] * 64)
    pick = ir.Constant(ir.VectorType(I32, 64), REVERSED)
    return builder.bitcast(builder.shuffle_vector(a, zeros, pick), I64x8)


def counts_added(builder: Any, a: Any, steps: Sequence[int]) -> Any:
    """Add to the lowest 32 bits of each block, without carry out of them."""
    step = ir.Constant(I32x16, [word for step in steps for word in (step, 0, 0, 0)])
    return builder.bitcast(builder.add(builder.bitcast(a, I32x16), step), I64x8)


def pointer(builder: Any, address: Any, offset: int, kind: Any) -> Any:
    """A pointer to a `kind` at address + offset."""
    return builder.inttoptr(builder.add(address, ir.Constant(I64, offset)), kind.as_pointer())


def load(builder: Any, address: Any, offset: int, mask: Any = None) -> Any:
    """The vector at the address, zeros where the mask has 0."""
    if mask is None:
        return builder.load(pointer(builder, address, offset, I64x8), align=1)
    where = pointer(builder, address, offset, I8x64)
    zeros = ir.Constant(I8x64, [0] * 64)
    bits = builder.bitcast(mask, I1x64)
    name = "llvm.masked.load.v64i8.p0"
    return builder.bitcast(call(builder, name, I8x64, [where, bits, zeros]), I64x8)


def store(builder: Any, address: Any, offset: int, value: Any, mask: Any = None) -> None:
    """Write the vector to the address, where the mask has 1."""
    if mask is None:
        builder.store(value, pointer(builder, address, offset, I64x8), align=1)
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
            return pack(context, builder, vectors)

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
                values[i] = builder.bitcast(kept, I64x8)
        return pack(context, builder, values)

    return vectors(EDGES, vectors), build


@intrinsic
def xor(_typing: Any, vectors: Any, _others: Any) -> Any:
    """Vector by vector."""

    def build(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        a, b = (unpack(builder, packed) for packed in args)
        return pack(context, builder, [builder.xor(x, y) for x, y in zip(a, b, strict=True)])

    return vectors(vectors, vectors), build


@intrinsic
def count_up(_typing: Any, _first: Any) -> Any:
    """Four counter blocks (reversed) from the one given on."""

    def build(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        each = picked(builder, args[0], args[0], [0, 1] * LANES)
        return counts_added(builder, each, range(LANES))

    return WIDE(simd.VECTOR), build


def add_count(step: int) -> Callable[..., Any]:
    """count -> count + step in all lanes."""

    @intrinsic
    def operation(_typing: Any, _count: Any) -> Any:
        def build(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            return counts_added(builder, args[0], [step] * LANES)

        return WIDE(WIDE), build

    return operation


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
def first_lane(_typing: Any, _a: Any) -> Any:
    """The block in lane 0."""
    return simd.VECTOR(WIDE), lambda _context, builder, _sig, args: picked(
        builder, args[0], args[0], [0, 1]
    )
