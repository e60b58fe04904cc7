# SPDX-License-Identifier: Apache-2.0
"""The report as one HTML page that needs nothing else: no script, no style sheet, no network."""

from html import escape

from host_driver.conformance.report import FAILED, CaseResult, Report, RuleResult

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 68rem; padding: 0 1rem;
       color: #1b1f24; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
code, pre { font: 13px/1.4 ui-monospace, monospace; }
pre { background: #f6f8fa; padding: .6rem; overflow-x: auto; white-space: pre-wrap; }
details { border-left: 4px solid #ccc; margin: .3rem 0; padding: .1rem .7rem; }
summary { cursor: pointer; } summary b { display: inline-block; min-width: 6.5rem; }
.passed { border-color: #2da44e; } .failed { border-color: #cf222e; background: #fff5f5; }
.skipped, .not-run { border-color: #bf8700; } .not-modelled { border-color: #8c959f; }
.source { color: #57606a; }
@media (prefers-color-scheme: dark) {
  body { color: #e6edf3; background: #0d1117; } pre { background: #161b22; }
  .failed { background: #2d1418; } .source { color: #8b949e; } }
"""


def page(report: Report) -> str:
    """The whole page."""
    about = ", ".join(f"{name} {value}" for name, value in report.about.items() if value)
    counts = ", ".join(f"{count} {status}" for status, count in report.counts().items())
    sections: dict[str, list[RuleResult]] = {}
    for result in report.rules:
        sections.setdefault(result.rule.section, []).append(result)
    parts = [
        '<!DOCTYPE html><html lang="en"><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>xfrmnic conformance</title><style>{STYLE}</style>",
        f"<h1>xfrmnic conformance</h1><p>{escape(about)}</p>",
        f"<p><strong>{len(report.rules)} rules: {escape(counts)}</strong></p>",
    ]
    if report.failed:
        parts += ["<h2>Broken</h2>", *map(_rule, report.failed)]
    for section, results in sections.items():
        parts += [f"<h2>{escape(section)}</h2>", *map(_rule, results)]
    return "\n".join([*parts, "</html>", ""])


def _rule(result: RuleResult) -> str:
    rule, kind = result.rule, result.status.replace(" ", "-")
    head = f"<b>{escape(rule.id)}</b> {escape(result.status)}"
    body = [f"<p>{escape(rule.text)}</p>"]
    origin = f" {rule.origin}" if rule.origin else ""
    body.append(f'<p class="source">{escape(rule.source)}{escape(origin)}</p>')
    if rule.corrected:
        body.append(f"<p>Seen otherwise: {escape(rule.corrected)}</p>")
    if result.reason:
        body.append(f"<p>{escape(result.reason)}</p>")
    body += map(_case, result.cases)
    opened = " open" if result.status == FAILED else ""
    return f'<details class="{kind}"{opened}><summary>{head}</summary>{"".join(body)}</details>'


def _case(case: CaseResult) -> str:
    parts = [
        f"<p><code>{escape(case.name)}</code> {escape(case.outcome)}: {escape(case.demand)}</p>"
    ]
    if case.came:
        parts.append(f"<pre>{escape(case.came)}</pre>")
    if case.calls:
        parts.append(f"<pre>{escape(chr(10).join(case.calls))}</pre>")
    return "".join(parts)
