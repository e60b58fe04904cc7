# SPDX-License-Identifier: Apache-2.0
"""States of a queue, and what its error completions say; host and card keep the same table.

    from  to   when
    RST   RDY  SetQueue: both sides go on at one index
    RDY   ERR  an error completion, or SetQueue where the host found the error
    ERR   RST  SetQueue: whatever waited has been flushed, each packet counted

Prohibited: RDY -> RST (packets on their way would vanish uncounted), ERR -> RDY (nobody agreed on
an index), RST -> ERR (nothing runs that could fail), and a state to itself.
"""

from enum import IntEnum, unique


@unique
class QueueId(IntEnum):
    """The queues of a card."""

    TX = 0
    RX = 1


@unique
class QueueState(IntEnum):
    """Where a queue stands; packets move in RDY only."""

    RST = 0
    RDY = 1
    ERR = 2


EDGES = frozenset(
    {
        (QueueState.RST, QueueState.RDY),
        (QueueState.RDY, QueueState.ERR),
        (QueueState.ERR, QueueState.RST),
    }
)


@unique
class CompletionError(IntEnum):
    """The syndrome of an error completion, as ConnectX numbers them."""

    LOCAL_LENGTH = 1  # a length that cannot be
    LOCAL_QUEUE_OPERATION = 2  # an index or a count outside the ring
    LOCAL_PROTECTION = 4  # memory that is not the packet's
    FLUSHED = 5  # nothing is wrong with this one, it stood behind the error
    BAD_RESPONSE = 16
    LOCAL_ACCESS = 17
    REMOTE_INVALID_REQUEST = 18
