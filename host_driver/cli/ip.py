# SPDX-License-Identifier: Apache-2.0
"""`xfrmnic ip`: the `ip xfrm` language, spoken to a host of a background lab."""

import json
import shlex
import sys
import time
from typing import TYPE_CHECKING

import click

from host_driver.cli.common import example, host_option, json_option, lab_option, refusals, show

if TYPE_CHECKING:
    from host_driver.lab.client import Client
    from host_driver.lab.service import Monitor

MONITOR_INTERVAL_S = 0.2


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog=example("xfrmnic ip --host 1 xfrm state list"),
)
@lab_option
@host_option
@json_option
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED)
@refusals
def ip(words: tuple[str, ...], name: str | None, host: int, as_json: bool) -> None:
    """Run `ip WORDS...` at a host; grammar, output and exit status are iproute2's.

    `xfrm monitor` prints the notifications that nobody has read yet, and goes
    on until it is interrupted.
    """
    from host_driver.lab import service
    from host_driver.lab.client import find

    with find(name) as client:
        monitor = _monitor(words, host)
        if monitor is not None:
            _follow(client, monitor, as_json)
        result = client.ask(service.Ip(host, shlex.join(words)))
    if as_json:
        show(result, "", as_json)
    else:
        click.echo(result["stdout"], nl=False)
        click.echo(result["stderr"], nl=False, err=True)
    sys.exit(result["rc"])


def _monitor(words: tuple[str, ...], host: int) -> "Monitor | None":
    """The request, if `words` are a good `xfrm monitor` line; other lines the host judges."""
    from host_driver.ip.names import is_prefix
    from host_driver.ip.options import parse_options
    from host_driver.ip.words import IpError
    from host_driver.lab.service import MONITOR_KINDS, Monitor

    try:
        rest = parse_options(words[1:] if words[0] == "ip" else words).rest
    except IpError:
        return None
    if len(rest) < 2 or not is_prefix(rest[0], "xfrm") or not is_prefix(rest[1], "monitor"):
        return None
    kinds = []
    for word in rest[2:]:
        kind = next((kind for kind in MONITOR_KINDS if is_prefix(word, kind)), None)
        if kind is not None:
            kinds.append(kind)
        elif word not in ("all", "nokeys"):
            return None
    return Monitor(host, kinds, "nokeys" in rest)


def _follow(client: "Client", monitor: "Monitor", as_json: bool) -> None:
    """Print notifications as they come; ends by an interrupt, or when the lab does."""
    while True:
        for text in client.ask(monitor):
            click.echo(json.dumps({"text": text}) if as_json else text, nl=as_json)
        time.sleep(MONITOR_INTERVAL_S)
