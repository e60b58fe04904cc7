# SPDX-License-Identifier: Apache-2.0
"""What a case works with: hosts of a lab in the simulator, of a lab of processes, or a kernel.

In the simulator each case gets a lab of its own. Processes start slowly, so there a lab is used
again by the next case that asks for the same kind, after everything in it was taken back.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from host_driver.conformance import packets
from host_driver.conformance.kernel import KernelHost
from host_driver.conformance.subject import Subject
from host_driver.driver.load import load_driver
from host_driver.driver.reference import ReferenceDriver
from host_driver.ip import Result
from host_driver.lab import Lab
from proto.status import OffloadError
from proto.xfrm import Group

PROBE = "host_driver.conformance.probe:Probe"
STATES_ONLY = "host_driver.conformance.probe:StatesOnly"
TARGETS = ("sim", "process", "kernel")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a run was asked for. `dev` is the offload device of target `kernel`, or None."""

    target: str = "sim"
    profile: str = "latest"
    driver: str | None = None
    card: str = "full"
    seed: int = 0
    dev: str | None = None


class RawNic(Protocol):
    """The device under test."""

    name: str
    ifindex: int
    mac: bytes

    def counters(self) -> dict[str, int]: ...
    def census(self) -> dict[str, int]: ...


class RawHost(Protocol):
    """What every target offers; a target skips the case in a method that it cannot offer."""

    @property
    def nic(self) -> RawNic: ...
    def ip(self, text: str) -> Result: ...
    def netlink(self, request: bytes, privileged: bool = True) -> list[bytes]: ...
    def netlink_together(self, requests: Sequence[bytes]) -> list[list[bytes]]: ...
    def listen(self, *groups: int, room: int | None = None) -> None: ...
    def sysctl(self, name: str, value: int) -> None: ...
    def notifications(self) -> list[bytes]: ...
    def send(self, packets: Sequence[bytes]) -> list[int]: ...
    def receive(self) -> list[bytes]: ...
    def mib(self) -> dict[str, int]: ...
    def trace(self) -> list[dict[str, Any]]: ...
    def devices(self) -> list[dict[str, Any]]: ...
    def add_device(self, name: str) -> int: ...
    def set_link(
        self, dev: str, *, up: bool | None = None, mtu: int | None = None,
        esp_hw_offload: bool | None = None, esp_tx_csum_hw_offload: bool | None = None,
        unregister: bool = False,
    ) -> None: ...  # fmt: skip


@dataclass(frozen=True)
class _Kind:
    hosts: int
    card: str
    driver: str | None


class Bench:
    """One per case. `host()` and `pair()` give subjects; `lab` is the lab behind them."""

    def __init__(self, options: Options, pool: "Pool") -> None:
        self.options = options
        self.profile = options.profile
        self.target = options.target
        self.subjects: list[Subject] = []
        self._pool = pool
        self._lab: Lab | None = None
        self._frames_before = 0

    @property
    def latest(self) -> bool:
        """Whether the kernel profile is the newest one."""
        return self.profile == "latest"

    @property
    def lab(self) -> Lab:
        """The lab of this case: its wire, its faults."""
        if self.target == "kernel":
            pytest.skip("target kernel has no wire and no faults")
        assert self._lab is not None, "ask for host() or pair() first"
        return self._lab

    def host(
        self, *, card: str | None = None, driver: str | None = None, fresh: bool = False
    ) -> Subject:
        """A host with the driver under test, or with another (`PROBE`), on a card of our choice.

        `fresh`: in a lab that no case before this one has used (hash tables never shrink)."""
        if self.target == "kernel":
            if driver is not None or card is not None:
                pytest.skip("the running kernel's driver and card cannot be replaced")
            if fresh:
                pytest.skip("the running kernel is never fresh")
            return self._begin([self._pool.kernel()])[0]
        kind = _Kind(1, card or self.options.card, driver or self.options.driver)
        if fresh:
            self._pool.end(kind)
        return self._labelled(kind)[0]

    def strict(self, overrides: str = "") -> Subject:
        """A host with the reference driver, or one built on it, and a card of a vendor's limits:
        other drivers owe nothing to MLX-*."""
        if not issubclass(load_driver(self.options.driver), ReferenceDriver):
            pytest.skip("describes the reference driver, which this one is not built on")
        return self.host(card=f"cx6dx:{overrides}" if overrides else "cx6dx")

    def pair(
        self, *, card: str | None = None, driver: str | None = None
    ) -> tuple[Subject, Subject]:
        """Two hosts, a card each, one wire between them."""
        if self.target == "kernel":
            pytest.skip("target kernel has one host")
        kind = _Kind(2, card or self.options.card, driver or self.options.driver)
        first, second = self._labelled(kind)
        return first, second

    def advance(self, seconds: float) -> None:
        """Let time pass: virtual in the simulator; among processes the hosts' clocks go forward
        second by second, and what has moved comes to rest."""
        if self.target == "kernel":
            self._pool.kernel().wait(seconds)
        elif self.target == "sim":
            self.lab.advance(seconds)
        else:
            for _ in range(round(seconds)):
                for host in self.lab.hosts:
                    host.set_clock_forward(1)
                self.lab.settle()

    def jump(self, seconds: int) -> None:
        """Every host's clock is this much later at once, and no timer was served meanwhile."""
        if self.target == "kernel":
            pytest.skip("the running kernel's clock is left alone")
        for host in self.lab.hosts:
            host.set_clock_forward(seconds)
        self.settle()

    def frames(self) -> list[bytes]:
        """Ethernet frames that went over the wire since the case began, once nothing moves."""
        self.settle()
        return [frame.data for frame in self.lab.wire.frames(self._frames_before)]

    def spis(self) -> list[int]:
        """The SPI of each of these frames; 0 for a packet in clear."""
        return [packets.spi(frame[packets.ETHERNET_BYTES :]) for frame in self.frames()]

    def settle(self) -> None:
        """Return when nothing moves any more."""
        if self.target != "kernel":
            self.lab.settle()

    def calls(self) -> list[str]:
        """The driver's calls so far, for the report of a failure."""
        with contextlib.suppress(Exception, pytest.skip.Exception):
            return [_line(call) for subject in self.subjects for call in subject.calls()]
        return []

    def _labelled(self, kind: _Kind) -> list[Subject]:
        self._lab = self._pool.lab(kind)
        self._frames_before = len(self._lab.wire.frames())
        return self._begin(self._lab.hosts)

    def _begin(self, hosts: Sequence[RawHost]) -> list[Subject]:
        self.subjects = [Subject(host, self.settle, self.advance) for host in hosts]
        for subject in self.subjects:
            subject.begin()
        return self.subjects


