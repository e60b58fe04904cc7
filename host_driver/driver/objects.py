# SPDX-License-Identifier: Apache-2.0
"""Making and unmaking objects on the card, so that a failure at any step leaves nothing behind.

Every object carries a cookie, by which the driver knows it again on the card. It lives like this:

    from         to           when
    MAKING       LIVE         the reply names it
    MAKING       GONE         the card promised that nothing changed, or never saw the command
    MAKING       LOST         no reply, one that cannot be trusted, or an impossible handle: it may
                              be there (F-CTL-01, 05, 07, 08)
    LOST         LIVE         the late reply, or the card's list, says its handle; it is retired
    LOST         GONE         the late reply is a clean refusal, or the card's list does not have it
    LIVE         LEAVING      it is retired: its destroy is posted
    LEAVING      GONE         the card has confirmed that
    LEAVING      QUARANTINED  DESTROY_ATTEMPTS times it has not (F-CTL-14): each audit tries again
    QUARANTINED  LEAVING      that is when
    any          GONE         the card was emptied (`forget`)

    prohibited: GONE -> anything; LEAVING or QUARANTINED -> LIVE; one handle for two objects

What was made for one SA is taken back in the order rule, SA, key, all of it posted at once, because
the card works in order and whoever comes next must find the rows free; the card in turn refuses to
drop what is in use. An SA whose end is not proven is stopped.
"""

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from host_driver.driver.command import U32, CommandFailed, CommandUnknown, failure, opcode
from host_driver.driver.context import DriverContext
from host_driver.driver.mailbox import TIMEOUT_NS
from host_driver.sleep import Completion, Sleep, wait
from proto.commands import (
    AnyCommand,
    CreateKey,
    CreatePolicyRule,
    CreateSa,
    CreateSaRule,
    DestroyKey,
    DestroyRule,
    DestroySa,
    ListObjects,
    ObjectInfo,
    ObjectKind,
    Reply,
    StopSa,
)
from proto.limits import RECONCILE_INTERVAL_MS
from proto.status import Delivery, OffloadError, Status

DESTROY_ATTEMPTS = 4
KINDS: dict[type[Any], ObjectKind] = {
    CreateKey: ObjectKind.KEY,
    CreateSa: ObjectKind.SA,
    CreateSaRule: ObjectKind.RULE,
    CreatePolicyRule: ObjectKind.RULE,
}
DESTROY: dict[ObjectKind, Callable[[int], AnyCommand]] = {
    ObjectKind.KEY: DestroyKey,
    ObjectKind.SA: DestroySa,
    ObjectKind.RULE: DestroyRule,
}
Create = CreateKey | CreateSa | CreateSaRule | CreatePolicyRule
PAUSE_NS = RECONCILE_INTERVAL_MS * 1_000_000


class Life(Enum):
    """States of an object; see above."""

    MAKING = "making"
    LIVE = "live"
    LOST = "lost"
    LEAVING = "leaving"
    QUARANTINED = "quarantined"
    GONE = "gone"


@dataclass(slots=True, eq=False)
class CardObject:
    """One object on the card. `owner` is the SA or policy it was made for, `uses` the handle of
    what it points to, `unknown` is why a LOST one is: it brings the late reply."""

    kind: ObjectKind
    cookie: int
    uses: int = 0
    owner: Any = None
    life: Life = Life.MAKING
    handle: int = 0
    generation: int = 0
    unknown: CommandUnknown | None = None

    def destroy(self) -> AnyCommand:
        """The command that takes it away."""
        return DESTROY[self.kind](self.handle)

    def matches(self, info: ObjectInfo) -> bool:
        """Whether the card lists exactly this object."""
        mine = (self.handle, self.generation, self.cookie, self.uses)
        return mine == (info.handle, info.generation, info.cookie, info.uses)


