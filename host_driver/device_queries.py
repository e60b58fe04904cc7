# SPDX-License-Identifier: Apache-2.0
"""What a lab may ask of a host's device: counters, objects, audit, reporters, recovery, reload."""

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from host_driver import control
from host_driver.control import Answer
from host_driver.driver.command import CommandTimeout
from host_driver.sleep import Completion, Sleep, completions_of, wait
from proto.commands import AnyCommand, QueryCensus, QueryCounters, Reply
from proto.limits import CONTROL_TIMEOUT_MS
from proto.status import OffloadError

if TYPE_CHECKING:
    from host_driver.host import Host

QUERY_TRIES = 3
# Whoever asks for an audit hears of it in time; one that a card holds up goes on by itself.
AUDIT_PATIENCE_NS = CONTROL_TIMEOUT_MS * 1_000_000 * 2 // 3


class DeviceQueries:
    """One handler per query, as `queries.Queries` calls them."""

    def __init__(self, host: "Host") -> None:
        self._host = host
        self._last: dict[str, int] = {}  # counters of the card, as it last told them
        self.handlers: dict[type, Callable[[Any], Answer | Sleep[Answer]]] = {
            control.Counters: self._counters,
            control.Census: self._census,
            control.Audit: self._audit,
            control.Reporters: self._reporters,
            control.Recover: self._recover,
            control.Reload: self._reload,
        }

    def _counters(self, query: control.Counters) -> Sleep[Answer]:
        """The card's counters, and the driver's as `driver_*`. Those of a card that is gone stand
        still (F-LIF-13)."""
        if self._host.recovery.up:
            try:
                self._last = (yield from self._ask_card(QueryCounters())).values
            except OffloadError:
                if self._host.recovery.up:
                    raise
        ours = {f"driver_{name}": count for name, count in sorted(self._host.counters.items())}
        return Answer(0, values=self._last | ours)

    def _census(self, query: control.Census) -> Sleep[Answer]:
        reply = yield from self._ask_card(QueryCensus())
        return Answer(0, values=reply.values)

    def _ask_card(self, command: AnyCommand) -> Sleep[Reply]:
        """A tool's question is asked again where its reply gets lost, but not for ever (INV-46)."""
        for _ in range(QUERY_TRIES - 1):
            try:
                return (yield from self._host.mailbox.execute(command))
            except CommandTimeout:
                continue
        return (yield from self._host.mailbox.execute(command))

    def _audit(self, query: control.Audit) -> Sleep[Answer]:
        audit = getattr(self._host.driver, "audit", None)
        if audit is None:
            name = self._host.driver_name
            raise OffloadError(errno.EOPNOTSUPP, f"driver {name} offers no audit")
        done = Completion(self._host.now_ns() + AUDIT_PATIENCE_NS)
        self._host.spawn(_complete(done, audit()))
        report = yield from wait(done)
        if isinstance(report, OffloadError):
            raise report
        return Answer(0, values=report or {"unfinished": 1})

    def _reporters(self, query: control.Reporters) -> Answer:
        """`devlink health show`: fw, fw_fatal, tx, rx."""
        host = self._host
        ours = [host.health.fw.describe(), host.recovery.fatal.describe()]
        return Answer(0, value=[*ours, *host.queue_health.reporters()])

    def _recover(self, query: control.Recover) -> Answer:
        """`devlink health recover`: a device that was given up is tried once more."""
        self._host.recovery.retry(self._host.now_ns())
        return Answer(0)

    def _reload(self, query: control.Reload) -> Sleep[Answer]:
        """`devlink dev reload`: refused while anything is offloaded (F-LIF-18)."""
        yield from self._host.recovery.reload()
        return Answer(0)


def _complete(done: Completion, task: Sleep[Any]) -> Sleep[None]:
    """Run a foreign task to its end and hand on its result, or its error."""
    try:
        done.complete((yield from completions_of(task)))
    except OffloadError as error:
        done.complete(error)
