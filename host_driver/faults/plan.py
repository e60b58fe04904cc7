# SPDX-License-Identifier: Apache-2.0
"""What a user writes -> faults: a name of the catalogue, fields, or a plan file.

# plan.toml: what happens to a lab, and when
[[fault]]
fault = "reply-lost"      # a name of the catalogue; further fields override those of its row
host = 0                  # only there; without it everywhere
at_s = 10                 # armed 10 s after the plan was given; without it at once
until_s = 12.5            # and disarmed again

[[fault]]
site = "wire"             # or the fields of proto.faults.FaultSpec
kind = "drop"
probability = 0.01
match = { esp = 1 }
"""

import errno
import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from host_driver.faults.catalogue import find
from proto.faults import FaultSpec, from_fields
from proto.status import OffloadError

PLAN_MAX_BYTES = 1 << 20
PLAN_MAX_FAULTS = 256
SECONDS_MAX = 10 * 365 * 86_400

_OWN_FIELDS = ("fault", "host", "at_s", "until_s")
_HEADING = re.compile(r"^\s*\[\[\s*fault\s*\]\]", re.MULTILINE)


class PlannedFault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of a plan: `lab.faults.add(fault, host=host, **fields)`, from `at_s` seconds after
    the plan was given until `until_s`, or for ever."""

    fault: str | None = None
    host: int | None = None
    at_s: float = 0
    until_s: float | None = None
    fields: dict[str, Any] = {}


def specs_of(fault: str | None, fields: Mapping[str, Any], nameless: str) -> tuple[FaultSpec, ...]:
    """The faults of a row of the catalogue with `fields` in place of the row's, or of `fields`
    alone. They are named alike; `nameless` tells faults apart that nobody named.

    Raises OffloadError(EINVAL) for fields, ENOENT for a name that is in no row.
    """
    rows: list[dict[str, Any]] = [{}] if fault is None else find(fault).inject
    specs: tuple[FaultSpec, ...] = ()
    for number, row in enumerate(rows, 1):
        merged = {**row, **fields}
        name = merged.get("name") or fault or f"{merged.get('site')}-{merged.get('kind')}{nameless}"
        specs += (from_fields(merged | {"name": name if number == 1 else f"{name}/{number}"}),)
    return specs


def load_plan(path: Path) -> list[PlannedFault]:
    """The faults of a plan file. Raises OffloadError(EINVAL) with line or entry, and OSError."""
    with path.open("rb") as file:
        data = file.read(PLAN_MAX_BYTES + 1)
    if len(data) > PLAN_MAX_BYTES:
        raise _bad(f"{path}: over {PLAN_MAX_BYTES} bytes, no plan is that long")
    try:
        return parse_plan(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _bad(f"{path}: byte {error.start} is no UTF-8") from None
    except OffloadError as error:
        raise _bad(f"{path}: {error.text}") from None


def parse_plan(text: str) -> list[PlannedFault]:
    """The faults of a plan. Raises OffloadError(EINVAL) with line or entry."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad(f"no TOML: {str(error)[:200]}") from None
    if strange := sorted(document.keys() - {"fault"}):
        raise _bad(f"{strange[0]!r} is unknown, a plan has [[fault]] tables only")
    tables = document.get("fault", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise _bad("`fault` is no list of tables: write [[fault]]")
    if len(tables) > PLAN_MAX_FAULTS:
        raise _bad(f"{len(tables)} faults, a plan has {PLAN_MAX_FAULTS} at most")

    lines = [text.count("\n", 0, match.end()) + 1 for match in _HEADING.finditer(text)]
    planned = []
    for number, table in enumerate(tables):
        try:
            planned.append(_planned(table))
        except OffloadError as error:
            where = f"line {lines[number]}" if len(lines) == len(tables) else f"fault {number + 1}"
            raise _bad(f"{where}: {error.text}") from None
    return planned


def check_planned(planned: PlannedFault) -> None:
    """Raises OffloadError(EINVAL, ENOENT) for what could never be armed."""
    for name in ("at_s", "until_s"):
        seconds = getattr(planned, name)
        if seconds is not None and not (math.isfinite(seconds) and 0 <= seconds <= SECONDS_MAX):
            raise _bad(f"{name} {seconds} is outside 0..{SECONDS_MAX}")
    if planned.until_s is not None and planned.until_s <= planned.at_s:
        raise _bad(f"until_s {planned.until_s} is not after at_s {planned.at_s}")
    specs_of(planned.fault, planned.fields, "")


def _planned(table: dict[str, Any]) -> PlannedFault:
    own = {name: table[name] for name in _OWN_FIELDS if name in table}
    fields = {name: value for name, value in table.items() if name not in _OWN_FIELDS}
    try:
        planned = msgspec.convert(own | {"fields": fields}, PlannedFault)
    except msgspec.ValidationError as error:
        raise _bad(str(error)) from None
    check_planned(planned)
    return planned


def _bad(text: str) -> OffloadError:
    return OffloadError(errno.EINVAL, text)
