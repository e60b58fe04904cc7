# SPDX-License-Identifier: Apache-2.0
"""The running kernel keeps the rules that it can be asked about; it needs root, and tells so."""

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from host_driver.cli.app import cli
from host_driver.conformance.report import FAILED, PASSED
from host_driver.conformance.run import run
from host_driver.conformance.target import Options

OWN_NAMESPACE = Path("/proc/thread-self/ns/net")


def may_unshare() -> bool:
    return os.geteuid() == 0 and shutil.which("ip") is not None


@pytest.mark.skipif(not may_unshare(), reason="target kernel needs root and iproute2")
@pytest.mark.parametrize("section", ["UAPI", "SPD", "DUMP", "MIB"])
def test_the_running_kernel_keeps_its_rules(section: str) -> None:
    before = OWN_NAMESPACE.readlink()
    report = run(Options(target="kernel"), [section])
    came = [case.came for case in report.cases if case.outcome == FAILED]
    assert ([result.rule.id for result in report.failed], came) == ([], [])
    assert report.count(PASSED), "nothing of this section could be asked"
    assert OWN_NAMESPACE.readlink() == before, "the run left its namespace"


def test_without_iproute2_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    result = CliRunner().invoke(cli, ["conform", "--target", "kernel", "--rule", "UAPI-02"])
    assert result.exit_code == 3, result.output
    assert "iproute2" in result.output or "root" in result.output


@pytest.mark.skipif(not may_unshare(), reason="target kernel needs root and iproute2")
def test_a_device_that_is_not_there() -> None:
    result = CliRunner().invoke(cli, ["conform", "--target", "kernel", "--dev", "nosuch9"])
    assert (result.exit_code, "nosuch9" in result.output) == (3, True), result.output
