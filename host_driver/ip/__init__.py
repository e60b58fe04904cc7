# SPDX-License-Identifier: Apache-2.0
"""The `ip xfrm` language as a client of the XFRM core: text to netlink bytes, and back to text.

Grammar, messages, output, exit status and complaints are those of iproute2 6.15 (section 11 of the
kernel contract). Two things differ on purpose: a complaint never shows a key, and times are UTC.
"""

import shlex
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from host_driver.ip import policy_verbs, state_verbs
from host_driver.ip.batch import Ended, UnknownObject, run_batch
from host_driver.ip.command import Command
from host_driver.ip.format import Style
from host_driver.ip.monitor import format_notification
from host_driver.ip.names import is_prefix
from host_driver.ip.options import Options, parse_options
from host_driver.ip.talk import Talk, Transact
from host_driver.ip.usage import IP, MONITOR, XFRM
from host_driver.ip.words import IpError, Words, shown
from proto.netlink import NetlinkError

__all__ = ["Result", "format_notification", "run"]

_LAST = ("list", "show", "lst", "deleteall", "delall")  # behind them the tool ends
_MONITOR_ONLY = "ip xfrm monitor: notifications do not come as an answer to a command.\n"


@dataclass(frozen=True)
class Result:
    """How a command ended: exit status (0, 1, 2 refused by the core, 255), stdout, stderr."""

    rc: int
    stdout: str
    stderr: str


def run(
    text: str | Sequence[str],
    transact: Transact,
    devices: Mapping[str, int],
    sa_dir_known: bool = True,
) -> Result:
    """Run one command; no text makes it raise.

    `text` is the command line, or its words; it may begin with `ip xfrm`, `ip` or `xfrm`. A file of
    commands (-batch) is read where this runs.
    `transact` sends one datagram to the core and gives the reply messages; what it raises passes
    through. `devices` maps device names to ifindex. `sa_dir_known`: whether the kernel knows a
    direction of SAs; to others none is sent (CLI-15).
    """
    tool = _Tool(Talk(transact), devices, sa_dir_known)
    try:
        words = shlex.split(text) if isinstance(text, str) else list(text)
        rc, stdout, stderr = tool.run(words[1:] if words[:1] == ["ip"] else words)
    except ValueError as error:  # shlex; NetlinkError is one too
        what = "the reply" if isinstance(error, NetlinkError) else "the command line"
        rc, stdout, stderr = 255, "", f"Error: {what} does not parse: {error}.\n"
    except struct.error as error:
        rc, stdout, stderr = 255, "", f"Error: the reply does not parse: {error}.\n"
    return Result(rc, stdout, "".join(tool.notes) + tool.talk.warnings + stderr)


class _Tool:
    """One run of the tool: a command, or a batch of them."""

    def __init__(self, talk: Talk, devices: Mapping[str, int], sa_dir_known: bool) -> None:
        self.talk = talk
        self.notes: list[str] = []
        self._devices = devices
        self._sa_dir_known = sa_dir_known

    def run(self, words: list[str]) -> tuple[int, str, str]:
        """Exit status, stdout and stderr."""
        try:
            options = parse_options(words)
            if options.batch:
                return run_batch(
                    options.batch, options.force, lambda line: self._command(options, line)
                )
            return 0, self._command(options, options.rest), ""
        except Ended as end:
            return 0, end.text, ""
        except IpError as error:
            return error.rc, "", error.stderr

    def _command(self, options: Options, rest: list[str]) -> str:
        """Find object and verb and do it; gives what goes to stdout."""
        if not rest:
            raise IpError(255, IP)
        if not is_prefix(rest[0], "xfrm"):
            raise UnknownObject(1, f'Object "{shown(rest[0])}" is unknown, try "ip help".\n')
        object_word = rest[1] if len(rest) > 1 else ""
        verb = rest[2] if len(rest) > 2 else "list"
        if is_prefix(object_word, "state") or is_prefix(object_word, "sa"):
            verbs, name = state_verbs.VERBS, "state"
        elif is_prefix(object_word, "policy"):
            verbs, name = policy_verbs.VERBS, "policy"
        elif is_prefix(object_word, "monitor"):
            raise _monitor(rest[2:])
        else:
            raise IpError(255, XFRM)
        found = next((full for full in verbs if is_prefix(verb, full)), None)
        if found is None:
            raise IpError(255, f'Command "{shown(verb)}" is unknown, try "ip xfrm {name} help".\n')
        by_index = {ifindex: name for name, ifindex in self._devices.items()}
        style = Style(options.stats > 0, options.oneline, False, options.family, by_index)
        words = Words(rest[3:], self._devices, options.family, self._sa_dir_known)
        command = Command(words, self.talk, style, options.stats, self.notes)
        text = verbs[found](command)
        if found in _LAST:
            raise Ended(text)
        return text


def _monitor(words: Sequence[str]) -> IpError:
    """A command has an end and monitoring has none, so there is only help to give."""
    known = ("nokeys", "all-nsid", "all", "acquire", "expire", "SA", "aevent", "policy", "report")
    for word in words:
        if is_prefix(word, "help"):
            return IpError(255, MONITOR)
        if not any(is_prefix(word, full) for full in known):
            return IpError(
                255, f'Argument "{shown(word)}" is unknown, try "ip xfrm monitor help".\n'
            )
    return IpError(1, _MONITOR_ONLY)
