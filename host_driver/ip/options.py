# SPDX-License-Identifier: Apache-2.0
"""The options before the object: those of iproute2 that mean something here, and those that do not.

An option may be abbreviated; the first in the tool's order wins (`-h` is -human).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from host_driver.ip import names
from host_driver.ip.usage import IP
from host_driver.ip.words import IpError, invalid, shown
from proto.xfrm import AF_INET, AF_INET6

_FAMILY = {"inet": AF_INET, "inet6": AF_INET6}
_WITH_VALUE = ("-loops", "-family", "-rcvbuf")
_ELSEWHERE = ("-Version", "-batch", "-netns")  # nothing here to answer them with
# In the tool's order.
_OPTIONS = (
    "-loops", "-family", "-4", "-6", "-human-readable", "-iec", "-stats", "-statistics",
    "-details", "-resolve", "-oneline", "-timestamp", "-tshort", "-Version", "-force", "-batch",
    "-brief", "-json", "-pretty", "-rcvbuf", "-color", "-help", "-netns", "-Numeric", "-all",
    "-echo",
)  # fmt: skip


@dataclass(slots=True)
class Options:
    """What the options said; `rest` is the command."""

    stats: int
    oneline: bool
    family: int
    rest: list[str]


def parse_options(words: Sequence[str]) -> Options:
    """Read the options in front; raises IpError for one that is unknown or lacks its value."""
    options = Options(stats=0, oneline=False, family=0, rest=list(words))
    rest = options.rest
    while rest and rest[0].startswith("-"):
        word = rest.pop(0)
        if word == "--":
            break
        name = _option(word)
        if name in _WITH_VALUE:
            if not rest:
                raise IpError(255, IP)
            value = rest.pop(0)
            if name == "-family":
                if value not in _FAMILY:
                    raise invalid("invalid protocol family", value)
                options.family = _FAMILY[value]
        elif name in ("-4", "-6"):
            options.family = AF_INET if name == "-4" else AF_INET6
        elif name in ("-stats", "-statistics"):
            options.stats += 1
        elif name == "-oneline":
            options.oneline = True
        elif name == "-help":
            raise IpError(255, IP)
    return options


def _option(word: str) -> str:
    """The option that `word` abbreviates (one dash or two)."""
    short = word[1:] if word.startswith("--") else word
    if short.startswith("-color="):
        return "-color"
    found = next((name for name in _OPTIONS if names.is_prefix(short, name)), None)
    if found is None or short == "-":
        raise IpError(255, f'Option "{shown(word)}" is unknown, try "ip -help".\n')
    if found in _ELSEWHERE:
        raise IpError(255, f'Option "{word}" is not supported here.\n')
    return found
