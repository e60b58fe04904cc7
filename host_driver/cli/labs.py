# SPDX-License-Identifier: Apache-2.0
"""`xfrmnic up`, `down`, `status`: background labs."""

from typing import Any

import click

from host_driver.cli.common import (
    PeerDied,
    example,
    json_option,
    lab_option,
    refusals,
    show,
    table,
)

NAME_PATTERN = r"[A-Za-z0-9_-]{1,32}"


def _card(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    """Check the card text here, where a mistake is one of usage."""
    from proto.caps import parse_card
    from proto.status import OffloadError

    try:
        parse_card(value)
    except OffloadError as error:
        raise click.BadParameter(error.text) from None
    return value


def _profile(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    """Like a card, a kernel that is not known is a mistake of usage."""
    from host_driver.xfrm.profile import profile_by_name
    from proto.status import OffloadError

    try:
        return profile_by_name(value).name
    except OffloadError as error:
        raise click.BadParameter(error.text) from None


def _name(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    import re

    if not re.fullmatch(NAME_PATTERN, value):
        raise click.BadParameter(f"{value!r} does not fit {NAME_PATTERN}")
    return value


def _about(status: dict[str, Any]) -> str:
    lines = [f"lab {status['name']}: card {status['card']}, seed {status['seed']}"]
    processes = {"lab": status["pid"], **status["processes"]}
    lines.append(table([(name, str(pid)) for name, pid in processes.items()]))
    if status["dead"]:
        return "\n".join(lines)
    for number, host in enumerate(status["hosts"]):
        lines.append(f"card{number} is {host['health']['state']}")
        if "down" in host:
            lines.append(host["down"])
            continue
        for device in host["devices"]:
            state = "up" if device["up"] else "down"
            if not device["carrier"]:
                state += ", no carrier"
            lines.append(
                f"host{number} {device['name']}: {device['mac']} mtu {device['mtu']} {state}"
            )
        for what in ("census", "counters", "mib", "snmp"):
            rows = [(f"  {name}", str(value)) for name, value in host[what].items() if value]
            if rows:
                lines += [f"host{number} {what}", table(rows)]
    return "\n".join(lines)


@click.command(epilog=example("xfrmnic up --hosts 2 --card cx6dx"))
@click.option("--hosts", type=click.IntRange(1, 2), default=2, show_default=True, help="Hosts.")
@click.option(
    "--card",
    default="full",
    show_default=True,
    callback=_card,
    help="Card profile, NAME=VALUE overrides behind a colon.",
)
@click.option(
    "--profile",
    default="latest",
    show_default=True,
    callback=_profile,
    help="Kernel that the hosts behave like: latest, v6.2.",
)
@click.option(
    "--name", default="default", show_default=True, callback=_name, help="Name of the lab."
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of all but IVs.",
)
@json_option
@refusals
def up(hosts: int, card: str, profile: str, name: str, seed: int, as_json: bool) -> None:
    """Start a lab in the background; it is ready when this returns.

    CARD is a profile (full, cx6dx, tiny, crypto-only) with overrides: full:counter_bits=8,sa_max=16
    """
    from host_driver.lab.client import start

    arguments = ["--hosts", str(hosts), "--card", card, "--profile", profile, "--seed", str(seed)]
    status = start(name, arguments)
    show(status, _about(status), as_json)


@click.command(epilog=example("xfrmnic down"))
@lab_option
@json_option
@refusals
def down(name: str | None, as_json: bool) -> None:
    """End a background lab, also one of whose processes died."""
    from host_driver.lab.client import find

    with find(name) as client:
        client.down()
        show({"ended": client.name}, f"lab {client.name} has ended", as_json)


@click.command(epilog=example("xfrmnic status --json"))
@lab_option
@json_option
@refusals
def status(name: str | None, as_json: bool) -> None:
    """Show the processes, devices and counters of a lab. Exits with 4 if one of them died."""
    from host_driver.lab import service
    from host_driver.lab.client import find

    with find(name) as client:
        about = client.ask(service.Status())
    show(about, _about(about), as_json)
    if about["dead"]:
        raise PeerDied(about["dead"])
