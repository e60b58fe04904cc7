# SPDX-License-Identifier: Apache-2.0
"""The offload step and all calls of the driver's table (net/xfrm/xfrm_device.c).

Adding and freeing may sleep; everything else is called where the core holds a lock. The core never
sees a bare driver: `xfrmdev_ops` is its fence (`host_driver.trace`), which stops what sleeps where
it must not and gives 0 or a negative errno for every add (section 0.5).
"""

import errno
from typing import TYPE_CHECKING, Any

from host_driver.netdev import NetDevice, Skb
from host_driver.ops import Extack
from host_driver.sleep import Sleep, may_sleep
from host_driver.xfrm.flow import IPV6_EXTENSIONS
from host_driver.xfrm.policy import XfrmPolicy
from host_driver.xfrm.state import (
    OFFLOAD_CRYPTO,
    OFFLOAD_DIR_FWD,
    OFFLOAD_DIR_IN,
    OFFLOAD_DIR_OUT,
    OFFLOAD_PACKET,
    DevOffload,
    KmState,
    XfrmState,
)
from proto.status import OffloadError
from proto.xfrm import (
    AF_INET,
    IPPROTO_ESP,
    MODE_BEET,
    MODE_TRANSPORT,
    MODE_TUNNEL,
    OFFLOAD_INBOUND,
    OFFLOAD_IPV6,
    POLICY_IN,
    POLICY_OUT,
    SA_DIR_OUT,
    STATE_ESN,
)
from proto.xfrm import OFFLOAD_PACKET as OFFLOAD_FLAG_PACKET
from proto.xfrm_structs import UserOffload

if TYPE_CHECKING:
    from host_driver.xfrm.net import XfrmNet


def _call(dev: NetDevice | None, name: str, *args: Any) -> Any:
    """Call an optional callback. None when there is no device or its driver lacks the callback."""
    callback = getattr(dev.xfrmdev_ops, name, None) if dev else None
    return None if callback is None else callback(*args)


def xfrm_dev_state_add(
    net: "XfrmNet", x: XfrmState, offload: UserOffload, extack: Extack
) -> Sleep[None]:
    """Offer a finished SA to the device (STATE-26). Raises OffloadError and then holds no device.

    One that asked for crypto offload stays in software where the device cannot (STATE-19, 20, 24).
    """
    inbound, packet = offload.flags & OFFLOAD_INBOUND, offload.flags & OFFLOAD_FLAG_PACKET
    if offload.flags & ~(OFFLOAD_IPV6 | OFFLOAD_INBOUND | OFFLOAD_FLAG_PACKET):
        raise OffloadError(errno.EINVAL, "Unrecognized flags in offload request")
    if x.dir and (x.dir == SA_DIR_OUT) == bool(inbound):
        raise OffloadError(errno.EINVAL, "Mismatched SA and offload direction")
    if inbound and x.if_id:
        raise OffloadError(errno.EINVAL, "XFRM if_id is not supported in RX path")
    if x.tfcpad:
        raise OffloadError(errno.EINVAL, "TFC padding can't be offloaded")

    dev = net.devices.by_index(offload.ifindex)
    if dev is None:  # STATE-19: a route decides
        towards = x.props.saddr if inbound else x.id.daddr
        dev = net.devices.route(towards[:4] if x.props.family == AF_INET else towards)
    if dev is None or not hasattr(dev.xfrmdev_ops, "xdo_dev_state_add"):
        if packet:
            raise OffloadError(errno.EINVAL, "")
        return
    advance = hasattr(dev.xfrmdev_ops, "xdo_dev_state_advance_esn")
    if not packet and x.props.flags & STATE_ESN and not advance:
        raise OffloadError(errno.EINVAL, "Device doesn't support offload with ESN")
    if x.id.proto != IPPROTO_ESP:
        raise OffloadError(errno.EINVAL, "Type doesn't support offload")

    dev.hold()
    direction = OFFLOAD_DIR_IN if inbound else OFFLOAD_DIR_OUT
    x.xso = DevOffload(dev, 0, direction, OFFLOAD_PACKET if packet else OFFLOAD_CRYPTO)
    error = yield from may_sleep(dev.xfrmdev_ops.xdo_dev_state_add(dev, x, extack))
    if not error:
        return
    xfrm_dev_release(x.xso)
    if not packet and error == -errno.EOPNOTSUPP:
        return
    extack.set_weak("Device failed to offload this state")
    raise OffloadError(-error, "")


