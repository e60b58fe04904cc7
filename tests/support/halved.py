# SPDX-License-Identifier: Apache-2.0
"""The 512-bit form on a CPU that has VAES, but no AVX-512: a pytest plugin for another process.

Each 512-bit instruction of AES and of GHASH becomes the two of 256 bits that it stands for; LLVM
makes what it must of everything else. What is tested is all but the encoding of the instructions.
"""

from collections.abc import Callable
from typing import Any

import pytest

from nic_model import esp
from nic_model.esp import rounds, vaes, wide


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


def pytest_configure(config: pytest.Config) -> None:
    """Nothing is compiled yet; what is comes into a cache of its own."""
    rounds._aes, rounds._product = _halved(rounds._aes), _halved(rounds._product)
    esp.seal, esp.unseal, esp.BACKEND = vaes.seal, vaes.unseal, "vaes"
