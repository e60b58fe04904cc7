# SPDX-License-Identifier: Apache-2.0
"""A core with devices like those of the recordings: the kernel's side of tests/vectors/netlink.

Time is virtual and starts at a fixed second; the driver writes down its calls and never sleeps.
"""

import random
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from host_driver.netdev import HW_ESP, Devices, NetDevice, Skb
from host_driver.sleep import Scheduler
from host_driver.trace import Trace, TracedOps
from host_driver.xfrm.net import XfrmNet
from host_driver.xfrm.profile import LATEST, Profile
from proto.clock import NS
from proto.netlink import attribute
from proto.netlink import message as nl_message
from proto.xfrm import Group
from proto.xfrm_structs import (
    AlgoAead,
    LifetimeCfg,
    UserOffload,
    UserPolicyInfo,
    UserSaInfo,
    UserTmpl,
    XfrmId,
    XfrmSelector,
)
from support.core import advance, ask

A, B = (bytes((10, 1, 0, last)) + bytes(12) for last in (1, 2))
KEY = bytes(range(1, 21))
LO, NIC = 1, 2
# Where curlft.add_time and use_time stand in a message, by type (UAPI-36, 39, 64).
CLOCKS = {0x10: 192, 0x1A: 192, 0x18: 192, 0x13: 152, 0x19: 152, 0x1B: 152, 0x11: 220, 0x14: 220}


class Pktsim:
    """A driver that accepts everything and writes each call down, as the recorded one did.

    `fail_state` and `fail_policy`: 0, 1 (EINVAL with a text), or an errno without a text.
    """

    def __init__(self) -> None:
        self.log: list[str] = []
        self.fail_state = self.fail_policy = 0
        self.totals: dict[int, tuple[int, int]] = {}
        self.offload_ok = True
        self.keys_at_free: list[int] = []

    def _refuse(self, how: int, extack: Any) -> int:
        if how == 1:
            extack.set("pktsim: told to fail")
            return -22
        return -how

    def xdo_dev_state_add(self, dev: NetDevice, x: Any, extack: Any) -> int:
        self.log.append(f"state_add spi={x.id.spi:#010x} km_state={int(x.km.state)}")
        return self._refuse(self.fail_state, extack)

    def xdo_dev_state_delete(self, dev: NetDevice, x: Any) -> None:
        self.log.append(f"state_delete spi={x.id.spi:#010x} km_state={int(x.km.state)}")

    def xdo_dev_state_free(self, dev: NetDevice, x: Any) -> None:
        self.keys_at_free.append(0 if x.aead is None else len(x.aead.key))
        self.log.append(f"state_free spi={x.id.spi:#010x} km_state={int(x.km.state)}")

    def xdo_dev_state_update_curlft(self, x: Any) -> None:
        self.log.append(f"update_stats spi={x.id.spi:#010x} km_state={int(x.km.state)}")
        if x.id.spi in self.totals:
            x.curlft.packets, x.curlft.bytes = self.totals[x.id.spi]

    def xdo_dev_state_advance_esn(self, x: Any) -> None:
        self.log.append(f"advance_esn spi={x.id.spi:#010x}")

    def xdo_dev_offload_ok(self, skb: Skb, x: Any) -> bool:
        self.log.append(f"offload_ok spi={x.id.spi:#010x}")
        return self.offload_ok

    def xdo_dev_policy_add(self, xp: Any, extack: Any) -> int:
        self.log.append(f"policy_add index={xp.index} prio={xp.priority} dead={int(xp.dead)}")
        return self._refuse(self.fail_policy, extack)

    def xdo_dev_policy_delete(self, xp: Any) -> None:
        self.log.append(f"policy_delete index={xp.index} prio={xp.priority} dead={int(xp.dead)}")

    def xdo_dev_policy_free(self, xp: Any) -> None:
        self.log.append(f"policy_free index={xp.index} prio={xp.priority} dead={int(xp.dead)}")


