# SPDX-License-Identifier: Apache-2.0
"""Vector types for numba of two or four blocks of 16 bytes, and what AES-GCM does to several.

Lane 0 is the lowest block. An operation takes its width from what it is given; where it is given
nothing wide, from the number of lanes. Operations on more than one vector take and give tuples of
them and are written out here, vector by vector, so that the schedule of a kernel is the one that
stands here. Memory is an int64 address, as in simd.py.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from nic_model.esp import simd
from nic_model.esp.simd import I8, I32, I64
from nic_model.jit import intrinsic, models, register_model, types


class WideType(types.Type):  # type: ignore[misc]
    """numba's type of a vector of some blocks; it has no Python object."""

    def __init__(self, lanes: int) -> None:
        super().__init__(name=f"Vector{128 * lanes}")
        self.lanes = lanes


@register_model(WideType)
class _WideModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, frontend_type: Any) -> None:
        super().__init__(manager, frontend_type, words_of(frontend_type.lanes))


def words_of(lanes: int) -> Any:
    """The LLVM type of a vector: 64-bit words, two in a lane."""
    return ir.VectorType(I64, 2 * lanes)


def lanes_of(value: Any) -> int:
    """How many blocks an LLVM value holds."""
    return int(value.type.count) // 2


def pack(context: Any, builder: Any, kind: WideType, vectors: Sequence[Any]) -> Any:
    """A tuple of vectors, as numba has it."""
    return context.make_tuple(builder, types.UniTuple(kind, len(vectors)), vectors)


def unpack(builder: Any, values: Any) -> list[Any]:
    """The members of a tuple."""
    return [builder.extract_value(values, i) for i in range(len(values.type))]


def picked(builder: Any, a: Any, b: Any, words: Sequence[int]) -> Any:
    """Those of the 64-bit words of a and, counted on, of b."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(words)), list(words)))


def zero(lanes: int) -> Any:
    """The vector of zeros."""
    return ir.Constant(words_of(lanes), [0] * (2 * lanes))


def byte_reversed(builder: Any, a: Any) -> Any:
    """The bytes of every block in reverse order."""
    lanes = lanes_of(a)
    kind = ir.VectorType(I8, 16 * lanes)
    backwards = [16 * lane + 15 - i for lane in range(lanes) for i in range(16)]
    pick = ir.Constant(ir.VectorType(I32, 16 * lanes), backwards)
    zeros = ir.Constant(kind, [0] * (16 * lanes))
    return builder.bitcast(
        builder.shuffle_vector(builder.bitcast(a, kind), zeros, pick), words_of(lanes)
    )


def counts_added(builder: Any, a: Any, steps: Sequence[int]) -> Any:
    """Add to the lowest 32 bits of each block, without carry out of them."""
    kind = ir.VectorType(I32, 4 * lanes_of(a))
    step = ir.Constant(kind, [word for step in steps for word in (step, 0, 0, 0)])
    return builder.bitcast(builder.add(builder.bitcast(a, kind), step), a.type)


def pointer(builder: Any, address: Any, offset: int, kind: Any) -> Any:
    """A pointer to a `kind` at address + offset."""
    return builder.inttoptr(builder.add(address, ir.Constant(I64, offset)), kind.as_pointer())


def load(builder: Any, address: Any, offset: int, lanes: int) -> Any:
    """The vector at the address."""
    return builder.load(pointer(builder, address, offset, words_of(lanes)), align=1)


def store(builder: Any, address: Any, offset: int, value: Any) -> None:
    """Write the vector to the address."""
    builder.store(value, pointer(builder, address, offset, value.type), align=1)


def take(lanes: int, n: int) -> Callable[..., Any]:
    """address -> the n vectors there."""

    @intrinsic
    def operation(_typing: Any, _address: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            step = 16 * lanes
            vectors = [load(builder, args[0], step * i, lanes) for i in range(n)]
            return context.make_tuple(builder, signature.return_type, vectors)

        return types.UniTuple(WideType(lanes), n)(types.int64), build

    return operation


@intrinsic
def put(_typing: Any, _address: Any, vectors: Any) -> Any:
    """Write vectors to memory."""

    def build(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        for i, value in enumerate(unpack(builder, args[1])):
            store(builder, args[0], 16 * lanes_of(value) * i, value)
        return context.get_dummy_value()

    return types.void(types.int64, vectors), build


@intrinsic
def xor(_typing: Any, vectors: Any, _others: Any) -> Any:
    """Vector by vector."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, b = (unpack(builder, packed) for packed in args)
        both = [builder.xor(x, y) for x, y in zip(a, b, strict=True)]
        return context.make_tuple(builder, signature.return_type, both)

    return vectors(vectors, vectors), build


def count_up(lanes: int) -> Callable[..., Any]:
    """block -> as many counter blocks (reversed) as there are lanes, from the one given on."""

    @intrinsic
    def operation(_typing: Any, _first: Any) -> Any:
        def build(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            each = picked(builder, args[0], args[0], [0, 1] * lanes)
            return counts_added(builder, each, range(lanes))

        return WideType(lanes)(simd.VECTOR), build

    return operation


def add_count(step: int) -> Callable[..., Any]:
    """count -> count + step in all lanes."""

    @intrinsic
    def operation(_typing: Any, count: Any) -> Any:
        def build(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            return counts_added(builder, args[0], [step] * count.lanes)

        return count(count), build

    return operation


@intrinsic
def pair(_typing: Any, _low: Any, _high: Any) -> Any:
    """Two blocks side by side."""

    def build(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return picked(builder, args[0], args[1], range(4))

    return WideType(2)(simd.VECTOR, simd.VECTOR), build


def lane(index: int) -> Callable[..., Any]:
    """vector -> the block in one lane."""

    @intrinsic
    def operation(_typing: Any, a: Any) -> Any:
        def build(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            return picked(builder, args[0], args[0], [2 * index, 2 * index + 1])

        return simd.VECTOR(a), build

    return operation
