# SPDX-License-Identifier: Apache-2.0
"""Which form of AES-GCM this process uses, decided before anything is compiled.

To compile an instruction that the target lacks does not raise: LLVM aborts the process. So a form
is taken only if the CPU has what it needs and if numba was not told to compile for less than this
CPU (NUMBA_CPU_NAME, NUMBA_CPU_FEATURES). NUMBA_DISABLE_JIT leaves only the portable form, as there
are no instructions in plain Python. XFRMNIC_ESP overrules the order of preference, not the facts.
"""

import errno
import os
from typing import NamedTuple

from llvmlite import binding

from nic_model.jit import config
from proto.status import OffloadError

VARIABLE = "XFRMNIC_ESP"


class Form(NamedTuple):
    """A module of this package that offers seal and unseal, and the CPU features it compiles to."""

    name: str
    needs: frozenset[str]


_AESNI = frozenset({"aes", "pclmul", "ssse3", "sse4.1"})
_VAES = _AESNI | {"avx2", "vaes", "vpclmulqdq"}
_AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"})
FORMS = (  # best first
    Form("vaes", _VAES | _AVX512),
    Form("vaes_avx2", _VAES),
    Form("aesni", _AESNI),
    Form("portable", frozenset()),
)


def host_features() -> frozenset[str]:
    """Features of this CPU, by LLVM's names; empty where LLVM cannot tell."""
    try:
        features = binding.get_host_cpu_features()
    except RuntimeError:
        return frozenset()
    return frozenset(name for name, present in features.items() if present)


def target_features(host: frozenset[str], told: str | None) -> frozenset[str]:
    """Features that numba may use: those of the host, or of them those it was told by name and that
    nothing it was told takes away.

    `told` is NUMBA_CPU_FEATURES ("+aes,-avx"), which numba itself makes "" for the CPU name
    "generic". What the CPU name alone implies is not known here and counts as absent.
    """
    if told is None:
        return host
    listed = {}
    for item in told.split(","):
        listed[item.strip()[1:]] = item.strip().startswith("+")  # the last mention wins, as in LLVM
    found = frozenset(name for name, wanted in listed.items() if wanted) & host
    absent = {name for name, wanted in listed.items() if not wanted}  # and all that is made of it
    if absent & {"sse", "sse2", "sse3", "ssse3", "sse4.1", "sse4.2"}:
        return frozenset()
    return _without_avx(found) if absent & {"avx", "avx2"} else found


def _without_avx(features: frozenset[str]) -> frozenset[str]:
    made_of_it = ("avx2", "avx512", "vaes", "vpclmulqdq")
    return frozenset(name for name in features if not name.startswith(made_of_it))


def choose(override: str, features: frozenset[str], jit: bool) -> str:
    """Name of the form to use: `override` if it is not empty, else the best possible one.

    Raises OffloadError: EINVAL for a name that no form has, EOPNOTSUPP for a form that cannot run.
    """
    if not override:
        return next(
            form.name for form in FORMS if not form.needs or (jit and form.needs <= features)
        )
    for form in FORMS:
        if form.name != override:
            continue
        if form.needs and not jit:
            text = f"{VARIABLE}={override} needs compiled code, but NUMBA_DISABLE_JIT is set"
            raise OffloadError(errno.EOPNOTSUPP, text)
        if missing := ", ".join(sorted(form.needs - features)):
            text = f"{VARIABLE}={override} needs CPU features missing here: {missing}"
            raise OffloadError(errno.EOPNOTSUPP, text)
        return override
    known = ", ".join(form.name for form in FORMS)
    raise OffloadError(errno.EINVAL, f"{VARIABLE}={override} is not a form of ESP (known: {known})")


def chosen() -> str:
    """Name of the form for this process and its environment."""
    told: str | None = config.CPU_FEATURES
    host = host_features() if config.ENABLE_AVX else _without_avx(host_features())
    features = target_features(host, told)
    return choose(os.environ.get(VARIABLE, ""), features, jit=not config.DISABLE_JIT)
