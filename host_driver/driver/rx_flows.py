# SPDX-License-Identifier: Apache-2.0
"""Received flows whose packets all go up to the stack, as a table for bursts.

    descriptors, frames -> labels: flow and SA -> in the table: delivered together
                                               -> all others: `rx_queue` looks at each, and teaches

What `rx_queue` and the core look at in a packet of such a flow has been looked at once: where it
comes from, its SA's selector (`provenance`), the IN policies. The table has one stamp, and is
emptied when anything of that may have changed; SAs are looked at with each use.

Datagrams are left out where one may be ESP in UDP, of which the bytes behind the ports tell: to
ENCAP_PORT always, and all of them while any SA is encapsulated.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from host_driver.driver.sa import SaTable
from host_driver.inbox import PacketSocket
from host_driver.netdev import NetDevice
from host_driver.xfrm.bundle import FLOW_CACHE, generation
from host_driver.xfrm.burst import NO_KEY, Bools, Burst
from host_driver.xfrm.flow import UDP, decode
from host_driver.xfrm.input import ENCAP_PORT
from host_driver.xfrm.policy import XfrmPolicy
from host_driver.xfrm.state import OFFLOAD_PACKET, XfrmState
from proto.layouts import RxFlag
from proto.limits import ETHERNET_BYTES
from proto.xfrm import POLICY_IN

if TYPE_CHECKING:
    from host_driver.xfrm.net import XfrmNet

CLEAR = (-1, -1)  # in the place of an SA's handle and generation

Label = tuple[bytes, tuple[int, int]]


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """The SA of the packets, None in clear, and the policies that let them pass."""

    x: XfrmState | None
    used: tuple[XfrmPolicy, ...]

    def holds(self) -> bool:
        """Whether the SA is still what it was."""
        return self.x is None or self.x.xso.type == OFFLOAD_PACKET


class RxFlows:
    """The table of one device; `version` moves with every change.

    `all_enforced` says whether the driver has nothing against packets in clear, `watched` whether
    somebody wants to see each packet.
    """

    def __init__(
        self,
        net: "XfrmNet",
        dev: NetDevice,
        sas: SaTable,
        received: PacketSocket,
        all_enforced: Callable[[], bool],
        watched: Callable[[], bool],
    ) -> None:
        self._net = net
        self._dev = dev
        self._sas = sas
        self._received = received
        self._all_enforced = all_enforced
        self._watched = watched
        self._stamp: tuple[object, ...] = ()
        self._entries: dict[Label, Entry | None] = {}  # None: not for the table
        self.version = 0

    def __contains__(self, label: Label) -> bool:
        return self._entries.get(label) is not None

    @property
    def open(self) -> bool:
        """Whether packets may pass together now."""
        return self._dev.up and not self._watched()

    @property
    def delivered(self) -> int:
        """Packets that the stack has got, ever."""
        return self._received.delivered

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.version += 1

    def labels(
        self, packets: Burst, descriptors: npt.NDArray[np.void], plain: Bools
    ) -> list[Label]:
        """Flow and SA of each packet; NO_KEY for what is not `plain` in its frame either."""
        keys = packets.keys(exact=True)
        flags = descriptors["flags"]
        by_sa = flags == int(RxFlag.CRYPTO_DONE)
        plain = plain & (by_sa | (flags == 0)) & (descriptors["syndrome"] == 0)
        handles, generations = descriptors["handle"], descriptors["generation"]
        one_sa = by_sa.all() and (handles == handles[0]).all()
        one_sa = one_sa and (generations == generations[0]).all()
        if plain.all() and (one_sa or not by_sa.any()) and keys.count(keys[0]) == len(keys):
            sa = (int(handles[0]), int(generations[0])) if one_sa else CLEAR
            return [(keys[0], sa)] * len(keys)
        sas = list(zip(handles.tolist(), generations.tolist(), strict=True))
        for number in np.flatnonzero(~by_sa).tolist():
            sas[number] = CLEAR
        for number in np.flatnonzero(~plain).tolist():
            keys[number] = NO_KEY
        return list(zip(keys, sas, strict=True))

    def find(self, labels: list[Label]) -> list[Entry | None]:
        """The entry of each packet."""
        self.refresh()
        if labels[0] is labels[-1] and labels.count(labels[0]) == len(labels):
            return [self._entries.get(labels[0])] * len(labels)
        return list(map(self._entries.get, labels))

    def refresh(self) -> None:
        """Empty the table if anything that its entries rest on may have changed."""
        net, sas = self._net, self._sas
        encapsulated = bool(net.sad.encapsulated or sas.encapsulated)
        stamp = (*generation(net), sas.version, encapsulated, self._dev.up)
        if stamp != self._stamp:
            self._stamp = stamp
            self.clear()

    def may_pass(self, entries: list[Entry | None]) -> bool:
        """Whether packets of known flows need not be looked at, each by itself, after all."""
        known = _different(entries)
        if not all(entry.holds() for entry in known):
            self.clear()
            return False
        return self._all_enforced() or not any(entry.x is None for entry in known)

    def deliver(self, entries: list[Entry | None], packets: list[bytes]) -> None:
        """Packets that may pass go to the stack."""
        now_s = self._net.seconds()
        for entry in _different(entries):
            for xp in entry.used:
                xp.curlft.use_time = now_s
        self._received.put_all(packets)

    def learn(self, label: Label, packet: bytes) -> None:
        """A packet of this label was delivered."""
        self.refresh()
        if label[0] == NO_KEY or label in self._entries:
            return
        if len(self._entries) >= FLOW_CACHE:
            self.clear()
        self._entries[label] = self._settled(label[1], packet)
        self.version += 1

    def _settled(self, by: tuple[int, int], packet: bytes) -> Entry | None:
        flow = decode(packet)
        if flow is None:
            return None
        if by != CLEAR:
            sa = self._sas.find(*by)
            if sa is None or sa.x.xso.type != OFFLOAD_PACKET:
                return None
            return Entry(sa.x, ())
        encapsulated = self._net.sad.encapsulated or self._sas.encapsulated
        if flow.proto == UDP and (encapsulated or flow.dport == ENCAP_PORT):
            return None
        flow = flow._replace(oif=self._dev.ifindex)
        return Entry(None, tuple(self._net.spd.lookup(flow, POLICY_IN)))


def _different(entries: list[Entry | None]) -> list[Entry]:
    return [entry for entry in dict.fromkeys(entries) if entry is not None]


class RxBurst:
    """The packets of one message, as far as the table knows them."""

    def __init__(self, flows: RxFlows, packets: Burst, labels: list[Label]) -> None:
        self._flows = flows
        self._packets = packets
        self._labels = labels
        self._passing = True  # until one must be looked at after all, and then each
        self._look()

    def _look(self) -> None:
        self._entries = self._flows.find(self._labels)
        self._version = self._flows.version
        self._unknown = [at for at, entry in enumerate(self._entries) if entry is None]

    def deliver(self, at: int) -> int:
        """Let the packets from `at` on pass that the table knows; -> how many did."""
        flows = self._flows
        if not self._passing:
            return 0
        flows.refresh()
        if self._version != flows.version and self._labels[at] in flows:
            self._look()
        later = bisect_left(self._unknown, at)
        end = self._unknown[later] if later < len(self._unknown) else len(self._labels)
        if end == at or self._version != flows.version:
            return 0
        entries = self._entries[at:end]
        self._passing = flows.may_pass(entries)
        if not self._passing:
            return 0
        flows.deliver(entries, self._packets.some(at, end))
        return end - at

    def frame(self, at: int) -> bytes:
        """The copy of one frame: what is judged is what was looked at."""
        start, length = int(self._packets.starts[at]), int(self._packets.lengths[at])
        return self._packets.block[start - ETHERNET_BYTES : start + length]

    def learn(self, at: int) -> None:
        """This packet was delivered on the long way."""
        self._flows.learn(self._labels[at], *self._packets.some(at, at + 1))