def xfrm_dev_policy_add(
    net: "XfrmNet", xp: XfrmPolicy, offload: UserOffload, extack: Extack
) -> Sleep[None]:
    """Offer a finished policy to the device (POL-02..06). Raises OffloadError."""
    if offload.flags != OFFLOAD_FLAG_PACKET:
        raise OffloadError(errno.EINVAL, "Unrecognized flags in offload request")
    dev = net.devices.by_index(offload.ifindex)
    if dev is None:
        raise OffloadError(errno.EINVAL, "")
    if not hasattr(dev.xfrmdev_ops, "xdo_dev_policy_add"):
        raise OffloadError(errno.EINVAL, "Policy offload is not supported")
    dev.hold()
    directions = {POLICY_IN: OFFLOAD_DIR_IN, POLICY_OUT: OFFLOAD_DIR_OUT}
    direction = directions.get(xp.dir, OFFLOAD_DIR_FWD)
    xp.xdo = DevOffload(dev, 0, direction, OFFLOAD_PACKET)
    error = yield from may_sleep(dev.xfrmdev_ops.xdo_dev_policy_add(xp, extack))
    if error:
        xfrm_dev_release(xp.xdo)
        extack.set_weak("Device failed to offload this policy")
        raise OffloadError(-error, "")


def xfrm_dev_check_registered(net: "XfrmNet", offload: DevOffload) -> None:
    """Raises ENODEV when the device went away while its driver's add slept (INV-04, INV-05)."""
    dev = offload.dev
    if dev is not None and net.devices.by_index(dev.ifindex) is not dev:
        raise OffloadError(errno.ENODEV, f"Device {dev.name} was unregistered during the request")


def xfrm_dev_release(offload: DevOffload) -> None:
    """Forget the device and give its reference back."""
    dev = offload.dev
    offload.clear()
    if dev is not None:
        dev.put()


def xfrm_dev_state_delete(x: XfrmState) -> None:
    """The SA leaves the data path (OPS-16)."""
    _call(x.xso.dev, "xdo_dev_state_delete", x.xso.dev, x)


def xfrm_dev_state_free(x: XfrmState) -> Sleep[None]:
    """Last call for an SA, then the device reference goes (OPS-17). A second time does nothing."""
    dev = x.xso.dev
    if dev is None:
        return
    yield from may_sleep(_call(dev, "xdo_dev_state_free", dev, x))
    xfrm_dev_release(x.xso)


def xfrm_dev_state_update_stats(net: "XfrmNet", x: XfrmState) -> None:
    """Let the driver write its totals into `x.curlft` and `x.stats` (OPS-20, DUMP-04)."""
    if x.xso.type != OFFLOAD_PACKET and not net.profile.update_for_crypto:
        return
    _call(x.xso.dev, "xdo_dev_state_update_curlft", x)


def xfrm_dev_policy_delete(xp: XfrmPolicy) -> None:
    """The policy leaves the data path (OPS-32)."""
    _call(xp.xdo.dev, "xdo_dev_policy_delete", xp)


def xfrm_dev_policy_free(xp: XfrmPolicy) -> None:
    """Last call for a policy, then the device reference goes (OPS-33)."""
    _call(xp.xdo.dev, "xdo_dev_policy_free", xp)
    xfrm_dev_release(xp.xdo)


def xfrm_state_mtu(x: XfrmState, mtu: int) -> int:
    """Longest packet that still fits `mtu` bytes after protection (TX-30, TX-33)."""
    header = 16 + (8 if x.encap else 0)
    if x.props.mode == MODE_TUNNEL:
        header += 20 if x.props.family == AF_INET else 40
    if x.km.state != KmState.VALID or x.id.proto != IPPROTO_ESP:
        return mtu - header
    adjust = 0
    if x.props.mode in (MODE_TRANSPORT, MODE_BEET):
        adjust = 20 if x.props.family == AF_INET else 40
    icv = x.aead.icv_bits // 8 if x.aead else 0
    payload = (mtu - header - icv - adjust) & ~3
    return 1 if payload <= 2 else payload + adjust - 2


def xfrm_dev_offload_ok(skb: Skb, x: XfrmState, dev: NetDevice) -> bool:
    """Whether the packet may go to the SA's device, which must be the route's (TX-23)."""
    if dev is not x.xso.dev or len(skb.data) > xfrm_state_mtu(x, dev.mtu):
        return False
    if skb.data[0] >> 4 == 4:
        if skb.data[0] & 15 != 5:  # IPv4 options
            return False
    elif skb.data[6] in IPV6_EXTENSIONS:
        return False
    verdict = _call(dev, "xdo_dev_offload_ok", skb, x)  # OPS-24
    return verdict is None or bool(verdict)
