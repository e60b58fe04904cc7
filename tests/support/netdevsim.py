# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the devices of the recordings, to be named in `Lab(driver=...)`.

`Netdevsim` refuses what the kernel's module of that name was seen to refuse (7.3.4): it takes ESP
in crypto offload only, with GCM and an ICV of 128 bits, has no ESN and room for 33 SAs.
"""

import errno
from typing import TYPE_CHECKING

from host_driver.driver.context import DriverContext
from host_driver.ops import Extack
from host_driver.xfrm.state import OFFLOAD_CRYPTO

if TYPE_CHECKING:
    from host_driver.netdev import NetDevice
    from host_driver.xfrm.state import XfrmState

ROOM = 33


class Netdevsim:
    """Keeps the SAs it was given and does nothing to packets."""

    def __init__(self, context: DriverContext) -> None:
        self._table: list[XfrmState | None] = [None] * ROOM

    def xdo_dev_state_add(self, dev: "NetDevice", x: "XfrmState", extack: Extack) -> int:
        """NSIM-01, NSIM-02; the complaint carries the module's name."""
        if x.xso.type != OFFLOAD_CRYPTO:
            extack.set("netdevsim: Unsupported ipsec offload type")
            return -errno.EINVAL
        if None not in self._table:
            extack.set("netdevsim: No space for SA in Rx table!")
            return -errno.ENOSPC
        if x.aead is None or x.aead.name != "rfc4106(gcm(aes))" or x.aead.icv_bits != 128:
            extack.set("netdevsim: Failed to get key data for SA table")
            return -errno.EINVAL
        row = self._table.index(None)
        self._table[row] = x
        x.xso.offload_handle = 1 << 31 | row
        return 0

    def xdo_dev_state_delete(self, dev: "NetDevice", x: "XfrmState") -> None:
        """The row is free again."""
        self._table[x.xso.offload_handle & ~(1 << 31)] = None


class Veth(Netdevsim):
    """A device without offload: its driver does not come up, and the device works on (OPS-01)."""

    def __init__(self, context: DriverContext) -> None:
        raise OSError(errno.EOPNOTSUPP, "this device has no IPsec offload")
