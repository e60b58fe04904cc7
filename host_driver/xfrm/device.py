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
from host_driver.xfrm.esp import xfrm_state_mtu
from host_driver.xfrm.flow import IPV6_EXTENSIONS, family_of
from host_driver.xfrm.policy import XfrmPolicy
from host_driver.xfrm.sad import addr
from host_driver.xfrm.state import (
    OFFLOAD_CRYPTO,
    OFFLOAD_DIR_FWD,
    OFFLOAD_DIR_IN,
    OFFLOAD_DIR_OUT,
    OFFLOAD_FLAG_ACQ,
    OFFLOAD_PACKET,
    OFFLOAD_UNSPECIFIED,
    DevOffload,
    XfrmState,
)
from proto.status import OffloadError
from proto.xfrm import (
    AF_INET,
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
    """Offer a finished SA to the device (STATE-16..26). Raises OffloadError and then holds no
    device.

    One that asked for crypto offload stays in software where the device cannot (STATE-19, 20, 24).
    """
    inbound, packet = offload.flags & OFFLOAD_INBOUND, offload.flags & OFFLOAD_FLAG_PACKET
    _verify_offload(net, x, offload.flags)
    dev = net.devices.by_index(offload.ifindex)
    if dev is None:  # STATE-19: a route decides
        towards = x.props.saddr if inbound else x.id.daddr
        dev = net.devices.route(addr(towards, x.props.family))
    if dev is None or not hasattr(dev.xfrmdev_ops, "xdo_dev_state_add"):
        if packet:
            raise OffloadError(errno.EINVAL, "")
        return
    advance = hasattr(dev.xfrmdev_ops, "xdo_dev_state_advance_esn")
    needs_advance = not packet or not net.profile.esn_callback_for_crypto_only
    if x.props.flags & STATE_ESN and needs_advance and not advance:  # STATE-22
        raise OffloadError(errno.EINVAL, "Device doesn't support offload with ESN")
    _verify_type_offload(net, x)

    direction = OFFLOAD_DIR_IN if inbound else OFFLOAD_DIR_OUT
    x.xso = _held(net, dev, direction, OFFLOAD_PACKET if packet else OFFLOAD_CRYPTO)
    error = yield from may_sleep(dev.xfrmdev_ops.xdo_dev_state_add(dev, x, extack))
    if not error:
        return
    xfrm_dev_release(x.xso)
    if not packet and error == -errno.EOPNOTSUPP:
        return
    extack.set_weak("Device failed to offload this state")
    raise OffloadError(-error, "")


def _verify_offload(net: "XfrmNet", x: XfrmState, flags: int) -> None:
    """What is refused before any device is looked at, in the order of the profile."""
    profile, inbound = net.profile, flags & OFFLOAD_INBOUND
    if not profile.type_offload_checked_last:  # STATE-16
        _verify_type_offload(net, x)
    if x.encap and not profile.encap_offloadable:  # STATE-17
        raise OffloadError(errno.EINVAL, "Encapsulated or padded state can't be offloaded")
    if flags & ~(OFFLOAD_IPV6 | OFFLOAD_INBOUND | OFFLOAD_FLAG_PACKET):
        raise OffloadError(errno.EINVAL, "Unrecognized flags in offload request")
    if x.dir and (x.dir == SA_DIR_OUT) == bool(inbound):
        raise OffloadError(errno.EINVAL, "Mismatched SA and offload direction")
    if inbound and x.if_id and profile.inbound_if_id_refused:
        raise OffloadError(errno.EINVAL, "XFRM if_id is not supported in RX path")
    if x.tfcpad:
        raise OffloadError(errno.EINVAL, "TFC padding can't be offloaded")


def _verify_type_offload(net: "XfrmNet", x: XfrmState) -> None:
    """ADD-01: ESP has an offload handler for each family, the other protocols have none."""
    if (x.id.proto, x.props.family) not in net.type_offload:
        raise OffloadError(errno.EINVAL, "Type doesn't support offload")


def _held(net: "XfrmNet", dev: NetDevice, direction: int, type: int) -> DevOffload:
    """The record of a device, which is held as long as the record names it (STATE-23, POL-05)."""
    dev.hold()
    real_dev = None if net.profile.real_dev_left_alone else dev
    return DevOffload(dev, 0, direction, type, real_dev=real_dev)


def xfrm_dev_state_add_larval(net: "XfrmNet", x: XfrmState, record: DevOffload) -> int:
    """The driver's add for a keyless placeholder, to the device of the policy's `record`; it must
    not sleep (ACQ-02..04). 0 or an errno."""
    dev = record.dev
    assert dev is not None
    x.xso = _held(net, dev, record.dir, OFFLOAD_PACKET)
    if not net.profile.larval_holds_device:  # TRAP-11: what gives it back later takes one too many
        dev.put()
    if net.profile.larval_flagged:
        x.xso.flags = OFFLOAD_FLAG_ACQ
    error: int = -dev.xfrmdev_ops.xdo_dev_state_add(dev, x, Extack())
    if error:
        xfrm_dev_release(x.xso)
    return error


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
    directions = {POLICY_IN: OFFLOAD_DIR_IN, POLICY_OUT: OFFLOAD_DIR_OUT}
    direction = directions.get(xp.dir, OFFLOAD_DIR_FWD)
    xp.xdo = _held(net, dev, direction, OFFLOAD_PACKET)
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
    """Forget the device and give its reference back (OPS-14, OPS-31)."""
    dev = offload.dev
    offload.clear()
    if dev is not None:
        dev.put()


def xfrm_dev_state_delete(net: "XfrmNet", x: XfrmState) -> None:
    """The SA leaves the data path (OPS-16); until its free it waits in `dev_gc_list` (DEL-08)."""
    if x.xso.dev is not None:
        _call(x.xso.dev, "xdo_dev_state_delete", x.xso.dev, x)
        net.dev_gc_list[x] = None


def xfrm_dev_state_free(net: "XfrmNet", x: XfrmState, context: str = "gc") -> Sleep[None]:
    """Last call for an SA, then the device reference goes (OPS-17). A second time does nothing."""
    dev = x.xso.dev
    if dev is None or x.xso.released:
        return
    x.xso.released = True
    net.dev_gc_list.pop(x, None)
    with net.running.within(context):
        value = _call(dev, "xdo_dev_state_free", dev, x)
    yield from may_sleep(value)
    x.xso.dev = None
    if net.profile.free_clears_type:  # OBJ-01
        x.xso.type = OFFLOAD_UNSPECIFIED
    dev.put()


def xfrm_dev_state_update_stats(net: "XfrmNet", x: XfrmState) -> None:
    """Let the driver write its totals into `x.curlft` and `x.stats` (OPS-20, DUMP-04)."""
    if x.xso.type != OFFLOAD_PACKET and not net.profile.update_for_crypto:
        return
    _call(x.xso.dev, "xdo_dev_state_update_curlft", x)


def xfrm_dev_state_advance_esn(x: XfrmState) -> None:
    """A number of an ESN has moved; packet mode never calls this (OPS-23, REPLAY-07)."""
    if x.xso.type == OFFLOAD_CRYPTO and x.props.flags & STATE_ESN:
        _call(x.xso.dev, "xdo_dev_state_advance_esn", x)


def xfrm_dev_policy_delete(xp: XfrmPolicy) -> None:
    """The policy leaves the data path (OPS-32)."""
    _call(xp.xdo.dev, "xdo_dev_policy_delete", xp)


def xfrm_dev_policy_free(xp: XfrmPolicy) -> None:
    """Last call for a policy, then the device reference goes (OPS-33)."""
    dev = xp.xdo.dev
    if dev is not None:
        _call(dev, "xdo_dev_policy_free", xp)
        xp.xdo.dev = None
        dev.put()


def xfrm_dev_offload_ok(
    net: "XfrmNet", skb: Skb, x: XfrmState, dev: NetDevice, nested: bool = False
) -> bool:
    """Whether the packet may go to the SA's device; `dev` is the route's, `nested` says that
    another transform follows (TX-20..23)."""
    profile = net.profile
    if x.encap and (x.xso.dev is None or not profile.encap_offloadable):  # TX-22
        return False
    must_match = profile.route_device_checked or x.xso.type != OFFLOAD_PACKET
    if must_match and (dev is not x.xso.dev or nested):
        return False
    if skb.longest > xfrm_state_mtu(net, x, dev.mtu):
        return False
    if profile.headers_checked and not _plain_headers(skb.data):
        return False
    verdict = _call(x.xso.dev, "xdo_dev_offload_ok", skb, x)  # OPS-24
    return verdict is None or bool(verdict)


def _plain_headers(packet: bytes) -> bool:
    """No IPv4 options, no IPv6 extension headers: devices are not asked to step over them."""
    if family_of(packet) == AF_INET:
        return packet[0] & 15 == 5
    return packet[6] not in IPV6_EXTENSIONS
