# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.fuzz --count 1000000 --seed 1 [--target NAME] [--jobs 2]`

Prints a line for each target: inputs, messages offered and refused, what they covered, the slowest
input, memory, findings. Exit status 1 when there was a finding, and then one line replays it.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path

from fuzz import corpus, libfuzzer
from fuzz.engine import Fuzzer, Report, replay, shrink, thin
from fuzz.targets import TARGETS
from host_driver.lab.warm import warm_kernels

SHARE_INPUTS = 25_000  # of one target in one process
HEAD = ("target", "inputs", "offered", "refused", "features", "edges", "corpus", "slowest",
        "memory", "growth", "finding")  # fmt: skip
WIDTHS = (14, 9, 9, 9, 9, 7, 7, 10, 9, 9, 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, replay or collect; returns the exit status."""
    options = _options(arguments)
    if options.replay:
        return _replay(options.replay)
    warm_kernels()  # compiling takes longer than any input may
    if options.child:
        (name,) = options.target
        kept = corpus.load(name)
        libfuzzer.child(TARGETS[name](), options.count, options.seed, kept, options.child)
    names = options.target or list(TARGETS)
    reports = {name: Report(name) for name in names}
    print(_line(HEAD), flush=True)
    for share in _shares(names, options):
        reports[share.target].add(share)
        if options.verbose:
            print(_row(share), flush=True)
    if options.collect:
        for name, report in reports.items():
            target = TARGETS[name]()
            kept = thin(target, [*corpus.load(name), *report.corpus], options.collect)
            corpus.save(name, kept)
    total = Report("total")
    for report in reports.values():
        print(_row(report))
        features, edges = total.features + report.features, total.edges + report.edges
        total.add(report)
        total.features, total.edges = features, edges
    print(_row(total))
    if options.json:
        options.json.write_text(json.dumps([_json(r) for r in (*reports.values(), total)]))
    return _findings(reports.values())


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--count", type=int, default=20_000, help="inputs of all targets together")
    add("--seed", type=int, default=1, help="of everything that is drawn")
    add("--target", action="append", choices=list(TARGETS), help="only this one; may be repeated")
    add("--jobs", type=int, default=1, help="processes at a time")
    add("--json", type=Path, help="write the reports there, too")
    add("--verbose", action="store_true", help="a line for each share of a target")
    add("--collect", type=int, metavar="N", help="renew tests/vectors/fuzz, N inputs a target")
    add("--engine", choices=("auto", "own", "atheris"), default="auto", help="auto: the best there")
    add("--child", type=Path, help=argparse.SUPPRESS)
    add("--replay", type=Path, help="run the inputs of a finding again")
    options = parser.parse_args(arguments)
    if options.engine == "atheris" and not libfuzzer.available():
        parser.error("atheris is missing: pip install 'xfrmnic[fuzz]'")
    options.libfuzzer = options.engine != "own" and libfuzzer.available()
    return options


def _shares(names: Sequence[str], options: argparse.Namespace) -> "list[Report] | object":
    """Reports of shares as they are done; a process that died is a finding of its share."""
    each = -(-options.count // len(names))
    shares = [
        (name, options.seed, start, min(SHARE_INPUTS, each - start), options.libfuzzer)
        for start in range(0, each, SHARE_INPUTS)
        for name in names
    ]
    if options.jobs == 1 and len(shares) == 1:
        yield _share(*shares[0])
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, context, max_tasks_per_child=1) as pool:
        waiting = {pool.submit(_share, *share): share for share in shares}
        for done in as_completed(waiting):
            name = waiting[done][0]
            try:
                yield done.result()
            except BrokenProcessPool:
                yield Report(name, finding=f"a process died, maybe of share {waiting[done]}")


def _share(name: str, seed: int, start: int, count: int, with_libfuzzer: bool) -> Report:
    """In a process of its own. A finding comes back with the fewest inputs that make it."""
    if with_libfuzzer:
        report = libfuzzer.share(name, seed * 1_000_003 + start, count)
    else:
        report = Fuzzer(TARGETS[name](), f"{seed}/{start}", corpus.load(name)).run(count)
    if report.history:
        report.history = shrink(TARGETS[name](), report.history)
    return report


def _findings(reports: Sequence[Report] | object) -> int:
    status = 0
    for report in reports:
        if not report.finding:
            continue
        status = 1
        path = Path(tempfile.mkdtemp(prefix="xn-fuzz-")) / f"{report.target}.hex"
        corpus.write(path, report.history)
        print(f"\n{report.target}: {report.finding}")
        print(f"replay with: python -m tests.fuzz --replay {path}")
    return status


def _replay(path: Path) -> int:
    finding = replay(TARGETS[path.stem](), corpus.read(path))
    print(finding or "nothing is wrong")
    return 1 if finding else 0


def _row(report: Report) -> str:
    return _line(
        (
            report.target, report.inputs, report.offered, report.refused, report.features,
            report.edges, len(report.corpus), f"{report.slowest_ms:.1f} ms",
            f"{report.memory_kb >> 10} MB", f"{report.growth_kb >> 10} MB", report.finding[:80],
        )
    )  # fmt: skip


def _line(cells: Sequence[object]) -> str:
    return " ".join(str(cell).rjust(width) for cell, width in zip(cells, WIDTHS, strict=True))


def _json(report: Report) -> dict[str, object]:
    return {**asdict(report), "history": len(report.history), "corpus": len(report.corpus)}


if __name__ == "__main__":
    sys.exit(main())
