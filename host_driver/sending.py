# SPDX-License-Identifier: Apache-2.0
"""Bursts of the stack on their way to the device, and the host's own source of traffic.

    packets -> keys of their flows -> in the flow table: runs, straight into the transmit queue
                                   -> all others: one by one through the core, which may teach it

Order, errno, counters and blocking are those of packets that go one by one. With the clear side
captured, and in bursts too small to pay for it, all of them do.
"""

import errno
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from host_driver import control, gso
from host_driver.control import Answer
from host_driver.driver.tx_queue import TX_TIMEOUT_NS
from host_driver.driver.tx_slots import Run
from host_driver.sleep import Completion, Sleep, wait
from host_driver.xfrm.burst import NO_KEY, SMALL, Burst, Ints
from host_driver.xfrm.flow_table import UNKNOWN
from proto.limits import BURST, GENERATE_MAX
from proto.status import OffloadError

if TYPE_CHECKING:
    from host_driver.host import Host


class Traffic:
    """Answers Send and Generate."""

    def __init__(self, host: "Host") -> None:
        self._host = host
        self.handlers: dict[type, Callable[[Any], Answer | Sleep[Answer]]] = {
            control.Send: self._send,
            control.Generate: self._generate,
        }

    def _send(self, query: control.Send) -> Sleep[Answer]:
        """A blocking socket: where the device's queue is full, wait for it."""
        packets = query.packets
        if len(packets) < SMALL:
            errnos: list[int] = []
            for packet in packets:
                while self._host.nic.tx_space() < gso.room(packet, query.gso_size):
                    yield from wait(self._host.space())
                errnos.append(abs(self._host.net.output(packet, gso_size=query.gso_size)))
            return Answer(0, errnos=errnos)
        sending = Sending(self._host, packets, query.gso_size)
        errnos = yield from sending.run(np.arange(len(packets)))
        return Answer(0, errnos=errnos)

    def _generate(self, query: control.Generate) -> Sleep[Answer]:
        """pktgen: templates round and round. Elapsed is the time until the card was done."""
        host, count = self._host, query.count
        if not query.packets or not 0 <= count <= GENERATE_MAX:
            raise OffloadError(
                errno.EINVAL,
                f"{count} packets from {len(query.packets)} templates: at least one template, "
                f"and 0..{GENERATE_MAX} packets",
            )
        sending, different = Sending(host, query.packets, query.gso_size), len(query.packets)
        round_and_round = np.arange(different + BURST) % different
        began_ns = host.now_ns()
        accepted, refused = 0, Counter[int]()
        for first in range(0, count, BURST):
            order = round_and_round[first % different :][: min(BURST, count - first)]
            while host.nic.tx_space() < len(order):  # so that bursts stay whole in the queue
                yield from wait(host.space())
            errnos = yield from sending.run(order)
            good = errnos.count(0)
            accepted += good
            if good < len(errnos):
                refused.update(filter(None, errnos))
            # One burst a step: what comes meanwhile, events above all, must not wait for many.
            yield from wait(Completion(host.now_ns() + 1))
        drained = host.tx.drained()
        drained.deadline_ns = host.now_ns() + TX_TIMEOUT_NS
        yield from wait(drained)
        if not drained.done:
            text = f"{host.tx.outstanding} of {accepted} packets are still with the card"
            raise OffloadError(errno.ETIMEDOUT, text)
        values = {"accepted": accepted, "elapsed_ns": host.now_ns() - began_ns}
        return Answer(0, values=values, value=dict(refused))


class Sending:
    """Packets and their flows, looked at once however often they are sent."""

    def __init__(self, host: "Host", packets: Sequence[bytes], gso_size: int = 0) -> None:
        self._host = host
        self._gso_size = gso_size
        self._table = host.flow_table
        self._packets = packets
        self._burst = Burst.of(packets)
        self._keys = self._burst.keys()
        self._ipv6 = self._burst.ipv6()
        self._longest = self._burst.lengths  # of the packets that each becomes
        self._room = [1] * len(packets)  # of the device's queue, for each
        self._needs: frozenset[str] | None = frozenset()  # features of the device; None: no use
        if gso_size:
            self._longest = np.array([gso.longest(one, gso_size) for one in packets], np.int64)
            self._needs = gso.needs(packets, gso_size)
            self._room = [gso.room(one, gso_size) for one in packets]
        self._found: Ints = np.zeros(len(packets), np.int64)  # their entries of the table
        self._asked: Ints = np.full(len(packets), -1, np.int64)  # in which version of it

    def run(self, order: Ints) -> Sleep[list[int]]:
        """Send the packets of these numbers, each as often as it is there, and sleep while the
        device's queue is full; -> their errnos."""
        host = self._host
        errnos: list[int] = []
        self._table.refresh()
        while len(errnos) < len(order):
            while host.nic.tx_space() < self._room[order[len(errnos)]]:
                yield from wait(host.space())
            errnos += self._some(order[len(errnos) :])
        return errnos

    def _some(self, order: Ints) -> list[int]:
        """A run of packets that the table knows, as long as there is room, or one that it does
        not; -> their errnos, none of what must be looked at again."""
        table, number = self._table, int(order[0])
        known = self._keys[number] in table
        if known:
            self._find(order)
            known = self._found[number] != UNKNOWN
        cut = self._needs is None or not self._needs <= self._host.nic.features  # by the host
        if not known or cut or self._host.clear_side.on:
            return [self._one(number)]
        order = order[: self._host.nic.tx_space()]
        found = self._found[order]
        if not found.all():
            order, found = (these[: int(found.argmin())] for these in (order, found))
        version = table.version
        table.refresh()
        if version != table.version or not table.use(found):
            return []  # it is empty now
        burst = self._burst
        self._host.tx.enqueue_run(
            Run(
                burst.block, burst.starts[order], burst.lengths[order], table.protect(found),
                self._ipv6[order], self._gso_size,
            )
        )  # fmt: skip
        return [0] * len(order)

    def _find(self, order: Ints) -> None:
        """Look for those packets that the table was not asked about in this version. Only these:
        the table changes with every SA that comes or goes, and templates may be many."""
        asked = order[self._asked[order] != self._table.version]
        if len(asked):
            keys = [self._keys[number] for number in asked.tolist()]
            self._found[asked] = self._table.find(keys, self._longest[asked])
            self._asked[asked] = self._table.version

    def _one(self, number: int) -> int:
        """One packet on the long way; its errno."""
        packet, key = self._packets[number], self._keys[number]
        error = abs(self._host.net.output(packet, gso_size=self._gso_size))
        if key is not NO_KEY and not error:
            self._table.learn(key, packet)
        return error
