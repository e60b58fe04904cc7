# SPDX-License-Identifier: Apache-2.0
"""`xfrmnic fault`: break a running lab, see what is broken and what came of it, mend it."""

from pathlib import Path
from typing import Any

import click

from host_driver.cli.common import (
    BadEnvironment,
    example,
    json_option,
    lab_option,
    refusals,
    show,
    table,
)
from host_driver.faults.catalogue import catalogue
from host_driver.faults.plan import load_plan
from proto.clock import NS
from proto.faults import SITES, FaultSpec

LOG_ENTRIES = 1000

# Options of `fault add` that are numbers of FaultSpec, and what they say.
_NUMBERS = {
    "times": "Happen so often, then never again.",
    "skip": "Let the first matches pass.",
    "interval": "Happen at every n-th match.",
    "space": "Let so many bytes of matches pass first.",
    "fail_nth": "Happen at the n-th match and no other.",
    "delay_ms": "Milliseconds, for kinds that delay.",
    "seed": "Seed of its decisions.  [default: the lab's]",
}


@click.group(epilog=example("xfrmnic fault add --site wire --kind drop --times 3"))
def fault() -> None:
    """Break a background lab, and mend it.

    Every subcommand takes --json, and --help with an example.
    """


@fault.command(epilog=example("xfrmnic fault kinds --site wire"))
@click.option("--site", default="", help="Only this site and those below it.")
@json_option
@refusals
def kinds(site: str, as_json: bool) -> None:
    """List what can fail: sites with kinds and facts, and faults that have a name."""
    chosen = {name: about for name, about in SITES.items()
              if not site or name == site or name.startswith(site + ".")}  # fmt: skip
    if not chosen:
        raise click.UsageError(f"no site {site!r}, known are {', '.join(SITES)}")
    named = {row.fault: row for row in catalogue().values() if row.fault is not None and not site}
    data = {
        "sites": {
            name: {
                "party": about.party, "what": about.what, "facts": list(about.facts),
                "kinds": {kind: one.what for kind, one in about.kinds.items()},
            }
            for name, about in chosen.items()
        },
        "faults": {
            name: {"row": row.id, "trigger": row.trigger, "inject": row.inject, "how": row.how}
            for name, row in named.items()
        },
    }  # fmt: skip
    lines = []
    for name, about in chosen.items():
        facts = f"; match {', '.join(about.facts)}" if about.facts else ""
        lines += [f"{name}: {about.what} ({about.party}{facts})"]
        lines += table([(f"   {kind}", one.what) for kind, one in about.kinds.items()]).split("\n")
    if named:
        lines += ["", "Faults with a name:"]
        rows = [(f"   {name}", row.id, row.trigger) for name, row in named.items()]
        lines += table(rows).split("\n")
    show(data, "\n".join(lines), as_json)


def _number_options(command: Any) -> Any:
    for name, text in reversed(_NUMBERS.items()):
        option = "--" + name.replace("_", "-")
        command = click.option(option, type=click.IntRange(min=0), default=None, help=text)(command)
    return command


@fault.command(epilog=example("xfrmnic fault add --site mailbox.reply --kind drop --times 1"))
@click.argument("named", metavar="[FAULT]", required=False)
@click.option(
    "--plan", type=click.Path(path_type=Path, dir_okay=False), help="TOML file of faults."
)
@click.option("--name", "called", metavar="NAME", help="What to call it.")
@click.option("--site", help="Where; see `xfrmnic fault kinds`.")
@click.option("--kind", help="What happens there.")
@click.option("--match", multiple=True, metavar="FACT=VALUE", help="Only where this holds.")
@click.option("--probability", type=click.FloatRange(0, 1), help="How likely at a match.")
@_number_options
@click.option("--value", help="What the kind says it is.")
@click.option("--host", type=click.IntRange(min=0), help="Only at this host and its card.")
@lab_option
@json_option
@refusals
def add(
    named: str | None, plan: Path | None, called: str | None, match: tuple[str, ...],
    host: int | None, name: str | None, as_json: bool, **given: Any,
) -> None:  # fmt: skip
    """Arm FAULT (a name that `xfrmnic fault kinds` lists), or the fault of these fields, or --plan.

    Fields beside FAULT override its own.
    """
    from host_driver.lab import service
    from host_driver.lab.client import find

    fields = {field: value for field, value in given.items() if value is not None}
    if called:
        fields["name"] = called
    if match:
        fields["match"] = dict(_fact(text) for text in match)
    if "value" in fields:
        fields["value"] = _number_or_text(fields["value"])
    if plan is not None:
        if fields or named or host is not None:
            raise click.UsageError("--plan says everything, give nothing beside it")
        try:
            planned = load_plan(plan)
        except OSError as error:
            raise BadEnvironment(f"{plan}: {error.strerror}") from None
        with find(name) as client:
            client.ask(service.FollowPlan(planned))
        show({"planned": len(planned)}, f"{len(planned)} faults planned", as_json)
        return
    if not named and not {"site", "kind"} <= fields.keys():
        raise click.UsageError("give FAULT, or --site and --kind, or --plan")
    with find(name) as client:
        armed = client.ask(service.AddFault(named, host, fields))
    show({"name": armed}, armed, as_json)


