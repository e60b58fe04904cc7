# SPDX-License-Identifier: Apache-2.0
"""The one door to numba: the compiler options of every kernel.

numba reads NUMBA_CACHE_DIR when it is imported, so every module of the card takes what it needs of
numba from here and never imports numba itself; `nic_model.cache` says where compiled code is kept.

NUMBA_DISABLE_JIT=1 runs the same kernels as plain Python.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from nic_model.cache import use_cache_directory

use_cache_directory()

import numba  # noqa: E402
from numba.core import cgutils, config, types  # noqa: E402
from numba.extending import intrinsic, models, register_model  # noqa: E402
from numba.np.arrayobj import populate_array  # noqa: E402

__all__ = [
    "cgutils",
    "config",
    "inline",
    "intrinsic",
    "models",
    "njit",
    "numba",
    "populate_array",
    "register_model",
    "types",
]

_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])

# A kernel allocates nothing and returns no array: its caller holds all it works on. So it needs no
# reference counts, which cost two atomic operations per array and call.
_OPTIONS = {"nogil": True, "boundscheck": False, "error_model": "numpy", "_nrt": False}


def njit(function: _Kernel) -> _Kernel:
    """Compile a kernel on its first call, and keep it on disk. Its Python type stays visible.

    That it is not inlined is said, because otherwise it takes that over from the first helper that
    calls it.
    """
    kernel: _Kernel = numba.njit(cache=True, forceinline=False, **_OPTIONS)(function)
    return kernel


def inline(function: _Kernel) -> _Kernel:
    """Compile a helper into each of its callers: a call with the card's tables as an argument
    costs more than most helpers, seven words for each array."""
    kernel: _Kernel = numba.njit(cache=True, forceinline=True, **_OPTIONS)(function)
    return kernel
