# SPDX-License-Identifier: Apache-2.0
"""`xfrmnic replay`: a recorded failure again, to the same trace."""

from pathlib import Path

import click
import msgspec

from host_driver.cli.common import ExpectationFailed, example, json_option, refusals, show


@click.command(epilog=example("xfrmnic replay out/simulate/seed-7"))
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@json_option
@refusals
def replay(folder: Path, as_json: bool) -> None:
    """Run the plan of FOLDER again; exits with 0 only if it ends with the same trace."""
    from host_driver.simulate.folder import read_folder
    from host_driver.simulate.judge import make_judge
    from host_driver.simulate.runner import run_plan

    plan, recorded = read_folder(folder)
    click.echo("\n".join(plan.lines()), err=as_json)
    outcome = run_plan(plan, make_judge())
    hashes = outcome.hash == recorded.hash
    same = hashes and outcome.violations == recorded.violations
    told = [
        f"  INV-{one.invariant:02} in step {one.step}: {one.text}" for one in outcome.violations
    ]
    if hashes:
        told.append(f"the same trace as recorded: {outcome.hash}")
        told += [] if same else ["and yet something else broke in it, or nothing"]
    else:
        told.append(f"another trace: {outcome.hash}")
        told.append(f"recorded by version {recorded.version}: {recorded.hash}")
    value = {
        "ok": same,
        "hash": outcome.hash,
        "recorded": recorded.hash,
        "violations": msgspec.to_builtins(outcome.violations),
    }
    show(value, "\n".join(told), as_json)
    if not same:
        raise ExpectationFailed("the run does not repeat the recorded one")
