# SPDX-License-Identifier: Apache-2.0
"""The options before the object: those of iproute2 that mean something here, and those that do not.

An option may be abbreviated; the first in the tool's order wins (`-h` is -human).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from host_driver.ip import names
from host_driver.ip.usage import IP
from host_driver.ip.words import FAMILY_NAMES, IpError, invalid, shown

_FAMILY = {name: family for family, name in FAMILY_NAMES.items()}
_FAMILIES = {"-4": "inet", "-6": "inet6", "-0": "link", "-M": "mpls", "-B": "bridge"}
_WITH_VALUE = ("-loops", "-family", "-rcvbuf", "-batch", "-netns")
_ELSEWHERE = ("-Version",)  # nothing here to answer it with
# In the tool's order.
_OPTIONS = (
    "-loops", "-family", "-4", "-6", "-0", "-M", "-B", "-human-readable", "-iec", "-stats",
    "-statistics", "-details", "-resolve", "-oneline", "-timestamp", "-tshort", "-Version",
    "-force", "-batch", "-brief", "-json", "-pretty", "-rcvbuf", "-color", "-help", "-netns",
    "-Numeric", "-all", "-echo",
)  # fmt: skip


@dataclass(slots=True)
class Options:
    """What the options said; `rest` is the command, or `batch` the file that has many."""

    rest: list[str]
    stats: int = 0
    oneline: bool = False
    family: int = 0
    batch: str = ""
    force: bool = False


def parse_options(words: Sequence[str]) -> Options:
    """Read the options in front; raises IpError for one that is unknown or lacks its value."""
    options = Options(list(words))
    rest = options.rest
    while rest and rest[0].startswith("-"):
        word = rest.pop(0)
        if word == "--":
            break
        name = _option(word)
        if name in _WITH_VALUE:
            if not rest:
                raise IpError(255, IP)
            _take_value(options, name, rest.pop(0))
        elif name in _FAMILIES:
            options.family = _FAMILY[_FAMILIES[name]]
        elif name == "-force":
            options.force = True
        elif name in ("-stats", "-statistics"):
            options.stats += 1
        elif name == "-oneline":
            options.oneline = True
        elif name == "-help":
            raise IpError(255, IP)
    return options


def _take_value(options: Options, name: str, value: str) -> None:
    if name == "-family":
        if value == "help":
            raise IpError(255, IP)
        if value not in _FAMILY:
            raise invalid("invalid protocol family", value)
        options.family = _FAMILY[value]
    elif name == "-batch":
        options.batch = value
    elif name == "-netns":  # there is one namespace, which has no name
        text = f'Cannot open network namespace "{shown(value)}": No such file or directory\n'
        raise IpError(255, text)


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
