# SPDX-License-Identifier: Apache-2.0
"""The deaths of a seed: who dies, hangs or is reset, and when they come back. Most have none.

What is done to a party and undone later comes in pairs; other steps go on in between.
"""

import random
from collections.abc import Sequence

from host_driver.simulate.actions import Advance, AnyAction, Incident, Live, Party

SEEDS = 0.1  # of all seeds; `chaos` has deaths all the time
GAPS_MS = (10, 500, 1500, 4000, 12_000)  # shorter and longer than everybody's patience
# What happens, and what undoes it.
DEATHS: tuple[tuple[Party, Incident, Incident | None], ...] = (
    ("card", "kill", "restart"),
    ("card", "stop", "resume"),
    ("card", "restart", None),
    ("card", "reset-function", None),
    ("card", "reset-firmware", None),
    ("host", "kill", "restart"),
    ("host", "stop", "resume"),
    ("host", "restart", None),
    ("host", "reload", None),
)


def draw_lives(rng: random.Random, actions: Sequence[AnyAction]) -> list[AnyAction]:
    """The same steps, in some seeds with deaths and returns among them."""
    return with_deaths(rng, actions) if rng.random() < SEEDS else list(actions)


def with_deaths(rng: random.Random, actions: Sequence[AnyAction]) -> list[AnyAction]:
    """The same steps, one to four deaths, and the returns."""
    drawn = list(actions)
    for _ in range(rng.choice((1, 1, 2, 4))):
        party, what, undo = rng.choice(DEATHS)
        host = rng.randrange(2)
        at = rng.randrange(len(drawn) + 1)
        more: list[AnyAction] = [Live(host=host, party=party, what=what)]
        if undo is None:
            drawn[at:at] = more
            continue
        later = min(len(drawn), at + rng.randrange(8))
        more.append(Advance(ms=rng.choice(GAPS_MS)))
        drawn[later:later] = [Live(host=host, party=party, what=undo)]
        drawn[at:at] = more
    return drawn
