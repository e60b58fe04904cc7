# SPDX-License-Identifier: Apache-2.0
"""Flows whose packets all go the same way to one device, as a table for bursts.

An entry says that the packets of a flow are handed to the device in clear, or in clear and marked
`protect` for a packet-offload SA, up to a length; nothing else is done to them on the way out, so
that many of them can be handed over at once. It is made of the decision that `bundle` has kept for
the flow, and it ends with it, and with everything else that it rests on: the table has one stamp,
and is emptied when that is no longer true. SAs are looked at with each use, as there.

A driver that has xdo_dev_offload_ok is asked about every packet (OPS-24): its flows are never here.
"""

from collections.abc import Sequence
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from host_driver.netdev import NetDevice
from host_driver.xfrm.bundle import FLOW_CACHE, generation
from host_driver.xfrm.burst import Bools, Ints
from host_driver.xfrm.flow import decode
from host_driver.xfrm.output import path_mtus
from host_driver.xfrm.policy import XfrmPolicy
from host_driver.xfrm.state import OFFLOAD_PACKET, KmState, XfrmState

if TYPE_CHECKING:
    from host_driver.xfrm.net import XfrmNet

UNKNOWN = 0  # the number of no entry; its `longest` is shorter than every packet


class Entry(NamedTuple):
    """What holds for a flow: `longest` is that of its packets which go this way, in bytes."""

    protect: bool
    longest: int
    states: tuple[XfrmState, ...]
    used: tuple[XfrmPolicy, ...]

    def holds(self) -> bool:
        """Whether its SAs may still be used."""
        return all(x.km.state == KmState.VALID for x in self.states)


class FlowTable:
    """Entries by key (`Burst.keys`) and by number, bounded. `version` moves with every change."""

    def __init__(self, net: "XfrmNet", dev: NetDevice) -> None:
        self._net = net
        self._dev = dev
        self._stamp: tuple[object, ...] = ()
        self._numbers: dict[bytes, int] = {}
        self._unsettled: set[bytes] = set()  # keys that are not for the table, as long as it is
        self._entries: list[Entry | None] = [None]
        self._longest = np.full(FLOW_CACHE + 1, -1, np.int64)
        self._protect = np.zeros(FLOW_CACHE + 1, np.bool_)
        self.version = 0

    def __contains__(self, key: bytes) -> bool:
        return key in self._numbers

    def clear(self) -> None:
        """Forget everything."""
        self._numbers.clear()
        self._unsettled.clear()
        del self._entries[1:]
        self.version += 1

    def refresh(self) -> None:
        """Empty the table if anything that its entries rest on has changed."""
        net, dev = self._net, self._dev
        ways = [(one.ifindex, one.up) for one in net.devices]  # an ifindex never comes again
        stamp = (
            *generation(net), net.flows.emptied, ways, dev.carrier, dev.mtu, dev.xfrmdev_ops,
        )  # fmt: skip
        if stamp != self._stamp:
            self._stamp = stamp
            self.clear()

    def find(self, keys: Sequence[bytes], lengths: Ints) -> Ints:
        """The entry of each packet, UNKNOWN for those that are not for the table."""
        if not self._numbers:
            return np.zeros(len(keys), np.int64)
        if keys[0] is keys[-1] and keys.count(keys[0]) == len(keys):
            found = np.full(len(keys), self._numbers.get(keys[0], UNKNOWN), np.int64)
        else:
            numbers = map(self._numbers.get, keys, repeat(UNKNOWN))
            found = np.fromiter(numbers, np.int64, len(keys))
        found[lengths > self._longest[found]] = UNKNOWN
        return found

    def protect(self, found: Ints) -> Bools:
        """Of known packets, which the device must not let out in clear."""
        return self._protect[found]

    def use(self, found: Ints) -> bool:
        """Known packets go now: their policies are used. False, and the table is empty, if an SA
        of theirs may not be used any more."""
        numbers = {int(found[0])}
        if (found != found[0]).any():
            numbers = set(found.tolist())
        now_s = self._net.seconds()
        entries = [entry for number in numbers if (entry := self._entries[number]) is not None]
        if not all(entry.holds() for entry in entries):
            self.clear()
            return False
        for entry in entries:
            for xp in entry.used:
                xp.curlft.use_time = now_s
        return True

    def learn(self, key: bytes, packet: bytes) -> None:
        """A plain packet was accepted on the long way: keep what all of its flow do, if they do."""
        if key in self._numbers or key in self._unsettled:
            return
        self.refresh()
        if len(self._entries) + len(self._unsettled) > FLOW_CACHE:
            self.clear()
        entry = self._settled(packet)
        if entry is None:
            self._unsettled.add(key)
            return
        number = len(self._entries)
        self._numbers[key] = number
        self._entries.append(entry)
        self._longest[number], self._protect[number] = entry.longest, entry.protect
        self.version += 1

    def _settled(self, packet: bytes) -> Entry | None:
        net, dev = self._net, self._dev
        flow = decode(packet)
        if flow is None or net.devices.route(flow.address(flow.daddr)) is not dev:
            return None
        decision = net.flows.get(flow._replace(oif=dev.ifindex), generation(net))
        if decision is None or decision.error or decision.pending is not None:
            return None
        states = decision.states
        if not states:
            return Entry(False, dev.mtu, (), decision.used)
        if states[0].xso.type != OFFLOAD_PACKET or any(_asks(x) for x in states):
            return None
        longest = path_mtus(net, states, dev.mtu)[0]
        return Entry(True, longest, states, decision.used)


def _asks(x: XfrmState) -> bool:
    """Whether the SA's driver wants to be asked about each packet."""
    dev = x.xso.dev
    return dev is None or hasattr(dev.xfrmdev_ops, "xdo_dev_offload_ok")
