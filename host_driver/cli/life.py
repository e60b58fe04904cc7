# SPDX-License-Identifier: Apache-2.0
"""`xfrmnic kill`, `stop`, `resume`, `restart`, `reset`, `reload`: life of hosts and cards."""

from collections.abc import Callable
from typing import Any

import click

from host_driver.cli.common import example, host_option, json_option, lab_option, refusals, show

PARTY = r"(host|card)[01]"


def _party(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    import re

    if not re.fullmatch(PARTY, value):
        raise click.BadParameter(f"{value!r} is none of host0, host1, card0, card1")
    return value


def _live(verb: str, party: str, name: str | None, as_json: bool, card: str | None = None) -> None:
    from host_driver.lab import service
    from host_driver.lab.client import find

    with find(name) as client:
        state = client.ask(service.Live(party, verb, card))
    show({"party": party, "state": state}, f"{party} is {state}", as_json)


def _verb(verb: str, about: str, party: str) -> click.Command:
    """A verb that takes a party and nothing else."""

    def run(party: str, name: str | None, as_json: bool) -> None:
        _live(verb, party, name, as_json)

    run.__doc__ = about
    decorate: list[Callable[[Any], Any]] = [
        refusals,
        json_option,
        lab_option,
        click.argument("party", callback=_party),
        click.command(name=verb, epilog=example(f"xfrmnic {verb} {party}")),
    ]
    command: Any = run
    for decorator in decorate:
        command = decorator(command)
    assert isinstance(command, click.Command)
    return command


kill = _verb("kill", "SIGKILL to PARTY (host0, card1): everything in it is lost.", "card0")
stop = _verb("stop", "SIGSTOP to PARTY: it stands still until it is resumed.", "card0")
resume = _verb("resume", "SIGCONT to PARTY.", "card0")


@click.command(epilog=example("xfrmnic restart card0 --card cx6dx"))
@click.argument("party", callback=_party)
@click.option("--card", help="A card comes back as this profile.  [default: as it was made]")
@lab_option
@json_option
@refusals
def restart(party: str, card: str | None, name: str | None, as_json: bool) -> None:
    """Another life of PARTY (host0, card1), with nothing in it; a living one is killed first."""
    if card is not None and party.startswith("host"):
        raise click.UsageError("--card is for cards")
    _live("restart", party, name, as_json, card)


@click.command(epilog=example("xfrmnic reset --host 0 firmware"))
@click.argument("level", type=click.Choice(["function", "firmware"]))
@host_option
@lab_option
@json_option
@refusals
def reset(level: str, host: int, name: str | None, as_json: bool) -> None:
    """Reset a host's card from outside.

    "function" takes all objects away, as an FLR does; "firmware" wipes everything, and boots.
    """
    from host_driver.lab import service
    from host_driver.lab.client import find

    with find(name) as client:
        health = client.ask(service.ResetCard(host, level))
    show(health, f"card{host} is {health['state']}", as_json)


@click.command(epilog=example("xfrmnic reload --host 0"))
@host_option
@lab_option
@json_option
@refusals
def reload(host: int, name: str | None, as_json: bool) -> None:
    """Unload a host's driver and load it again (`devlink dev reload`); refused while anything is
    offloaded."""
    from host_driver.lab import service
    from host_driver.lab.client import find

    with find(name) as client:
        client.ask(service.Reload(host))
    show({"host": host}, f"host{host}: driver reloaded", as_json)
