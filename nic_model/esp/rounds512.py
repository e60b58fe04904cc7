# SPDX-License-Identifier: Apache-2.0
"""AES rounds and GHASH products on several 512-bit vectors at a time, for vaes.py.

`keys` is the address of a key row; a round key is broadcast to the four lanes when it is loaded.
Products are summed lane by lane and reduced once. As in simd512.py the order of the instructions
that is written here is the schedule.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from nic_model.esp.simd import I8, I64x2, call
from nic_model.esp.simd512 import (
    LANES,
    WIDE,
    ZERO,
    I64x8,
    byte_reversed,
    counts_added,
    load,
    pack,
    picked,
    pointer,
    unpack,
)
from nic_model.jit import intrinsic, types

FIRST_ROUNDS = 9  # what AES with every key length does before its last round
SUMS = types.UniTuple(WIDE, 3)
FOLD = ir.Constant(I64x8, [0, 0xC2 << 56] * LANES)  # as in aesni.py, in every lane


def _round_key(builder: Any, address: Any, offset: int = 0) -> Any:
    """The 16 bytes at the address in every lane."""
    key = builder.load(pointer(builder, address, offset, I64x2), align=1)
    return picked(builder, key, key, [0, 1] * LANES)


def _aes(builder: Any, state: Any, key: Any, last: bool = False) -> Any:
    name = "llvm.x86.aesni.aesenclast.512" if last else "llvm.x86.aesni.aesenc.512"
    return call(builder, name, I64x8, [state, key])


def _product(builder: Any, a: Any, b: Any, halves: int) -> Any:
    name = "llvm.x86.pclmulqdq.512"
    return call(builder, name, I64x8, [a, b, ir.Constant(I8, halves)])


class _Sum:
    """Unreduced sums of products, lane by lane: low, middle and high words."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        self.sums: list[Any] = [None, None, None]

    def add(self, block: Any, power: Any) -> None:
        """Add block * power."""
        for word, halves in ((0, 0x00), (1, 0x01), (1, 0x10), (2, 0x11)):
            product = _product(self.builder, block, power, halves)
            old = self.sums[word]
            self.sums[word] = product if old is None else self.builder.xor(old, product)


def _states(builder: Any, keys: Any, count: Any, n: int) -> list[Any]:
    """4 * n counter blocks from `count` on (reversed blocks), with round key 0."""
    key = _round_key(builder, keys)
    counts = [counts_added(builder, count, [LANES * i] * LANES) for i in range(n)]
    return [builder.xor(byte_reversed(builder, block), key) for block in counts]


def nine_rounds(n: int) -> Callable[..., Any]:
    """(keys, count) -> n vectors: nine rounds of AES on 4 * n counter blocks from `count` on."""

    @intrinsic
    def operation(_typing: Any, _keys: Any, _count: Any) -> Any:
        def build(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            keys, count = args
            states = _states(builder, keys, count, n)
            for i in range(1, FIRST_ROUNDS + 1):
                key = _round_key(builder, keys, 16 * i)
                states = [_aes(builder, state, key) for state in states]
            return pack(context, builder, states)

        return types.UniTuple(WIDE, n)(types.int64, WIDE), build

    return operation


@intrinsic
def nine_rounds_and_sum(
    _typing: Any, _keys: Any, _count: Any, _powers: Any, _y: Any, hashed: Any
) -> Any:
    """nine_rounds for as many vectors as are hashed, and sum_products of these, in between."""
    result = types.Tuple([hashed, SUMS])

    def build(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        keys, count, powers, y, packed = args
        blocks = unpack(builder, packed)
        states = _states(builder, keys, count, len(blocks))
        total = _Sum(builder)
        for i in range(1, FIRST_ROUNDS + 1):
            key = _round_key(builder, keys, 16 * i)
            states = [_aes(builder, state, key) for state in states]
            if i <= len(blocks):
                block = byte_reversed(builder, blocks[i - 1])
                block = builder.xor(block, y) if i == 1 else block
                total.add(block, load(builder, powers, 64 * (i - 1)))
        parts = [pack(context, builder, states), pack(context, builder, total.sums)]
        return context.make_tuple(builder, result, parts)

    return result(types.int64, WIDE, types.int64, WIDE, hashed), build


@intrinsic
def sum_products(_typing: Any, _powers: Any, _mask: Any, _y: Any, _end: Any, hashed: Any) -> Any:
    """The unreduced sums of the hashed blocks, each times the power of H that stands beside it.

    `y` is added to the first vector, `end` to the last one (both are reversed blocks); the mask
    tells which of the powers beside the last vector may be read.
    """

    def build(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        powers, mask, y, end, packed = args
        blocks = [byte_reversed(builder, block) for block in unpack(builder, packed)]
        blocks[0] = builder.xor(blocks[0], y)
        blocks[-1] = builder.xor(blocks[-1], end)
        total = _Sum(builder)
        for i, block in enumerate(blocks):
            masked = mask if i == len(blocks) - 1 else None
            total.add(block, load(builder, powers, 64 * i, masked))
        return pack(context, builder, total.sums)

    return SUMS(types.int64, types.uint64, WIDE, WIDE, hashed), build


def _reduced(builder: Any, low: Any, middle: Any, high: Any) -> Any:
    """Lane by lane as _reduce in aesni.py."""
    low = builder.xor(low, picked(builder, middle, ZERO, [8, 0, 8, 2, 8, 4, 8, 6]))
    high = builder.xor(high, picked(builder, middle, ZERO, [1, 8, 3, 8, 5, 8, 7, 8]))
    for _ in range(2):
        swapped = picked(builder, low, low, [1, 0, 3, 2, 5, 4, 7, 6])
        low = builder.xor(swapped, _product(builder, low, FOLD, 0x10))
    return builder.xor(low, high)


@intrinsic
def reduce(_typing: Any, sums: Any) -> Any:
    """Sums as one element of GF(2^128): all lanes together, in lane 0, zeros above."""

    def build(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        each = _reduced(builder, *unpack(builder, args[0]))
        each = builder.xor(each, picked(builder, each, each, [4, 5, 6, 7, 0, 1, 2, 3]))
        each = builder.xor(each, picked(builder, each, each, [2, 3, 0, 1, 6, 7, 4, 5]))
        return picked(builder, each, ZERO, [0, 1, *[8] * 6])

    return WIDE(SUMS), build


def _round(last: bool) -> Callable[..., Any]:
    @intrinsic
    def operation(_typing: Any, states: Any, _key: Any) -> Any:
        def build(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            key = _round_key(builder, args[1])
            done = [_aes(builder, state, key, last) for state in unpack(builder, args[0])]
            return pack(context, builder, done)

        return states(states, types.int64), build

    return operation


aesenc, aesenclast = _round(last=False), _round(last=True)  # (vectors, address of the round key)
