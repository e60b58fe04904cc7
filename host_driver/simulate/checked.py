# SPDX-License-Identifier: Apache-2.0
"""Whether a plan can be played: names in its steps that only the players know."""

import errno
from collections.abc import Collection

from host_driver.simulate.actions import AnyAction, Ask, Attack, Live, Send
from host_driver.simulate.draw_lives import DEATHS
from host_driver.simulate.plan import Plan
from host_driver.simulate.play_life import QUESTIONS
from host_driver.simulate.play_traffic import ATTACKS
from host_driver.simulate.traffic import KINDS
from proto.status import OffloadError

INCIDENTS = {(party, what) for party, what, _ in DEATHS}
INCIDENTS |= {(party, undo) for party, _, undo in DEATHS if undo}


def check(plan: Plan) -> None:
    """Raises OffloadError(EINVAL) that says in which step which name is unknown."""
    for number, action in enumerate(plan.actions):
        name, known = _named(action)
        if name not in known:
            among = ", ".join(sorted(known))
            raise OffloadError(
                errno.EINVAL, f"step {number}, {action.words()}: {name!r} is none of {among}"
            )


def _named(action: AnyAction) -> tuple[str, Collection[str]]:
    match action:
        case Send():
            return action.kind, KINDS
        case Attack():
            return action.kind, ATTACKS
        case Ask():
            return action.what, QUESTIONS
        case Live():
            return action.what, {what for party, what in INCIDENTS if party == action.party}
    return "", ("",)