class CardObjects:
    """Objects of one card, made through the context's mailbox. `doubt` is called when the card may
    hold something that the driver does not know, or the other way round."""

    def __init__(self, context: DriverContext, doubt: Callable[[], None] = lambda: None) -> None:
        self._context = context
        self._doubt = doubt
        self._known: dict[int, CardObject] = {}
        self._named: dict[tuple[ObjectKind, int], CardObject] = {}
        self._adopted: dict[CardObject, None] = {}  # of no cookie of ours
        self._last_cookie = 0
        self.ended = 0  # how many have come and gone
        self.resets = 0  # how often the card was emptied

    def __iter__(self) -> Iterator[CardObject]:
        """All of them, oldest first, adopted ones last; as they are now."""
        return iter([*self._known.values(), *self._adopted])

    def __len__(self) -> int:
        return len(self._known) + len(self._adopted)

    def of(self, cookie: int) -> CardObject | None:
        """The object that was made with a cookie, until it is GONE."""
        return self._known.get(cookie)

    def made(self, cookie: int) -> bool:
        """Whether an object was ever made with a cookie."""
        return 0 < cookie <= self._last_cookie

    def named(self, kind: ObjectKind, handle: int) -> CardObject | None:
        """The object with a handle, until it is GONE."""
        return self._named.get((kind, handle))

    def make(
        self, command: Create, undo: list[CardObject], owner: Any = None, uses: int = 0
    ) -> Sleep[CardObject]:
        """Create one object and note it in `undo`. Raises OffloadError; `unwind` then takes back
        what is in `undo`, this one included if it may be there.

        What `undo` has already must still live: after a reset its handles are somebody else's.
        """
        if any(before.life is not Life.LIVE for before in undo):
            raise self._reset(command)
        self._last_cookie += 1
        one = CardObject(KINDS[type(command)], self._last_cookie, uses, owner)
        command.cookie = one.cookie
        self._known[one.cookie] = one
        undo.append(one)
        try:
            reply = yield from self._context.mailbox.execute(command)
        except CommandUnknown as error:
            one.life, one.unknown = Life.LOST, error
            self._doubt()
            raise
        except CommandFailed as error:
            self._judge(one, error)
            raise
        except OffloadError:
            self._end(one)  # it never got a slot
            raise
        if one.life is not Life.MAKING:
            raise self._reset(command)
        if why := self._impossible(one.kind, reply.handle, reply.generation):
            one.life = Life.LOST
            text = f"{opcode(command)}: the card gave {why} (syndrome {reply.syndrome & U32:#x})"
            raise OffloadError(errno.EIO, text)
        self._name(one, reply.handle, reply.generation)
        return one

    @staticmethod
    def _reset(command: Create) -> OffloadError:
        return OffloadError(errno.ENXIO, f"{opcode(command)}: the card was reset meanwhile")

    def unwind(
        self, undo: list[CardObject], error: OffloadError, gone: Completion | None = None
    ) -> Sleep[None]:
        """Take back what was made before `error`; `gone` completes when nothing is left (OPS-14).

        Nobody waits here longer than for two commands: where the card is silent, or did not answer
        the command that failed (F-CTL-01), the rest goes on in the background.
        """
        gone = gone or Completion()
        gone.deadline_ns = self._context.now_ns() + 2 * TIMEOUT_NS
        self._context.spawn(self._unwind(undo, gone))
        if not isinstance(error, CommandUnknown):
            yield from wait(gone)

    def _unwind(self, undo: list[CardObject], gone: Completion) -> Sleep[None]:
        lost = [one for one in undo if one.life is Life.LOST]
        for one in undo if lost else ():
            if one.kind is ObjectKind.SA and one.life is Life.LIVE:
                self._context.mailbox.post(StopSa(one.handle))  # its rule may be there
        for one in lost:
            yield from self.find(one)
        yield from self.retire(undo)
        gone.complete()

    def find(self, one: CardObject) -> Sleep[None]:
        """Learn what became of a LOST object: it is LIVE then, to be retired, or GONE."""
        if one.unknown is not None:
            reply = yield from wait(one.unknown.late)
            error = failure(one.unknown.command, reply)
            one.unknown = None
            if one.life is Life.GONE:
                return
            if error:
                self._judge(one, error)
            elif not self._impossible(one.kind, reply.handle, reply.generation):
                self._found(one, reply.handle, reply.generation)
        if one.life is not Life.LOST:
            return
        answer = yield from wait(self._context.mailbox.post(ListObjects(one.kind, 0, one.cookie)))
        if answer.status == Status.OK and answer.objects is not None:
            self._listed(one, answer.objects)
        if one.life is Life.LOST:
            self._doubt()

    def _listed(self, one: CardObject, listed: tuple[ObjectInfo, ...]) -> None:
        """What the card has under the cookie of a LOST object."""
        mine = [info for info in listed if info.cookie == one.cookie]
        if not mine:
            self._end(one)
        for info in mine:
            possible = not self._impossible(one.kind, info.handle, info.generation)
            if one.life is Life.LOST and possible:
                self._found(one, info.handle, info.generation)

    def retire(self, undo: list[CardObject]) -> Sleep[None]:
        """Destroy everything in `undo`. Posts at once, also where sleeping is not allowed; what it
        returns is to be spawned or slept on."""
        leaving = [one for one in undo[::-1] if one.life in (Life.LIVE, Life.QUARANTINED)]
        for one in leaving:
            one.life = Life.LEAVING
        return self._finish(self._post(leaving))

    def adopt(self, kind: ObjectKind, info: ObjectInfo) -> CardObject:
        """An object on the card that nobody knows, so that it can be retired."""
        one = CardObject(kind, info.cookie, info.uses)
        self._adopted[one] = None
        self._name(one, info.handle, info.generation)
        return one

    def forget(self, one: CardObject | None = None) -> None:
        """The card does not have it any more, or, without an argument, has nothing at all."""
        if one is not None:
            self._end(one)
            return
        self.resets += 1
        for each in self:
            self._end(each)

    def _post(self, objects: list[CardObject]) -> list[tuple[CardObject, Completion]]:
        post = self._context.mailbox.post
        return [(one, post(one.destroy())) for one in objects]

    def _finish(self, answers: list[tuple[CardObject, Completion]]) -> Sleep[None]:
        """Sleep until every destroy was answered; try again what the card did not do."""
        for attempt in range(1, DESTROY_ATTEMPTS + 1):
            left = []
            for one, answered in answers:
                reply = yield from wait(answered)
                if not self._destroyed(one, reply):
                    left.append(one)
            left = _leaving(left)
            if not left:
                return
            for one in left:
                if one.kind is ObjectKind.SA:
                    self._context.mailbox.post(StopSa(one.handle))
            if attempt < DESTROY_ATTEMPTS:
                yield from wait(Completion(self._context.now_ns() + PAUSE_NS))
                answers = self._post(_leaving(left))
        for one in left:
            one.life = Life.QUARANTINED
            self._context.counters["quarantined"] += 1

    def _destroyed(self, one: CardObject, reply: Reply) -> bool:
        """Whether the object is gone after this reply to its destroy."""
        if one.life is Life.GONE:
            return True
        if reply.status not in (Status.OK, Status.BAD_OBJECT):
            self._context.counters["destroy_errors"] += reply.status != Status.OBJECT_BUSY
            return False
        self._end(one)
        return True

    def _judge(self, one: CardObject, error: CommandFailed) -> None:
        """What a failure says about the object that was to be made."""
        if error.clean or error.delivery == Delivery.ABORTED:
            self._end(one)
        else:
            one.life = Life.LOST

    def _found(self, one: CardObject, handle: int, generation: int) -> None:
        """A LOST object was there after all."""
        self._context.counters["orphans_destroyed"] += 1
        self._name(one, handle, generation)

    def _name(self, one: CardObject, handle: int, generation: int) -> None:
        one.handle, one.generation, one.life = handle, generation, Life.LIVE
        self._named[one.kind, handle] = one

    def _impossible(self, kind: ObjectKind, handle: int, generation: int) -> str:
        """What is wrong with the handle of a new object: it must be one, and nobody else's."""
        if not (0 < handle <= U32 and 0 < generation <= U32):
            return "no handle"
        return f"handle {handle:#x}, which is in use" if (kind, handle) in self._named else ""

    def _end(self, one: CardObject) -> None:
        one.life = Life.GONE
        self._adopted.pop(one, None)
        if self._known.get(one.cookie) is one:
            self.ended += 1
            del self._known[one.cookie]
        if self._named.get((one.kind, one.handle)) is one:
            del self._named[one.kind, one.handle]


def _leaving(objects: list[CardObject]) -> list[CardObject]:
    """Those that are still on their way out: a reset may have come in between."""
    return [one for one in objects if one.life is Life.LEAVING]
