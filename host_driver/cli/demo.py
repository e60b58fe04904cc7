# SPDX-License-Identifier: Apache-2.0
"""`xfrmnic demo`: the story of host_driver/demo, with its end as exit status."""

import time
from pathlib import Path

import click

from host_driver.cli.common import (
    BadEnvironment,
    ExpectationFailed,
    example,
    json_option,
    refusals,
    show,
)

NEXT = """
Next:
   xfrmnic up                                    a lab of your own, in the background
   xfrmnic ip xfrm state list                    speak `ip xfrm` to its hosts
   xfrmnic capture --keys my.pcapng              see what its wire saw
"""


@click.command(epilog=example("xfrmnic demo --keys --out demo-files"))
@click.option("--keys", is_flag=True, help="Also write the keys, for Wireshark to decrypt with.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default="out",
    show_default=True,
    help="Folder for the capture.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=7,
    show_default=True,
    help="Seed of all but IVs.",
)
@json_option
@refusals
def demo(keys: bool, out: Path, seed: int, as_json: bool) -> None:
    """Two hosts, two cards, one wire: recorded traffic, limits, a rekey, a broken frame.

    Every claim of the story is checked: exits with 0 only if all of them
    held, with 1 if one did not, with 4 if a process died.
    """
    from host_driver.demo.story import Story

    folder = out.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadEnvironment(f"{folder}: {error.strerror}") from None
    started = time.monotonic()
    story = Story(lambda line: click.echo(line, err=as_json), seed, folder, keys=keys)
    story.tell()
    page, seconds = story.page, round(time.monotonic() - started, 1)
    result = {
        "ok": not page.failed,
        "seed": seed,
        "seconds": seconds,
        "expectations": [
            {"what": claim.what.strip(), "got": claim.got, "wanted": claim.wanted, "ok": claim.held}
            for claim in page.expectations
        ],
        "files": story.files,
    }
    held = len(page.expectations) - len(page.failed)
    summary = f"\n{held} of {len(page.expectations)} expectations held, {seconds} s"
    show(result, summary + (f"\n{NEXT}" if not page.failed else ""), as_json)
    if page.failed:
        raise ExpectationFailed(f"{len(page.failed)} expectations did not hold")
