# SPDX-License-Identifier: Apache-2.0
"""What can fail: every row with what must happen then, and the fault that makes it happen.

A row is a table in `catalogue/AREA.toml`:

    [F-CTL-01]
    minimum = true              # one of the set that every card and driver should be tried with
    where = "command reply"
    trigger = "what goes wrong"
    correct = "what driver, core and firmware do together"
    never = "what must not be seen"
    fault = "reply-lost"        # its name: `lab.faults.add("reply-lost")`
    inject = [{ site = "mailbox.reply", kind = "drop", times = 1 }]    # proto.faults.FaultSpec
    how = "host.nic.kill()"     # instead of `inject`: what one does, where no fault is armed
    left_out = "..."            # instead of `fault`: why this row is not modelled
"""

import errno
import functools
import importlib.resources
import tomllib
from collections.abc import Mapping
from typing import Any

import msgspec

from proto.status import OffloadError


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row. `id` is the name of its table, `area` that of its file."""

    id: str
    area: str
    where: str
    trigger: str
    correct: str
    never: str
    minimum: bool = False
    fault: str | None = None
    inject: list[dict[str, Any]] = []
    how: str | None = None
    left_out: str | None = None

    def __post_init__(self) -> None:
        if (self.fault is None) == (self.left_out is None):
            raise ValueError(f"{self.id}: one of `fault` and `left_out` is needed")
        if self.fault is not None and bool(self.inject) == bool(self.how):
            raise ValueError(f"{self.id}: one of `inject` and `how` is needed")


@functools.cache
def catalogue() -> Mapping[str, Row]:
    """All rows by id, area by area. Raises msgspec.ValidationError for a malformed file."""
    rows: dict[str, Row] = {}
    folder = importlib.resources.files("host_driver.faults") / "catalogue"
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        area, dot, ending = file.name.partition(".")
        if dot and ending == "toml":
            for id, table in tomllib.loads(file.read_text("utf-8")).items():
                rows[id] = msgspec.convert(table | {"id": id, "area": area}, Row)
    return rows


def find(fault: str) -> Row:
    """The row of a fault that can be armed. Raises OffloadError(ENOENT, EINVAL)."""
    for row in catalogue().values():
        if row.fault == fault:
            if row.inject:
                return row
            raise OffloadError(errno.EINVAL, f"fault {fault!r} is made by hand: {row.how}")
    raise OffloadError(errno.ENOENT, f"no fault is named {fault!r}, see `xfrmnic fault kinds`")
