# SPDX-License-Identifier: Apache-2.0
"""`xfrmnic ip`: the `ip xfrm` language, spoken to a host of a background lab."""

import json
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from host_driver.cli.common import example, host_option, json_option, lab_option, refusals, show

if TYPE_CHECKING:
    from host_driver.lab.client import Client
    from host_driver.lab.service import Monitor

MONITOR_INTERVAL_S = 0.2


@click.command(
    context_settings={
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
        "help_option_names": ["--help"],  # the letter h may stand in an option of ip
    },
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
        with _batch_from_here(words) as line:
            result = client.ask(service.Ip(host, shlex.join(line)))
    if as_json:
        show(result, "", as_json)
    else:
        click.echo(result["stdout"], nl=False)
        click.echo(result["stderr"], nl=False, err=True)
    sys.exit(result["rc"])


@contextmanager
def _batch_from_here(words: tuple[str, ...]) -> Iterator[list[str]]:
    """The words, with the file of a batch as the lab finds it: by its full path; `-` is stdin."""
    from host_driver.ip.options import parse_options
    from host_driver.ip.words import IpError

    try:
        batch = parse_options(words[1:] if words[0] == "ip" else words).batch
    except IpError:
        batch = ""
    if batch != "-":
        yield [str(Path(word).absolute()) if word == batch else word for word in words]
        return
    with tempfile.NamedTemporaryFile("w", prefix="xn-batch-") as copy:
        copy.write(sys.stdin.read())
        copy.flush()
        yield [copy.name if word == "-" else word for word in words]


def _monitor(words: tuple[str, ...], host: int) -> "Monitor | None":
    """The request, if `words` are a good `xfrm monitor` line; other lines the host judges."""
    from host_driver.ip.names import is_prefix
    from host_driver.ip.options import parse_options
    from host_driver.ip.words import IpError
    from host_driver.lab.service import MONITOR_KINDS, Monitor

    try:
        options = parse_options(words[1:] if words[0] == "ip" else words)
    except IpError:
        return None
    rest = options.rest
    if len(rest) < 2 or not is_prefix(rest[0], "xfrm") or not is_prefix(rest[1], "monitor"):
        return None
    kinds = []
    for word in rest[2:]:
        kind = next((kind for kind in MONITOR_KINDS if is_prefix(word, kind)), None)
        if kind is not None:
            kinds.append(kind)
        elif word not in ("all", "nokeys", "all-nsid"):
            return None
    return Monitor(host, kinds, "nokeys" in rest, options.stats > 0, options.oneline)


def _follow(client: "Client", monitor: "Monitor", as_json: bool) -> None:
    """Print notifications as they come; ends by an interrupt, or when the lab does."""
    while True:
        for text in client.ask(monitor):
            click.echo(json.dumps({"text": text}) if as_json else text, nl=as_json)
        time.sleep(MONITOR_INTERVAL_S)
