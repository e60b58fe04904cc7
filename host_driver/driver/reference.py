# SPDX-License-Identifier: Apache-2.0
"""The reference driver: xdo_* callbacks on the mailbox, for packet and crypto offload.

    add      check -> key -> SA -> bind -> rule; any failure is taken back in reverse
    delete   no more events and limits; the destroys are posted, nobody waits (OPS-16), or for an
             outbound crypto SA follow once its packets have left
    free     waits until the card has nothing left of it (OPS-17)

The SA is bound before its rule exists, so no packet or event can name an SA that nobody knows. An
outbound crypto SA needs no rule: the descriptor of each packet names it (`driver.tx_queue`). A
larval SA is a placeholder without anything on the card (ACQ-03).
"""

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from host_driver.driver.audit import Audit
from host_driver.driver.context import DriverContext
from host_driver.driver.events import EventHandler
from host_driver.driver.mailbox import TIMEOUT_NS
from host_driver.driver.objects import CardObject, CardObjects
from host_driver.driver.policy import Entry, Policies, create_policy_rule
from host_driver.driver.sa import (
    Identity,
    Sa,
    create_crypto_sa,
    create_key,
    create_sa,
    limits,
)
from host_driver.driver.settings import Settings
from host_driver.driver.validate import check_state
from host_driver.ops import Extack
from host_driver.sleep import Completion, Sleep, wait
from host_driver.xfrm.state import OFFLOAD_CRYPTO, OFFLOAD_FLAG_ACQ
from proto.caps import Caps
from proto.commands import OUT, CreateSaRule, StopSa
from proto.events import Event, EventType
from proto.status import OffloadError

if TYPE_CHECKING:
    from host_driver.netdev import NetDevice
    from host_driver.xfrm.policy import XfrmPolicy
    from host_driver.xfrm.state import XfrmState


__all__ = ["ReferenceDriver", "create_policy_rule"]

CALL = "xdo_dev_state_add"

# What the card drops of an SA, and the counter that software would have bumped (MLX-14).
FAILURES = {
    "replay_window": "XfrmInStateSeqError",
    "replay": "XfrmInStateSeqError",
    "integrity_failed": "XfrmInStateProtoError",
}


