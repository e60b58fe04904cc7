# SPDX-License-Identifier: Apache-2.0
"""Which form of ESP a process takes, where its compiled code goes, and every form on every run."""

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nic_model.esp import select
from proto.status import OffloadError

ROOT = Path(__file__).parent.parent.parent
AESNI = frozenset({"aes", "pclmul", "ssse3", "sse4.1", "avx"})
VAES = frozenset({"avx2", "vaes", "vpclmulqdq"})
AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"})
ALL = AESNI | VAES | AVX512
SETTINGS = ("XFRMNIC_ESP", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_DISABLE_JIT")


def run(arguments: list[str], **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in SETTINGS} | settings
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


def run_gcm_tests(select_tests: str, *options: str, **settings: str) -> int:
    """Run test_esp_gcm.py in another process; the number of tests that passed, none may fail."""
    file = "tests/unit/test_esp_gcm.py"
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", select_tests, *options, file]
    done = run(arguments, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout
    return int(passed[1])


@pytest.mark.parametrize("form", [form.name for form in select.FORMS])
def test_form_passes_all(form: str) -> None:
    here = select.target_features(select.host_features(), None)
    needs = next(each.needs for each in select.FORMS if each.name == form)
    if missing := needs - here:
        pytest.skip(f"this CPU lacks {', '.join(sorted(missing))}")
    assert run_gcm_tests("test", XFRMNIC_ESP=form) > 60


def test_512_bit_form_passes_all_in_halves(tmp_path: Path) -> None:
    """For the CPUs that have everything else that it needs: the walk is the same."""
    here = select.target_features(select.host_features(), None)
    if here >= AVX512 or not here >= VAES:
        pytest.skip("this CPU runs it itself, or has no VAES")
    assert run_gcm_tests("test", "-p", "support.halved", NUMBA_CACHE_DIR=str(tmp_path)) > 60


def test_plain_python_passes_the_short_ones() -> None:
    assert run_gcm_tests("short", NUMBA_DISABLE_JIT="1") > 40


def test_numba_told_of_a_lesser_cpu_still_works() -> None:
    """Were the AES instructions chosen here, the compiler would abort the process."""
    assert run_gcm_tests("published", NUMBA_CPU_NAME="generic") > 20


@pytest.mark.parametrize(
    ("override", "features", "jit", "expected"),
    [
        ("", ALL, True, "vaes"),
        *(("", ALL - {feature}, True, "vaes_avx2") for feature in sorted(AVX512)),
        *(("", ALL - {feature}, True, "aesni") for feature in sorted(VAES)),
        ("", ALL - {"pclmul"}, True, "portable"),
        ("", ALL - {"aes"}, True, "portable"),
        ("", ALL, False, "portable"),
        ("", frozenset(), True, "portable"),
        ("portable", ALL, True, "portable"),
        ("aesni", ALL, True, "aesni"),
        ("vaes_avx2", ALL, True, "vaes_avx2"),
        ("vaes", ALL, True, "vaes"),
    ],
)
def test_choice(override: str, features: frozenset[str], jit: bool, expected: str) -> None:
    assert select.choose(override, features, jit) == expected


@pytest.mark.parametrize(
    ("override", "features", "jit", "number", "words"),
    [
        ("aesni", ALL - {"aes", "ssse3"}, True, errno.EOPNOTSUPP, "aes, ssse3"),
        ("vaes", AESNI, True, errno.EOPNOTSUPP, "avx2, avx512bw, avx512dq, avx512f, avx512vl, v"),
        ("vaes_avx2", AESNI, True, errno.EOPNOTSUPP, "avx2, vaes, vpclmulqdq"),
        ("aesni", ALL, False, errno.EOPNOTSUPP, "NUMBA_DISABLE_JIT"),
        ("fast", ALL, True, errno.EINVAL, "XFRMNIC_ESP=fast"),
    ],
)
def test_impossible_choice_is_refused(
    override: str, features: frozenset[str], jit: bool, number: int, words: str
) -> None:
    with pytest.raises(OffloadError) as refusal:
        select.choose(override, features, jit)
    assert refusal.value.errno == number
    assert words in refusal.value.text


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (None, ALL),
        ("", frozenset()),
        ("+aes,+pclmul", {"aes", "pclmul"}),
        ("+aes,-pclmul, +avx", {"aes", "avx"}),
        ("+aes,-aes", frozenset()),
        ("+avx512fp16", frozenset()),  # numba may be told of more than the CPU has
        ("+aes,+vaes,+avx2,+avx512f,-avx", {"aes"}),  # what is made of a feature goes with it
        ("+aes,+vaes,+avx,-avx2", {"aes", "avx"}),
        ("+aes,+avx2,+sse4.1,-ssse3", frozenset()),
        ("+aes,+avx2,-sse4a", {"aes", "avx2"}),
    ],
)
def test_what_numba_is_told_limits_the_features(told: str | None, expected: set[str]) -> None:
    assert select.target_features(ALL, told) == expected


def test_environment_is_read() -> None:
    show = ["-c", "from nic_model import esp; print(esp.BACKEND)"]
    assert run(show, NUMBA_CPU_FEATURES="-aes").stdout.strip() == "portable"
    if select.host_features() >= VAES:
        told = "+aes,+pclmul,+ssse3,+sse4.1,+vaes,+vpclmulqdq"
        assert run(show, NUMBA_CPU_FEATURES=told).stdout.strip() == "aesni"
        assert run(show, NUMBA_CPU_FEATURES=f"{told},+avx2").stdout.strip() == "vaes_avx2"
    assert run(show, XFRMNIC_ESP="portable").stdout.strip() == "portable"
    assert run(show, NUMBA_ENABLE_AVX="0").stdout.strip() in ("aesni", "portable")
    refused = run(show, XFRMNIC_ESP="aesni", NUMBA_CPU_NAME="generic")
    assert refused.returncode == 1
    assert "XFRMNIC_ESP=aesni needs CPU features missing here: aes," in refused.stderr


def cache_directory(**settings: str) -> Path:
    show = "import os, nic_model.jit; print(os.environ['NUMBA_CACHE_DIR'])"
    return Path(run(["-c", show], **settings).stdout.strip())


def test_cache_directory_is_named_after_what_was_compiled(tmp_path: Path) -> None:
    given = str(tmp_path)
    first = cache_directory(NUMBA_CACHE_DIR=given)
    assert first.parent == tmp_path
    assert cache_directory(NUMBA_CACHE_DIR=given) == first
    assert cache_directory(NUMBA_CACHE_DIR=str(first)) == first  # as a child process sees it
    other = cache_directory(NUMBA_CACHE_DIR=given, XFRMNIC_ESP="portable")
    assert other.parent == tmp_path
    assert other != first


def test_two_installations_do_not_take_each_other_for_compiled(tmp_path: Path) -> None:
    """numba keys its cache by path and time of the source; a marker of one must not speak for the
    other, whose first packet would then wait for the compiler."""
    names = set()
    for place in ("one", "two"):
        for package in ("nic_model", "proto"):
            shutil.copytree(ROOT / package, tmp_path / place / package)
        code = "from nic_model.cache import cache_directory; print(cache_directory())"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path / place, capture_output=True, text=True,
            check=True, env=os.environ | {"PYTHONPATH": str(tmp_path / place)},
        )  # fmt: skip
        names.add(done.stdout)
    assert len(names) == 2
