# SPDX-License-Identifier: Apache-2.0
"""`xfrmnic bench`: run the programs in perf/, each of which prints JSON."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from host_driver.cli.common import BadEnvironment, ExpectationFailed, example, json_option, show

PERF = Path(__file__).resolve().parents[2] / "perf"


def run_program(path: Path) -> Any:
    """The JSON that one program prints; its talk goes to stderr as it comes."""
    click.echo(f"==> perf/{path.name}", err=True)
    done = subprocess.run([sys.executable, str(path)], check=False, stdout=subprocess.PIPE)
    if done.returncode:
        raise ExpectationFailed(f"perf/{path.name} ended with exit status {done.returncode}")
    return json.loads(done.stdout)


@click.command(epilog=example("xfrmnic bench esp"))
@click.argument("names", nargs=-1)
@json_option
def bench(names: tuple[str, ...], as_json: bool) -> None:
    """Run the performance programs NAMES, or all: esp, events, netlink, pipeline, ring, scale,
    seed_table.

    They come with the source only; `measure` tells of the machine, `ipsec_mb` of the library that
    esp is compared with. `perf/report.py` makes a page of the JSON.
    """
    programs = {path.stem: path for path in sorted(PERF.glob("*.py")) if path.stem != "report"}
    if not programs:
        raise BadEnvironment(f"no performance programs in {PERF}; run from a source checkout")
    unknown = [name for name in names if name not in programs]
    if unknown:
        raise click.UsageError(f"no program named {unknown[0]!r}, there are {', '.join(programs)}")
    results = {name: run_program(programs[name]) for name in names or programs}
    show(results, json.dumps(results, indent=2), as_json)
