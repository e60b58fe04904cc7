# SPDX-License-Identifier: Apache-2.0
"""`xfrmnic simulate`: lives drawn from seeds, judged after every step; one failure, one folder."""

import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from host_driver.cli.common import (
    BadEnvironment,
    ExpectationFailed,
    example,
    json_option,
    refusals,
    show,
)

if TYPE_CHECKING:
    from host_driver.simulate.campaign import Result, Task
    from host_driver.simulate.long_run import LongRun
    from host_driver.simulate.soak import Soak

SHRINK_S = 60.0


class Seeds(click.ParamType[range]):
    """`A..B`, both included."""

    name = "A..B"

    def convert(self, value: Any, param: Any, ctx: Any) -> range:
        """A range of seeds; usage errors for anything else."""
        if isinstance(value, range):
            return value
        found = re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", value)
        if found is None:
            self.fail(f"{value!r} is not written as A..B, for example 0..99", param, ctx)
        first, last = map(int, found.groups())
        if last < first:
            self.fail(f"{value!r} has no seed in it", param, ctx)
        return range(first, last + 1)


@click.command(epilog=example("xfrmnic simulate --seeds 0..99 --jobs 2"))
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--seeds", type=Seeds(), help="Many seeds, both ends included.")
@click.option("--steps", type=click.IntRange(1, 100_000), default=300, show_default=True)
@click.option(
    "--plan", "plan_file", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Faults with times (TOML) in place of drawn ones, or a whole plan.json of a failure.",
)  # fmt: skip
@click.option(
    "--target", type=click.Choice(("sim", "process")), default="sim", show_default=True,
    help="Simulator, or real processes, which no seed replays.",
)  # fmt: skip
@click.option("--jobs", type=click.IntRange(1, 256), default=1, show_default=True)
@click.option("--dask", metavar="ADDRESS", help="Send seeds to this Dask scheduler.")
@click.option(
    "--seconds", type=click.FloatRange(min=0.1),
    help="Seed after seed in one lab that lives on until the time is up, and stays flat.",
)  # fmt: skip
@click.option(
    "--chaos", type=click.IntRange(1, 100_000), metavar="N",
    help="Kill, stop and restart cards and hosts N times under traffic; wants --target process.",
)  # fmt: skip
@click.option("--mixed", is_flag=True, help="With --chaos: arm faults between incidents, too.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default="out/simulate",
    show_default=True, help="Where failures leave their folders.",
)  # fmt: skip
@click.option("--shrink/--no-shrink", default=True, show_default=True, help="Shrink failures.")
@json_option
@refusals
def simulate(
    seed: int, seeds: range | None, steps: int, plan_file: Path | None, target: str, jobs: int,
    dask: str | None, seconds: float | None, chaos: int | None, mixed: bool, out: Path,
    shrink: bool, as_json: bool,
) -> None:  # fmt: skip
    """Two hosts, two cards and a wire live a random life; every invariant is judged.

    Prints the seed and what was drawn first. A failure is shrunk, leaves one
    folder and one line that replays it; the exit status is 1 then.
    """
    from host_driver.faults.plan import load_plan
    from host_driver.simulate.campaign import Task
    from host_driver.simulate.plan import read_plan
    from host_driver.simulate.soak import Soak

    if seeds is not None and _was_given("seed"):
        raise click.UsageError("--seeds says which, --seed says one")
    if mixed and chaos is None:
        raise click.UsageError("--mixed is about --chaos")
    if chaos is not None:
        if seeds is not None or plan_file is not None or jobs > 1 or dask is not None:
            raise click.UsageError(
                "--chaos is about one lab: no --seeds, --plan, --jobs or --dask with it"
            )
        _chaos(seed, chaos, target, seconds_left(seconds) if seconds else None, mixed, out, as_json)
        return
    given, follow = None, None
    if plan_file is not None and plan_file.suffix == ".json":
        read = read_plan(plan_file)
        given = msgspec.structs.replace(read, target="process") if target == "process" else read
    elif plan_file is not None:
        follow = tuple(load_plan(plan_file))
    if given is not None and (seeds is not None or seconds is not None):
        raise click.UsageError("--plan has its own seed, --seeds and --seconds draw others")
    if seconds is not None and (seeds is not None or jobs > 1 or dask is not None):
        raise click.UsageError("--seconds is about one lab: no --seeds, --jobs or --dask with it")

    def task(number: int) -> Task:
        return Task(
            seed=given.seed if given else number, steps=steps, out=str(out), target=target,
            shrink=shrink, plan=given, follow=follow,
        )  # fmt: skip

    if target == "process":
        click.echo("real processes: no seed replays this run", err=True)
    if seconds is not None:
        _soak(Soak(seed, steps, target, out=out, follow=follow), seconds, as_json)
    elif seeds is None:
        _one(task(seed), as_json)
    else:
        _many(map(task, seeds), jobs, dask, as_json)


