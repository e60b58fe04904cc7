# SPDX-License-Identifier: Apache-2.0
"""A driver without a card: it accepts everything and takes orders from the objects it is given.

An order stands in the reqid of an SA (of a larval one, in its template's) or in the priority of a
policy, so cases can give it through `ip xfrm` text on every target:

    REFUSE | errno      the add is refused with that errno; with QUIET in it, without a text
    REPORT              the add is refused, and the text says what the driver was given
    SLEEP               the add sleeps before it succeeds
    EVENTS              after every packet the driver calls xfrm_state_check_expire
    AT_ONCE             the same, while the packet is still in offload_ok
    NO_PACKETS          offload_ok says no
    SILENT              packets pass and nothing is counted
    EXPIRE              the add lets every other SA of this driver expire
    PEEK                the delete hands the stack an ESP packet for the SA, which it must not know
    LINGER              the free sleeps until an SA with the order WAKE is added
    WAKE
    RETURN | flags << 16 | status
                        the device hands each packet up again, with an offload record of this SA

Its hardware is `offload_ok`: each packet that passes there is one packet of the SA and its bytes.
Counter `driver_probe_expired`: how often xfrm_state_check_expire came back with -EINVAL.

`StatesOnly` has only what a driver must have, `Bare` and policies, and `NoDelete` not even that;
`Restores` waits for a call that there is not.
"""

import errno
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from host_driver.conformance import packets
from host_driver.driver import DriverContext
from host_driver.netdev import NetDevice, SecPath, Skb
from host_driver.ops import Extack
from host_driver.sleep import Completion, Sleep, wait

if TYPE_CHECKING:
    from host_driver.xfrm.policy import XfrmPolicy
    from host_driver.xfrm.state import XfrmState

REFUSE, SLEEP, EVENTS, NO_PACKETS = 0xE000_0000, 0xE100_0000, 0xE200_0000, 0xE300_0000
SILENT, REPORT, EXPIRE, PEEK = 0xE400_0000, 0xE500_0000, 0xE600_0000, 0xE700_0000
LINGER, WAKE, RETURN, AT_ONCE = 0xE800_0000, 0xE900_0000, 0xEA00_0000, 0xEB00_0000
QUIET = 0x0080_0000
_ORDER, _ARGUMENT = 0xFF00_0000, 0x00FF_FFFF
NAP_NS = 1_000_000


