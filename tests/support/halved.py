# SPDX-License-Identifier: Apache-2.0
"""The 512-bit form on a CPU that has VAES, but no AVX-512: a pytest plugin for another process.

Each 512-bit instruction of AES and of GHASH becomes the two of 256 bits that it stands for, and
what a mask covers, which is always one run of bytes, is copied. LLVM makes what it must of
everything else. What is tested is all but the encoding of the instructions.
"""

from collections.abc import Callable
from typing import Any

import pytest
from llvmlite import ir

from nic_model import esp
from nic_model.esp import rounds, simd512, vaes, wide
from nic_model.esp.simd import I8, I64
from nic_model.jit import cgutils


def _halves(builder: Any, vector: Any) -> list[Any]:
    words = range(vector.type.count)
    middle = len(words) // 2
    return [wide.picked(builder, vector, vector, each) for each in (words[:middle], words[middle:])]


def _halved(instruction: Callable[..., Any]) -> Callable[..., Any]:
    def twice(builder: Any, a: Any, b: Any, *rest: Any) -> Any:
        if wide.lanes_of(a) < 4:
            return instruction(builder, a, b, *rest)
        pairs = zip(_halves(builder, a), _halves(builder, b), strict=True)
        low, high = (instruction(builder, x, y, *rest) for x, y in pairs)
        return wide.picked(builder, low, high, range(a.type.count))

    return twice


def _run(builder: Any, mask: Any) -> tuple[Any, Any]:
    """Where the run of ones in a mask begins, and how long it is."""
    word = mask.type
    ctpop = builder.module.declare_intrinsic("llvm.ctpop", [word])
    return builder.cttz(mask, ir.Constant(ir.IntType(1), 0)), builder.call(ctpop, [mask])


def _load(builder: Any, address: Any, offset: int, mask: Any = None) -> Any:
    if mask is None:
        return wide.load(builder, address, offset, simd512.LANES)
    vector = cgutils.alloca_once_value(builder, simd512.ZERO)
    builder.store(simd512.ZERO, vector)
    _copy(builder, builder.ptrtoint(vector, I64), _at(builder, address, offset), mask)
    return builder.load(vector, align=1)


def _store(builder: Any, address: Any, offset: int, value: Any, mask: Any = None) -> None:
    if mask is None:
        wide.store(builder, address, offset, value)
        return
    vector = cgutils.alloca_once_value(builder, value)
    builder.store(value, vector)
    _copy(builder, _at(builder, address, offset), builder.ptrtoint(vector, I64), mask)


def _at(builder: Any, address: Any, offset: int) -> Any:
    return builder.add(address, ir.Constant(I64, offset))


def _copy(builder: Any, to: Any, source: Any, mask: Any) -> None:
    start, length = _run(builder, mask)
    places = [
        builder.inttoptr(builder.add(place, start), I8.as_pointer()) for place in (to, source)
    ]
    cgutils.raw_memcpy(builder, *places, length, 1)


def pytest_configure(config: pytest.Config) -> None:
    """Nothing is compiled yet; what is comes into a cache of its own."""
    rounds._aes, rounds._product = _halved(rounds._aes), _halved(rounds._product)
    simd512.load, simd512.store = _load, _store
    esp.seal, esp.unseal, esp.BACKEND = vaes.seal, vaes.unseal, "vaes"
