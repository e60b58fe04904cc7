# SPDX-License-Identifier: Apache-2.0
"""Policies on the card: one rule each, made, taken away, and made again when the card lost it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from host_driver.driver.context import DriverContext
from host_driver.driver.objects import CardObject, CardObjects, Life
from host_driver.driver.sa import selector
from host_driver.driver.validate import check_policy
from host_driver.sleep import Completion, Sleep, wait
from host_driver.xfrm.flow import decode, selector_allows
from proto.commands import ALLOW, IN, OUT, CreatePolicyRule
from proto.status import OffloadError
from proto.xfrm import IPPROTO_ESP, MODE_TUNNEL, POLICY_IN

if TYPE_CHECKING:
    from host_driver.xfrm.policy import XfrmPolicy

CALL = "xdo_dev_policy_add"


@dataclass(slots=True, eq=False)
class Entry:
    """A policy that the card was given, and what takes it away."""

    xp: "XfrmPolicy"
    undo: list[CardObject] = field(default_factory=list)

    @property
    def enforced(self) -> bool:
        """Whether its rule is on the card, as far as is known."""
        return any(one.life is Life.LIVE for one in self.undo)


class Policies:
    """The policies of one card, by offload handle."""

    def __init__(self, context: DriverContext, objects: CardObjects) -> None:
        self._context = context
        self._objects = objects
        self._entries: dict[int, Entry] = {}
        self._gaps: list[Entry] = []  # IN, and without a rule when objects had ended so often:
        self._ended = 0
        self._restoring: Completion | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, xp: "XfrmPolicy", handle: int, undo: list[CardObject]) -> Sleep[None]:
        """Give a policy to the card under an offload handle. Raises OffloadError; what is in `undo`
        is then to be taken back."""
        step = self._context.step
        step(CALL, "check")
        check_policy(xp, self._context.caps)
        entry = Entry(xp, undo)
        step(CALL, "rule")
        yield from self._objects.make(create_policy_rule(xp), undo, entry)
        step(CALL, "insert")
        self._entries[handle] = entry

    def delete(self, handle: int) -> None:
        """Take a policy away; nobody waits (OPS-32). Unknown ones are fine."""
        entry = self._entries.pop(handle, None)
        if entry is not None:
            self._context.spawn(self._objects.retire(entry.undo))

    def unenforced(self, packet: bytes) -> bool:
        """Whether the IN policy that decides on a packet without an SA is not on the card: the core
        believes that the card has enforced it (RX-08). ESP is the stack's to open and to judge."""
        flow = None if self.all_enforced() else decode(packet)
        if flow is None or flow.proto == IPPROTO_ESP:
            return False
        about = [
            one
            for one in self._entries.values()
            if one.xp.dir == POLICY_IN and selector_allows(one.xp.selector, flow)
        ]
        first = min((one.xp.priority for one in about), default=0)
        return any(one.xp.priority == first and not one.enforced for one in about)

    def all_enforced(self) -> bool:
        """Whether every IN policy is on the card."""
        if self._objects.ended != self._ended:
            self._ended = self._objects.ended
            self._gaps = [one for one in self._entries.values() if one.xp.dir == POLICY_IN]
        self._gaps = [one for one in self._gaps if not one.enforced]
        return not self._gaps

    def restore_missing(self) -> Sleep[None]:
        """Make the rules that are not on the card, oldest policy first, and in their order all
        later ones of the same priority, so that the order among equals stays.

        What cannot be made is tried again with the next call; packets that need it are dropped
        meanwhile. One call at a time: another one waits.
        """
        while self._restoring is not None:
            yield from wait(self._restoring)
        self._restoring = Completion()
        try:
            yield from self._restore_missing()
        finally:
            done, self._restoring = self._restoring, None
            done.complete()

    def _restore_missing(self) -> Sleep[None]:
        ranks = set()
        for entry in list(self._entries.values()):
            rank = entry.xp.dir, entry.xp.priority
            if not entry.enforced:
                ranks.add(rank)
            if rank in ranks:
                yield from self._replace(entry)

    def _replace(self, entry: Entry) -> Sleep[None]:
        """The new rule first, then the old one goes: there is no moment without (F-TAB-06)."""
        before, made = entry.undo, list[CardObject]()
        if entry not in self._entries.values():
            return
        try:
            check_policy(entry.xp, self._context.caps)
            yield from self._objects.make(create_policy_rule(entry.xp), made, entry)
        except OffloadError as error:
            self._context.counters["policy_restore_errors"] += 1
            yield from self._objects.unwind(made, error)
            entry.undo = [one for one in before if one.life is Life.LIVE]
            return
        if entry not in self._entries.values():  # deleted meanwhile
            before = [*before, *made]
        else:
            entry.undo = made
        yield from self._objects.retire(before)


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
