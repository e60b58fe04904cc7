# SPDX-License-Identifier: Apache-2.0
"""Lab: one or two hosts, a card each, one wire; simulated under a seed, or as real processes."""

import errno
import itertools
from pathlib import Path
from typing import Self

from host_driver import control
from host_driver.lab.asking import World
from host_driver.lab.capture import Capture
from host_driver.lab.faults import FaultsHandle
from host_driver.lab.handles import HostHandle, WireHandle
from host_driver.lab.life import PartyDown, PartyState
from host_driver.lab.settings import Settings
from proto.clock import NS
from proto.limits import SETTLE_TIMEOUT_MS
from proto.status import OffloadError

SETTLE_ROUNDS, SETTLE_PAUSE_S = 16, 0.1
WIRE = -1  # beside the numbers of hosts


class Lab:
    """A context manager; inside, `hosts`, `wire` and `faults` are there.

        with Lab(target="sim", hosts=2, card="cx6dx", seed=7) as lab:
            a, b = lab.hosts

    `target`: "sim" (virtual time, one seed) or "process" (ZeroMQ, real time). `card`: a profile
    with overrides (`proto.caps.parse_card`). `profile`: the kernel that the hosts behave like,
    "latest" or "v6.2". `driver`: "package.module:Class" in the reference driver's place.
    `link`: "ipc", or "tcp" for inline packets (with CURVE among processes).
    `run_dir`: where processes keep their sockets; made, used and removed (None: a fresh one).

    Raises OffloadError for arguments that are not offered, and for a lab that does not come up.
    """

    hosts: list[HostHandle]
    wire: WireHandle
    faults: FaultsHandle

    def __init__(
        self,
        target: str = "sim",
        hosts: int = 1,
        card: str = "full",
        profile: str = "latest",
        seed: int = 0,
        driver: str | None = None,
        link: str = "ipc",
        run_dir: Path | str | None = None,
    ) -> None:
        self.settings = Settings(
            target=target,
            hosts=hosts,
            card=card,
            profile=profile,
            seed=seed,
            driver=driver,
            link=link,
            run_dir=None if run_dir is None else Path(run_dir),
        )
        self._world: World | None = None
        self._capture: Capture | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Bring everything up; `with` does it."""
        settings = self.settings
        assert self._world is None, "a lab starts once"
        self._world = world = _make_world(settings)
        try:
            self.hosts = [HostHandle(world, number) for number in range(settings.hosts)]
            self.wire = WireHandle(world, settings.hosts)
            self.faults = FaultsHandle(world, settings.hosts, settings.seed)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End everything and remove every trace. A second call changes nothing."""
        if self._world is not None:
            self._world.close()

    @property
    def run_dir(self) -> Path | None:
        """The run directory of a lab of processes, None in the simulator."""
        return getattr(self._running, "run_dir", None)

    def pids(self) -> dict[str, int]:
        """Process ids by name (card0, host0, ...); empty in the simulator."""
        return dict(getattr(self._running, "pids", {}))

    def state(self, party: str) -> str:
        """Whether a party ("host0", "card1") is "running", "stopped" or "dead"."""
        return self._running.state(party).value

    def now_ns(self) -> int:
        """The lab's time: virtual or real, nanoseconds since the Unix epoch."""
        return self._running.now_ns()

    def advance(self, seconds: float) -> None:
        """Let time pass: at once in the simulator, by waiting with processes.

        Plans of faults are followed on the way.
        """
        world = self._running
        until_ns = world.now_ns() + round(seconds * NS)
        while (moment_ns := self.faults.next_ns()) is not None and moment_ns <= until_ns:
            world.advance(max(0, moment_ns - world.now_ns()) / NS)
            self.faults.catch_up()
        world.advance(max(0, until_ns - world.now_ns()) / NS)

    def settle(self) -> None:
        """Return when nothing moves any more: two equal rounds of questions to everybody who lives.

        Raises OffloadError(ETIMEDOUT) after SETTLE_TIMEOUT_MS with what was still moving.
        """
        world = self._running
        world.run_idle()
        limit_ns = world.now_ns() + SETTLE_TIMEOUT_MS * 1_000_000
        before: object = None
        for rounds in itertools.count():
            if rounds > SETTLE_ROUNDS:
                self.advance(SETTLE_PAUSE_S)  # what moves now waits for something
            moved = {number: self._moved(number) for number in range(len(self.hosts))}
            stopped = self._stopped_cards()
            with world.wire() as wire:
                # The card's index shows frames that are still on their way to the wire.
                arrived = all(
                    values.get("wire", wire.index(number)) == wire.index(number)
                    for number, values in moved.items()
                )
                moved[WIRE] = dict(wire.counters)
                quiet = arrived and wire.quiet(stopped)
            if quiet and moved == before:
                return
            if world.now_ns() > limit_ns:
                raise OffloadError(
                    errno.ETIMEDOUT,
                    f"the lab still moves after {SETTLE_TIMEOUT_MS} ms: {before} -> {moved}",
                )
            before = moved

    def _moved(self, number: int) -> dict[str, int]:
        """What a host says has moved. Who is dead moves nothing; a host with a card that is stopped
        waits for it, and nobody waits for both."""
        if number in self._stopped_cards():
            return {}
        try:
            return self._running.ask(number, control.Quiesce()).values
        except PartyDown:
            return {}

    def _stopped_cards(self) -> list[int]:
        world = self._running
        return [
            host.number
            for host in self.hosts
            if world.state(f"card{host.number}") is PartyState.STOPPED
        ]

    def start_capture(self) -> None:
        """Record the clear side of every host from now on (the wire is recorded always)."""
        self._capture = Capture(self._running, len(self.hosts))

    def capture(self, path: Path | str) -> int:
        """Write what was captured since `start_capture` as pcapng; -> the number of packets."""
        if self._capture is None:
            raise OffloadError(errno.EINVAL, "no capture runs, call start_capture() first")
        return self._capture.write(Path(path))

    def stop_capture(self) -> None:
        """Stop recording the clear side; `capture` can still write it."""
        if self._capture is not None:
            self._capture.stop()

    @property
    def _running(self) -> World:
        if self._world is None:
            raise OffloadError(errno.ESHUTDOWN, "this lab was not started, use it with `with`")
        return self._world


def _make_world(settings: Settings) -> World:
    """The simulator or the processes, imported only when needed: they load different things."""
    if settings.target == "sim":
        from host_driver.lab.sim import SimWorld

        return SimWorld(settings)
    from host_driver.lab.process import ProcessWorld

    return ProcessWorld(settings)