class ReferenceDriver:
    """What the product ships. `offload_handle` is a running number, never 0 (OBJ-04)."""

    def __init__(self, context: DriverContext) -> None:
        self._context = context
        self._objects = CardObjects(context, self._doubt)
        self._events = EventHandler(context)
        self._settings = Settings(context)
        self._audit = Audit(context, self._objects, self._lost)
        self._sas: dict[int, Sa] = {}
        self._policies = Policies(context, self._objects)
        self._shadows: list[Sa] = []
        self._unwinding: dict[Identity, Completion] = {}
        self._last_handle = 0

    def xdo_dev_state_add(
        self, dev: "NetDevice", x: "XfrmState", extack: Extack
    ) -> int | Sleep[int]:
        """Take an SA; 0 or a negative errno with a text in `extack`."""
        algorithms = (x.aead, x.ealg, x.aalg, x.calg)
        if x.xso.flags & OFFLOAD_FLAG_ACQ or algorithms.count(None) == len(algorithms):  # TRAP-03
            x.xso.offload_handle = self._new_handle()
            return 0
        return self._add(x, extack)

    def xdo_dev_state_delete(self, dev: "NetDevice", x: "XfrmState") -> None:
        """Nothing is looked at any more, and the retirement is on its way."""
        sa = self._sas.get(x.xso.offload_handle)
        if sa is not None and not sa.deleted:
            self._drop(sa)

    def xdo_dev_state_free(self, dev: "NetDevice", x: "XfrmState") -> Sleep[None] | None:
        """Wait for the end of the retirement, at most two command timeouts (INV-46)."""
        sa = self._sas.pop(x.xso.offload_handle, None)
        if sa is None:
            return None
        if not sa.deleted:  # OPS-18
            self._drop(sa)
        sa.retired.deadline_ns = self._context.now_ns() + 2 * TIMEOUT_NS
        return wait(sa.retired)

    def xdo_dev_state_update_curlft(self, x: "XfrmState") -> None:
        """Cached totals, absolute and monotonic; larval and deleted SAs are fine (OPS-22)."""
        sa = self._sas.get(x.xso.offload_handle)
        if sa is None or sa.crypto:
            return
        self._context.sas.note_limits(sa)
        self._settings.tell(sa)
        totals, cur, stats = sa.totals, x.curlft, x.stats
        cur.packets = max(cur.packets, sa.base_packets + totals.packets)
        cur.bytes = max(cur.bytes, sa.base_bytes + totals.bytes)
        for name, counter in FAILURES.items():
            more = getattr(totals, name) - getattr(stats, name)
            if more > 0:
                setattr(stats, name, getattr(totals, name))
                self._context.xfrm_add_stats(counter, more)

    def xdo_dev_state_advance_esn(self, x: "XfrmState") -> None:
        """Crypto offload: a new high half of what comes in. What goes out the card sees by itself,
        packet after packet (REPLAY-08, REPLAY-15)."""
        sa = self._sas.get(x.xso.offload_handle)
        if sa is not None and sa.crypto:
            self._settings.tell(sa)

    def xdo_dev_policy_add(self, xp: "XfrmPolicy", extack: Extack) -> Sleep[int]:
        """One entry of the card's policy table."""
        undo: list[CardObject] = []
        handle = self._new_handle()
        try:
            yield from self._policies.add(xp, handle, undo)
        except OffloadError as error:
            yield from self._objects.unwind(undo, error)
            return self._refused(error, extack)
        xp.xdo.offload_handle = handle
        return 0

    def xdo_dev_policy_delete(self, xp: "XfrmPolicy") -> None:
        """Take the entry out; nobody waits (OPS-32)."""
        self._policies.delete(xp.xdo.offload_handle)

    def xdo_dev_policy_free(self, xp: "XfrmPolicy") -> None:
        """Nothing is left to free, unless delete never came (OPS-33, TRAP-07)."""
        self.xdo_dev_policy_delete(xp)

    def unenforced(self, packet: bytes) -> bool:
        """Whether a packet without an SA is one of an IN policy that the card does not have."""
        return self._policies.unenforced(packet)

    def all_enforced(self) -> bool:
        """Whether `unenforced` would say no to every packet."""
        return self._policies.all_enforced()

    def handle_events(self, events: list[Event]) -> None:
        """See `driver.events`; what was overrun may have been anything."""
        self._events.handle_events(events)
        if any(event.type == EventType.OVERRUN for event in events):
            self._doubt()

    def handle_counters(self, records: npt.NDArray[np.void]) -> None:
        """See `driver.events`."""
        self._events.handle_counters(records)

    def reconcile(self) -> None:
        """The tick: what no event told, what the card did not take, what is in doubt."""
        self._events.reconcile()
        self._settings.retry()
        if self._audit.due():
            self._context.spawn(self.audit())

    def needs_reconcile(self) -> bool:
        """Whether the next reconcile has anything to look at."""
        return self._events.needs_reconcile() or bool(self._settings) or self._audit.due()

    def reconcile_at(self, tell: Callable[[int], None]) -> None:
        """The next audit."""
        if (due_ns := self._audit.due_ns()) is not None:
            tell(due_ns)

    def audit(self) -> Sleep[dict[str, int]]:
        """Compare the card with what should be there, and make it so; see `driver.audit`."""
        report = yield from self._audit.run()
        yield from self._policies.restore_missing()
        return report

    def firmware_lost(self) -> None:
        """No SA goes on: its numbers may have been used. Policies carry no secret and stay."""
        self._objects.forget()
        for sa in list(self._sas.values()):
            if not sa.deleted:
                self._context.counters["sas_lost"] += 1
                self._context.xfrm_state_expire(sa.x)

    def recovered(self, caps: Caps) -> Sleep[None]:
        """Policies first: without an SA their packets wait or are dropped, and none is clear."""
        self._context.caps = caps
        yield from self._policies.restore_missing()

    def _doubt(self) -> None:
        self._audit.want()

    def _lost(self, one: CardObject) -> None:
        """The card has lost an object: a policy is made again, an SA can never be (its numbers may
        have been used), so it expires hard."""
        if isinstance(one.owner, Entry):
            return  # `audit` makes it again
        sa = self._context.sas.of(one.owner)
        if sa is None or sa.deleted or not sa.x.xso.offload_handle:
            return
        self._context.counters["sas_lost"] += 1
        self._context.mailbox.post(StopSa(sa.handle))
        self._context.xfrm_state_expire(sa.x)

    def _new_handle(self) -> int:
        self._last_handle += 1
        return self._last_handle

    def _add(self, x: "XfrmState", extack: Extack) -> Sleep[int]:
        undo: list[CardObject] = []
        sa: Sa | None = None
        step = self._context.step
        try:
            step(CALL, "check")
            check_state(x, self._context.caps)
            step(CALL, "key")
            key = yield from self._objects.make(create_key(x), undo, x)
            step(CALL, "sa")
            crypto = x.xso.type == OFFLOAD_CRYPTO
            command = create_crypto_sa(x, key.handle) if crypto else create_sa(x, key.handle)
            made = yield from self._objects.make(command, undo, x, key.handle)
            step(CALL, "bind")
            sa = Sa(x, made.handle, made.generation, undo, crypto=crypto)
            sa.base_packets, sa.base_bytes = x.curlft.packets, x.curlft.bytes
            sa.limits = limits(x, sa.base_packets, sa.base_bytes)
            sa.told = command.seq
            self._context.sas.bind(sa)
            step(CALL, "rule")
            yield from self._steer(sa)
            step(CALL, "insert")
        except OffloadError as error:
            gone = Completion()
            if sa is not None:
                self._discard(sa, gone)
            yield from self._objects.unwind(undo, error, gone)
            return self._refused(error, extack)
        x.xso.offload_handle = self._new_handle()
        self._sas[x.xso.offload_handle] = sa
        return 0

    def _discard(self, sa: Sa, gone: Completion) -> None:
        """An SA that failed to come: nobody finds it any more, and who comes next waits for it."""
        self._context.sas.unbind(sa)
        if sa in self._shadows:
            self._shadows.remove(sa)
        self._unwinding = {name: each for name, each in self._unwinding.items() if not each.done}
        self._unwinding[sa.identity] = gone

    @staticmethod
    def _refused(error: OffloadError, extack: Extack) -> int:
        if error.errno != errno.EOPNOTSUPP:  # that is no failure: the core goes on in software
            extack.set(error.text)
        return -error.errno

    def _steer(self, sa: Sa) -> Sleep[None]:
        """Point a rule at the SA. A second one of the same identity stays without: the core is
        about to refuse or release it, and no packet may take it meanwhile (TRACE-03, TRACE-08).
        One whose destruction the card has not confirmed yet is waited for (TRAP-48)."""
        sas = self._context.sas
        if sa.crypto and sa.x.xso.dir == OUT:
            return
        if sas.twins(sa):
            self._shadows.append(sa)
            return
        leaving = [other.retired for other in sas.twins(sa, deleted=True)]
        if sa.identity in self._unwinding:
            leaving.append(self._unwinding[sa.identity])
        for gone in leaving:
            gone.deadline_ns = self._context.now_ns() + 2 * TIMEOUT_NS
            yield from wait(gone)
        yield from self._objects.make(CreateSaRule(sa.handle), sa.undo, sa.x, sa.handle)

    def _drop(self, sa: Sa) -> None:
        """The SA goes; if it came with an update, its twin has taken over its limits (TRACE-08)."""
        self._delete(sa)
        for updated in self._context.sas.twins(sa):
            self._settings.tell(updated)

    def _delete(self, sa: Sa) -> None:
        sa.deleted = True
        self._context.sas.note_limits(sa)
        if sa.crypto and sa.x.xso.dir == OUT:
            retirement = self._retire_drained(sa, self._context.tx_drained())
        else:
            retirement = self._objects.retire(sa.undo)
        self._context.spawn(self._retired(sa, retirement))
        if sa in self._shadows:
            self._shadows.remove(sa)
        for other in [shadow for shadow in self._shadows if shadow.identity == sa.identity]:
            self._shadows.remove(other)
            self._context.spawn(self._unshadow(other))

    def _retire_drained(self, sa: Sa, drained: Completion) -> Sleep[None]:
        """The core has counted the packets that wait for this SA, and hands over no more of them.
        A wire that stands still is not waited for."""
        drained.deadline_ns = self._context.now_ns() + TIMEOUT_NS
        yield from wait(drained)
        yield from self._objects.retire(sa.undo)

    def _retired(self, sa: Sa, retirement: Sleep[None]) -> Sleep[None]:
        """Packets that the card decrypted before its rule went are still delivered (INV-40)."""
        yield from retirement
        self._context.sas.unbind(sa)
        sa.retired.complete()

    def _unshadow(self, sa: Sa) -> Sleep[None]:
        """The SA that stood in the way is gone: steer packets to this one after all."""
        try:
            yield from self._steer(sa)
        except OffloadError as error:
            self._context.counters["steer_errors"] += 1
            yield from self._objects.unwind(sa.undo[-1:], error)
            if not sa.deleted:  # no packet reaches it: better the user knows
                self._context.xfrm_state_expire(sa.x)
            return
        if sa.deleted and sa in self._shadows:
            self._shadows.remove(sa)
        elif sa.deleted:
            yield from self._objects.retire(sa.undo[-1:])
