# SPDX-License-Identifier: Apache-2.0
"""What both bursts note down: touched rows, events, the count of a packet on its SA; and what of it
is reported."""

import numpy as np
import numpy.typing as npt

from nic_model import aso
from nic_model.handed import handed, tables_at
from nic_model.jit import inline, njit
from nic_model.tables import (
    EVENTS_LOST,
    IPSEC_RX_BYTES,
    IPSEC_RX_PACKETS,
    IPSEC_TX_BYTES,
    IPSEC_TX_PACKETS,
    Tables,
    handle_in_kernel,
)  # fmt: skip
from proto.events import EventType
from proto.layouts import SA_COUNTERS, SA_SOFT, SA_STOPPED

_SOFT, _HARD = int(EventType.SOFT_LIMIT), int(EventType.HARD_LIMIT)
_SEQUENCE = int(EventType.SEQUENCE)
_DYING, _STOPPED, _LOW = int(SA_SOFT), int(SA_STOPPED), np.uint64(0xFFFF_FFFF)


@inline
def touch(t, row):
    """Remember that the counters of an SA changed; drain_touched gives each row once."""
    if not t.touched[row]:
        t.touched[row] = 1
        t.touched_list[t.touched_count[0]] = row
        t.touched_count[0] += 1


@njit
def drain_touched(where, records):
    """Write the SA_COUNTERS record of each touched SA that still lives, in the order of their first
    touch; returns how many. Afterwards none is touched. records: SA_COUNTERS[touched_count]."""
    t = tables_at(where)
    count = 0
    for i in range(t.touched_count[0]):
        row = t.touched_list[i]
        t.touched[row] = 0
        sa, record = t.sa[row], records[count]
        generation = np.int64(sa.generation)
        if generation == 0:
            continue
        record["handle"] = handle_in_kernel(row, generation)
        record["generation"] = generation
        record["packets"], record["bytes"] = sa.packets, sa.bytes
        record["seq"] = sa.seq if sa.esn else sa.seq & _LOW
        record["replay_window"], record["replay"] = sa.replay_window, sa.replay
        record["integrity_failed"] = sa.integrity_failed
        record["flags"] = (_DYING if sa.dying else 0) | (_STOPPED if sa.stopped else 0)
        record["spi"] = sa.spi
        count += 1
    t.touched_count[0] = 0
    return count


def counter_records(t: Tables) -> npt.NDArray[np.void]:
    """What `drain_touched` writes."""
    records = np.zeros(int(t.touched_count[0]), SA_COUNTERS)
    return records[: drain_touched(handed(t), records)] if len(records) else records


@inline
def raise_event(t, row, kind):
    """Append an event; when nobody drained the array it is lost and counted."""
    count = t.event_count[0]
    if count == t.events.shape[0]:
        t.totals[EVENTS_LOST] += 1
        return
    t.events[count, 0], t.events[count, 1] = row, kind
    t.event_count[0] = count + 1


@inline
def count_sealed(t, row, size):
    """Count a packet of `size` payload bytes that leaves sealed."""
    _count_on_sa(t, row, size)
    t.totals[IPSEC_TX_PACKETS] += 1
    t.totals[IPSEC_TX_BYTES] += size


@inline
def count_opened(t, row, size):
    """Count a packet of `size` payload bytes that came in authentic."""
    _count_on_sa(t, row, size)
    t.totals[IPSEC_RX_PACKETS] += 1
    t.totals[IPSEC_RX_BYTES] += size


@inline
def _count_on_sa(t, row, size):
    """Soft event before hard event (LIFE-14)."""
    touch(t, row)
    reached = aso.count_packet(t.sa[row], size)
    if reached & aso.SOFT_REACHED:
        raise_event(t, row, _SOFT)
    if reached & aso.HARD_REACHED:
        raise_event(t, row, _HARD)


@inline
def sequence_exhausted(t, row):
    """The outbound sequence numbers of an SA are used up: one event, however often it is hit."""
    sa = t.sa[row]
    touch(t, row)
    if sa.seq_arm:
        sa.seq_arm = 0
        raise_event(t, row, _SEQUENCE)
