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
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from host_driver.driver.context import DriverContext
from host_driver.driver.events import EventHandler
from host_driver.driver.mailbox import TIMEOUT_NS
from host_driver.driver.objects import CardObjects
from host_driver.driver.sa import Sa, create_crypto_sa, create_key, create_sa, limits, selector
from host_driver.driver.validate import check_policy, check_state
from host_driver.ops import Extack
from host_driver.sleep import Completion, Sleep, wait
from host_driver.xfrm.state import OFFLOAD_CRYPTO, OFFLOAD_FLAG_ACQ
from proto.commands import (
    ALLOW,
    IN,
    OUT,
    AdvanceEsn,
    AnyCommand,
    CreatePolicyRule,
    CreateSaRule,
)  # fmt: skip
from proto.events import Event
from proto.status import OffloadError
from proto.xfrm import MODE_TUNNEL, POLICY_IN

if TYPE_CHECKING:
    from host_driver.netdev import NetDevice
    from host_driver.xfrm.policy import XfrmPolicy
    from host_driver.xfrm.state import XfrmState


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
        self._objects = CardObjects(context)
        self._events = EventHandler(context)
        self._sas: dict[int, Sa] = {}
        self._policies: dict[int, list[AnyCommand]] = {}
        self._shadows: list[Sa] = []
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
        self._tell_limits(sa)
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
        if sa is None or sa.deleted or not sa.crypto or x.xso.dir != IN or x.replay_esn is None:
            return
        fixed = x.replay_esn.fixed
        if fixed.seq_hi != sa.seq_hi:
            sa.seq_hi = fixed.seq_hi
            self._context.mailbox.post(AdvanceEsn(sa.handle, fixed.seq_hi << 32 | fixed.seq))

    def xdo_dev_policy_add(self, xp: "XfrmPolicy", extack: Extack) -> Sleep[int]:
        """One entry of the card's policy table."""
        undo: list[AnyCommand] = []
        try:
            check_policy(xp, self._context.caps)
            yield from self._objects.make(create_policy_rule(xp), undo)
        except OffloadError as error:
            return (yield from self._refuse(undo, error, extack))
        xp.xdo.offload_handle = self._new_handle()
        self._policies[xp.xdo.offload_handle] = undo
        return 0

    def xdo_dev_policy_delete(self, xp: "XfrmPolicy") -> None:
        """Take the entry out; nobody waits (OPS-32)."""
        undo = self._policies.pop(xp.xdo.offload_handle, None)
        if undo is not None:
            self._context.spawn(self._objects.retire(undo))

    def xdo_dev_policy_free(self, xp: "XfrmPolicy") -> None:
        """Nothing is left to free, unless delete never came (OPS-33, TRAP-07)."""
        self.xdo_dev_policy_delete(xp)

    def handle_events(self, events: list[Event]) -> None:
        """See `driver.events`."""
        self._events.handle_events(events)

    def handle_counters(self, records: npt.NDArray[np.void]) -> None:
        """See `driver.events`."""
        self._events.handle_counters(records)

    def reconcile(self) -> None:
        """See `driver.events`."""
        self._events.reconcile()

    def needs_reconcile(self) -> bool:
        """See `driver.events`."""
        return self._events.needs_reconcile()

    def _new_handle(self) -> int:
        self._last_handle += 1
        return self._last_handle

    def _add(self, x: "XfrmState", extack: Extack) -> Sleep[int]:
        undo: list[AnyCommand] = []
        sa: Sa | None = None
        try:
            check_state(x, self._context.caps)
            key = yield from self._objects.make(create_key(x), undo)
            crypto = x.xso.type == OFFLOAD_CRYPTO
            command = create_crypto_sa(x, key.handle) if crypto else create_sa(x, key.handle)
            made = yield from self._objects.make(command, undo)
            sa = Sa(x, made.handle, made.generation, undo, crypto=crypto)
            sa.base_packets, sa.base_bytes = x.curlft.packets, x.curlft.bytes
            sa.limits = limits(x, sa.base_packets, sa.base_bytes)
            sa.seq_hi = x.replay_esn.fixed.seq_hi if x.replay_esn else 0
            self._context.sas.bind(sa)
            yield from self._steer(sa)
        except OffloadError as error:
            if sa is not None:
                self._context.sas.unbind(sa)
            return (yield from self._refuse(undo, error, extack))
        x.xso.offload_handle = self._new_handle()
        self._sas[x.xso.offload_handle] = sa
        return 0

    def _refuse(self, undo: list[AnyCommand], error: OffloadError, extack: Extack) -> Sleep[int]:
        yield from self._objects.unwind(undo, error)
        if error.errno != errno.EOPNOTSUPP:  # that is no failure: the core goes on in software
            extack.set(error.text)
        return -error.errno

    def _tell_limits(self, sa: Sa) -> None:
        if (command := self._context.sas.new_limits(sa)) is not None:
            self._context.mailbox.post(command)

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
        for other in sas.twins(sa, deleted=True):
            other.retired.deadline_ns = self._context.now_ns() + 2 * TIMEOUT_NS
            yield from wait(other.retired)
        yield from self._objects.make(CreateSaRule(sa.handle), sa.undo)

    def _drop(self, sa: Sa) -> None:
        """The SA goes; if it came with an update, its twin has taken over its limits (TRACE-08)."""
        self._delete(sa)
        for updated in self._context.sas.twins(sa):
            self._tell_limits(updated)

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
            yield from self._objects.unwind([], error)
            return
        if sa.deleted and sa in self._shadows:
            self._shadows.remove(sa)
        elif sa.deleted:
            yield from self._objects.retire(sa.undo[-1:])


def create_policy_rule(xp: "XfrmPolicy") -> CreatePolicyRule:
    """The command of a validated policy: allow with template, bypass, or block.

    A transport template's addresses do not count and are not sent: the flow's do (TX-10).
    """
    template = xp.xfrm_vec[0] if xp.xfrm_vec else None
    protect = template is not None and xp.action == ALLOW
    command = CreatePolicyRule(
        direction=IN if xp.dir == POLICY_IN else OUT,
        selector=selector(xp.selector),
        priority=xp.priority,
        action=xp.action,
        protect=protect,
        reqid=template.reqid if template else 0,
        spi=template.id.spi if template else 0,
    )
    if template is not None and template.mode == MODE_TUNNEL:
        command.mode, command.tmpl_family = MODE_TUNNEL, template.family or xp.family
        command.tmpl_saddr, command.tmpl_daddr = template.saddr, template.id.daddr
    return command
