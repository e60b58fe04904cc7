# SPDX-License-Identifier: Apache-2.0
"""Network devices as the stack sees them: up, down, MTU, features, reference count, and the Skb.

A device raises its events through `Devices.on_event`, which the host ties to the core's
`netdev_event`: "up", "down", "unregister", "change_mtu", "feat_change" (section 4.8).
"""

import errno
import ipaddress
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from host_driver import gso
from host_driver.ops import REQUIRED
from proto.limits import MTU_DEFAULT, MTU_MAX, MTU_MIN
from proto.status import OffloadError

if TYPE_CHECKING:
    from host_driver.xfrm.state import XfrmState

HW_ESP = "esp-hw-offload"
HW_ESP_TX_CSUM = "esp-tx-csum-hw-offload"

LOOPBACK_IFINDEX = 1

# xfrm_offload flags and status bits (OBJ-31, OBJ-32).
CRYPTO_DONE = 2
CRYPTO_SUCCESS, CRYPTO_GENERIC_ERROR = 1, 2
TRANSPORT_ESP_AUTH_FAILED, TUNNEL_ESP_AUTH_FAILED = 8, 32
AUTH_FAILED = 4 | TRANSPORT_ESP_AUTH_FAILED | 16 | TUNNEL_ESP_AUTH_FAILED  # 4 and 16 are AH's
INVALID_PROTOCOL = 128


@dataclass(slots=True)
class SecPath:
    """One SA applied to a received packet, with the device's offload record (OBJ-30, OBJ-33)."""

    x: "XfrmState"
    flags: int = CRYPTO_DONE
    status: int = CRYPTO_SUCCESS


@dataclass(slots=True)
class Skb:
    """An IP packet on its way through the host. `data` starts at the IP header.

    `protect`: the core chose a packet-offload SA, so the card must never send this in clear.
    `sealed`: it is ESP that software made, so no policy of the card is for it any more.
    `gso_size`: bytes of payload in each of the packets that it becomes, 0: it is one.
    """

    data: bytes
    mark: int = 0
    protect: bool = False
    sealed: bool = False
    sec_path: SecPath | None = None
    in_dev: "NetDevice | None" = None
    gso_size: int = 0

    @property
    def longest(self) -> int:
        """Bytes of the longest packet that it becomes."""
        return gso.longest(self.data, self.gso_size)


