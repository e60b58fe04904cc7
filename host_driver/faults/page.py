# SPDX-License-Identifier: Apache-2.0
"""`docs/faults.md`, from the table of sites and the catalogue: `python -m host_driver.faults.page`.

Nothing of it is written by hand, so that it cannot say what is not so.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from host_driver.faults.catalogue import Row, catalogue
from proto.faults import SITES, FaultSpec, Kind

INTRODUCTION = """\
# Faults

What can be broken, how one breaks it, what must happen then, and what must never be seen. This page
is printed by `python -m host_driver.faults.page` from `proto/faults/sites.py` and
`host_driver/faults/catalogue`; of every row that has a fault, a test in `tests/faults` says so.

```python
lab.faults.add("NAME", host=0)  # a row by its name; fields override its own
lab.faults.add(site="wire", kind="drop", times=3)  # or field by field
with lab.faults.inject("NAME"):
    ...  # for the time of a block, in your tests, too
lab.faults.follow("plan.toml")  # a plan, as host_driver/faults/plan.py shows one
lab.faults.list(), lab.faults.log(), lab.faults.reset()
```

`xfrmnic fault kinds | add | list | log | rm | reset` does the same to a lab in the background. A
fault draws from its own generator, seeded by the lab unless told otherwise; one of probability 0
changes no byte.
"""
STAR = "Rows with a star are the minimum set: every driver and card should be tried with them.\n"

FIELDS = {
    "match": "only where these facts hold; case, underscores and the base of numbers do not count",
    "probability": "how likely at a match (1)",
    "times": "so often, then never again (always)",
    "skip": "the first matches pass (0)",
    "interval": "at every n-th match (1)",
    "space": "so many bytes of matches pass first (0)",
    "fail_nth": "at the n-th match and no other",
    "delay_ms": "milliseconds, for kinds that take time",
    "value": "what the kind says it is",
    "seed": "of its decisions",
    "name": "what list, log and remove call it",
}


def page() -> str:
    """The whole page."""
    rows = list(catalogue().values())
    modelled = [row for row in rows if row.fault is not None]
    left_out = [row for row in rows if row.fault is None]
    parts = [
        INTRODUCTION,
        "## Sites and kinds\n",
        _table(("site", "of", "what passes there", "facts to match", "kinds"), _sites()),
        _table(("kind", "what it does"), _kinds()),
        "## Fields\n",
        _table(("field", "says"), ((f"`{name}`", text) for name, text in FIELDS.items())),
        f"## The catalogue: {len(modelled)} of {len(rows)} rows\n",
        STAR,
    ]
    for area in dict.fromkeys(row.area for row in modelled):
        chosen = [row for row in modelled if row.area == area]
        heading = ("row", "fault", "what goes wrong", "how it is made", "correct", "never")
        parts += [f"### {area.capitalize()}\n", _table(heading, map(_modelled, chosen))]
    parts += ["## Left out\n", _table(("row", "what goes wrong", "why"), map(_left_out, left_out))]
    return "\n".join(parts)


def _sites() -> Iterable[Sequence[str]]:
    for name, site in SITES.items():
        yield f"`{name}`", site.party, site.what, _codes(site.facts), _codes(site.kinds)


def _kinds() -> Iterable[Sequence[str]]:
    """A line for each kind; where sites differ in what it does, one for each of them."""
    seen: dict[tuple[str, Kind], list[str]] = {}
    for name, site in SITES.items():
        for kind, about in site.kinds.items():
            seen.setdefault((kind, about), []).append(name)
    names = [kind for kind, _ in seen]
    for (kind, about), sites in sorted(seen.items(), key=lambda item: item[0][0]):
        where = f" ({', '.join(sites)})" if names.count(kind) > 1 else ""
        yield f"`{kind}`{where}", about.what


def _modelled(row: Row) -> Sequence[str]:
    made = row.how or "; ".join(_injected(fields) for fields in row.inject)
    star = " *" if row.minimum else ""
    return (
        f"{row.id}{star}", f"`{row.fault}`", f"{row.where}: {row.trigger}",
        f"`{made}`", row.correct, row.never,
    )  # fmt: skip


def _left_out(row: Row) -> Sequence[str]:
    star = " *" if row.minimum else ""
    return f"{row.id}{star}", f"{row.where}: {row.trigger}", row.left_out or ""


def _injected(fields: dict[str, Any]) -> str:
    """A fault as one line: site and kind, then what else is said."""
    rest = (name for name in FaultSpec.__struct_fields__ if name not in ("site", "kind"))
    said = [f"{name}={_value(fields[name])}" for name in rest if name in fields]
    return " ".join([f"{fields['site']} {fields['kind']}", *said])


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {each}" for key, each in value.items()) + "}"
    return str(value)


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    text = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |"
                     for line in lines)  # fmt: skip
    return text + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
