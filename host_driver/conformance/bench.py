# SPDX-License-Identifier: Apache-2.0
"""What a case works with: hosts of a lab in the simulator, of a lab of processes, or a kernel."""

import contextlib
from collections.abc import Sequence
from typing import Any

import pytest

from host_driver.conformance import packets
from host_driver.conformance.pool import Kind, Pool
from host_driver.conformance.subject import Subject
from host_driver.conformance.target import Options, RawHost
from host_driver.driver.load import load_driver
from host_driver.driver.reference import ReferenceDriver
from host_driver.lab import Lab

# Drivers of `probe.py`, by the names that a lab loads them by.
PROBE, STATES_ONLY, BARE, NO_DELETE, RESTORES = (
    f"host_driver.conformance.probe:{name}"
    for name in ("Probe", "StatesOnly", "Bare", "NoDelete", "Restores")
)


class Bench:
    """One per case. `host()` and `pair()` give subjects; `lab` is the lab behind them."""

    def __init__(self, options: Options, pool: Pool) -> None:
        self.options = options
        self.profile = options.profile
        self.target = options.target
        self.subjects: list[Subject] = []
        self._pool = pool
        self._lab: Lab | None = None
        self._under_test = False
        self._frames_before = 0

    @property
    def latest(self) -> bool:
        """Whether the kernel profile is the newest one."""
        return self.profile == "latest"

    @property
    def slack(self) -> int:
        """Seconds by which a host's clock may be ahead of the case's: of processes, which real time
        moves, too."""
        return 0 if self.target == "sim" else 2

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
        kind = Kind(1, card or self.options.card, driver or self.options.driver)
        if fresh:
            self._pool.end(kind)
        return self._labelled(kind)[0]

    def strict(self, overrides: str = "") -> Subject:
        """A host with the reference driver, or one built on it, and a card of a vendor's limits:
        other drivers owe nothing to MLX-*."""
        if not issubclass(load_driver(self.options.driver), ReferenceDriver):
            pytest.skip("describes the reference driver, which this one is not built on")
        return self.host(card=f"cx6dx:strict=yes,{overrides}")

    def pair(
        self, *, card: str | None = None, driver: str | None = None
    ) -> tuple[Subject, Subject]:
        """Two hosts, a card each, one wire between them."""
        if self.target == "kernel":
            pytest.skip("target kernel has one host")
        kind = Kind(2, card or self.options.card, driver or self.options.driver)
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

    def deafen(self) -> None:
        """Whatever the card tells by itself is lost: events and running totals."""
        for site in ("events", "ring.counters"):
            self.lab.faults.add(site=site, kind="drop")

    def frames(self) -> list[bytes]:
        """Ethernet frames that went over the wire since the case began, once nothing moves."""
        self.settle()
        return [frame.data for frame in self.lab.wire.frames(self._frames_before)]

    def on_the_wire(self) -> list[bytes]:
        """The IP packets of these frames."""
        return [frame[packets.ETHERNET_BYTES :] for frame in self.frames()]

    def spis(self) -> list[int]:
        """The SPI of each of these packets; 0 for one in clear."""
        return [packets.spi(packet) for packet in self.on_the_wire()]

    def arrive(self, *arriving: bytes) -> None:
        """IP packets come over the wire to host 0, for the MAC of its card."""
        mac = self.subjects[0].mac
        frames = [packets.frame(packet, mac) for packet in arriving]
        self.lab.wire.inject(host=0, frames=frames)

    def settle(self) -> None:
        """Return when nothing moves any more."""
        if self.target != "kernel":
            self.lab.settle()

    def calls(self) -> list[str]:
        """The driver's calls so far, for the report of a failure; the last may still hang."""
        with contextlib.suppress(Exception, pytest.skip.Exception):
            return [_line(call) for subject in self.subjects for call in subject.calls_by_now()]
        return []

    def needs_crypto(self) -> None:
        """Skip the case where the driver under test takes no crypto offload, which it need not."""
        if self._under_test and not self._pool.takes_crypto():
            pytest.skip("the driver under test takes no crypto offload")

    def _labelled(self, kind: Kind) -> list[Subject]:
        self._under_test = kind.driver == self.options.driver
        self._lab = self._pool.lab(kind)
        if self._under_test:
            error = self._lab.hosts[0].info()["error"].partition(": ")[2]
            assert not error, f"driver {self.options.driver} does not start: {error}"
        self._frames_before = len(self._lab.wire.frames())
        return self._begin(self._lab.hosts)

    def _begin(self, hosts: Sequence[RawHost]) -> list[Subject]:
        self.subjects = [
            Subject(host, self.settle, self.advance, self.needs_crypto) for host in hosts
        ]
        for subject in self.subjects:
            subject.begin()
        return self.subjects


def _line(call: dict[str, Any]) -> str:
    rest = {name: value for name, value in call.items() if name not in ("call", "result")}
    result = "has not returned" if call["result"] is None else call["result"]
    return f"{call['call']} {rest} -> {result}"
