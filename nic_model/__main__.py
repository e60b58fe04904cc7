# SPDX-License-Identifier: Apache-2.0
"""`python -m nic_model`: one card as a process. The shell around nic_model.firmware.

    parse -> die with the launcher -> compile -> bind and connect -> HELLO on the wire -> serve

Compiling comes before binding, so a HELLO means that the card answers at once. Exit status: 0 after
a goodbye, 2 for a bad flag, 3 when the environment refuses (an address, a file, a key), CRASHED
when a fault wanted it.
"""

import argparse
import contextlib
import os
import random
import resource
import secrets
import sys
import time
from pathlib import Path

import msgspec

from nic_model.cache import compiles, mark_warm
from nic_model.life_faults import CRASHED, Crash
from proto.caps import Caps, parse_card
from proto.clock import RealClock
from proto.frame import Channel, FrameError
from proto.link.curve import Curve
from proto.link.dma import Dma
from proto.link.fork_server import begin
from proto.link.loop import die_with_parent, lifeline, run
from proto.link.zmq import Endpoint, Hub
from proto.status import OffloadError

MAC_BYTES = 6
EXAMPLE = (
    "example: python -m nic_model --name card0 --card cx6dx "
    "--link ipc:///run/lab/card0 --wire ipc:///run/lab/wire0 --dma /run/lab/dma0"
)


def _card(text: str) -> Caps:
    try:
        return parse_card(text)
    except OffloadError as error:
        raise argparse.ArgumentTypeError(error.text) from None


def _mac(text: str) -> bytes:
    with contextlib.suppress(ValueError):
        mac = bytes.fromhex(text.replace(":", ""))
        if len(mac) == MAC_BYTES:
            return mac
    raise argparse.ArgumentTypeError(f"MAC address {text!r} is not six bytes in hex")


def parse(argv: list[str]) -> argparse.Namespace:
    """The flags. Exits with status 2 and a text when they make no card."""
    parser = argparse.ArgumentParser("python -m nic_model", description=__doc__, epilog=EXAMPLE)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--name", default="card0", help="what HELLO and log call this card")
    parser.add_argument(
        "--card",
        type=_card,
        default="full",
        metavar="PROFILE[:NAME=VALUE,...]",
        help="card profile",
    )
    parser.add_argument("--link", help="addresses for the host: ipc://PATH or tcp://127.0.0.1:0")
    parser.add_argument("--wire", help="address of the wire, which this card dials")
    parser.add_argument(
        "--control", help="address of the lab, which this card dials (default: none)"
    )
    parser.add_argument("--dma", default="inline", help="DMA file made by the launcher, or inline")
    parser.add_argument("--mac", type=_mac, default=bytes(MAC_BYTES), help="for the MAC filter")
    parser.add_argument(
        "--seed",
        type=int,
        help="seed of the IV masks, for tests only: one seed and key repeat IVs (default: none)",
    )
    parser.add_argument("--curve-secret", type=Path, help="our CURVE key file, needed for tcp://")
    parser.add_argument("--curve-peer", type=Path, help="public CURVE key file of the host")
    parser.add_argument("--warm", action="store_true", help="compile all kernels and exit")
    flags = parser.parse_args(argv)
    if not flags.warm and not (flags.link and flags.wire):
        parser.error(f"--link and --wire are needed (or --warm)\n{EXAMPLE}")
    if (flags.curve_secret is None) != (flags.curve_peer is None):
        parser.error("--curve-secret and --curve-peer come together")
    return flags


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def warm(name: str) -> None:
    """Compile every kernel, with a line for each step."""
    _say(f"{name}: loading the compiler ...")
    from nic_model import esp
    from nic_model.warm import steps

    _say(f"{name}: AES-GCM form {esp.BACKEND}")
    for step in steps():
        started = time.monotonic()
        step.run()
        _say(f"{name}: compiling {step.name} ... {time.monotonic() - started:.1f} s")


def _serve(flags: argparse.Namespace) -> int:
    """Bind, say HELLO, run until the goodbye."""
    from nic_model.firmware import Firmware

    curve = None
    if flags.curve_secret is not None:
        curve = Curve.load(flags.curve_secret, flags.curve_peer)
    dma = Dma.private() if flags.dma == "inline" else Dma.open(Path(flags.dma))
    seed = secrets.randbits(128) if flags.seed is None else flags.seed
    card = Firmware(flags.name, flags.card, dma, random.Random(seed), flags.mac)
    card.counters["peers_refused"] = 0

    def refused() -> None:
        card.counters["peers_refused"] += 1

    with Hub(curve, refused) as hub:
        endpoints: dict[Channel, Endpoint] = hub.bind_link(flags.link)
        addresses = {channel.name.lower(): end.address for channel, end in endpoints.items()}
        endpoints[Channel.WIRE] = hub.connect(flags.wire)
        if flags.control is not None:
            endpoints[Channel.CONTROL] = hub.connect(flags.control)
        card.greeting = msgspec.structs.replace(card.greeting, pid=os.getpid(), endpoints=addresses)
        _say(f"{flags.name}: ready")
        return run(card, endpoints, RealClock(), lifeline())


def main(argv: list[str]) -> int:
    """Run one card; returns the exit status."""
    flags = parse(argv)
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold key schedules
    die_with_parent()
    try:
        warm(flags.name)
        if flags.warm and compiles():
            mark_warm()
        status = 0 if flags.warm else _serve(flags)
    except Crash as crash:
        _say(f"{flags.name}: crashed: {crash}")
        os._exit(CRASHED)  # as a crash does: no goodbye, nothing is put in order
    except (OffloadError, FrameError, OSError) as error:
        _say(f"{flags.name}: {error}")
        return 3
    if not flags.warm:
        _say(f"{flags.name}: goodbye")
    return status


if __name__ == "__main__":
    sys.exit(begin(main, lambda: warm("template")))
