# SPDX-License-Identifier: Apache-2.0
"""The command `xfrmnic`. A verb's module is imported only when that verb runs: help stays quick.

Exit status: 0 fine, 1 an expectation failed, 2 usage, 3 environment, 4 a peer died.
"""

import importlib
import signal
import sys

import click

from proto import VERSION

# verb -> (its module, the line that `xfrmnic --help` shows)
VERBS: dict[str, tuple[str, str]] = {
    "bench": ("bench", "Run the performance programs."),
    "capture": ("traffic", "Write what a lab's wire and hosts saw as pcapng."),
    "conform": ("conform", "Check a driver and its core against the kernel's contract."),
    "demo": ("demo", "Two hosts, two cards, one wire: the whole story, checked."),
    "doctor": ("doctor", "Check Python, packages, CPU, kernel cache and run directory."),
    "down": ("labs", "End a background lab."),
    "fault": ("fault", "Break a background lab, and mend it."),
    "ip": ("ip", "Speak `ip xfrm` to a host of a lab."),
    "kill": ("life", "Kill a host or a card of a lab."),
    "reload": ("life", "Reload the driver of a host."),
    "replay": ("replay", "Run a recorded failure again, to the same trace."),
    "reset": ("life", "Reset a card: its function, or all its firmware."),
    "restart": ("life", "Give a host or a card another life."),
    "resume": ("life", "Let a host or a card that was stopped go on."),
    "send": ("traffic", "Let a host of a lab send packets."),
    "simulate": ("simulate", "Random lives under seeds, with faults, every invariant judged."),
    "status": ("labs", "Show the processes, devices and counters of a lab."),
    "stop": ("life", "Stop a host or a card where it is."),
    "up": ("labs", "Start a lab in the background."),
    "warm": ("warm", "Compile the card's kernels now."),
}


class LazyGroup(click.Group):
    """A group that knows its verbs by the table alone."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in alphabetical order."""
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb's module and take the command of that name from it."""
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"host_driver.cli.{VERBS[cmd_name][0]}")
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of verbs, without importing one of them."""
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, VERBS[verb][1]) for verb in self.list_commands(ctx)])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="xfrmnic")
def cli() -> None:
    """The SmartNIC you do not have to buy: IPsec packet offload in user space.

    Every verb takes --json, and --help with an example. Exit status: 0 fine, 1 an expectation
    failed, 2 usage, 3 environment, 4 a peer died.

    Try `xfrmnic doctor`, then `xfrmnic demo`.
    """


def main() -> None:
    """Entry point of the console script. SIGTERM ends a verb as an interrupt does: cleanly."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    cli(prog_name="xfrmnic")
