# SPDX-License-Identifier: Apache-2.0
"""Who gets a slot of the mailbox, and who waits for one.

    lane     commands                     slots
    CREATE   those that make objects      at most CREATE_SLOTS at a time, so that a flood of adds
                                          never starves destroys and queries (F-CTL-10)
    COMMON   queries and settings         all but the last
    SAFETY   destroys, StopSa, Teardown   all; the last one, RESERVED, is theirs alone, for when all
                                          others are taken

Lanes are served in turn, so that none of them waits for the end of another's queue; within a lane
the first to come is the first to go. No command depends on one of another lane that is still under
way, but for full tables, where an add may come before the destroy that would make room. A command
whose every possible slot is stalled is `hopeless` (F-CTL-09).
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from host_driver.driver.command import Lane, lane
from host_driver.sleep import Completion
from proto.commands import AnyCommand
from proto.limits import MAILBOX_QUEUE, MAILBOX_SLOTS

RESERVED = MAILBOX_SLOTS - 1
CREATE_SLOTS = MAILBOX_SLOTS // 2


@dataclass(slots=True, eq=False)
class Pending:
    """A command on its way. `answered` completes with a Reply or an OffloadError; `token` is 0
    while it waits for a slot."""

    command: AnyCommand
    patient: bool
    deadline_ns: int
    answered: Completion = field(default_factory=Completion)
    late: Completion = field(default_factory=Completion)
    token: int = 0
    stalled: bool = False

    @property
    def slot(self) -> int:
        """The slot it is in, once it has a token."""
        return self.token % MAILBOX_SLOTS


class Slots:
    """The slots and the queues in front of them; iterating gives what is in slots."""

    def __init__(self) -> None:
        self._slots: list[Pending | None] = [None] * MAILBOX_SLOTS
        self._queues: dict[Lane, deque[Pending]] = {lane: deque() for lane in Lane}
        self._impatient: deque[Pending] = deque()  # those that queue, in order
        self._lanes = deque(Lane)  # the one that was served longest ago in front

    def __iter__(self) -> Iterator[Pending]:
        return iter([pending for pending in self._slots if pending is not None])

    def __len__(self) -> int:
        """Commands that are queued or in a slot."""
        return sum(map(len, self._queues.values())) + sum(1 for _ in self)

    def holder(self, token: int) -> Pending | None:
        """What is in the slot of a token, whichever its own token is."""
        return self._slots[token % MAILBOX_SLOTS]

    def free(self, pending: Pending) -> None:
        """Its slot may be used again."""
        self._slots[pending.slot] = None

    def full(self, pending: Pending) -> bool:
        """Whether its queue takes no more. Destroys are bounded by what there is to destroy."""
        way = lane(pending.command)
        return way is not Lane.SAFETY and len(self._queues[way]) >= MAILBOX_QUEUE

    def queue(self, pending: Pending) -> None:
        """Let a command wait for a slot."""
        self._queues[lane(pending.command)].append(pending)
        if not pending.patient:
            self._impatient.append(pending)

    def leave(self, pending: Pending) -> None:
        """Take a waiting command out of its queue."""
        self._queues[lane(pending.command)].remove(pending)
        self._impatient.remove(pending)

    def clear(self) -> list[Pending]:
        """Empty everything; returns what was there, commands in slots first."""
        pending = [*self, *(one for queue in self._queues.values() for one in queue)]
        self._slots = [None] * MAILBOX_SLOTS
        self._impatient.clear()
        for queue in self._queues.values():
            queue.clear()
        return pending

    def start(self, generation: int) -> Pending | None:
        """Put the command whose turn it is into the first free slot and give it its token."""
        if None not in self._slots:
            return None
        slot = self._slots.index(None)
        way = self._turn(slot)
        if way is None:
            return None
        self._lanes.remove(way)
        self._lanes.append(way)
        pending = self._slots[slot] = self._queues[way].popleft()
        pending.token = generation * MAILBOX_SLOTS + slot
        return pending

    def _turn(self, slot: int) -> Lane | None:
        """The lane whose first command may have this slot."""
        waiting = [way for way in self._lanes if self._queues[way]]
        if slot == RESERVED:
            waiting = [way for way in waiting if way is Lane.SAFETY]
        if Lane.CREATE in waiting and len(self._creating()) >= CREATE_SLOTS:
            waiting.remove(Lane.CREATE)
        return waiting[0] if waiting else None

    def first_impatient(self) -> Pending | None:
        """The impatient command that has queued longest; those in a slot no longer count."""
        while self._impatient and self._impatient[0].token:
            self._impatient.popleft()
        return self._impatient[0] if self._impatient else None

    def hopeless_ones(self) -> list[Pending]:
        """Impatient commands that queue for slots of which none will come free."""
        return [one for one in self._impatient if not one.token and self.hopeless(one.command)]

    def hopeless(self, command: AnyCommand) -> str:
        """Why a command cannot start: the slots that it may have, when they are all stalled."""
        way, slots = lane(command), self._slots
        if way is not Lane.SAFETY:
            slots = slots[:RESERVED]
        if all(pending is not None and pending.stalled for pending in slots):
            return f"all {MAILBOX_SLOTS} mailbox slots wait for the card"
        creating = self._creating()
        if way is Lane.CREATE and sum(one.stalled for one in creating) >= CREATE_SLOTS:
            return f"all {CREATE_SLOTS} mailbox slots for new objects wait for the card"
        return ""

    def _creating(self) -> list[Pending]:
        """Commands in slots that make objects."""
        return [one for one in self if lane(one.command) is Lane.CREATE]