class World:
    """One core; requests are answered at once, as no driver here sleeps unless a test makes it."""

    def __init__(self, ops: Any = None, listeners: int = 1, profile: Profile = LATEST) -> None:
        self.devices = Devices()
        self.sched = Scheduler()
        self.notified: list[tuple[Group, bytes]] = []
        self.sent: list[Skb] = []
        self.listeners = listeners
        self.trace = Trace()
        self.counters: Counter[str] = Counter()
        self.net = XfrmNet(
            self.devices, self.sched, random.Random(7), self.multicast, profile=profile
        )
        self.net.now_ns = 1_000_000 * NS
        self.add_device("lo", LO)
        self.nic = self.add_device("nic0", NIC, ops) if ops is not None else None

    def add_device(self, name: str, ifindex: int, ops: Any = None) -> NetDevice:
        """A device that is up and keeps what it sends in `sent`; `ops` is a bare driver."""
        if ops is not None:
            ops = TracedOps(ops, self.trace, self.counters, self.net.running)
        dev = NetDevice(name, start_xmit=self.xmit, xfrmdev_ops=ops)
        if ops is not None:
            dev.features.add(HW_ESP)
        self.devices.register(dev)
        del self.devices._devices[dev.ifindex]
        dev.ifindex, dev.up = ifindex, True
        self.devices._devices[ifindex] = dev
        self.devices.on_event = self.net.netdev_event
        return dev

    def xmit(self, skb: Skb) -> int:
        self.sent.append(skb)
        return 0

    def multicast(self, group: Group, message: bytes) -> int:
        self.notified.append((group, message))
        return self.listeners

    def netlink(self, request: bytes) -> list[bytes]:
        """The replies, with the collector run dry afterwards."""
        return ask(self.net, request)

    def errno(self, request: bytes) -> int:
        """The errno of the ack."""
        return -struct.unpack_from("<i", self.netlink(request)[-1], 16)[0]

    def advance(self, seconds: float) -> None:
        """Let time pass, firing each timer at its moment."""
        advance(self.net, seconds)

    def add_sa(self, spi: int = 0x1000, **how: Any) -> int:
        """NEWSA over 10.1.0.1 -> 10.1.0.2, packet offload out on the nic unless told otherwise."""
        return self.errno(sa_request(spi, **how))

    def add_policy(self, **how: Any) -> int:
        """NEWPOLICY for everything between the two hosts, offloaded to the nic unless told."""
        return self.errno(policy_request(**how))

    def state(self, spi: int) -> Any:
        """The state with this SPI."""
        return next(x for x in self.net.sad if x.id.spi == spi)

    def take(self, type: int | None = None) -> list[bytes]:
        """Notifications since the last call, of one message type if given."""
        messages = [message for _, message in self.notified]
        self.notified.clear()
        return [m for m in messages if type is None or message_type(m) == type]

    @staticmethod
    def split(data: bytes) -> list[bytes]:
        """The messages of a datagram."""
        found = []
        while data:
            length = int.from_bytes(data[:4], "little")
            found.append(data[:length])
            data = data[(length + 3) & ~3 :]
        return found

    @staticmethod
    def timeless(message: bytes) -> bytes:
        """The message with port id and wall-clock values (add_time, use_time) zeroed."""
        patched = bytearray(message)
        patched[12:16] = bytes(4)
        at = CLOCKS.get(message_type(message))
        if at is not None:
            patched[at : at + 16] = bytes(16)
        if message_type(message) == 0x17:  # ACQUIRE: its policy has not been used
            patched[248:256] = bytes(8)
        if message_type(message) == 0x1E:  # NEWAE: add_time in LTIME_VAL
            at = message.find(struct.pack("<HH", 36, 9), 64)
            patched[at + 20 : at + 28] = bytes(8)
        return bytes(patched)


def sa_request(
    spi: int = 0x1000, *, flags: int | None = 4, ifindex: int = NIC, type: int = 0x10,
    saddr: bytes = A, daddr: bytes = B, seq: int = 0, sa_dir: int = 0, reqid: int = 1,
    window: int = 0, **limits: int,
) -> bytes:  # fmt: skip
    """A NEWSA or UPDSA; `flags` of OFFLOAD_DEV, None for software."""
    info = UserSaInfo(
        id=XfrmId(daddr, spi, 50), saddr=saddr, lft=LifetimeCfg(**limits), seq=seq, reqid=reqid,
        family=2, replay_window=window,
    )  # fmt: skip
    aead = AlgoAead(b"rfc4106(gcm(aes))", 160, 128).pack() + KEY
    payload = info.pack() + attribute(18, aead)
    if flags is not None:
        payload += attribute(28, UserOffload(ifindex, flags).pack())
    if sa_dir:
        payload += attribute(33, bytes((sa_dir,)))
    return nl_message(type, payload, 5)


def policy_request(
    *, dir: int = 1, offload: bool = True, action: int = 0, priority: int = 0, prefixlen: int = 32,
    saddr: bytes = A, daddr: bytes = B, proto: int = 0, dport: int = 0, templates: int = 1,
    type: int = 0x13, reqid: int = 1, optional: int = 0, **limits: int,
) -> bytes:  # fmt: skip
    """A NEWPOLICY or UPDPOLICY with transport-mode ESP templates."""
    sel = XfrmSelector(
        daddr, saddr, family=2, prefixlen_d=prefixlen, prefixlen_s=prefixlen, proto=proto,
        dport=dport, dport_mask=0xFFFF if dport else 0,
    )  # fmt: skip
    info = UserPolicyInfo(sel, LifetimeCfg(**limits), priority=priority, dir=dir, action=action)
    tmpl = UserTmpl(XfrmId(proto=50), 2, reqid=reqid, optional=optional).pack()
    payload = info.pack() + (attribute(5, tmpl * templates) if templates else b"")
    if offload:
        payload += attribute(28, UserOffload(NIC, 4).pack())
    return nl_message(type, payload, 5)


def udp(size: int = 32, saddr: bytes = A, daddr: bytes = B, dport: int = 9) -> bytes:
    """An IPv4 packet with a UDP datagram of `size` bytes of data."""
    head = struct.pack(">BBHHHBBH", 0x45, 0, 28 + size, 1, 0, 64, 17, 0) + saddr[:4] + daddr[:4]
    return head + struct.pack(">HHHH", 4000, dport, 8 + size, 0) + b"x" * size


def message_type(message: bytes) -> int:
    """nlmsg_type."""
    return int.from_bytes(message[4:6], "little")


@pytest.fixture
def make_world() -> type[World]:
    """The class of worlds, to be called with the driver's table."""
    return World


@pytest.fixture
def pktsim() -> Pktsim:
    """A driver that accepts everything."""
    return Pktsim()


@pytest.fixture
def world(pktsim: Pktsim) -> World:
    """A core with an offload device nic0 and one listener."""
    return World(pktsim)


@pytest.fixture
def udp_packet() -> Any:
    """The maker of UDP packets."""
    return udp


@pytest.fixture
def requests() -> Any:
    """The makers of SA and policy requests."""
    return sa_request, policy_request


@pytest.fixture(scope="session")
def records(vectors: Path) -> Path:
    """tests/vectors/netlink."""
    return vectors / "netlink"