class Pool:
    """Labs between cases."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._labs: dict[_Kind, Lab] = {}
        self._kernel: KernelHost | None = None

    def lab(self, kind: _Kind) -> Lab:
        """A lab of this kind in which nothing has happened, or all was taken back."""
        lab = self._labs.get(kind)
        if lab is None:
            options = self._options
            lab = Lab(
                target=options.target, hosts=kind.hosts, card=kind.card, driver=kind.driver,
                profile=options.profile, seed=options.seed,
            )  # fmt: skip
            lab.start()
            self._labs[kind] = lab
        return lab

    def kernel(self) -> KernelHost:
        """The running kernel, entered once."""
        if self._kernel is None:
            self._kernel = KernelHost(self._options.dev)
        return self._kernel

    def after_case(self, *, failed: bool) -> None:
        """Take everything back; a lab that cannot be taken back, or that failed, is ended."""
        if self._kernel is not None:
            self._kernel.reset(TAKE_BACK)
            for name, value in SYSCTLS.items():
                self._kernel.sysctl(name, value)
        for kind, lab in list(self._labs.items()):
            if failed or self._options.target == "sim" or not _taken_back(lab):
                self.end(kind)

    def close(self) -> None:
        """End everything."""
        for kind in list(self._labs):
            self.end(kind)
        if self._kernel is not None:
            self._kernel.close()

    def end(self, kind: _Kind) -> None:
        """End the lab of this kind, if there is one."""
        lab = self._labs.pop(kind, None)
        if lab is not None:
            with contextlib.suppress(OffloadError):
                lab.close()


def _taken_back(lab: Lab) -> bool:
    """Whether a lab is as new: no SA or policy, no reference to the device, which is up and set as
    usual, and no fault."""
    try:
        lab.faults.reset()
        for host in lab.hosts:
            for step in TAKE_BACK:
                if host.ip(step).rc:
                    return False
            host.listen(*Group)
            for name, value in SYSCTLS.items():
                host.sysctl(name, value)
            host.set_link(
                host.nic.name, up=True, mtu=1500, esp_hw_offload=True, esp_tx_csum_hw_offload=False
            )
        lab.settle()
        return all(_empty(host) for host in lab.hosts)
    except OffloadError:
        return False


def _empty(host: RawHost) -> bool:
    devices = host.devices()
    usual = {"lo", host.nic.name} == {dev["name"] for dev in devices}
    return (
        usual and not any(host.nic.census().values()) and not any(dev["refcnt"] for dev in devices)
    )


TAKE_BACK = (
    "xfrm state flush",
    "xfrm policy flush",
    "xfrm policy flush ptype sub",
    "xfrm policy setdefault in accept fwd accept out accept",
    "xfrm policy set hthresh4 32 32 hthresh6 128 128",
)

SYSCTLS = {
    "net.core.xfrm_acq_expires": 30,
    "net.core.xfrm_larval_drop": 1,
    "net.core.xfrm_aevent_etime": 10,
    "net.core.xfrm_aevent_rseqth": 2,
}


def _line(call: dict[str, Any]) -> str:
    rest = {name: value for name, value in call.items() if name not in ("call", "result")}
    return f"{call['call']} {rest} -> {call['result']}"
