# SPDX-License-Identifier: Apache-2.0
"""A core on its own, driven with `ip xfrm`; what its device sends is kept."""

import random
import shlex
from collections.abc import Sequence
from typing import Any

from host_driver.ip import Result, run
from host_driver.netdev import HW_ESP, Devices, NetDevice, SecPath, Skb
from host_driver.sleep import Scheduler
from host_driver.xfrm.net import XfrmNet
from host_driver.xfrm.profile import LATEST, Profile
from proto.clock import NS
from proto.xfrm import Group


def ask(net: XfrmNet, request: bytes) -> list[bytes]:
    """The replies to one datagram, with the collector run dry afterwards."""
    answers: list[bytes] = []

    def task() -> Any:
        answers.extend((yield from net.netlink(bytes(request))))

    net.sched.spawn(task())
    net.sched.run(net.now_ns)
    return answers


def advance(net: XfrmNet, seconds: float) -> None:
    """Let time pass, firing each timer at its moment."""
    end = net.now_ns + round(seconds * NS)
    while (due := net.next_timer_ns()) is not None and due <= end:
        net.now_ns = max(due, net.now_ns)
        net.run_timers()
        net.sched.run(net.now_ns)
    net.now_ns = end


class Core:
    """An XfrmNet with lo and nic0; `ops` is the callback table of nic0, `sent` what left it."""

    def __init__(
        self, ops: Any = None, mtu: int = 1500, seed: int = 1, profile: Profile = LATEST
    ) -> None:
        self.devices = Devices()
        self.sched = Scheduler()
        self.sent: list[Skb] = []
        self.events: list[tuple[Group, bytes]] = []
        rng = random.Random(seed)
        self.net = XfrmNet(self.devices, self.sched, rng, self._multicast, profile=profile)
        self.net.now_ns = 1_700_000_000 * NS
        self.devices.register(NetDevice("lo", start_xmit=self._xmit)).up = True
        self.nic = self.add_nic("nic0", ops, mtu)
        self._mib = self.net.mib.values()

    def add_nic(self, name: str, ops: Any = None, mtu: int = 1500) -> NetDevice:
        """A device that is up; packets go to the first one."""
        dev = NetDevice(name, mtu=mtu, xfrmdev_ops=ops, start_xmit=self._xmit)
        if ops is not None:
            dev.features.add(HW_ESP)
        self.devices.register(dev).up = True
        return dev

    def _xmit(self, skb: Skb) -> int:
        self.sent.append(skb)
        return 0

    def _multicast(self, group: Group, message: bytes) -> int:
        self.events.append((group, message))
        return 1

    def ip(self, words: str | Sequence[str]) -> Result:
        """Run one command; what it makes the core do later is done, too."""
        result = run(
            words,
            lambda request: ask(self.net, request),
            {dev.name: dev.ifindex for dev in self.devices},
        )
        self.sched.run(self.net.now_ns)
        return result

    def add(self, *commands: str) -> None:
        """Run commands that must succeed."""
        for command in commands:
            result = self.ip(command)
            assert result.rc == 0, (command, result.stderr)

    def take(self) -> list[bytes]:
        """The packets that left since the last call."""
        packets = [skb.data for skb in self.sent]
        self.sent.clear()
        return packets

    def receive(self, packet: bytes, sec_path: SecPath | None = None) -> bytes | None:
        """A packet comes in; what the stack gets."""
        return self.net.input(Skb(packet, sec_path=sec_path, in_dev=self.nic))

    def moved(self) -> dict[str, int]:
        """The counters that moved since the last call."""
        before, self._mib = self._mib, self.net.mib.values()
        return {name: n - before[name] for name, n in self._mib.items() if n != before[name]}

    def below(self) -> dict[str, int]:
        """What ended below XFRM so far."""
        return {name: n for name, n in self.net.snmp_statistics().items() if n}

    def state(self, spi: int) -> Any:
        """The SA with this SPI."""
        return next(x for x in self.net.sad if x.id.spi == spi)

    def advance(self, seconds: float) -> None:
        """Let time pass, firing each timer at its moment."""
        advance(self.net, seconds)


def state_after(x: Any) -> dict[str, Any]:
    """An SA in the words of the recordings' `sa_after`."""
    after: dict[str, Any] = {
        "cur_bytes": x.curlft.bytes,
        "cur_packets": x.curlft.packets,
        "stats": {name: getattr(x.stats, name) for name in ("replay_window", "replay")}
        | {"integrity_failed": x.stats.integrity_failed},
    }
    if x.replay_esn is None:
        r = x.replay
        return after | {"replay_val": {"oseq": r.oseq, "seq": r.seq, "bitmap": r.bitmap}}
    fixed = x.replay_esn.fixed
    names = ("bmp_len", "oseq", "seq", "oseq_hi", "seq_hi", "replay_window")
    esn = {name: getattr(fixed, name) for name in names}
    return after | {"replay_esn": esn | {"bmp": [f"{word:#x}" for word in x.replay_esn.bmp]}}


def words(argv: Sequence[str]) -> str:
    """The recorded command line."""
    return shlex.join(argv)