class Probe:
    """See the module's text."""

    def __init__(self, context: DriverContext) -> None:
        self._context = context
        self._totals: dict[int, tuple[int, int]] = {}
        self._states: dict[int, XfrmState] = {}
        self._awake = Completion()
        self._last_handle = 0

    def xdo_dev_state_add(self, dev: NetDevice, x: "XfrmState", extack: Extack) -> int | Sleep[int]:
        """Accept, or do as ordered."""
        self._last_handle += 1
        x.xso.offload_handle = self._last_handle
        lft, esn = x.lft, x.replay_esn
        result = self._as_ordered(x.props.reqid, extack, lambda: (
            f"spi {x.id.spi:#x} {x.km.state.name} {len(x.aead.key) if x.aead else 0} bytes of key "
            f"mode {x.props.mode} dir {x.xso.dir} type {x.xso.type} on {dev.name} is "
            f"{dev is x.xso.dev} limits {lft.soft_packet_limit} {lft.hard_packet_limit} "
            f"window {esn.fixed.replay_window if esn else x.props.replay_window} "
            f"oseq {x.replay.oseq} seq {x.km.seq} packets {x.curlft.packets} "
            f"encap {x.encap is not None} real_dev {x.xso.real_dev and x.xso.real_dev.name}"
        ))  # fmt: skip
        self._among_states(x.props.reqid & _ORDER)
        if result == 0:
            self._states[x.xso.offload_handle] = x
        return result

    def xdo_dev_state_delete(self, dev: NetDevice, x: "XfrmState") -> None:
        """Totals stay: a message may still ask for them (OPS-22)."""
        self._states.pop(x.xso.offload_handle, None)
        if x.props.reqid & _ORDER == PEEK:
            esp = struct.pack(">II", x.id.spi, 1) + bytes(24)
            self._context.netif_rx(Skb(packets.ip(esp, packets.ESP), in_dev=dev))

    def xdo_dev_state_free(self, dev: NetDevice, x: "XfrmState") -> Sleep[None] | None:
        """Forget the totals."""
        self._totals.pop(x.xso.offload_handle, None)
        self._states.pop(x.xso.offload_handle, None)
        return wait(self._awake) if x.props.reqid & _ORDER == LINGER else None

    def xdo_dev_offload_ok(self, skb: Skb, x: "XfrmState") -> bool:
        """Count the packet."""
        order = x.props.reqid & _ORDER
        if order in (NO_PACKETS, SILENT):
            return order == SILENT
        if order == RETURN:
            self._context.spawn(self._hand_up(skb.data, x))
            return True
        count, octets = self._totals.get(x.xso.offload_handle, (0, 0))
        self._totals[x.xso.offload_handle] = count + 1, octets + len(skb.data)
        if order == EVENTS:
            self._context.spawn(self._event(x))
        if order == AT_ONCE:
            self._check(x)
        return True

    def xdo_dev_state_update_curlft(self, x: "XfrmState") -> None:
        """The totals, absolute."""
        if x.xso.offload_handle in self._totals:
            x.curlft.packets, x.curlft.bytes = self._totals[x.xso.offload_handle]

    def xdo_dev_state_advance_esn(self, x: "XfrmState") -> None:
        """Nothing to advance."""

    def xdo_dev_policy_add(self, xp: "XfrmPolicy", extack: Extack) -> int | Sleep[int]:
        """Accept, or do as ordered."""
        return self._as_ordered(xp.priority, extack, lambda: (
            f"index {xp.index} dir {xp.xdo.dir} action {xp.action} mark {xp.mark.v}/{xp.mark.m} "
            f"if_id {xp.if_id} sport {xp.selector.sport} dport {xp.selector.dport} "
            f"templates {[(tmpl.reqid, tmpl.mode, tmpl.id.spi) for tmpl in xp.xfrm_vec]}"
        ))  # fmt: skip

    def xdo_dev_policy_delete(self, xp: "XfrmPolicy") -> None:
        """Nothing to take out."""

    def xdo_dev_policy_free(self, xp: "XfrmPolicy") -> None:
        """Nothing to free."""

    def _as_ordered(
        self, order: int, extack: Extack, report: Callable[[], str]
    ) -> int | Sleep[int]:
        if order & _ORDER == REPORT:
            extack.set(report())
            return -errno.EINVAL
        if order & _ORDER == REFUSE:
            code = order & _ARGUMENT & ~QUIET
            if not order & QUIET:
                extack.set(f"probe: told to refuse with {errno.errorcode.get(code, code)}")
            return -code
        return self._nap() if order & _ORDER == SLEEP else 0

    def _among_states(self, order: int) -> None:
        """Orders about the SAs that are there already."""
        if order == EXPIRE:
            for other in self._states.values():
                self._context.xfrm_state_expire(other)
        if order == WAKE:
            self._awake.complete()
            self._awake = Completion()

    def _nap(self) -> Sleep[int]:
        yield from wait(Completion(self._context.now_ns() + NAP_NS))
        return 0

    def _event(self, x: "XfrmState") -> Sleep[None]:
        yield from ()
        self._check(x)

    def _check(self, x: "XfrmState") -> None:
        if self._context.xfrm_state_check_expire(x) == -errno.EINVAL:
            self._context.counters["probe_expired"] += 1

    def _hand_up(self, packet: bytes, x: "XfrmState") -> Sleep[None]:
        yield from ()
        flags, status = x.props.reqid >> 16 & 0xFF, x.props.reqid & 0xFFFF
        record = SecPath(x, flags, status)
        self._context.netif_rx(Skb(packet, sec_path=record, in_dev=self._context.dev))


class NoDelete:
    """A driver that takes SAs and cannot give them back."""

    def __init__(self, context: DriverContext) -> None:
        pass

    def xdo_dev_state_add(self, dev: NetDevice, x: "XfrmState", extack: Extack) -> int:
        """Accept."""
        return 0


class StatesOnly(NoDelete):
    """What the registration check asks for (OPS-01); all else is missing."""

    def xdo_dev_state_delete(self, dev: NetDevice, x: "XfrmState") -> None:
        """Nothing to stop."""


class Bare(StatesOnly):
    """`policy_add` as well."""

    def xdo_dev_policy_add(self, xp: "XfrmPolicy", extack: Extack) -> int:
        """Accept."""
        return 0


class Restores(Bare):
    """Hopes to be asked to put everything back after a reset."""

    def xdo_dev_state_restore(self, x: "XfrmState") -> None:
        """Never called."""
