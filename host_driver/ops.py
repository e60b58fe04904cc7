# SPDX-License-Identifier: Apache-2.0
"""XfrmDevOps: the callback table by which a driver takes IPsec off the core's hands (section 3).

Names are those of the series (v9); `LATER` has what newer kernels call them, and a driver may use
either name. Arguments are the newest ones. A callback returns 0 or a negative errno, as in the
kernel. Those marked "may sleep" may instead be generators (`host_driver.sleep`); the others run
under a lock of the core.

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

TEXT_LONGEST = 1024


class Extack:
    """The extended ack of a request: the text that tells the user why (UAPI-13).

    `msg` is at most TEXT_LONGEST characters that UTF-8 can say, whatever a driver gives;
    `offset` is a place in the request or None.
    """

    __slots__ = ("_msg", "_offset")

    def __init__(self) -> None:
        self._msg = ""
        self._offset: int | None = None

    @property
    def msg(self) -> str:
        """The text; empty when there is none."""
        return self._msg

    @property
    def offset(self) -> int | None:
        """Where in the request the attribute stands that is wrong."""
        return self._offset

    def set(self, msg: str, offset: int | None = None) -> None:
        """NL_SET_ERR_MSG: the last text wins. What is no text is named by its type."""
        text = msg if isinstance(msg, str) else f"(a text that is a {type(msg).__name__})"
        self._msg = text[:TEXT_LONGEST].encode(errors="replace").decode()
        placed = isinstance(offset, int) and 0 <= offset < 1 << 32
        self._offset = offset if placed else None

    def set_weak(self, msg: str) -> None:
        """NL_SET_ERR_MSG_WEAK: only where no text stands yet."""
        if not self._msg:
            self.set(msg, self._offset)


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
