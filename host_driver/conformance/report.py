# SPDX-License-Identifier: Apache-2.0
"""Outcomes of cases, gathered by rule."""

from collections.abc import Iterable
from typing import Any

import msgspec

from host_driver.conformance.catalogue import Rule, catalogue

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
NOT_MODELLED, NOT_RUN, TESTED = "not modelled", "not run", "tested"
_WORST_FIRST = (FAILED, PASSED, SKIPPED)


class CaseResult(msgspec.Struct, frozen=True, kw_only=True):
    """One case that ran: `came` is the assertion that broke, or why it was skipped.

    `calls` are the driver's calls up to a failure, oldest first.
    """

    name: str
    demand: str
    rules: tuple[str, ...]
    outcome: str
    seconds: float = 0.0
    came: str = ""
    calls: tuple[str, ...] = ()


class RuleResult(msgspec.Struct, frozen=True, kw_only=True):
    """A rule and what its cases say: the worst outcome of all of them."""

    rule: Rule
    status: str
    reason: str = ""
    cases: tuple[CaseResult, ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run. `about` says of what: target, profile, driver, card, versions."""

    about: dict[str, Any]
    rules: tuple[RuleResult, ...]
    cases: tuple[CaseResult, ...]

    @property
    def failed(self) -> list[RuleResult]:
        """Rules that are broken."""
        return [result for result in self.rules if result.status == FAILED]

    def count(self, status: str) -> int:
        """Rules with this status."""
        return sum(result.status == status for result in self.rules)

    def counts(self) -> dict[str, int]:
        """Rules by status, for those that occur."""
        statuses = (PASSED, FAILED, SKIPPED, TESTED, NOT_RUN, NOT_MODELLED)
        return {status: n for status in statuses if (n := self.count(status))}


def gather(about: dict[str, Any], wanted: Iterable[str], cases: list[CaseResult]) -> Report:
    """The report of a run that was asked for these rules."""
    by_rule: dict[str, list[CaseResult]] = {}
    for case in cases:
        for id in case.rules:
            by_rule.setdefault(id, []).append(case)
    results = tuple(_judge(catalogue()[id], by_rule.get(id, [])) for id in wanted)
    return Report(about=about, rules=results, cases=tuple(cases))


def _judge(rule: Rule, cases: list[CaseResult]) -> RuleResult:
    outcomes = {case.outcome for case in cases}
    status = next((outcome for outcome in _WORST_FIRST if outcome in outcomes), NOT_RUN)
    reason = ""
    if not cases and rule.not_modelled:
        status, reason = NOT_MODELLED, rule.not_modelled
    elif status == SKIPPED:
        reason = "; ".join(dict.fromkeys(case.came for case in cases))
    elif TESTED in outcomes:
        status = TESTED
    return RuleResult(rule=rule, status=status, reason=reason, cases=tuple(cases))


def text(report: Report) -> str:
    """What a terminal shows: each broken rule with its story, then the count."""
    parts = []
    for result in report.failed:
        parts.append(
            f"{result.rule.id} is broken ({result.rule.source})\n{_indented(result.rule.text)}"
        )
        for case in result.cases:
            if case.outcome == FAILED:
                parts.append(_story(case))
    counts = ", ".join(f"{n} {status}" for status, n in report.counts().items())
    cases = len(report.cases)
    parts.append(f"{len(report.rules)} rules: {counts}; {cases} cases on {report.about['target']}")
    return "\n\n".join(parts)


def _story(case: CaseResult) -> str:
    lines = [f"  case {case.name}", f"  wanted: {case.demand}", _indented(f"came: {case.came}")]
    if case.calls:
        lines += ["  calls of the driver:", *(f"    {call}" for call in case.calls)]
    return "\n".join(lines)


def _indented(lines: str) -> str:
    return "\n".join(f"  {line}" for line in lines.splitlines())
