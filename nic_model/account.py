# SPDX-License-Identifier: Apache-2.0
"""What both bursts note down: touched rows, events, the count of a packet on its SA."""

from nic_model import aso
from nic_model.jit import njit
from nic_model.tables import (
    EVENTS_LOST,
    IPSEC_RX_BYTES,
    IPSEC_RX_PACKETS,
    IPSEC_TX_BYTES,
    IPSEC_TX_PACKETS,
)  # fmt: skip
from proto.events import EventType

_SOFT, _HARD = int(EventType.SOFT_LIMIT), int(EventType.HARD_LIMIT)
_SEQUENCE = int(EventType.SEQUENCE)


@njit
def touch(t, row):
    """Remember that the counters of an SA changed; drain_touched gives each row once."""
    if not t.touched[row]:
        t.touched[row] = 1
        t.touched_list[t.touched_count[0]] = row
        t.touched_count[0] += 1


@njit
def raise_event(t, row, kind):
    """Append an event; when nobody drained the array it is lost and counted."""
    count = t.event_count[0]
    if count == t.events.shape[0]:
        t.totals[EVENTS_LOST] += 1
        return
    t.events[count, 0], t.events[count, 1] = row, kind
    t.event_count[0] = count + 1


@njit
def count_sealed(t, row, size):
    """Count a packet of `size` payload bytes that leaves sealed."""
    _count_on_sa(t, row, size)
    t.totals[IPSEC_TX_PACKETS] += 1
    t.totals[IPSEC_TX_BYTES] += size


@njit
def count_opened(t, row, size):
    """Count a packet of `size` payload bytes that came in authentic."""
    _count_on_sa(t, row, size)
    t.totals[IPSEC_RX_PACKETS] += 1
    t.totals[IPSEC_RX_BYTES] += size


@njit
def _count_on_sa(t, row, size):
    """Soft event before hard event (LIFE-14)."""
    touch(t, row)
    reached = aso.count_packet(t.sa[row], size)
    if reached & aso.SOFT_REACHED:
        raise_event(t, row, _SOFT)
    if reached & aso.HARD_REACHED:
        raise_event(t, row, _HARD)


@njit
def sequence_exhausted(t, row):
    """The outbound sequence numbers of an SA are used up: one event, however often it is hit."""
    sa = t.sa[row]
    touch(t, row)
    if sa.seq_arm:
        sa.seq_arm = 0
        raise_event(t, row, _SEQUENCE)
