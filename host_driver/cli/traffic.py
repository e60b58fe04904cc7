# SPDX-License-Identifier: Apache-2.0
"""`xfrmnic send` and `capture`: packets into a lab, and what was seen of them out of it."""

import os
from collections import Counter
from pathlib import Path

import click

from host_driver.cli.common import (
    BadEnvironment,
    ExpectationFailed,
    example,
    host_option,
    json_option,
    lab_option,
    refusals,
    show,
)
from proto.limits import BURST


def _packets(file: Path | None, text: str | None) -> tuple[list[bytes], int]:
    """The packets to send, and how many bytes of the file were none."""
    if (file is None) == (text is None):
        raise click.UsageError("give either FILE.pcap or --hex")
    if text is not None:
        try:
            return [bytes.fromhex(text.removeprefix("0x"))], 0
        except ValueError:
            raise click.UsageError("--hex takes an IP packet in hexadecimal digits") from None
    from host_driver.lab.pcap import read_pcap

    assert file is not None
    try:
        recording = read_pcap(file)
    except OSError as error:
        raise BadEnvironment(f"{file}: {error.strerror}") from None
    return recording.packets(), recording.skipped_bytes


@click.command(epilog=example("xfrmnic send --host 0 lan.pcap"))
@lab_option
@host_option
@click.option("--hex", "text", metavar="DIGITS", help="One IP packet instead of a file.")
@json_option
@click.argument("file", required=False, type=click.Path(path_type=Path))
@refusals
def send(file: Path | None, name: str | None, host: int, text: str | None, as_json: bool) -> None:
    """Let the stack of a host send the IP packets of FILE (pcap); returns when nothing moves.

    Exits with 1 if the host refused a packet.
    """
    from host_driver.lab import service
    from host_driver.lab.client import find

    packets, skipped = _packets(file, text)
    if skipped:
        click.echo(f"{skipped} bytes of {file} are no packets: skipped", err=True)
    refused: Counter[str] = Counter()
    with find(name) as client:
        for first in range(0, len(packets), BURST):
            chunk = service.SendPackets(host, packets[first : first + BURST])
            refused.update(os.strerror(number) for number in client.ask(chunk) if number)
        client.ask(service.Settle())
    accepted = len(packets) - refused.total()
    show(
        {"packets": len(packets), "accepted": accepted, "refused": dict(refused)},
        f"{accepted} of {len(packets)} packets accepted",
        as_json,
    )
    if refused:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in refused.items())
        raise ExpectationFailed(f"{refused.total()} packets were refused: {reasons}")


@click.command(epilog=example("xfrmnic capture --keys out.pcapng"))
@lab_option
@click.option("--keys", is_flag=True, help="Also write Wireshark's keys, suffix .esp_sa.")
@json_option
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@refusals
def capture(out: Path, name: str | None, keys: bool, as_json: bool) -> None:
    """Write to OUT (pcapng) what the wire and the hosts saw since the lab began.

    With --keys the keys of all present SAs go beside it, in clear, into a
    new file of mode 0600: for Wireshark's ESP preferences, file esp_sa.
    """
    from host_driver.lab import service
    from host_driver.lab.client import find

    path = out.absolute()
    keys_path = str(path.with_suffix(".esp_sa")) if keys else None
    if keys_path and Path(keys_path).exists():
        raise BadEnvironment(f"key file {keys_path} exists already")
    with find(name) as client:
        written = client.ask(service.WriteCapture(str(path), keys_path))
    lines = [f"{written['packets']} packets: {path}"]
    if keys_path:
        lines.append(f"{written['keys']} keys, in clear: {keys_path}")
    result = {"packets": written["packets"], "pcapng": str(path), "keys": keys_path}
    show(result, "\n".join(lines), as_json)
