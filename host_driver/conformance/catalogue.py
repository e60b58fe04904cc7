# SPDX-License-Identifier: Apache-2.0
"""The contract: every rule with its text, its source, and why it is not modelled where it is not.

A rule is a table in `rules/SECTION.toml`:

    [STATE-28]
    text = "what the kernel does"
    source = "xfrm_state.c:xfrm_state_add"
    origin = "[O]"          # [O]lder than the series, [S]eries, [L6.x] later, [B]ug, [D]erived,
                            # [M] the kernel's packet-offload driver, [U]serspace
    since = "6.10"          # first kernel that keeps it, where that is known
    corrected = "..."       # a kernel was seen to do otherwise: what, and which
    not_modelled = "..."    # why no case judges it
"""

import errno
import functools
import importlib.resources
import tomllib
from collections.abc import Iterable, Mapping

import msgspec

from proto.status import OffloadError


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule. `id` is the name of its table."""

    id: str
    text: str
    source: str
    origin: str = ""
    since: str | None = None
    corrected: str | None = None
    not_modelled: str | None = None

    @property
    def section(self) -> str:
        """The part of the id before the number, as `STATE`."""
        return self.id.partition("-")[0]


@functools.cache
def catalogue() -> Mapping[str, Rule]:
    """All rules by id, section by section. Raises msgspec.ValidationError for a malformed file."""
    rules: dict[str, Rule] = {}
    folder = importlib.resources.files("host_driver.conformance") / "rules"
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".toml"):
            for id, table in tomllib.loads(file.read_text("utf-8")).items():
                rules[id] = msgspec.convert(table | {"id": id}, Rule)
    return rules


def select(wanted: Iterable[str]) -> list[str]:
    """The ids meant by ids (`STATE-28`) and sections (`STATE`); none means all.

    Raises OffloadError(EINVAL) for what names no rule.
    """
    rules = catalogue()
    chosen: list[str] = []
    for name in wanted:
        found = [id for id, rule in rules.items() if name.upper() in (id, rule.section)]
        if not found:
            sections = ", ".join(dict.fromkeys(rule.section for rule in rules.values()))
            raise OffloadError(
                errno.EINVAL,
                f"rule {name!r} is unknown: give an id as STATE-28, or one of {sections}",
            )
        chosen += found
    return list(dict.fromkeys(chosen)) or list(rules)
