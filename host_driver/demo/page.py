# SPDX-License-Identifier: Apache-2.0
"""What the demo prints, and the ledger of what it expected."""

import textwrap
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

DUMP_COLUMNS = 16
COLUMNS = 90


class Expectation(NamedTuple):
    """One claim of the story: `what` came out as `got`, and should have been `wanted`."""

    what: str
    wanted: Any
    got: Any

    @property
    def held(self) -> bool:
        """Whether the claim is true."""
        return bool(self.wanted == self.got)


class Page:
    """Prints the story line by line; `expectations` keeps every claim, true or not."""

    def __init__(self, echo: Callable[[str], None]) -> None:
        self._echo = echo
        self.expectations: list[Expectation] = []

    def title(self, number: int, text: str) -> None:
        """The head of an act."""
        self._echo(f"\n{number}. {text}")

    def say(self, text: str) -> None:
        """A line of the story, or several."""
        for line in text.splitlines():
            self._echo(f"   {line}")

    def command(self, host: str, command: str) -> None:
        """What was typed at a host, folded to the width of a terminal."""
        folded = textwrap.wrap(f"{host}$ ip {command}", COLUMNS, break_long_words=False)
        self.say(" \\\n      ".join(folded))

    def expect(self, what: str, got: Any, wanted: Any) -> None:
        """Claim that `got` equals `wanted`, and print which of both it was."""
        claim = Expectation(what, wanted, got)
        self.expectations.append(claim)
        if claim.held:
            value = "" if isinstance(got, bool) else f": {_short(got)}"
            self._echo(f"   [ok] {what}{value}")
        else:
            self._echo(f"   [FAILED] {what}: {_short(got)}, expected {_short(wanted)}")

    @property
    def failed(self) -> list[Expectation]:
        """The claims that did not hold."""
        return [claim for claim in self.expectations if not claim.held]


def _short(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def beside(left: bytes, right: bytes, heads: tuple[str, str], rows: int) -> str:
    """Two hex dumps side by side, `rows` lines of DUMP_COLUMNS bytes at most."""
    width = 5 + 3 * DUMP_COLUMNS
    lines = [f"{heads[0]:<{width}} {heads[1]}"]
    for at in range(0, min(max(len(left), len(right)), rows * DUMP_COLUMNS), DUMP_COLUMNS):
        halves = (data[at : at + DUMP_COLUMNS] for data in (left, right))
        shown = [f"{at:04x} {half.hex(' ')}" if half else "" for half in halves]
        lines.append(f"{shown[0]:<{width}} {shown[1]}".rstrip())
    rest = [len(data) - rows * DUMP_COLUMNS for data in (left, right)]
    if max(rest) > 0:
        lines.append(" ".join(f"{f'... {max(n, 0)} more bytes':<{width}}" for n in rest).rstrip())
    return "\n".join(lines)


def counters(values: dict[str, int], names: Iterable[str]) -> str:
    """Counters as aligned lines, in the order of `names`; those that are absent are left out."""
    shown = [(name, values[name]) for name in names if name in values]
    width = max((len(name) for name, _ in shown), default=0)
    return "\n".join(f"{name:<{width}} {value:>9,}" for name, value in shown)
