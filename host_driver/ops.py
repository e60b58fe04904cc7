# SPDX-License-Identifier: Apache-2.0
"""XfrmDevOps: the callback table by which a driver takes IPsec off the core's hands (section 3).

Names are those of the series (v9); `LATER` has what newer kernels call them. Arguments are the
newest ones. A callback returns 0 or a negative errno, as in the kernel. Those marked "may sleep"
may instead be generators (`host_driver.sleep`); the others run under a lock of the core.

A driver class gets one `DriverContext` and implements what it can: `xdo_dev_state_add` and
`xdo_dev_state_delete` are required (OPS-01), everything else may be missing.
"""

from typing import TYPE_CHECKING, Protocol

from host_driver.sleep import Sleep

if TYPE_CHECKING:
    from host_driver.netdev import NetDevice
    from host_driver.xfrm.policy import XfrmPolicy
    from host_driver.xfrm.state import XfrmState

REQUIRED = ("xdo_dev_state_add", "xdo_dev_state_delete")

# canonical name -> (first kernel with the present form, its name, its arguments); section 3.1.
LATER: dict[str, tuple[str, str, str]] = {
    "xdo_dev_state_add": ("v6.16", "xdo_dev_state_add", "dev, x, extack"),
    "xdo_dev_state_delete": ("v6.16", "xdo_dev_state_delete", "dev, x"),
    "xdo_dev_state_free": ("v6.16", "xdo_dev_state_free", "dev, x"),
    "xdo_dev_offload_ok": ("v4.11", "xdo_dev_offload_ok", "skb, x"),
    "xdo_dev_state_advance_esn": ("v4.16", "xdo_dev_state_advance_esn", "x"),
    "xdo_dev_state_update_curlft": ("v6.9", "xdo_dev_state_update_stats", "x"),
    "xdo_dev_policy_add": ("v6.3", "xdo_dev_policy_add", "xp, extack"),
    "xdo_dev_policy_delete": ("v6.2", "xdo_dev_policy_delete", "xp"),
    "xdo_dev_policy_free": ("v6.2", "xdo_dev_policy_free", "xp"),
}


class Extack:
    """The extended ack of a request: the text that tells the user why (UAPI-13)."""

    __slots__ = ("msg", "offset")

    def __init__(self) -> None:
        self.msg = ""
        self.offset: int | None = None

    def set(self, msg: str, offset: int | None = None) -> None:
        """NL_SET_ERR_MSG: the last text wins."""
        self.msg = msg
        self.offset = offset

    def set_weak(self, msg: str) -> None:
        """NL_SET_ERR_MSG_WEAK: only where no text stands yet."""
        if not self.msg:
            self.msg = msg


class XfrmDevOps(Protocol):
    """The table. Packet mode uses all of it but `advance_esn` (REPLAY-07)."""

    def xdo_dev_state_add(
        self, dev: "NetDevice", x: "XfrmState", extack: Extack
    ) -> int | Sleep[int]:
        """Take an SA. May sleep, except for a larval one (`x.xso.flags & ACQ`, OPS-10, OPS-11)."""

    def xdo_dev_state_delete(self, dev: "NetDevice", x: "XfrmState") -> None:
        """Stop using the SA in the data path. Never sleeps (OPS-16)."""

    def xdo_dev_state_free(self, dev: "NetDevice", x: "XfrmState") -> Sleep[None] | None:
        """Release what is left of the SA. May sleep; keys are gone from `x` already (OPS-17)."""

    def xdo_dev_offload_ok(self, skb: object, x: "XfrmState") -> bool:
        """Whether this packet may go to the device. Never sleeps (OPS-24)."""

    def xdo_dev_state_update_curlft(self, x: "XfrmState") -> None:
        """Write current totals into `x.curlft` and `x.stats`. Never sleeps (OPS-20)."""

    def xdo_dev_policy_add(self, xp: "XfrmPolicy", extack: Extack) -> int | Sleep[int]:
        """Take a policy. May sleep (OPS-30)."""

    def xdo_dev_policy_delete(self, xp: "XfrmPolicy") -> None:
        """Take the policy out of the data path. Never sleeps (OPS-32)."""

    def xdo_dev_policy_free(self, xp: "XfrmPolicy") -> None:
        """Release what is left of the policy. Never sleeps (OPS-33)."""
