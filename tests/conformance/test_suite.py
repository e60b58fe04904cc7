# SPDX-License-Identifier: Apache-2.0
"""The suite itself: the catalogue is whole, a run tells what broke, and every report says so."""

import json
import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from click.testing import CliRunner

from host_driver.cli.app import cli
from host_driver.conformance.catalogue import catalogue, select
from host_driver.conformance.page import page
from host_driver.conformance.report import FAILED, PASSED
from host_driver.conformance.run import run
from host_driver.conformance.target import Options
from host_driver.driver.reference import ReferenceDriver
from proto.status import OffloadError


class Refuses(ReferenceDriver):
    """Takes no SA at all."""

    def xdo_dev_state_add(self, dev, x, extack):
        return -22


REFUSES = f"{__name__}:Refuses"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Options:
    monkeypatch.setattr("host_driver.driver.load.ReferenceDriver", Refuses)
    return Options()


def test_the_catalogue_holds_the_whole_contract() -> None:
    rules = catalogue()
    assert len(rules) == 545
    assert all(rule.text and rule.source for rule in rules.values())


def test_rules_are_chosen_by_id_and_by_section() -> None:
    assert select(["trace-04"]) == ["TRACE-04"]
    assert len(select(["TRACE"])) == 20
    assert len(select([])) == 545
    with pytest.raises(OffloadError, match="NOSUCH"):
        select(["NOSUCH-01"])


def test_a_broken_driver_is_named_by_rule_with_its_calls(broken: Options) -> None:
    report = run(broken, ["TRACE-01"])
    (result,) = report.failed
    assert (result.rule.id, result.status) == ("TRACE-01", FAILED)
    (case,) = result.cases
    assert "-> -22" in case.calls[0]
    assert "state_add" in case.demand


def test_the_page_stands_alone_and_shows_what_broke(broken: Options) -> None:
    html = page(run(broken, ["TRACE-01", "TRACE-02"]))
    assert "<script" not in html and "http" not in html
    assert '<details class="failed" open>' in html and "TRACE-01" in html


def test_the_reference_driver_passes_on_the_command_line(tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    command = ["conform", "--rule", "TRACE-01", "--json", "--junit", str(junit)]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["rules"][0]["status"] == PASSED
    properties = ElementTree.parse(junit).iter("property")
    assert "TRACE-01" in [item.get("value") for item in properties]


def test_bad_arguments_are_usage_errors() -> None:
    for words in (["--rule", "NOSUCH"], ["--profile", "v1.0"], ["--driver", "nonsense"]):
        result = CliRunner().invoke(cli, ["conform", *words])
        assert result.exit_code == 2, (words, result.output)


def test_what_is_set_for_the_users_own_pytest_is_not_for_this_run(monkeypatch) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "--durations=3 --no-such-option")
    assert run(Options(), ["OPS-01"]).count(PASSED) == 1
    assert os.environ["PYTEST_ADDOPTS"].endswith("--no-such-option")
