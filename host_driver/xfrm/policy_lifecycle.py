# SPDX-License-Identifier: Apache-2.0
"""How policies leave the SPD and their devices (section 4.7).

unlinked -> policy_delete -> dead -> policy_free        at once: policies have no collector
"""

from typing import TYPE_CHECKING

from host_driver.netdev import NetDevice
from host_driver.xfrm.device import xfrm_dev_policy_delete, xfrm_dev_policy_free
from host_driver.xfrm.policy import XfrmPolicy

if TYPE_CHECKING:
    from host_driver.xfrm.net import XfrmNet


def xfrm_policy_kill(net: "XfrmNet", xp: XfrmPolicy) -> None:
    """An unlinked policy dies: out of the data path, then freed (OPS-32, TRACE-14..20)."""
    if net.profile.policy_deleted_at_kill:
        xfrm_dev_policy_delete(xp)
    xp.dead = True
    net.disarm(xp)
    if xp.polq is not None:  # what waited for it is dropped
        net.disarm(xp.polq)
        xp.polq = None
    xfrm_dev_policy_free(xp)


def xfrm_policy_unlink(net: "XfrmNet", xp: XfrmPolicy) -> bool:
    """DELPOLICY and the flushes: unlink and kill. False when it was gone already."""
    if not net.spd.remove(xp):
        return False
    xfrm_policy_kill(net, xp)
    return True


def xfrm_policy_delete(net: "XfrmNet", xp: XfrmPolicy) -> bool:
    """Expiry: the driver's policy_delete in every kernel (TRACE-19). False when it was gone."""
    if not net.spd.remove(xp):
        return False
    if not net.profile.policy_deleted_at_kill:
        xfrm_dev_policy_delete(xp)
    xfrm_policy_kill(net, xp)
    return True


def xfrm_policy_discard(net: "XfrmNet", xp: XfrmPolicy) -> None:
    """A policy that a driver took and the SPD did not (POL-09)."""
    xfrm_dev_policy_delete(xp)
    xp.dead = True
    if net.profile.policy_freed_after_failed_insert:
        xfrm_dev_policy_free(xp)


def xfrm_policy_flush(net: "XfrmNet", type: int) -> bool:
    """Delete every policy of a type. False when there was none."""
    found = [xp for xp in net.spd if xp.type == type]
    for xp in found:
        xfrm_policy_unlink(net, xp)
    return bool(found)


def xfrm_dev_policy_flush(net: "XfrmNet", dev: NetDevice) -> None:
    """Delete every policy of a device (NDEV-03)."""
    for xp in [xp for xp in net.spd if xp.xdo.dev is dev]:
        xfrm_policy_unlink(net, xp)
