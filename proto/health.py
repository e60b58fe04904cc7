# SPDX-License-Identifier: Apache-2.0
"""The states of a card's function, and the record by which a card says that it lives.

    from       to         when
    BOOT       IDLE       initialising is over
    IDLE       ACTIVE     InitFunction: a host takes the card
    ACTIVE     ACTIVE     InitFunction of another epoch: the card is emptied in passing
    ACTIVE     IDLE       function reset: asked for, or the host fell silent (HOST_LOST_MS)
    IDLE       ERROR      a fatal error
    ACTIVE     ERROR      a fatal error
    not RESETTING  RESETTING  firmware reset: asked for by the host, or by who manages the card
    RESETTING  BOOT       with another boot id

Prohibited: BOOT -> ACTIVE (nothing is initialised), ERROR -> IDLE and ERROR -> ACTIVE (only a reset
makes it good), RESETTING -> anything but BOOT, and a state to itself, but for ACTIVE.

Outside ACTIVE the port is closed: nothing leaves, nothing is delivered, and the card is empty, in
ERROR too. Packets that were under way are flushed, each counted once.
"""

from enum import IntEnum, unique

import msgspec


@unique
class FunctionState(IntEnum):
    """Where the function of a card stands."""

    BOOT = 0
    IDLE = 1
    ACTIVE = 2
    ERROR = 3
    RESETTING = 4


_BOOT, _IDLE, _ACTIVE, _ERROR, _RESETTING = FunctionState
EDGES = frozenset(
    {
        (_BOOT, _IDLE), (_IDLE, _ACTIVE), (_ACTIVE, _ACTIVE), (_ACTIVE, _IDLE),
        (_IDLE, _ERROR), (_ACTIVE, _ERROR), (_RESETTING, _BOOT),
        *((state, _RESETTING) for state in FunctionState if state is not _RESETTING),
    }
)  # fmt: skip


class HealthRecord(msgspec.Struct, frozen=True, array_like=True):
    """What a card says each HEALTH_INTERVAL_MS, and at once when its state changes.

    `boot` is the id of this boot; `counter` runs from its beginning. `epoch` is that of the host
    whose card it is, 0 for nobody. `syndrome` is a status.HealthSyndrome, `ext_synd` the firmware's
    own number behind it; `rfr`, "recovery flow required", says that it is fatal. `link`: the port
    has a carrier. `rings`: how far rings and event queue are, as commands.Fence says it, so that
    what got lost is found where nothing moves any more.
    """

    boot: int
    counter: int
    state: int
    epoch: int = 0
    syndrome: int = 0
    ext_synd: int = 0
    rfr: bool = False
    link: bool = True
    rings: dict[str, int] = {}
