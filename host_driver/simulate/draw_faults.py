# SPDX-License-Identifier: Apache-2.0
"""The faults of a seed: which, when armed, when healed. A third of all seeds have none."""

import random
from collections.abc import Sequence
from typing import Any

from host_driver.simulate.actions import AnyAction, Arm, Heal
from proto.faults import KINDS, SITES


def draw_faults(rng: random.Random, actions: Sequence[AnyAction]) -> list[AnyAction]:
    """The same steps with faults armed and healed among them."""
    drawn = list(actions)
    if rng.random() < 0.33:
        return drawn
    for number in range(rng.choice((1, 2, 3, 6))):
        name = f"f{number}"
        at = rng.randrange(len(drawn) + 1)
        arm = Arm(fault=name, host=rng.choice((None, 0, 1)), fields=_fields(rng))
        drawn.insert(at, arm)
        if rng.random() < 0.8:
            drawn.insert(rng.randint(at + 1, len(drawn)), Heal(fault=name))
    return drawn


def _fields(rng: random.Random) -> dict[str, Any]:
    """A fault of any site; how often it fires is drawn like everything else."""
    fields: dict[str, Any] = {
        "site": rng.choice(SITES),
        "kind": rng.choice(KINDS),
        "seed": rng.getrandbits(32),
    }
    often = rng.choice(("once", "few", "rare", "half", "always"))
    if often in ("once", "few"):
        fields["times"] = 1 if often == "once" else rng.randint(2, 6)
        fields["skip"] = rng.randrange(4)
    else:
        fields["probability"] = {"rare": 0.05, "half": 0.5, "always": 1.0}[often]
    return fields
