# SPDX-License-Identifier: Apache-2.0
"""When a host and its card are at rest: what `Lab.settle` waits for."""

from typing import TYPE_CHECKING

from host_driver.control import Answer, Quiesce
from host_driver.driver.command import failure
from host_driver.sleep import Sleep, wait
from proto.commands import Fence, Reply
from proto.limits import RECONCILE_INTERVAL_MS
from proto.link.ring import distance

if TYPE_CHECKING:
    from host_driver.host import Host

PATIENCE = 3
AGAIN_MS = 100  # until a broken question is asked again


class Quiet:
    """Answers Quiesce; several may be asked at once, and none of them waits for another's task."""

    def __init__(self, host: "Host") -> None:
        self._host = host
        self._quiescing = 0

    def quiesce(self, query: Quiesce) -> Sleep[Answer]:
        """Rounds of: wait until host and mailbox are idle, ask the card how far it is, wait until
        that much has arrived; until a round in which nothing moved. What does not arrive in time is
        asked for again, and after PATIENCE rounds no longer waited for."""
        host, patience = self._host, PATIENCE
        self._quiescing += 1
        try:
            while True:
                while self._busy():
                    yield from wait(host.pulse())
                before = self._moved()
                fence = yield from self._fence()
                if fence is None:  # the card is gone or given up
                    if self._busy():
                        continue
                    return Answer(0, values=before)
                host.queue_health.confirm(fence)
                arrived = yield from self._caught_up(fence)
                patience -= not arrived
                if (arrived or patience <= 0) and not self._busy() and before == self._moved():
                    return Answer(0, values=before | {"wire": fence["wire"]})
        finally:
            self._quiescing -= 1

    def _fence(self) -> Sleep[dict[str, int] | None]:
        """How far the card is; None without one. A question that got broken is asked again."""
        host = self._host
        while host.recovery.up:
            answer = yield from wait(host.mailbox.post(Fence()))
            if isinstance(answer, Reply) and failure(Fence(), answer) is None:
                return answer.values
            again_ns = host.now_ns() + AGAIN_MS * 1_000_000  # a card may refuse at once, for ever
            while host.now_ns() < again_ns:
                yield from wait(host.pulse(again_ns))
        return None

    def _caught_up(self, fence: dict[str, int]) -> Sleep[bool]:
        """Wait until what the card has sent is here; False where it takes too long."""
        host = self._host
        until_ns = host.now_ns() + RECONCILE_INTERVAL_MS * 1_000_000

        def behind(name: str, index: int) -> bool:
            return name in fence and distance(fence[name], index) > 0

        while (
            behind("rx", host.rx.index)
            or behind("events", host.events.index)
            or behind("records", host.records.index)
        ):
            if host.now_ns() >= until_ns:
                return False
            yield from wait(host.pulse(until_ns))
        return True

    def _busy(self) -> bool:
        host = self._host
        others = len(host.sched) - (self._quiescing - 1)  # the one that runs is on no list
        queues_idle = host.tx.idle and host.queue_health.idle and host.recovery.settled
        return others > 0 or not queues_idle or not host.mailbox.idle or host.faults.held > 0

    def _moved(self) -> dict[str, int]:
        host = self._host
        return {
            "tx_index": host.tx.index,
            "rx_index": host.rx.index,
            "events": host.events.index,
            "delivered": host.received.delivered,
            "notifications": host.notifications.sent,
            "calls": host.trace.added,
        }