def _fact(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"--match takes FACT=VALUE, not {text!r}")
    return name, value


def _number_or_text(text: str) -> int | str:
    try:
        return int(text, 0)
    except ValueError:
        return text


@fault.command("list", epilog=example("xfrmnic fault list --json"))
@lab_option
@json_option
@refusals
def list_(name: str | None, as_json: bool) -> None:
    """Show what is armed, how often it fired, and what a plan has in store."""
    from host_driver.lab import service
    from host_driver.lab.client import find

    with find(name) as client:
        faults = client.ask(service.ListFaults())
    rows = [("party", "name", "fired", "fault")]
    for entry in faults["armed"]:
        about = {key: value for key, value in entry.items() if key in FaultSpec.__struct_fields__}
        said = " ".join(f"{key}={value}" for key, value in about.items() if key != "name")
        rows.append((entry["party"], entry["name"], str(entry["fired"]), said))
    lines = [table(rows)] if faults["armed"] else ["nothing is armed"]
    for entry in faults["planned"]:
        when = "" if entry["in_s"] is None else f", {entry['in_s']:.1f} s left"
        lines.append(f"plan: {entry['name']} {entry['state']}{when} {entry['error']}".rstrip())
    show(faults, "\n".join(lines), as_json)


@fault.command(epilog=example("xfrmnic fault rm wire-drop-1"))
@click.argument("fault_name", metavar="NAME")
@lab_option
@json_option
@refusals
def rm(fault_name: str, name: str | None, as_json: bool) -> None:
    """Disarm the fault NAME; what it held back goes on."""
    from host_driver.lab import service
    from host_driver.lab.client import find

    with find(name) as client:
        client.ask(service.RemoveFault(fault_name))
    show({"removed": fault_name}, f"{fault_name} is disarmed", as_json)


@fault.command(epilog=example("xfrmnic fault reset"))
@lab_option
@json_option
@refusals
def reset(name: str | None, as_json: bool) -> None:
    """Disarm everything and forget all plans."""
    from host_driver.lab import service
    from host_driver.lab.client import find

    with find(name) as client:
        client.ask(service.ResetFaults())
    show({"armed": []}, "nothing is armed", as_json)


@fault.command(epilog=example("xfrmnic fault log --last 20"))
@click.option(
    "--last", type=click.IntRange(min=1), default=LOG_ENTRIES, show_default=True, metavar="N",
    help="Only the newest N.",
)  # fmt: skip
@lab_option
@json_option
@refusals
def log(last: int, name: str | None, as_json: bool) -> None:
    """Show every time that a fault happened: when, where, to what."""
    from host_driver.lab import service
    from host_driver.lab.client import find

    with find(name) as client:
        entries = client.ask(service.FaultLog(last))
    rows = []
    for entry in entries:
        facts = " ".join(f"{name}={value}" for name, value in entry["facts"].items())
        seconds = f"{entry['time_ns'] / NS:.6f}"
        what = f"{entry['site']} {entry['kind']}"
        rows.append((seconds, entry["id"], entry["name"], what, facts))
    show({"log": entries}, table(rows) if rows else "no fault has happened", as_json)
