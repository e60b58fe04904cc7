# SPDX-License-Identifier: Apache-2.0
"""Event records, card to driver. An event is a hint: it may be lost, doubled or late."""

from enum import IntEnum, unique

import msgspec


@unique
class EventType(IntEnum):
    """What the event hints at; the driver finds the cause by reading the object."""

    SOFT_LIMIT = 1
    HARD_LIMIT = 2
    SEQUENCE = 3  # outbound sequence numbers are used up
    OVERRUN = 4  # events, or in the host counter records, were lost: read everything
    QUEUE_ERROR = 5  # `handle` is a queue.QueueId, `generation` a queue.CompletionError


class Event(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """(type, object, generation). A handle is reused only with another generation."""

    type: int
    handle: int
    generation: int
