# SPDX-License-Identifier: Apache-2.0
"""Events are hints, counter records are totals, and the reconcile tick finds what neither told.

    event     -> read the SA from the card -> totals -> look
    counters  ->                              totals -> look
    tick      -> read SAs with limits, in turn -> totals -> look

A reading that cannot be believed (`driver.totals`) is read again. `look` asks the core whether the
SA expires; where it does and the card still passes packets, the card is told to stop (LIFE-18), and
where the card has stopped and no limit is reached, the SA expires all the same (F-LIM-08). All of
it is idempotent: doubled, late and lost events change nothing (INV-27, INV-51).
"""

import numpy as np
import numpy.typing as npt

from host_driver.driver.context import DriverContext
from host_driver.driver.sa import Read, Sa
from host_driver.driver.totals import FAILURES, Reading, Verdict
from host_driver.sleep import Completion, Sleep, wait
from host_driver.xfrm.state import KmState
from proto.commands import QuerySa, SaState, StopSa
from proto.events import Event, EventType
from proto.layouts import SA_STOPPED
from proto.limits import RECONCILE_BATCH, RECONCILE_INTERVAL_MS
from proto.status import Status

KNOWN = frozenset(EventType)
SITE_WORK = "host.work"

READS = 3  # of one SA in a row, while the card says what cannot be
STOPS = 2  # readings that say "stopped", before the SA is given up
STOP_AGAIN_NS = RECONCILE_INTERVAL_MS * 1_000_000


class EventHandler:
    """The asynchronous half of a driver; reads and binds nothing but `context.sas`."""

    def __init__(self, context: DriverContext) -> None:
        self._context = context
        self._rounds = 0  # of reconciling, under way
        self._next = 0

    def handle_events(self, events: list[Event]) -> None:
        """Find the cause of each event by reading its object; unknown ones are counted."""
        counters = self._context.counters
        for event in events:
            if event.type not in KNOWN:
                counters["events_malformed"] += 1
            elif event.type == EventType.OVERRUN:
                counters["events_overrun"] += 1
                self._start(everything=True)
            elif (sa := self._find(event.handle, event.generation)) is not None:
                counters[f"events_{EventType(event.type).name.lower()}"] += 1
                self._read_soon(sa)
            else:
                counters["events_unknown"] += 1

    def handle_counters(self, records: npt.NDArray[np.void]) -> None:
        """Take running totals; look at SAs that can expire or were used for the first time."""
        for record in records.tolist():
            handle, generation, packets, octets, seq, window, replay, failed, flags, spi = record
            sa = self._find(handle, generation)
            if sa is None or spi != sa.x.id.spi:
                self._context.counters["counters_unknown"] += 1
                continue
            failures = (window, replay, failed)
            sa.totals.take_failures(dict(zip(FAILURES, failures, strict=True)))
            sa.totals.stopped = sa.totals.stopped or bool(flags & SA_STOPPED)
            if not self._believe(sa.totals.take(Reading(packets, octets, seq))):
                self._read_soon(sa)
            self._look(sa)

    def _believe(self, verdict: Verdict) -> bool:
        if verdict is not Verdict.TAKEN:
            self._context.counters[f"counters_{verdict.value}"] += 1
        return verdict is Verdict.TAKEN

    def _find(self, handle: int, generation: int) -> Sa | None:
        """The SA, unless it is on its way out (F-LIM-03)."""
        sa = self._context.sas.find(handle, generation)
        return None if sa is None or sa.deleted else sa

    def needs_reconcile(self) -> bool:
        """Whether a tick may find something."""
        return bool(self._context.sas.limited)

    def reconcile(self) -> None:
        """The tick: read a batch of the SAs that have limits, round robin."""
        self._start(everything=False)

    def _start(self, *, everything: bool) -> None:
        sas = list(self._context.sas if everything else self._context.sas.limited.values())
        if not sas or (self._rounds and not everything):
            return
        first = self._next % len(sas)
        count = len(sas) if everything else min(len(sas), RECONCILE_BATCH)
        self._next = first + count
        self._rounds += 1
        self._context.spawn(self._reconcile((sas[first:] + sas[:first])[:count]))

    def _reconcile(self, sas: list[Sa]) -> Sleep[None]:
        try:
            for sa in sas:
                if not sa.deleted:
                    yield from self._read(sa)
        finally:
            self._rounds -= 1

    def _read_soon(self, sa: Sa) -> None:
        """One read after the last event, however many came meanwhile."""
        if sa.read is not Read.IDLE:
            sa.read = Read.AGAIN
            return
        delay_ms = 0
        if self._context.faults.armed:
            for fired in self._context.faults.fire(
                SITE_WORK, {"work": "read", "spi": sa.x.id.spi}, self._context.now_ns()
            ):
                if fired.kind == "lost":  # F-LIM-07: the tick will find it
                    return
                delay_ms += fired.delay_ms
        sa.read = Read.READING
        self._context.spawn(self._read_until_quiet(sa, delay_ms))

    def _read_until_quiet(self, sa: Sa, delay_ms: int) -> Sleep[None]:
        if delay_ms:
            yield from wait(Completion(self._context.now_ns() + delay_ms * 1_000_000))
        while True:
            sa.read = Read.READING
            yield from self._read(sa)
            if sa.read is Read.READING:
                sa.read = Read.IDLE
                return

    def _read(self, sa: Sa) -> Sleep[None]:
        """Ask the card, again where it says what cannot be."""
        for _ in range(READS):
            state = yield from self._query(sa)
            if state is None or sa.deleted:
                return
            sa.stops_read = sa.stops_read + 1 if state.stopped else 0
            if self._believe(sa.totals.take_state(state)):
                break
        self._look(sa)

    def _query(self, sa: Sa) -> Sleep[SaState | None]:
        reply = yield from wait(self._context.mailbox.post(QuerySa(sa.handle)))
        state: SaState | None = reply.sa if reply.status == Status.OK else None
        if state is None or (state.handle, state.generation) != (sa.handle, sa.generation):
            self._context.counters["query_stale"] += 1  # F-CTL-17, F-LIM-11
            return None
        return state

    def _look(self, sa: Sa) -> None:
        """Let the core decide (LIFE-10..18). Only a valid SA can expire (F-LIM-20), and only a used
        one is looked at: the first look is its first use (LIFE-11)."""
        x = sa.x
        if sa.deleted or sa.crypto:
            return
        if sa.exhausted and x.km.state == KmState.VALID:
            self._context.xfrm_state_expire(x)
        if not sa.totals.packets or (x.curlft.use_time and not sa.limited):
            return
        if x.km.state == KmState.VALID:
            self._context.xfrm_state_check_expire(x)
        if x.km.state == KmState.VALID and sa.stops_read >= STOPS:
            self._context.counters["stopped_by_card"] += 1
            self._context.xfrm_state_expire(x)
        if x.km.state == KmState.EXPIRED and not sa.stop_sent and not sa.totals.stopped:
            sa.stop_sent = True
            self._context.spawn(self._stop(sa))

    def _stop(self, sa: Sa) -> Sleep[None]:
        """Until the card has done it: nothing may pass an expired SA (F-LIM-17)."""
        while not sa.deleted:
            self._context.counters["stops"] += 1
            reply = yield from wait(self._context.mailbox.post(StopSa(sa.handle)))
            if reply.status == Status.OK:
                return
            yield from wait(Completion(self._context.now_ns() + STOP_AGAIN_NS))
