# SPDX-License-Identifier: Apache-2.0
"""The audit: what is on the card against what the driver believes, page by page, and made good.

    on the card      the driver knows it                       what happens
    yes              LIVE, LEAVING, QUARANTINED as listed      nothing
    yes              as being made, or LOST                    nothing; a LOST one is looked for
    yes              not, but has made it: it is undead        stopped and destroyed (F-CTL-15)
    yes              not at all, or under another handle       the same: an orphan
    no               LIVE since before the question            the SA is dead and expires hard, a
                                                               policy is made again

What is QUARANTINED is tried once more. The card works in order, so what was LIVE when the question
went out is on the list, unless it is gone; therefore no traffic and no add disturbs an audit, and a
second one right behind finds nothing to do (INV-44). Each page is one command, one at a time.
"""

from collections import Counter
from collections.abc import Callable, Iterator

from host_driver.driver.context import DriverContext
from host_driver.driver.objects import CardObject, CardObjects, Life
from host_driver.sleep import Completion, Sleep, wait
from proto.commands import ListObjects, ObjectInfo, ObjectKind, StopSa
from proto.limits import AUDIT_INTERVAL_MS
from proto.status import Status

INTERVAL_NS = AUDIT_INTERVAL_MS * 1_000_000
ORDER = (ObjectKind.RULE, ObjectKind.SA, ObjectKind.KEY)  # users before what they use
FINDINGS = ("orphans", "undead", "missing", "lost", "quarantined")

Strays = list[tuple[ObjectKind, ObjectInfo]]


class Audit:
    """Audits of one card. `lost` is told of objects that the card does not have any more."""

    def __init__(
        self,
        context: DriverContext,
        objects: CardObjects,
        lost: Callable[[CardObject], None],
    ) -> None:
        self._context = context
        self._objects = objects
        self._lost = lost
        self._wanted = False
        self._next_ns = context.now_ns() + INTERVAL_NS
        self._audited = 0  # how many objects had ended before the last audit
        self._running: Completion | None = None

    def want(self) -> None:
        """There is doubt: audit with the next tick."""
        self._wanted = True

    def due(self) -> bool:
        """Whether the tick should start one."""
        due_ns = self.due_ns()
        return due_ns is not None and self._context.now_ns() >= due_ns

    def due_ns(self) -> int | None:
        """When the next one is due: with the next tick where there is doubt, else now and then."""
        if self._running is not None:
            return None
        if self._wanted:
            return self._context.now_ns()
        # What was destroyed last may live on a card that the driver thinks empty (F-CTL-15).
        anything = len(self._objects) > 0 or self._objects.ended != self._audited
        return self._next_ns if anything else None

    def run(self) -> Sleep[dict[str, int]]:
        """One audit to its end. The report says how many objects the card listed (`objects`), how
        many the driver knows now (`known`) and how many SAs the receive path does (`bound`), how
        many of each of FINDINGS there were, and, if the card did not answer, `unfinished`."""
        while self._running is not None:
            yield from wait(self._running)
        self._running, self._wanted = Completion(), False
        self._next_ns = self._context.now_ns() + INTERVAL_NS
        self._audited = self._objects.ended
        try:
            report = yield from self._run()
            report["known"], report["bound"] = len(self._objects), len(self._context.sas)
        finally:
            running, self._running = self._running, None
            running.complete()
        for name in FINDINGS:
            if report[name]:
                self._context.counters[f"audit_{name}"] += report[name]
        return dict(report)

    def _run(self) -> Sleep[Counter[str]]:
        report = Counter(dict.fromkeys(("objects", *FINDINGS), 0))
        resets = self._objects.resets
        before = [one for one in self._objects if one.life is Life.LIVE]
        strays: Strays = []
        seen: set[CardObject] = set()
        for kind in ORDER:
            read = yield from self._list(kind, seen, strays, report)
            if not read or self._objects.resets != resets:
                self._wanted = True
                report["unfinished"] = 1
                return report

        missing = [one for one in before if one.life is Life.LIVE and one not in seen]
        report["missing"] = len(missing)
        for one in missing:
            self._objects.forget(one)
            self._lost(one)
        # Together, as each may be in use by one of the others: rules first, keys last.
        kept = [one for one in self._objects if one.life is Life.QUARANTINED]
        leaving = sorted([*kept, *self._adopt(strays, report)], key=lambda one: one.kind)
        yield from self._objects.retire(leaving)
        for one in self._objects:
            if one.life is Life.LOST and one.unknown is None:
                report["lost"] += 1
                yield from self._objects.find(one)
                yield from self._objects.retire([one])
        report["quarantined"] = sum(one.life is Life.QUARANTINED for one in self._objects)
        return report

    def _list(
        self, kind: ObjectKind, seen: set[CardObject], strays: Strays, report: Counter[str]
    ) -> Sleep[bool]:
        """Read all pages of a kind; False when the card did not give them."""
        after = 0
        while True:
            post = self._context.mailbox.post(ListObjects(kind, after))
            reply = yield from wait(post)
            if reply.status != Status.OK or reply.objects is None:
                return False
            for info in reply.objects:
                report["objects"] += 1
                one = self._objects.named(kind, info.handle)
                if one is not None and one.matches(info):
                    seen.add(one)
                elif not self._expected(info):
                    strays.append((kind, info))
            following: int = reply.values.get("next", 0)
            if following <= after:  # the end; or a card that would let us read for ever
                return following == 0
            after = following

    def _expected(self, info: ObjectInfo) -> bool:
        one = self._objects.of(info.cookie)
        return one is not None and one.life in (Life.MAKING, Life.LOST)

    def _adopt(self, strays: Strays, report: Counter[str]) -> Iterator[CardObject]:
        """Make what nobody knows the driver's own, stopped, so that it can be retired."""
        for kind, info in strays:
            if self._objects.named(kind, info.handle) is not None:
                continue  # somebody has it by now
            report["undead" if self._objects.made(info.cookie) else "orphans"] += 1
            if kind is ObjectKind.SA:
                self._context.mailbox.post(StopSa(info.handle))
            yield self._objects.adopt(kind, info)
