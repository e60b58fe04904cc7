# SPDX-License-Identifier: Apache-2.0
"""Bursts of the stack on their way to the device, and the host's own source of traffic.

    packets -> keys of their flows -> in the flow table: runs, straight into the transmit queue
                                   -> all others: one by one through the core, which may teach it

Order, errno, counters and blocking are those of packets that go one by one. With the clear side
captured, and in bursts too small to pay for it, all of them do.
"""

import errno
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from host_driver import control
from host_driver.control import Answer
from host_driver.driver.tx_slots import Run
from host_driver.sleep import Sleep, wait
from host_driver.xfrm.burst import NO_KEY, Burst, Ints
from host_driver.xfrm.flow_table import UNKNOWN
from proto.limits import BURST, GENERATE_MAX, TX_TIMEOUT_MS
from proto.status import OffloadError

if TYPE_CHECKING:
    from host_driver.host import Host

SMALL = 8  # packets; looking at fewer at once costs more than one by one
BURSTS_IN_A_ROW = 8  # of the traffic source, until others have their turn
DRAIN_NS = TX_TIMEOUT_MS * 1_000_000


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
                while not self._host.nic.tx_space():
                    yield from wait(self._host.space())
                errnos.append(abs(self._host.net.output(packet)))
            return Answer(0, errnos=errnos)
        sending = Sending(self._host, Burst.of(packets))
        yield from sending.run()
        return Answer(0, errnos=sending.errnos)

    def _generate(self, query: control.Generate) -> Sleep[Answer]:
        """pktgen: templates round and round. Elapsed is the time until the card was done."""
        host, count = self._host, query.count
        if not query.packets or not 0 <= count <= GENERATE_MAX:
            raise OffloadError(
                errno.EINVAL,
                f"{count} packets from {len(query.packets)} templates: at least one template, "
                f"and 0..{GENERATE_MAX} packets",
            )
        templates = Burst.of(query.packets)
        began_ns = host.now_ns()
        errnos: Counter[int] = Counter()
        for number, first in enumerate(range(0, count, BURST), 1):
            burst = templates.round(first % len(templates), min(BURST, count - first))
            sending = Sending(host, burst)
            yield from sending.run()
            errnos.update(sending.errnos)
            if number % BURSTS_IN_A_ROW == 0:
                yield from wait(host.pulse(host.now_ns()))
        drained = host.tx.drained()
        drained.deadline_ns = host.now_ns() + DRAIN_NS
        yield from wait(drained)
        values = {"accepted": errnos.pop(0, 0), "elapsed_ns": host.now_ns() - began_ns}
        return Answer(0, values=values, value=dict(errnos))


class Sending:
    """One burst on its way; `errnos` are those of the packets that are through."""

    def __init__(self, host: "Host", burst: Burst) -> None:
        self.errnos: list[int] = []
        self._host = host
        self._table = host.flow_table
        self._burst = burst
        self._keys = burst.keys()
        self._ipv6 = burst.ipv6()
        self._found: Ints = np.zeros(len(burst), np.int64)
        self._unknown: list[int] = []  # numbers of packets that are not in the table
        self._version = -1  # of the table, when it was asked last

    def run(self) -> Sleep[None]:
        """Send everything; sleep while the device's queue is full."""
        host, total = self._host, len(self._burst)
        while len(self.errnos) < total:
            while not host.nic.tx_space():
                yield from wait(host.space())
            if host.clear_side.on:
                self._one(len(self.errnos))
            else:
                self._some(len(self.errnos))

    def _some(self, at: int) -> None:
        """A run of packets that the table knows, as long as there is room, or one that it does
        not."""
        table = self._table
        if self._version != table.version and (self._version < 0 or self._keys[at] in table):
            self._look(at)
        end = min(self._end_of_run(at), at + self._host.nic.tx_space())
        if end == at or self._version != table.version:
            self._one(at)
            return
        table.refresh()
        found = self._found[at:end]
        if self._version != table.version or not table.use(found):
            return  # it is empty now
        burst = self._burst
        self._host.tx.enqueue_run(
            Run(
                burst.block, burst.starts[at:end], burst.lengths[at:end],
                table.protect(found), self._ipv6[at:end],
            )
        )  # fmt: skip
        self.errnos += [0] * (end - at)

    def _look(self, at: int) -> None:
        """Ask the table about all packets from `at` on."""
        self._table.refresh()
        self._version = self._table.version
        self._found[at:] = self._table.find(self._keys[at:], self._burst.lengths[at:])
        self._unknown = (np.flatnonzero(self._found[at:] == UNKNOWN) + at).tolist()

    def _end_of_run(self, at: int) -> int:
        """The number of the first packet from `at` on that the table does not know."""
        later = bisect_left(self._unknown, at)
        return self._unknown[later] if later < len(self._unknown) else len(self._burst)

    def _one(self, at: int) -> None:
        """One packet on the long way."""
        packet, key = self._burst.packet(at), self._keys[at]
        error = abs(self._host.net.output(packet))
        self.errnos.append(error)
        if key is not NO_KEY and not error:
            self._table.learn(key, packet)