def _was_given(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def _chaos(
    seed: int, incidents: int, target: str, may_go_on: Callable[[], bool] | None, mixed: bool,
    out: Path, as_json: bool,
) -> None:  # fmt: skip
    from host_driver.simulate.chaos import Chaos

    if target != "process":
        raise click.UsageError("--chaos is for real processes: --target process")
    chaos = Chaos(seed, mixed=mixed, out=out / f"chaos-{seed}")
    report = chaos.play(incidents, may_go_on or (lambda: True))
    _tell(report, report.text(), as_json, "chaos broke an invariant, or left something behind")


def _soak(soak: "Soak", seconds: float, as_json: bool) -> None:
    report = soak.play(seconds_left(seconds))
    _tell(
        report,
        report.text(),
        as_json,
        "the soak broke an invariant, lost something, or is not flat",
    )


def _tell(report: "LongRun", text: str, as_json: bool, failure: str) -> None:
    show({"ok": not report.failed} | msgspec.to_builtins(report), text, as_json)
    if report.failed:
        raise ExpectationFailed(failure)


def seconds_left(seconds: float) -> Callable[[], bool]:
    """A clock: yes until so many seconds have passed."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end


def _one(task: "Task", as_json: bool) -> None:
    from host_driver.simulate.campaign import plan_of, run_task

    plan = plan_of(task)
    click.echo("\n".join(plan.lines()), err=as_json)
    result = run_task(task, seconds_left(SHRINK_S))
    value = _value(result) | {"plan": msgspec.to_builtins(plan)}
    show(value, _text(result), as_json)
    if result.failed:
        raise ExpectationFailed(f"an invariant broke, {result.replay}")


def _many(tasks: Iterable["Task"], jobs: int, dask: str | None, as_json: bool) -> None:
    from host_driver.simulate.campaign import run_many, run_on_cluster

    started, failed, count = time.monotonic(), [], 0
    clock = (SHRINK_S, seconds_left)
    results = run_many(tasks, jobs, *clock)
    if dask is not None:
        results = run_on_cluster(_client(dask), tasks, *clock)
    for result in results:
        count += 1
        if result.failed:
            failed.append(result)
            click.echo(_text(result), err=as_json)
    seconds = round(time.monotonic() - started, 1)
    summary = {"ok": not failed, "seeds": count, "failed": len(failed), "seconds": seconds}
    value = summary | {"failures": [_value(result) for result in failed]}
    show(value, f"{count} seeds, {len(failed)} failed, {seconds} s", as_json)
    if failed:
        raise ExpectationFailed(f"{len(failed)} of {count} seeds broke an invariant")


def _client(address: str) -> Any:
    """A client of a Dask scheduler."""
    try:
        from distributed import Client
    except ImportError:
        raise BadEnvironment(
            "--dask needs the package `distributed`: pip install 'xfrmnic[cluster]'"
        ) from None
    try:
        connect: Callable[..., Any] = Client
        return connect(address, timeout="10s")
    except (OSError, TimeoutError, ValueError) as error:
        raise BadEnvironment(f"no Dask scheduler at {address}: {error}") from None


def _value(result: "Result") -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(result)
    return {"ok": not result.failed} | told


def _text(result: "Result") -> str:
    told = f"seed {result.seed}: {result.steps} steps, trace {result.hash}"
    if not result.failed:
        return "\n".join((f"{told}, every invariant held", *(f"  {one}" for one in result.idle)))
    broken = "\n".join(
        f"  INV-{one.invariant:02} in step {one.step}: {one.text}" for one in result.violations
    )
    return f"{told}\n{broken}\n  {result.left} steps left, replay with: {result.replay}"
