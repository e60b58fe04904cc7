# SPDX-License-Identifier: Apache-2.0
"""The faults of a seed: which, when armed, when healed. A third of all seeds have none.

Half of them are rows of the catalogue, the others any kind of any site.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any

from host_driver.faults.catalogue import catalogue
from host_driver.simulate.actions import AnyAction, Arm, Heal
from proto.faults import SITES, Kind

QUIET_SEEDS, HEALED = 0.33, 0.8
VALUE_MAX = 64  # drawn values are small, so that they mean something
BREAKS_FRAMES = "card.seal"  # what it breaks, the peer refuses; the observer would blame the card
DELAYS_MS = (1, 5, 50, 400, 1500, 4000, 20_000)
TIMER, TIMER_MS = "host.timer", 1500  # one question to a host waits for a dozen of its timers


def draw_faults(rng: random.Random, actions: Sequence[AnyAction]) -> list[AnyAction]:
    """The same steps with faults armed and healed among them."""
    drawn = list(actions)
    if rng.random() < QUIET_SEEDS:
        return drawn
    for number in range(rng.choice((1, 1, 2, 3, 6))):
        for name, fields in draw_fault(rng, number):
            at = rng.randrange(len(drawn) + 1)
            host = fields.pop("host", rng.choice((None, 0, 1)))
            drawn.insert(at, Arm(fault=name, host=host, fields=fields))
            if rng.random() < HEALED:
                drawn.insert(rng.randint(at + 1, len(drawn)), Heal(fault=name))
    return drawn


def draw_fault(rng: random.Random, number: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and fields of one fault; a row of the catalogue may have several."""
    rows = [
        row
        for row in catalogue().values()
        if row.inject and all(fields["site"] != BREAKS_FRAMES for fields in row.inject)
    ]
    if rows and rng.random() < 0.5:
        row = rng.choice(rows)
        for part, fields in enumerate(row.inject):
            yield f"{row.fault}-{number}.{part}", {**fields, "seed": rng.getrandbits(32)}
    else:
        site = rng.choice([site for site in SITES if site != BREAKS_FRAMES])
        kind = rng.choice(list(SITES[site].kinds))
        yield f"{site}-{kind}-{number}", _fields(rng, site, kind)


def _fields(rng: random.Random, site: str, kind: str) -> dict[str, Any]:
    """How often it fires, and with what, is drawn like everything else."""
    fields: dict[str, Any] = {"site": site, "kind": kind, "seed": rng.getrandbits(32)}
    often = rng.choice(("once", "few", "rare", "half", "every", "always"))
    if often in ("once", "few"):
        fields["times"] = 1 if often == "once" else rng.randint(2, 6)
        fields["skip"] = rng.randrange(8)
    elif often == "every":
        fields["interval"] = rng.randint(2, 9)
    else:
        fields["probability"] = {"rare": 0.05, "half": 0.5, "always": 1.0}[often]
    fields |= _needed(rng, SITES[site].kinds[kind])
    if site == TIMER and kind == "late":
        fields["delay_ms"] = min(fields["delay_ms"], TIMER_MS)
    return fields


def _needed(rng: random.Random, kind: Kind) -> dict[str, Any]:
    """Fields that the kind cannot do without, and a value where it takes one."""
    fields: dict[str, Any] = {}
    if "delay_ms" in kind.needs:
        fields["delay_ms"] = rng.choice(DELAYS_MS)
    if kind.value and ("value" in kind.needs or rng.random() < 0.5):
        if kind.examples:
            fields["value"] = rng.choice(kind.examples)
        else:
            fields["value"] = kind.low + rng.randrange(min(VALUE_MAX, kind.high - kind.low + 1))
    return fields
