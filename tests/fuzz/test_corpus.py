# SPDX-License-Identifier: Apache-2.0
"""What fuzzing found worth keeping runs again with every change, and some new inputs with it."""

import pytest

from fuzz import corpus
from fuzz.engine import Fuzzer, replay
from fuzz.targets import TARGETS

CORPUS_MAX_BYTES = 1 << 20
NEW_INPUTS = 20_000
EACH = -(-NEW_INPUTS // len(TARGETS))


@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs_do_no_harm(name):
    kept = corpus.load(name)
    assert kept, "no corpus: python -m tests.fuzz --collect 200"
    assert replay(TARGETS[name](), kept) == ""


@pytest.mark.parametrize("name", TARGETS)
def test_new_inputs_do_no_harm(name):
    """The same again: python -m tests.fuzz --target NAME --seed 0 --count EACH"""
    report = Fuzzer(TARGETS[name](), "0/0").run(EACH)
    assert report.finding == ""
    assert report.inputs == EACH
    assert report.refused > EACH // 4


def test_the_corpus_is_small_and_of_known_targets():
    files = sorted(corpus.DIRECTORY.iterdir())
    assert {file.stem for file in files} == set(TARGETS)
    assert sum(file.stat().st_size for file in files) < CORPUS_MAX_BYTES