class NetDevice:
    """A device. `start_xmit` takes an Skb into the driver's queue and returns 0 or an errno.

    Without `carrier` its driver sends nothing. `xfrmdev_ops` is the callback table or None;
    callbacks that a driver lacks are missing attributes. `refcnt` counts the SAs and policies that
    hold the device; it falls below 0 in a kernel that gives back what it never took (TRAP-11).
    """

    def __init__(
        self,
        name: str,
        mac: bytes = bytes(6),
        *,
        mtu: int = MTU_DEFAULT,
        features: Iterable[str] = (),
        xfrmdev_ops: Any = None,
        start_xmit: Callable[[Skb], int],
        queue_space: Callable[[], int] = lambda: 1,
    ) -> None:
        self.name = name
        self.ifindex = 0
        self.mac = mac
        self.mtu = mtu
        self.up = False
        self.carrier = True
        self.features = set(features)
        self.xfrmdev_ops = xfrmdev_ops
        self.refcnt = 0
        self._start_xmit = start_xmit
        self._queue_space = queue_space

    def __repr__(self) -> str:
        return f"NetDevice({self.name}, ifindex={self.ifindex}, up={self.up})"

    def hold(self) -> None:
        """Take a reference (OPS-13)."""
        self.refcnt += 1

    def put(self) -> None:
        """Give a reference back (OPS-17)."""
        self.refcnt -= 1

    def xmit(self, skb: Skb) -> int:
        """Queue a packet; returns 0, ENETDOWN, EMSGSIZE, or ENOBUFS when the queue is full."""
        if not self.up:
            return errno.ENETDOWN
        if skb.longest > self.mtu:
            return errno.EMSGSIZE
        if not skb.gso_size or gso.can_segment(self.features, skb.data, skb.gso_size):
            return self._start_xmit(skb)
        error = 0
        for piece in gso.segment(skb.data, skb.gso_size):
            error = error or self._start_xmit(replace(skb, data=piece, gso_size=0))
        return error

    def tx_space(self) -> int:
        """How many packets `xmit` takes before it answers ENOBUFS."""
        return self._queue_space()


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Devices:
    """All devices of a host, by index and by name."""

    def __init__(self) -> None:
        self.on_event: Callable[[NetDevice, str], None] = lambda dev, event: None
        self._devices: dict[int, NetDevice] = {}
        self._next_ifindex = LOOPBACK_IFINDEX
        self.networks: list[Network] = []

    def __iter__(self) -> Iterator[NetDevice]:
        return iter(self._devices.values())

    def by_index(self, ifindex: int) -> NetDevice | None:
        """The device, or None."""
        return self._devices.get(ifindex)

    def by_name(self, name: str) -> NetDevice | None:
        """The device, or None."""
        return next((dev for dev in self if dev.name == name), None)

    def route(self, daddr: bytes) -> NetDevice | None:
        """The device towards an address of 4 (IPv4) or 16 bytes (IPv6), or None.

        127/8 and ::1 are on the loopback device; what lies in `networks`, and without any
        everything, is on-link of the first other device that is up.
        """
        local = daddr[0] == 127 if len(daddr) == 4 else daddr == bytes(15) + b"\x01"
        if local:
            return self.by_index(LOOPBACK_IFINDEX)
        address = ipaddress.ip_address(daddr)
        if self.networks and not any(address in network for network in self.networks):
            return None
        return next((dev for dev in self if dev.ifindex != LOOPBACK_IFINDEX and dev.up), None)

    def register(self, dev: NetDevice) -> NetDevice:
        """Add a device and give it its ifindex. Raises OffloadError (OPS-01, or a name in use)."""
        if self.by_name(dev.name):
            raise OffloadError(errno.EEXIST, f"device {dev.name} exists already")
        api_check(dev.name, dev.features, dev.xfrmdev_ops)
        dev.ifindex = self._next_ifindex
        self._next_ifindex += 1
        self._devices[dev.ifindex] = dev
        return dev

    def unregister(self, dev: NetDevice) -> None:
        """Take a device away: it goes down first, then the core flushes what it holds (NDEV-01)."""
        self.set_up(dev, False)
        self.on_event(dev, "unregister")
        self._devices.pop(dev.ifindex, None)

    def set_up(self, dev: NetDevice, up: bool) -> None:
        """`ip link set DEV up|down`. Nothing is restored by "up" (NDEV-05)."""
        if dev.up != up:
            dev.up = up
            self.on_event(dev, "up" if up else "down")

    def set_mtu(self, dev: NetDevice, mtu: int) -> None:
        """`ip link set DEV mtu N`. Raises OffloadError(EINVAL)."""
        if not MTU_MIN <= mtu <= MTU_MAX:
            raise OffloadError(
                errno.EINVAL, f"device {dev.name}: MTU {mtu} is outside {MTU_MIN}..{MTU_MAX}"
            )
        dev.mtu = mtu
        self.on_event(dev, "change_mtu")

    def set_features(self, dev: NetDevice, features: Iterable[str]) -> None:
        """`ethtool -K`. Raises OffloadError(EINVAL) and changes nothing (OPS-01)."""
        wanted = set(features)
        api_check(dev.name, wanted, dev.xfrmdev_ops)
        dev.features = wanted
        self.on_event(dev, "feat_change")


def api_check(name: str, features: set[str], ops: Any) -> None:
    """What a device must have to offer ESP offload. Raises OffloadError(EINVAL) (OPS-01)."""
    if HW_ESP_TX_CSUM in features and HW_ESP not in features:
        raise OffloadError(errno.EINVAL, f"device {name}: {HW_ESP_TX_CSUM} needs {HW_ESP}")
    missing = [callback for callback in REQUIRED if not hasattr(ops, callback)]
    if HW_ESP in features and missing:
        raise OffloadError(
            errno.EINVAL, f"device {name}: {HW_ESP} needs the callbacks {', '.join(missing)}"
        )
