# SPDX-License-Identifier: Apache-2.0
"""What a lab asks of a card beside its host, as one asks a BMC: tagged MessagePack, an answer each.

The channel works whatever the host does, and in every state of the card's function. The requests
about faults are the same for everybody who has a table of armed faults, so hosts answer them, too.
Nothing here gives or takes a key.
"""

from typing import Any

import msgspec

from proto.faults import FaultSpec, FaultTable

LOG_PAGE = 4096  # firings in one answer at most


class Request(msgspec.Struct, tag=lambda name: name, forbid_unknown_fields=True):
    """Base of all requests; the tag is the class name."""


class AddFault(Request):
    """Arm a fault -> its name."""

    spec: FaultSpec


class RemoveFault(Request):
    """Disarm one fault by name; ENOENT if none is armed under it."""

    name: str


class ResetFaults(Request):
    """Disarm every fault of this party."""


class ListFaults(Request):
    """-> list of [FaultSpec, firings], as armed."""


class FaultLog(Request):
    """-> list of proto.faults.Firing with an id above `after`, at most LOG_PAGE, oldest first."""

    after: int = 0


class Info(Request):
    """-> dict: name, pid, caps."""


class Census(Request):
    """-> dict: live objects by kind."""


class Counters(Request):
    """-> dict: all counters of the card by name."""


class Events(Request):
    """-> list of (time_ns, type, handle, generation, spi): the last EVENT_LOG events that the card
    raised since it booted, oldest first, without the first `start` of that boot."""

    start: int = 0


class Health(Request):
    """-> dict: state, boot, counter, epoch, syndrome, ext_synd, rfr."""


class ResetCard(Request):
    """`level` "function": all objects of the host are gone, and the card is nobody's (an FLR).
    "firmware": everything is wiped, and another boot follows.

    EBUSY when another function of the card does not agree; EINVAL for another level.
    """

    level: str


FaultRequest = AddFault | RemoveFault | ResetFaults | ListFaults | FaultLog
AnyRequest = FaultRequest | Info | Census | Counters | Events | Health | ResetCard


class Ask(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A request with the id that its answer repeats."""

    id: int
    request: AnyRequest


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """`errno` not 0: refused, `text` says why."""

    id: int
    errno: int = 0
    text: str = ""
    value: Any = None


def about_faults(table: FaultTable, request: FaultRequest) -> Any:
    """The value that answers a request about faults. Raises OffloadError as the table does."""
    match request:
        case AddFault():
            return table.add(request.spec)
        case RemoveFault():
            return table.remove(request.name)
        case ResetFaults():
            return table.reset()
        case ListFaults():
            fired = table.fired()
            return [(spec, fired[spec.name]) for spec in table.specs()]
        case FaultLog():
            return table.log(request.after, LOG_PAGE)
