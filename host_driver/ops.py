# SPDX-License-Identifier: Apache-2.0
"""XfrmDevOps: the callback table by which a driver takes IPsec off the core's hands (section 3).

`FORMS` is the one table of what each callback was and is called, and with which arguments. The core
speaks of callbacks by the names of the series (v9) and gives the newest arguments; a driver may
have any form, told by its name and its number of positional parameters, whatever the kernel profile
is. A callback returns 0 or a negative errno, as in the kernel. Those marked "may sleep" may instead
be generators (`host_driver.sleep`); the others run under a lock of the core.

A driver class gets one `DriverContext` and implements what it can: `xdo_dev_state_add` and
`xdo_dev_state_delete` are required (OPS-01), everything else may be missing (OPS-03).
"""

import errno
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from host_driver.sleep import Sleep
from proto.status import OffloadError

if TYPE_CHECKING:
    from host_driver.netdev import NetDevice
    from host_driver.xfrm.policy import XfrmPolicy
    from host_driver.xfrm.state import XfrmState

REQUIRED = ("xdo_dev_state_add", "xdo_dev_state_delete")


class Form(NamedTuple):
    """One form of a callback: the first kernel that has it, its name, its arguments in order."""

    since: str
    name: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(self.arguments)}) of {self.since}"


# canonical name -> its forms, oldest first; the last one is what the core gives (section 3.1).
FORMS: dict[str, tuple[Form, ...]] = {
    "xdo_dev_state_add": (
        Form("v4.11", "xdo_dev_state_add", ("x",)),
        Form("v6.3", "xdo_dev_state_add", ("x", "extack")),
        Form("v6.16", "xdo_dev_state_add", ("dev", "x", "extack")),
    ),
    "xdo_dev_state_delete": (
        Form("v4.11", "xdo_dev_state_delete", ("x",)),
        Form("v6.16", "xdo_dev_state_delete", ("dev", "x")),
    ),
    "xdo_dev_state_free": (
        Form("v4.11", "xdo_dev_state_free", ("x",)),
        Form("v6.16", "xdo_dev_state_free", ("dev", "x")),
    ),
    "xdo_dev_offload_ok": (Form("v4.11", "xdo_dev_offload_ok", ("skb", "x")),),
    "xdo_dev_state_advance_esn": (Form("v4.16", "xdo_dev_state_advance_esn", ("x",)),),
    "xdo_dev_state_update_curlft": (
        Form("v6.2", "xdo_dev_state_update_curlft", ("x",)),
        Form("v6.9", "xdo_dev_state_update_stats", ("x",)),
    ),
    "xdo_dev_policy_add": (
        Form("v6.2", "xdo_dev_policy_add", ("xp",)),
        Form("v6.3", "xdo_dev_policy_add", ("xp", "extack")),
    ),
    "xdo_dev_policy_delete": (Form("v6.2", "xdo_dev_policy_delete", ("xp",)),),
    "xdo_dev_policy_free": (Form("v6.2", "xdo_dev_policy_free", ("xp",)),),
}


def form_of(driver: object, canonical: str) -> Form | None:
    """The form in which a driver has a callback, the newest of several; None when it has none.

    Raises OffloadError(EINVAL) for parameters that no form has, and what the driver itself raises
    when it is looked at.
    """
    forms = FORMS[canonical][::-1]
    found = [form for form in forms if callable(getattr(driver, form.name, None))]
    for form in found:
        if _takes(getattr(driver, form.name), len(form.arguments)):
            return form
    if not found:
        return None
    raise OffloadError(
        errno.EINVAL,
        f"{found[0].name}{_parameters(getattr(driver, found[0].name))} is no known form of this "
        f"callback, known are {', '.join(map(str, forms[::-1]))}",
    )


def refuse_unknown(driver: object) -> None:
    """Raises OffloadError(EINVAL) for an `xdo_` method that no kernel calls: a name misspelt."""
    known = {form.name for forms in FORMS.values() for form in forms}
    for name in dir(driver):
        if name.startswith("xdo_") and name not in known:
            raise OffloadError(
                errno.EINVAL, f"{name} is no known callback, known are {', '.join(sorted(known))}"
            )


def _takes(callback: Callable[..., Any], count: int) -> bool:
    """Whether so many positional arguments fit; what cannot be inspected takes the newest form."""
    try:
        signature = inspect.signature(callback)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def _parameters(callback: Callable[..., Any]) -> str:
    """The parameters of a callback by name, without defaults, which may be anything."""
    return f"({', '.join(inspect.signature(callback).parameters)})"


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

    def xdo_dev_state_advance_esn(self, x: "XfrmState") -> None:
        """The high half of a crypto-offload SA's numbers has moved. Never sleeps (OPS-23)."""

    def xdo_dev_state_update_curlft(self, x: "XfrmState") -> None:
        """Write current totals into `x.curlft` and `x.stats`. Never sleeps (OPS-20)."""

    def xdo_dev_policy_add(self, xp: "XfrmPolicy", extack: Extack) -> int | Sleep[int]:
        """Take a policy. May sleep (OPS-30)."""

    def xdo_dev_policy_delete(self, xp: "XfrmPolicy") -> None:
        """Take the policy out of the data path. Never sleeps (OPS-32)."""

    def xdo_dev_policy_free(self, xp: "XfrmPolicy") -> None:
        """Release what is left of the policy. Never sleeps (OPS-33)."""
