# SPDX-License-Identifier: Apache-2.0
"""The driver of docs/conformance.md is 60 lines long and does what the document says of it."""

import re
from pathlib import Path

import pytest

from host_driver.conformance.run import run
from host_driver.conformance.target import Options

DOCUMENT = Path(__file__).parents[2] / "docs" / "conformance.md"
SAID_TO_BREAK = {"DUMP-04", "LIFE-37", "REPLAY-10", "TRAP-16"}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    (tmp_path / "tiny_driver.py").write_text(code, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert len([line for line in code.splitlines() if line]) <= 60
    return "tiny_driver:TinyDriver"


@pytest.mark.timeout(600)
def test_the_tiny_driver_breaks_what_the_document_says(tiny: str) -> None:
    assert all(rule in DOCUMENT.read_text("utf-8") for rule in SAID_TO_BREAK)
    report = run(Options(driver=tiny), ["TRACE", "OPS", "DOC", *SAID_TO_BREAK])
    assert {result.rule.id for result in report.failed} == SAID_TO_BREAK
