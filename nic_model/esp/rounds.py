# SPDX-License-Identifier: Apache-2.0
"""AES rounds and GHASH products on several vectors of two or four blocks: VAES and VPCLMULQDQ.

`keys` is the address of a key row; a round key is broadcast to all lanes when it is loaded.
Products are summed lane by lane and reduced once. As in wide.py the order of the instructions
that is written here is the schedule. They abort the process where the CPU lacks them: select.py
stands before.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from nic_model.esp import wide
from nic_model.esp.keys import ROUNDS_AT
from nic_model.esp.simd import I8, I64x2, call, load_byte
from nic_model.esp.wide import (
    byte_reversed,
    counts_added,
    lanes_of,
    load,
    pack,
    picked,
    pointer,
    unpack,
)
from nic_model.jit import inline, intrinsic, types

FIRST_ROUNDS = 9  # what AES with every key length does before its last round


def _round_key(builder: Any, lanes: int, address: Any, offset: int = 0) -> Any:
    """The 16 bytes at the address in every lane."""
    key = builder.load(pointer(builder, address, offset, I64x2), align=1)
    return picked(builder, key, key, [0, 1] * lanes)


def _aes(builder: Any, state: Any, key: Any, last: bool = False) -> Any:
    name = "llvm.x86.aesni.aesenclast" if last else "llvm.x86.aesni.aesenc"
    return call(builder, f"{name}.{128 * lanes_of(state)}", state.type, [state, key])


def _product(builder: Any, a: Any, b: Any, halves: int) -> Any:
    name = f"llvm.x86.pclmulqdq.{128 * lanes_of(a)}"
    return call(builder, name, a.type, [a, b, ir.Constant(I8, halves)])


class Sum:
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
    """n vectors of counter blocks from `count` on (reversed blocks), with round key 0."""
    lanes = lanes_of(count)
    key = _round_key(builder, lanes, keys)
    counts = [counts_added(builder, count, [lanes * i] * lanes) for i in range(n)]
    return [builder.xor(byte_reversed(builder, block), key) for block in counts]


def nine_rounds(n: int) -> Callable[..., Any]:
    """(keys, count) -> n vectors: nine rounds of AES on the counter blocks from `count` on."""

    @intrinsic
    def operation(_typing: Any, _keys: Any, count: Any) -> Any:
        def build(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            keys, first = args
            states = _states(builder, keys, first, n)
            for i in range(1, FIRST_ROUNDS + 1):
                key = _round_key(builder, count.lanes, keys, 16 * i)
                states = [_aes(builder, state, key) for state in states]
            return pack(context, builder, count, states)

        return types.UniTuple(count, n)(types.int64, count), build

    return operation


@intrinsic
def nine_rounds_and_sum(
    _typing: Any, _keys: Any, count: Any, _powers: Any, _y: Any, hashed: Any
) -> Any:
    """nine_rounds for as many vectors as are hashed, and sum_products of these, in between."""
    result = types.Tuple([hashed, types.UniTuple(count, 3)])

    def build(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        keys, first, powers, y, packed = args
        blocks = unpack(builder, packed)
        states = _states(builder, keys, first, len(blocks))
        total = Sum(builder)
        for i in range(1, FIRST_ROUNDS + 1):
            key = _round_key(builder, count.lanes, keys, 16 * i)
            states = [_aes(builder, state, key) for state in states]
            if i <= len(blocks):
                block = byte_reversed(builder, blocks[i - 1])
                block = builder.xor(block, y) if i == 1 else block
                total.add(block, load(builder, powers, 16 * count.lanes * (i - 1), count.lanes))
        sums = pack(context, builder, count, total.sums)
        return context.make_tuple(builder, result, [pack(context, builder, count, states), sums])

    return result(types.int64, count, types.int64, count, hashed), build


@intrinsic
def sum_products(_typing: Any, _powers: Any, y: Any, hashed: Any) -> Any:
    """The unreduced sums of the hashed blocks, each times the power of H that stands beside it;
    `y` (reversed blocks) is added to the first vector."""

    def build(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        powers, first, packed = args
        total = Sum(builder)
        for i, block in enumerate(unpack(builder, packed)):
            added = byte_reversed(builder, block)
            added = builder.xor(added, first) if i == 0 else added
            total.add(added, load(builder, powers, 16 * y.lanes * i, y.lanes))
        return pack(context, builder, y, total.sums)

    return types.UniTuple(y, 3)(types.int64, y, hashed), build


def _reduced(builder: Any, low: Any, middle: Any, high: Any) -> Any:
    """Lane by lane as reduce in aesni.py."""
    lanes = lanes_of(low)
    none, zeros, evens = 2 * lanes, wide.zero(lanes), range(0, 2 * lanes, 2)
    fold = ir.Constant(low.type, [0, 0xC2 << 56] * lanes)
    raised = [word for even in evens for word in (none, even)]
    lowered = [word for even in evens for word in (even + 1, none)]
    low = builder.xor(low, picked(builder, middle, zeros, raised))
    high = builder.xor(high, picked(builder, middle, zeros, lowered))
    for _ in range(2):
        swapped = picked(builder, low, low, [word ^ 1 for word in range(2 * lanes)])
        low = builder.xor(swapped, _product(builder, low, fold, 0x10))
    return builder.xor(low, high)


@intrinsic
def reduce(_typing: Any, sums: Any) -> Any:
    """Sums as one element of GF(2^128): all lanes together, in lane 0, zeros above."""

    def build(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        each = _reduced(builder, *unpack(builder, args[0]))
        words = range(2 * lanes_of(each))
        step = len(words) // 2
        while step > 1:
            each = builder.xor(each, picked(builder, each, each, [word ^ step for word in words]))
            step //= 2
        return picked(
            builder, each, wide.zero(lanes_of(each)), [0, 1, *[len(words)] * (len(words) - 2)]
        )

    return sums.dtype(sums), build


def _round(last: bool) -> Callable[..., Any]:
    @intrinsic
    def operation(_typing: Any, states: Any, _key: Any) -> Any:
        def build(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            key = _round_key(builder, states.dtype.lanes, args[1])
            done = [_aes(builder, state, key, last) for state in unpack(builder, args[0])]
            return pack(context, builder, states.dtype, done)

        return states(states, types.int64), build

    return operation


_aesenc, _aesenclast = _round(last=False), _round(last=True)  # (vectors, address of a round key)


@inline
def last_rounds(keys, states):
    """What is left of AES after nine rounds: one more, three or five."""
    rounds = np.int64(load_byte(keys + ROUNDS_AT))
    for i in range(FIRST_ROUNDS + 1, rounds):
        states = _aesenc(states, keys + 16 * i)
    return _aesenclast(states, keys + 16 * rounds)
