# SPDX-License-Identifier: Apache-2.0
"""Cost of seal and open per packet: every form that this CPU can run, against libipsec-mb.

Prints JSON: ns per packet (median and range), Gbit/s of payload at the median, and for each form
the time ratio to libipsec-mb in the same round, where that library is installed (the report says
so where it is not). A burst of packets, together 128 KiB, and what is made of it stay in the
second-level cache.
"""

import importlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import ipsec_mb
import measure
import numpy as np

from nic_model import esp
from nic_model.esp import select
from nic_model.jit import config, numba
from nic_model.memory import copy

SIZES = (64, 256, 1024, 1420, 8192)
KEYS = (16, 32)
BURST_BYTES = 1 << 17
REPEATS = 10  # bursts per measurement, of which the fastest counts
SALT, ZERO = np.uint32(1), np.uint64(0)
AAD_BYTES = ipsec_mb.AAD_BYTES
REFERENCE = "ipsec-mb"

Run = Callable[[np.ndarray, np.ndarray], int]  # source, target


def make_bursts(form: Any) -> dict[str, Any]:
    """Kernels that seal or open `count` packets of `size` bytes, an ICV behind each."""
    seal, unseal = form.seal, form.unseal
    compiled = numba.njit(nogil=True, boundscheck=False, _nrt=False)

    @compiled
    def seal_burst(ctx, source, target, size, stride, count, tag):
        for i in range(count):
            at, iv = i * stride, np.uint64(i & 255)
            seal(ctx, SALT, iv, ZERO, ZERO, AAD_BYTES, source, at, target, at, size, tag)
            copy(target, at + size, tag, 0, 16)
        return count

    @compiled
    def open_burst(ctx, source, target, size, stride, count, _tag):
        good = 0
        for i in range(count):
            at, iv = i * stride, np.uint64(i & 255)
            good += unseal(
                ctx,
                SALT,
                iv,
                ZERO,
                ZERO,
                AAD_BYTES,
                source,
                at,
                target,
                at,
                size,
                at + size,
                16,
            )
        return good

    return {"seal": seal_burst, "open": open_burst}


def forms() -> dict[str, Any]:
    """The forms that this process can compile, best first."""
    features = select.target_features(select.host_features(), config.CPU_FEATURES)
    usable = [form.name for form in select.FORMS if form.needs <= features]
    return {name: importlib.import_module(f"nic_model.esp.{name}") for name in usable}


class Bench:
    """Compiled bursts of every form and of the library, for all sizes."""

    def __init__(self) -> None:
        self.library = ipsec_mb.load()
        self.bursts = {name: make_bursts(form) for name, form in forms().items()}

    def runs(self, key: bytes, size: int, stride: int, count: int, way: str) -> dict[str, Run]:
        """One call per contestant: packets from source to target, how many were good."""
        ctx, aad, tag = ipsec_mb.aligned(esp.KEY_BYTES), np.zeros(16, np.uint8), np.zeros(16, "u1")
        esp.expand_key(key, ctx)
        runs: dict[str, Run] = {
            name: lambda source, target, burst=bursts[way]: burst(
                ctx, source, target, size, stride, count, tag
            )
            for name, bursts in self.bursts.items()
        }
        if self.library:
            data, context = ipsec_mb.expand_key(self.library, key), ipsec_mb.aligned(128)
            iv = ipsec_mb.aligned(16)
            iv[3] = SALT
            theirs = ipsec_mb.make_burst(self.library, len(key), opens=way == "open")
            runs[REFERENCE] = lambda source, target: theirs(
                data, context, aad, iv, source, target, size, stride, count
            )
        return runs

    def cases(self, key: bytes, size: int, way: str) -> dict[str, Callable[[], float]]:
        """ns per packet for each contestant; what they make is compared first."""
        count, stride = max(BURST_BYTES // size, 1), (size + 16 + 63) & ~63
        clear = ipsec_mb.aligned(count * stride)
        sealed = {name: clear.copy() for name in self.runs(key, size, stride, count, "seal")}
        for name, run in self.runs(key, size, stride, count, "seal").items():
            run(clear, sealed[name])
        first = next(iter(sealed.values()))
        if wrong := [name for name, packets in sealed.items() if (packets != first).any()]:
            raise RuntimeError(f"{wrong} do not seal {size} bytes as the others do")

        def case(name: str, run: Run) -> float:
            source, target = (first if way == "open" else clear), ipsec_mb.aligned(count * stride)
            spent = []
            for _ in range(REPEATS):
                start = time.perf_counter_ns()
                good = run(source, target)
                spent.append(time.perf_counter_ns() - start)
                if good != count:
                    raise RuntimeError(f"{name} opened {good} of {count} packets of {size} bytes")
            return min(spent) / count

        runs = self.runs(key, size, stride, count, way)
        return {name: lambda name=name, run=run: case(name, run) for name, run in runs.items()}


def rows(values: dict[str, list[float]], **what: Any) -> list[dict[str, Any]]:
    """The results of one size, key and way."""
    results = []
    for name, each in values.items():
        ns = measure.summary(each)
        row = {"form": name, **what, "ns": ns, "gbit_s": round(8 * what["bytes"] / ns["median"], 2)}
        if REFERENCE in values and name != REFERENCE:
            ratios = [ours / theirs for ours, theirs in zip(each, values[REFERENCE], strict=True)]
            row["ratio"] = measure.summary(ratios, digits=3)
        if name == "aesni" and "vaes" in values:
            row["to_vaes"] = round(
                statistics.median(a / b for a, b in zip(each, values["vaes"], strict=True)), 2
            )
        results.append(row)
    return results


def main() -> None:
    """Measure all sizes and print the report."""
    bench = Bench()
    results: list[dict[str, Any]] = []
    for key_bytes in KEYS:
        for size in SIZES:
            for way in ("seal", "open"):
                cases = bench.cases(bytes(range(key_bytes)), size, way)
                values = measure.in_turns(cases)
                results += rows(values, way=way, key_bits=8 * key_bytes, bytes=size)
    library = bench.library
    reference = f"{library.version} {library.kind}" if library else f"no {ipsec_mb.LIBRARY} here"
    features = set().union(*(form.needs for form in select.FORMS)) & select.host_features()
    measure.report(
        results, chosen=esp.BACKEND, reference=reference, features=sorted(features),
        rounds=measure.ROUNDS,
    )  # fmt: skip


if __name__ == "__main__":
    main()
