# SPDX-License-Identifier: Apache-2.0
"""The reference driver and the core keep every rule, section by section, on every target."""

import pytest

from host_driver.conformance.catalogue import catalogue
from host_driver.conformance.report import NOT_MODELLED, NOT_RUN, PASSED, SKIPPED, TESTED
from host_driver.conformance.run import run
from host_driver.conformance.target import Options

SECTIONS = sorted({rule.section for rule in catalogue().values()})
MANY = 450  # of the 545 rules of the contract


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize(
    ("target", "profile"), [("sim", "latest"), ("sim", "v6.2"), ("process", "latest")]
)
@pytest.mark.timeout(600)
def test_the_reference_driver_passes(section: str, target: str, profile: str) -> None:
    report = run(Options(target=target, profile=profile), [section])
    assert [(result.rule.id, result.reason) for result in report.failed] == []
    assert {result.status for result in report.rules} <= {PASSED, SKIPPED, NOT_MODELLED, NOT_RUN}


def test_every_rule_is_judged_or_says_why_not() -> None:
    report = run(Options(), collect_only=True)
    assert [r.rule.id for r in report.rules if r.status not in (TESTED, NOT_MODELLED)] == []
    assert report.count(TESTED) >= MANY
    assert all(r.reason for r in report.rules if r.status == NOT_MODELLED)
