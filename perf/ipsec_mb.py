# SPDX-License-Identifier: Apache-2.0
"""AES-GCM of Intel's libipsec-mb, to be measured against: its one-call interface, by function
pointer from compiled loops. Debian has it as libipsec-mb1; nothing else here needs it. Run by
itself it prints which one is here.
"""

import ctypes
import json
from typing import Any, NamedTuple

import numpy as np

from nic_model.esp import select
from nic_model.esp.simd import address
from nic_model.jit import numba

LIBRARY = "libIPSec_MB.so.1"
KEY_DATA_BYTES = 4096  # struct gcm_key_data is smaller
CONTEXT_BYTES = 128  # and so is struct gcm_context_data
ALIGNMENT = 64
AAD_BYTES, ICV_BYTES = 8, 16

# The suffixes of its functions, best first, and the CPU features that each needs.
KINDS = (
    ("vaes_avx512", frozenset({"vaes", "vpclmulqdq", "avx512f", "avx512bw", "avx512vl"})),
    ("avx512", frozenset({"aes", "pclmul", "avx512f"})),
    ("avx_gen4", frozenset({"aes", "pclmul", "avx2"})),
    ("sse", frozenset({"aes", "pclmul", "sse4.1"})),
)


class Library(NamedTuple):
    """The loaded library: its version and the suffix of the functions for this CPU."""

    handle: ctypes.CDLL
    version: str
    kind: str


def load() -> Library | None:
    """The library, or None where it is not installed or has nothing for this CPU."""
    try:
        handle = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    handle.imb_get_version_str.restype = ctypes.c_char_p
    features = select.host_features()
    kind = next((name for name, needs in KINDS if needs <= features), None)
    return Library(handle, handle.imb_get_version_str().decode(), kind) if kind else None


def aligned(size: int) -> np.ndarray:
    """`size` zero bytes that begin on a cache line."""
    whole = np.zeros(size + ALIGNMENT, np.uint8)
    start = -whole.ctypes.data % ALIGNMENT
    return whole[start : start + size]


def expand_key(library: Library, key: bytes) -> np.ndarray:
    """The library's own form of the key."""
    data = aligned(KEY_DATA_BYTES)
    expand = getattr(library.handle, f"aes_gcm_pre_{8 * len(key)}_{library.kind}")
    expand.argtypes, expand.restype = [ctypes.c_char_p, ctypes.c_void_p], None
    expand(key, data.ctypes.data)
    return data


def make_burst(library: Library, key_bytes: int, opens: bool) -> Any:
    """A kernel that seals or opens `count` packets of `size` bytes, one in `stride`, from source to
    target; the tag goes behind each packet there.

    Opening does not compare the tag: the library leaves that to its caller.
    """
    name = f"aes_gcm_{'dec' if opens else 'enc'}_{8 * key_bytes}_{library.kind}"
    crypt = getattr(library.handle, name)
    crypt.argtypes, crypt.restype = [ctypes.c_int64] * 10, None

    @numba.njit(nogil=True, boundscheck=False, _nrt=False)
    def burst(key, context, aad, iv, source, target, size, stride, count):
        for i in range(count):
            iv[11] = i & 255
            at, to = address(source) + i * stride, address(target) + i * stride
            crypt(
                address(key), address(context), to, at, size,
                address(iv), address(aad), AAD_BYTES, to + size, ICV_BYTES,
            )  # fmt: skip
        return count

    return burst


if __name__ == "__main__":
    here = load()
    print(json.dumps({"version": here and here.version, "kind": here and here.kind}, indent=2))
