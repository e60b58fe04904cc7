# SPDX-License-Identifier: Apache-2.0
"""Cost of seal and open per packet: the chosen form, the portable one, and OpenSSL from Python.

Prints JSON: ns per packet (median and range) and Gbit/s of payload at the median. A burst of
packets, together 128 KiB, stays in the second-level cache; OpenSSL pays a Python call per
packet.
"""

import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import measure
import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nic_model import esp
from nic_model.esp import portable
from nic_model.jit import numba

SIZES = (64, 256, 1420, 8192)
BURST_BYTES = 1 << 17
REPEATS = 10  # bursts per measurement
KEY_BYTES = 16
SALT = np.uint32(1)
AAD = bytes(8)

Case = Callable[[], float]


def make_bursts(form: Any) -> tuple[Any, Any]:
    """Kernels that seal or open `count` packets of `size` bytes, an ICV behind each."""
    seal, unseal = form.seal, form.unseal
    compiled = numba.njit(nogil=True, _nrt=False)

    @compiled
    def seal_burst(ctx, aad, packets, size, stride, count, tag):
        for i in range(count):
            seal(ctx, SALT, np.uint64(i), aad, len(AAD), packets, i * stride, size, tag)
            for k in range(16):
                packets[i * stride + size + k] = tag[k]

    @compiled
    def open_burst(ctx, aad, packets, size, stride, count):
        good = 0
        for i in range(count):
            at = i * stride
            if unseal(ctx, SALT, np.uint64(i), aad, len(AAD), packets, at, size, at + size, 16):
                good += 1
        return good

    return seal_burst, open_burst


def form_cases(name: str, form: Any, size: int) -> Iterator[tuple[str, Case]]:
    """Seal and open by one form of the card's kernels: ns per packet."""
    seal_burst, open_burst = make_bursts(form)
    count = BURST_BYTES // size
    stride = (size + 16 + 63) & ~63
    ctx, aad, tag = (
        np.zeros(esp.KEY_BYTES, np.uint8),
        np.zeros(16, np.uint8),
        np.zeros(16, np.uint8),
    )
    esp.expand_key(bytes(KEY_BYTES), ctx)
    packets = np.zeros(count * stride, np.uint8)
    seal_burst(ctx, aad, packets, size, stride, count, tag)
    sealed, opened = packets.copy(), packets.copy()

    def run_seal() -> float:
        start = time.perf_counter_ns()
        for _ in range(REPEATS):
            seal_burst(ctx, aad, packets, size, stride, count, tag)
        return (time.perf_counter_ns() - start) / (REPEATS * count)

    def run_open() -> float:
        spent = 0
        for _ in range(REPEATS):
            np.copyto(opened, sealed)
            start = time.perf_counter_ns()
            good = open_burst(ctx, aad, opened, size, stride, count)
            spent += time.perf_counter_ns() - start
            if good != count:
                raise RuntimeError(f"{name} opened {good} of {count} packets of {size} bytes")
        return spent / (REPEATS * count)

    yield f"{name} seal", run_seal
    yield f"{name} open", run_open


def openssl_cases(size: int) -> Iterator[tuple[str, Case]]:
    """The same by `cryptography`: ns per call."""
    oracle = AESGCM(bytes(KEY_BYTES))
    count = BURST_BYTES // size
    nonces = [bytes(4) + i.to_bytes(8, "big") for i in range(count)]
    text = bytes(size)
    sealed = [oracle.encrypt(nonce, text, AAD) for nonce in nonces]

    def run_seal() -> float:
        start = time.perf_counter_ns()
        for nonce in nonces:
            oracle.encrypt(nonce, text, AAD)
        return (time.perf_counter_ns() - start) / count

    def run_open() -> float:
        start = time.perf_counter_ns()
        for nonce, packet in zip(nonces, sealed, strict=True):
            oracle.decrypt(nonce, packet, AAD)
        return (time.perf_counter_ns() - start) / count

    yield "openssl seal", run_seal
    yield "openssl open", run_open


def forms() -> dict[str, ModuleType]:
    """The chosen form first, then the portable one if it is another."""
    return {esp.BACKEND: esp, "portable": portable}


def main() -> None:
    """Measure all sizes and print the report."""
    results = []
    for size in SIZES:
        cases: dict[str, Case] = {}
        for name, form in forms().items():
            cases.update(form_cases(name, form, size))
        cases.update(openssl_cases(size))
        for name, values in measure.in_turns(cases).items():
            ns = measure.summary(values)
            gbit_s = round(8 * size / ns["median"], 2)
            results.append({"case": name, "bytes": size, "ns": ns, "gbit_s": gbit_s})
    measure.report(results, chosen=esp.BACKEND, key_bits=8 * KEY_BYTES, rounds=measure.ROUNDS)


if __name__ == "__main__":
    main()
