# SPDX-License-Identifier: Apache-2.0
"""Life and death of a lab's parties, wherever they live.

    from      kill   stop      resume    restart
    running   dead   stopped   -         running
    stopped   dead   -         running   running
    dead      -      -         -         running

Prohibited is what is marked `-`: it means nothing, and EALREADY says so. A party that dies without
being told is `dead` only if a fault wanted it; else the lab is over (PeerDied).
"""

import errno
from enum import Enum

from proto.status import OffloadError


class PartyState(Enum):
    """How a host or card is."""

    RUNNING = "running"
    STOPPED = "stopped"
    DEAD = "dead"


_RUNNING, _STOPPED, _DEAD = PartyState
AFTER: dict[PartyState, dict[str, PartyState]] = {
    _RUNNING: {"kill": _DEAD, "stop": _STOPPED, "restart": _RUNNING},
    _STOPPED: {"kill": _DEAD, "resume": _RUNNING, "restart": _RUNNING},
    _DEAD: {"restart": _RUNNING},
}
VERBS = ("kill", "stop", "resume", "restart")


class PartyDown(OffloadError):
    """A question to a party that is stopped or dead, by the lab's own will or by a fault, maybe
    before it could answer. `state` is how it is."""

    def __init__(self, name: str, state: PartyState) -> None:
        verb = "resume" if state is PartyState.STOPPED else "restart"
        self.state = state
        super().__init__(errno.EHOSTDOWN, f"{name} is {state.value}, {verb} it first")


def after(name: str, state: PartyState, verb: str) -> PartyState:
    """The state that a verb leads to. Raises OffloadError(EALREADY)."""
    if verb not in AFTER[state]:
        raise OffloadError(errno.EALREADY, f"{name} is {state.value}, there is nothing to {verb}")
    return AFTER[state][verb]
