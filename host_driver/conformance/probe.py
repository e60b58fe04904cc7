# SPDX-License-Identifier: Apache-2.0
"""A driver without a card: it accepts everything and takes orders from the objects it is given.

An order stands in the reqid of an SA (of a larval one, in its template's) or in the priority of a
policy, so cases can give it through `ip xfrm` text on every target:

    REFUSE | errno      the add is refused with that errno
    SLEEP               the add sleeps before it succeeds
    EVENTS              after every packet the driver calls xfrm_state_check_expire
    NO_PACKETS          offload_ok says no
    SILENT              packets pass and nothing is counted

Its hardware is `offload_ok`: each packet that passes there is one packet of the SA and its bytes.
Counter `driver_probe_expired`: how often xfrm_state_check_expire came back with -EINVAL.
"""

import errno
from typing import TYPE_CHECKING

from host_driver.driver import DriverContext
from host_driver.ops import Extack
from host_driver.sleep import Completion, Sleep, wait

if TYPE_CHECKING:
    from host_driver.netdev import NetDevice, Skb
    from host_driver.xfrm.policy import XfrmPolicy
    from host_driver.xfrm.state import XfrmState

REFUSE, SLEEP, EVENTS, NO_PACKETS = 0xE000_0000, 0xE100_0000, 0xE200_0000, 0xE300_0000
SILENT = 0xE400_0000
_ORDER, _ARGUMENT = 0xFF00_0000, 0x00FF_FFFF
NAP_NS = 1_000_000


class Probe:
    """See the module's text."""

    def __init__(self, context: DriverContext) -> None:
        self._context = context
        self._totals: dict[int, tuple[int, int]] = {}
        self._last_handle = 0

    def xdo_dev_state_add(
        self, dev: "NetDevice", x: "XfrmState", extack: Extack
    ) -> int | Sleep[int]:
        """Accept, or do as ordered."""
        self._last_handle += 1
        x.xso.offload_handle = self._last_handle
        return self._as_ordered(x.props.reqid, extack)

    def xdo_dev_state_delete(self, dev: "NetDevice", x: "XfrmState") -> None:
        """Totals stay: a message may still ask for them (OPS-22)."""

    def xdo_dev_state_free(self, dev: "NetDevice", x: "XfrmState") -> None:
        """Forget the totals."""
        self._totals.pop(x.xso.offload_handle, None)

    def xdo_dev_offload_ok(self, skb: "Skb", x: "XfrmState") -> bool:
        """Count the packet."""
        order = x.props.reqid & _ORDER
        if order in (NO_PACKETS, SILENT):
            return order == SILENT
        packets, octets = self._totals.get(x.xso.offload_handle, (0, 0))
        self._totals[x.xso.offload_handle] = packets + 1, octets + len(skb.data)
        if order == EVENTS:
            self._context.spawn(self._event(x))
        return True

    def xdo_dev_state_update_curlft(self, x: "XfrmState") -> None:
        """The totals, absolute."""
        if x.xso.offload_handle in self._totals:
            x.curlft.packets, x.curlft.bytes = self._totals[x.xso.offload_handle]

    def xdo_dev_state_advance_esn(self, x: "XfrmState") -> None:
        """Nothing to advance."""

    def xdo_dev_policy_add(self, xp: "XfrmPolicy", extack: Extack) -> int | Sleep[int]:
        """Accept, or do as ordered."""
        return self._as_ordered(xp.priority, extack)

    def xdo_dev_policy_delete(self, xp: "XfrmPolicy") -> None:
        """Nothing to take out."""

    def xdo_dev_policy_free(self, xp: "XfrmPolicy") -> None:
        """Nothing to free."""

    def _as_ordered(self, order: int, extack: Extack) -> int | Sleep[int]:
        if order & _ORDER == REFUSE:
            code = order & _ARGUMENT
            extack.set(f"probe: told to refuse with {errno.errorcode.get(code, code)}")
            return -code
        return self._nap() if order & _ORDER == SLEEP else 0

    def _nap(self) -> Sleep[int]:
        yield from wait(Completion(self._context.now_ns() + NAP_NS))
        return 0

    def _event(self, x: "XfrmState") -> Sleep[None]:
        yield from ()
        if self._context.xfrm_state_check_expire(x) == -errno.EINVAL:
            self._context.counters["probe_expired"] += 1
