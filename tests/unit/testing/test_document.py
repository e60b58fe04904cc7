# SPDX-License-Identifier: Apache-2.0
"""docs/testing.md: its example runs, and it names every public strategy."""

import re
from pathlib import Path

import pytest

from host_driver import testing

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "testing.md").read_text()


def test_the_example_runs(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    pytester.makepyfile(test_tunnels=example)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    result = pytester.runpytest_subprocess()
    # TestCase of the imported base class has no rules and is not collected.
    result.assert_outcomes(passed=1)


def test_everything_public_is_named():
    assert set(testing.__all__) - set(re.findall(r"\w+", TEXT)) == set()
