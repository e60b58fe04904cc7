# SPDX-License-Identifier: Apache-2.0
"""A 128-bit vector type for numba, and the few instructions that AES-GCM needs of it.

A vector is 16 bytes, in LLVM <2 x i64>; byte 0 is the lowest. Only kernels can hold one. Memory is
an int64 address, without bounds and alignment: passing arrays down would pass seven words for each.
The AES and PCLMULQDQ intrinsics abort the process where the target lacks them: select.py stands
before.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from nic_model.jit import cgutils, intrinsic, models, register_model, types

I8, I32, I64 = (ir.IntType(bits) for bits in (8, 32, 64))
I8x16 = ir.VectorType(I8, 16)
I32x4 = ir.VectorType(I32, 4)
I64x2 = ir.VectorType(I64, 2)
COUNT16 = ir.Constant(I8x16, list(range(16)))


class VectorType(types.Type):  # type: ignore[misc]
    """numba's type of a vector; it has no Python object."""

    def __init__(self) -> None:
        super().__init__(name="Vector128")


VECTOR = VectorType()


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, frontend_type: Any) -> None:
        super().__init__(manager, frontend_type, I64x2)


def call(builder: Any, name: str, result: Any, arguments: Sequence[Any]) -> Any:
    """Call the LLVM intrinsic `name`."""
    signature = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    return builder.call(function, arguments)


def _bytes(builder: Any, vector: Any) -> Any:
    return builder.bitcast(vector, I8x16)


def _splat(builder: Any, value: Any) -> Any:
    """The low byte of an i64 in all 16 bytes."""
    byte = builder.insert_element(
        ir.Constant(I8x16, ir.Undefined), builder.trunc(value, I8), ir.Constant(I32, 0)
    )
    lanes = ir.Constant(ir.VectorType(I32, 16), [0] * 16)
    return builder.shuffle_vector(byte, byte, lanes)


def _unary(build: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """The operation vector -> vector that `build` (builder, a) emits."""

    @intrinsic
    def operation(_typing: Any, _a: Any) -> Any:
        return VECTOR(VECTOR), lambda _context, builder, _signature, args: build(builder, *args)

    return operation


def _binary(build: Callable[[Any, Any, Any], Any]) -> Callable[..., Any]:
    """The operation (vector, vector) -> vector that `build` (builder, a, b) emits."""

    @intrinsic
    def operation(_typing: Any, _a: Any, _b: Any) -> Any:
        signature = VECTOR(VECTOR, VECTOR)
        return signature, lambda _context, builder, _signature, args: build(builder, *args)

    return operation


def _by_count(build: Callable[[Any, Any, Any], Any]) -> Callable[..., Any]:
    """The operation (vector, int64) -> vector that `build` (builder, a, count) emits."""

    @intrinsic
    def operation(_typing: Any, _a: Any, _count: Any) -> Any:
        signature = VECTOR(VECTOR, types.int64)
        return signature, lambda _context, builder, _signature, args: build(builder, *args)

    return operation


def _instruction(name: str, *immediate: Any) -> Callable[..., Any]:
    """The operation of two vectors that is one x86 instruction."""
    return _binary(lambda builder, a, b: call(builder, name, I64x2, [a, b, *immediate]))


def _product(halves: int) -> Callable[..., Any]:
    return _instruction("llvm.x86.pclmulqdq", ir.Constant(I8, halves))


def _rearranged(lanes: Sequence[int], kind: Any = I64x2) -> Callable[..., Any]:
    """The operation that picks `lanes` of the vector followed by a vector of zeros."""
    pick = ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes))
    zeros = ir.Constant(kind, [0] * len(lanes))

    def build(builder: Any, a: Any) -> Any:
        picked = builder.shuffle_vector(builder.bitcast(a, kind), zeros, pick)
        return builder.bitcast(picked, I64x2)

    return _unary(build)


def _shuffled(builder: Any, a: Any, indices: Any) -> Any:
    """PSHUFB: byte i is a[indices[i] & 15], or 0 where the index has its top bit set."""
    shuffled = call(builder, "llvm.x86.ssse3.pshuf.b.128", I8x16, [_bytes(builder, a), indices])
    return builder.bitcast(shuffled, I64x2)


