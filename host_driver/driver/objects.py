# SPDX-License-Identifier: Apache-2.0
"""Making and unmaking objects on the card, so that a failure at any step leaves nothing behind.

An undo list holds the commands that destroy what was made, in the order of making. It is played
backwards: rule, SA, key. All of it is posted at once, because the card works in order and whoever
comes next must find the rows free.
"""

import errno
from collections.abc import Callable
from typing import Any

from host_driver.driver.command import CommandTimeout, opcode
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
    Reply,
)
from proto.limits import RECONCILE_INTERVAL_MS
from proto.status import OffloadError, Status

UNDO: dict[type[Any], Callable[[int], AnyCommand]] = {
    CreateKey: DestroyKey,
    CreateSa: DestroySa,
    CreateSaRule: DestroyRule,
    CreatePolicyRule: DestroyRule,
}

# A destroy that ends like this is tried again (F-CTL-14): something that uses the object is still
# on its way out, or the firmware stumbled.
RETRY = (Status.OBJECT_BUSY, Status.INTERNAL_ERROR)

Answers = list[tuple[AnyCommand, Completion]]


class CardObjects:
    """Objects of one card, made through the context's mailbox."""

    def __init__(self, context: DriverContext) -> None:
        self._context = context

    def make(self, command: AnyCommand, undo: list[AnyCommand]) -> Sleep[Reply]:
        """Create one object and note in `undo` how it goes away. Raises OffloadError."""
        reply = yield from self._context.mailbox.execute(command)
        if not reply.handle:
            raise OffloadError(errno.EIO, f"{opcode(command)}: the card gave no handle (F-CTL-07)")
        undo.append(UNDO[type(command)](reply.handle))
        return reply

    def unwind(self, undo: list[AnyCommand], error: OffloadError) -> Sleep[None]:
        """Take back what was made before `error`; nothing is left on return (OPS-14).

        Nobody waits here longer than for two commands: where the card is silent, or did not answer
        the command that failed (F-CTL-01), the rest goes on in the background.
        """
        gone = Completion(self._context.now_ns() + 2 * TIMEOUT_NS)
        self._context.spawn(self._unwind(undo, error, gone))
        if not isinstance(error, CommandTimeout):
            yield from wait(gone)

    def _unwind(self, undo: list[AnyCommand], error: OffloadError, gone: Completion) -> Sleep[None]:
        if isinstance(error, CommandTimeout):
            reply = yield from wait(error.late)
            if reply.status == Status.OK and reply.handle:
                self._context.counters["orphans_destroyed"] += 1
                undo = [*undo, UNDO[type(error.command)](reply.handle)]
        yield from self.retire(undo)
        gone.complete()

    def retire(self, undo: list[AnyCommand]) -> Sleep[None]:
        """Destroy everything in `undo`. Posts at once, also where sleeping is not allowed; what it
        returns is to be spawned or slept on."""
        return self._finish(self._post(undo[::-1]))

    def _post(self, commands: list[AnyCommand]) -> Answers:
        return [(command, self._context.mailbox.post(command)) for command in commands]

    def _finish(self, answers: Answers) -> Sleep[None]:
        """Sleep until every destroy was answered; try again what the card could not do yet."""
        while answers:
            left = []
            for command, answered in answers:
                reply = yield from wait(answered)
                if reply.status in RETRY:
                    left.append(command)
                elif reply.status != Status.OK:
                    self._context.counters["destroy_errors"] += 1
            if left:
                pause_ns = RECONCILE_INTERVAL_MS * 1_000_000
                yield from wait(Completion(self._context.now_ns() + pause_ns))
            answers = self._post(left)
