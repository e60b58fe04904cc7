# SPDX-License-Identifier: Apache-2.0
"""`python -m host_driver`: one host as a process. The shell around host_driver.host.

    parse -> die with the launcher -> driver -> connect to card and lab -> serve

The launcher creates the DMA file; host and card open it. With `--dma inline` packets travel behind
their descriptors. HELLO comes from the host at once, and again when its card has answered. Exit
status: 0 after a goodbye, 2 for a bad flag, 3 when the environment refuses (an address, a file, a
key).
"""

import argparse
import os
import random
import re
import resource
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from host_driver.driver.load import load_driver
from host_driver.host import Host
from host_driver.xfrm.profile import LATEST, PROFILES
from proto.clock import RealClock
from proto.frame import Channel, FrameError
from proto.link.curve import Curve
from proto.link.dma import Dma
from proto.link.fork_server import begin
from proto.link.loop import die_with_parent, lifeline, run
from proto.link.zmq import Hub
from proto.status import OffloadError

EXIT_USAGE, EXIT_ENVIRONMENT = 2, 3
INLINE = "inline"
MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {message} (--help shows the options)\n")


def _mac(text: str) -> bytes:
    if not MAC.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not written as 02:00:00:00:00:01")
    return bytes.fromhex(text.replace(":", ""))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m host_driver",
        description="A host: XFRM core, driver and rings in front of a card (python -m nic_model).",
        epilog="example: python -m host_driver --link ipc:///run/lab/card0 --dma /run/lab/dma0 "
        "--control ipc:///run/lab/control0 --mac 02:00:00:00:00:01 --peer-mac 02:00:00:00:00:02",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--name", default="host0", help="how the host calls itself (default: %(default)s)")
    add("--link", required=True, help="where the card is bound: ipc://PATH or channel=address,...")
    add("--dma", default=INLINE, help="DMA file that the launcher made (default: %(default)s)")
    add("--control", required=True, help="where the lab listens: ipc://PATH")
    add("--mac", required=True, type=_mac, help="MAC address of nic0")
    add("--peer-mac", required=True, type=_mac, help="MAC address of the other card")
    add("--seed", type=int, default=0, help="seed of all randomness (default: %(default)s)")
    add("--driver", help="driver class as package.module:Class (default: the reference driver)")
    add("--profile", default=LATEST.name, choices=list(PROFILES), help="kernel behaviour")
    add("--curve-secret", type=Path, help="file of our CURVE secret key (tcp:// links)")
    add("--curve-peer", type=Path, help="file of the card's CURVE public key")
    return parser


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _serve(options: argparse.Namespace) -> int:
    """Connect and run until the goodbye. Raises OffloadError, OSError, FrameError."""
    curve = None
    if options.curve_secret is not None:
        curve = Curve.load(options.curve_secret, options.curve_peer)
    dma = Dma.private() if options.dma == INLINE else Dma.open(Path(options.dma))
    clock = RealClock()
    host = Host(
        options.name,
        options.mac,
        options.peer_mac,
        dma,
        options.seed,
        options.driver,
        options.profile,
        # Two labs may be given one seed and one key: their IVs must differ.
        random.Random(secrets.randbits(256)),
        clock.now_ns,
    )
    with Hub(curve) as hub:
        endpoints = hub.connect_link(options.link)
        endpoints[Channel.CONTROL] = hub.connect(options.control, wipe=True)
        return run(host, endpoints, clock, lifeline())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the host until it is told to end; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.curve_secret is None) != (options.curve_peer is None):
        parser.error("--curve-secret and --curve-peer belong together")
    try:
        load_driver(options.driver)
    except OffloadError as error:
        parser.error(error.text)

    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold keys
    die_with_parent()
    try:
        status = _serve(options)
    except (OffloadError, OSError, FrameError) as error:
        _say(f"{options.name}: {error}")
        return EXIT_ENVIRONMENT
    _say(f"{options.name}: goodbye")
    return status


if __name__ == "__main__":
    sys.exit(begin(main, lambda: load_driver(None)))