def _build_add32(builder: Any, a: Any, count: Any) -> Any:
    zero = ir.Constant(I32x4, [0] * 4)
    step = builder.insert_element(zero, builder.trunc(count, I32), ir.Constant(I32, 0))
    return builder.bitcast(builder.add(builder.bitcast(a, I32x4), step), I64x2)


def _build_up(builder: Any, a: Any, count: Any) -> Any:
    return _shuffled(builder, a, builder.sub(COUNT16, _splat(builder, count)))


def _build_down(builder: Any, a: Any, count: Any) -> Any:
    top = builder.add(count, ir.Constant(I64, 0x70))  # an index of 16 gets its top bit set by this
    return _shuffled(builder, a, builder.add(COUNT16, _splat(builder, top)))


def _build_keep(builder: Any, a: Any, count: Any) -> Any:
    kept = builder.icmp_unsigned("<", COUNT16, _splat(builder, count))
    zeros = ir.Constant(I8x16, [0] * 16)
    return builder.bitcast(builder.select(kept, _bytes(builder, a), zeros), I64x2)


xor = _binary(lambda builder, a, b: builder.xor(a, b))
aesenc = _instruction("llvm.x86.aesni.aesenc")
aesenclast = _instruction("llvm.x86.aesni.aesenclast")
# Carryless products; the halves are named low (0) and high (1), those of a before those of b.
clmul00, clmul10, clmul01, clmul11 = (_product(halves) for halves in (0x00, 0x01, 0x10, 0x11))

swap = _rearranged([1, 0])  # the two 64-bit halves change places
raise64 = _rearranged([2, 0])  # low half to the high one, zeros below
lower64 = _rearranged([1, 2])  # high half to the low one, zeros above
reverse = _rearranged(range(15, -1, -1), I8x16)  # all 16 bytes

add32 = _by_count(_build_add32)  # to the lowest 32 bits, without carry out of them
shift_up = _by_count(_build_up)  # by 0..16 bytes, zeros below
shift_down = _by_count(_build_down)  # by 0..16 bytes, zeros above
keep = _by_count(_build_keep)  # the lowest 0..16 bytes, zeros above


@intrinsic
def address(_typing: Any, array: Any) -> Any:
    """Where a uint8 array begins, for load and store. The caller keeps the array alive."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.ptrtoint(data, I64)

    return types.int64(array), build


def _load(kind: Any, to_value: Callable[[Any, Any], Any], value_type: Any) -> Callable[..., Any]:
    @intrinsic
    def operation(_typing: Any, _at: Any) -> Any:
        def build(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], kind.as_pointer())
            return to_value(builder, builder.load(pointer, align=1))

        return value_type(types.int64), build

    return operation


def _store(kind: Any, to_memory: Callable[[Any, Any], Any], value_type: Any) -> Callable[..., Any]:
    @intrinsic
    def operation(_typing: Any, _at: Any, _value: Any) -> Any:
        def build(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], kind.as_pointer())
            builder.store(to_memory(builder, args[1]), pointer, align=1)
            return context.get_dummy_value()

        return types.void(types.int64, value_type), build

    return operation


load = _load(I64x2, lambda _builder, vector: vector, VECTOR)
store = _store(I64x2, lambda _builder, vector: vector, VECTOR)
load_byte = _load(I8, lambda builder, byte: builder.zext(byte, I64), types.uint64)
store_byte = _store(I8, lambda builder, value: builder.trunc(value, I8), types.uint64)


@intrinsic
def make(_typing: Any, _low: Any, _high: Any) -> Any:
    """A vector from its two halves."""

    def build(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        half = builder.insert_element(ir.Constant(I64x2, [0, 0]), args[0], ir.Constant(I32, 0))
        return builder.insert_element(half, args[1], ir.Constant(I32, 1))

    return VECTOR(types.uint64, types.uint64), build


def _half(index: int) -> Callable[..., Any]:
    @intrinsic
    def operation(_typing: Any, _a: Any) -> Any:
        def build(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            return builder.extract_element(args[0], ir.Constant(I32, index))

        return types.uint64(VECTOR), build

    return operation


low_half, high_half = _half(0), _half(1)
