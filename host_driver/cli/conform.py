# SPDX-License-Identifier: Apache-2.0
"""`xfrmnic conform`: does a driver, and the core that calls it, keep the kernel's contract?"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from host_driver.cli.common import ExpectationFailed, example, json_option, refusals, show, table

if TYPE_CHECKING:
    from host_driver.conformance.report import CaseResult, Report


@click.command(epilog=example("xfrmnic conform --driver my_pkg.driver:MyDriver --rule STATE"))
@click.option("--driver", help="Your driver as package.module:Class. [default: reference driver]")
@click.option(
    "--target", type=click.Choice(("sim", "process", "kernel")), default="sim", show_default=True,
    help="Simulator, real processes, or the running Linux.",
)  # fmt: skip
@click.option(
    "--profile", default="latest", show_default=True, help="Kernel behaviour of the core."
)
@click.option("--card", default="full", show_default=True, help="Card profile with overrides.")
@click.option("--rule", "rules", multiple=True, metavar="ID", help="Only this rule or section.")
@click.option("--dev", help="Offload device of target kernel; it moves into the namespace.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--junit", type=click.Path(path_type=Path, dir_okay=False), help="JUnit XML to write."
)
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="HTML page to write.")
@click.option("--list", "only_list", is_flag=True, help="Run nothing; list rules and their cases.")
@json_option
@refusals
def conform(
    driver: str | None, target: str, profile: str, card: str, rules: tuple[str, ...],
    dev: str | None, seed: int, junit: Path | None, html: Path | None, only_list: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Check a driver and its core against the contract, rule by rule. Exits with 1 if one broke."""
    from host_driver.conformance.run import run
    from host_driver.conformance.target import Options

    options = Options(target=target, profile=profile, driver=driver, card=card, seed=seed, dev=dev)
    quiet = only_list or as_json
    progress = _silent if quiet else _progress
    report = run(options, rules, collect_only=only_list, junit=junit, on_case=progress)
    click.echo("" if quiet else "\n", nl=False, err=True)
    if html is not None:
        from host_driver.conformance.page import page

        html.write_text(page(report), "utf-8")
    show(as_data(report), _listed(report) if only_list else _shown(report), as_json)
    if report.failed:
        raise ExpectationFailed(f"{len(report.failed)} rules are broken")


def as_data(report: "Report") -> dict[str, Any]:
    """The report as JSON says it; cases stand once, rules name them."""
    rules = [
        {
            **msgspec.to_builtins(result.rule),
            "status": result.status,
            "reason": result.reason,
            "cases": [case.name for case in result.cases],
        }
        for result in report.rules
    ]
    cases = [msgspec.to_builtins(case) for case in report.cases]
    return {"about": report.about, "counts": report.counts(), "rules": rules, "cases": cases}


def _listed(report: "Report") -> str:
    from host_driver.conformance.report import NOT_MODELLED

    rows = []
    for result in report.rules:
        cases = f"{len(result.cases)} cases" if result.cases else ""
        more = result.reason if result.status == NOT_MODELLED else cases
        rows.append((result.rule.id, result.status, more))
    return table(rows) + f"\n{report.counts()}"


def _shown(report: "Report") -> str:
    from host_driver.conformance.report import text

    return text(report)


def _progress(case: "CaseResult") -> None:
    mark = {"passed": ".", "failed": "F"}.get(case.outcome, "s")
    click.echo(mark, nl=False, err=True)


def _silent(case: "CaseResult") -> None:
    """Nothing but the result is wanted."""
