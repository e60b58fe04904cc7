# SPDX-License-Identifier: Apache-2.0
"""When a host and its card are at rest: what `Lab.settle` waits for."""

from typing import TYPE_CHECKING

from host_driver.control import Answer, Quiesce
from host_driver.sleep import Sleep, wait
from proto.commands import Fence
from proto.frame import INDEX_MASK

if TYPE_CHECKING:
    from host_driver.host import Host


class Quiet:
    """Answers Quiesce; several may be asked at once, and none of them waits for another's task."""

    def __init__(self, host: "Host") -> None:
        self._host = host
        self._quiescing = 0

    def quiesce(self, query: Quiesce) -> Sleep[Answer]:
        """Rounds of: wait until host and mailbox are idle, ask the card how far it is, wait until
        that much has arrived; until a round in which nothing moved."""
        host = self._host
        self._quiescing += 1
        try:
            while True:
                while self._busy():
                    yield from wait(host.pulse())
                before = self._moved()
                fence = (yield from wait(host.mailbox.post(Fence()))).values
                while _behind(host.rx.index, fence["rx"]) or _behind(
                    host.events.index, fence["events"]
                ):
                    yield from wait(host.pulse())
                if not self._busy() and before == self._moved():
                    return Answer(0, values=before | {"wire": fence["wire"]})
        finally:
            self._quiescing -= 1

    def _busy(self) -> bool:
        host = self._host
        others = len(host.sched) - (self._quiescing - 1)  # the one that runs is on no list
        return others > 0 or not host.tx.idle or not host.mailbox.idle or host.faults.held > 0

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


def _behind(index: int, target: int) -> bool:
    return 0 < (target - index) & INDEX_MASK < 1 << 31
