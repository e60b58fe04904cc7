# SPDX-License-Identifier: Apache-2.0
"""The lab as processes: every card and every host its own, the wire a thread of this one.

    1. run directory, DMA files, link keys          4. cards say HELLO on their wire
    2. compile the kernels, if nobody has yet       5. hosts start and dial; HELLO on control
    3. cards start and bind their links             6. the wire begins to carry frames

Every wait also watches the children's pidfds, so a death is noticed at once: PeerDied names the
process, and everything else is ended and removed before it is raised.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from host_driver.control import Answer, AnyQuery
from host_driver.lab.asking import A, PeerDied, checked, encode_ask, find_answer, no_answer
from host_driver.lab.child import Child
from host_driver.lab.rundir import RunDir
from host_driver.lab.settings import Settings, mac_of
from host_driver.lab.warm import warm_kernels
from host_driver.lab.wire import Wire
from host_driver.lab.wire_thread import WireThread
from proto import management
from proto.caps import parse_card
from proto.clock import NS, RealClock
from proto.frame import FrameError, Kind, pack, unpack
from proto.hello import Hello, decode_hello
from proto.limits import CONTROL_TIMEOUT_MS, HELLO_TIMEOUT_MS, TERMINATE_TIMEOUT_MS
from proto.link.curve import write_keypair
from proto.link.dma import Dma
from proto.link.zmq import LINK_CHANNELS, Endpoint, Hub, Poller
from proto.status import OffloadError


class ProcessWorld:
    """A lab of processes (`host_driver.lab.asking.World`)."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clock = RealClock()
        self._children: list[Child] = []
        self._controls: list[Endpoint] = []
        self._card_controls: list[Endpoint] = []
        self._thread: WireThread | None = None
        self._asked = 0
        self._over: OffloadError | None = None
        self._run_dir = RunDir(settings.run_dir)
        self._hub = Hub()
        try:
            self._start()
        except BaseException:
            if self._over is None:
                self._end(grace_ms=0)
            raise

    @property
    def run_dir(self) -> Path:
        """Where sockets, DMA files and logs are."""
        return self._run_dir.path

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name: card0, host0, ..."""
        return {child.name: child.pid for child in self._children}

    # --- World ---

    def ask(self, host: int, query: AnyQuery) -> Answer:
        """Ask over the control socket; bounded by CONTROL_TIMEOUT_MS."""
        return self._exchange(self._controls[host], f"host{host}", query, Answer)

    def ask_card(self, card: int, request: management.AnyRequest) -> Any:
        """As `ask`, past the host."""
        control = self._card_controls[card]
        return self._exchange(control, f"card{card}", request, management.Answer).value

    def _exchange(
        self,
        control: Endpoint,
        party: str,
        query: AnyQuery | management.AnyRequest,
        kind: type[A],
    ) -> A:
        self._check()
        self._asked += 1
        control.send(encode_ask(self._asked, query))
        deadline_ns = self.now_ns() + CONTROL_TIMEOUT_MS * 1_000_000
        while True:
            if not self._wait([control], deadline_ns):
                raise no_answer(party, query)
            if answer := find_answer(control.receive(), self._asked, kind):
                return checked(answer)

    @contextmanager
    def wire(self) -> Iterator[Wire]:
        """The wire, locked; what was done to it takes effect when the lock is given back."""
        self._check()
        assert self._thread is not None
        with self._thread.lock:
            yield self._thread.wire
        self._thread.kick()

    def advance(self, seconds: float) -> None:
        """Wait, but not past the death of a process."""
        self._check()
        self._wait([], self.now_ns() + round(seconds * NS))

    def run_idle(self) -> None:
        """Processes run by themselves."""

    def now_ns(self) -> int:
        """Real time."""
        return self._clock.now_ns()

    def close(self) -> None:
        """Say goodbye, wait, make sure, remove."""
        if self._over is None:
            self._over = OffloadError(errno.ESHUTDOWN, "this lab is closed")
            self._end(TERMINATE_TIMEOUT_MS)

    # --- start ---

    def _start(self) -> None:
        settings, path = self._settings, self.run_dir
        hosts = range(settings.hosts)
        warm_kernels()
        wires = [self._hub.bind(f"ipc://{path}/wire{number}") for number in hosts]
        self._controls = [self._hub.bind(f"ipc://{path}/control{number}") for number in hosts]
        self._card_controls = [self._hub.bind(self._card_control(number)) for number in hosts]
        for number in hosts:
            self._spawn(f"card{number}", "nic_model", self._card_arguments(number))
        hellos = [self._hello(wires[number], f"card{number}") for number in hosts]
        for number in hosts:
            self._check_caps(hellos[number])
            arguments = self._host_arguments(number, hellos[number])
            self._spawn(f"host{number}", "host_driver", arguments)
        for number in hosts:
            self._hello(self._controls[number], f"host{number}")
        wire = Wire(settings.hosts)
        for number in hosts:
            wire.attach(number, hellos[number].boot)
        self._thread = WireThread(wire, wires, self._clock)

    def _spawn(self, name: str, module: str, arguments: list[str]) -> None:
        self._children.append(Child(name, module, arguments, self.run_dir / f"{name}.log"))

    def _card_arguments(self, number: int) -> list[str]:
        """No seed: it would make the IVs of two labs alike, and both may be given one key."""
        path = self.run_dir
        arguments = ["--name", f"card{number}", "--card", self._settings.card]
        arguments += ["--wire", f"ipc://{path}/wire{number}", "--mac", mac_of(number).hex(":")]
        arguments += ["--control", self._card_control(number)]
        if self._settings.link == "tcp":
            card_secret, _ = write_keypair(path, f"card{number}")
            _, host_public = write_keypair(path, f"host{number}")
            arguments += ["--link", "tcp://127.0.0.1:0"]
            arguments += ["--curve-secret", str(card_secret), "--curve-peer", str(host_public)]
        else:
            Dma.create(path / f"dma{number}")
            arguments += self._local_link(number)
        return arguments

    def _host_arguments(self, number: int, card: Hello) -> list[str]:
        settings, path = self._settings, self.run_dir
        arguments = ["--name", f"host{number}", "--control", f"ipc://{path}/control{number}"]
        arguments += ["--mac", mac_of(number).hex(":"), "--peer-mac", mac_of(1 - number).hex(":")]
        arguments += ["--seed", str(settings.seed * 4 + 2 + number), "--profile", settings.profile]
        if settings.driver is not None:
            arguments += ["--driver", settings.driver]
        if settings.link == "tcp":
            names = [channel.name.lower() for channel in LINK_CHANNELS]
            link = ",".join(f"{name}={card.endpoints[name]}" for name in names)
            arguments += ["--link", link, "--curve-secret", str(path / f"host{number}.secret")]
            arguments += ["--curve-peer", str(path / f"card{number}.public")]
        else:
            arguments += self._local_link(number)
        return arguments

    def _card_control(self, number: int) -> str:
        return f"ipc://{self.run_dir}/cardcontrol{number}"

    def _local_link(self, number: int) -> list[str]:
        """Where card and host of one machine meet: sockets and DMA file in the run directory."""
        path = self.run_dir
        return ["--link", f"ipc://{path}/card{number}", "--dma", str(path / f"dma{number}")]

    def _hello(self, endpoint: Endpoint, name: str) -> Hello:
        """The HELLO of one child. Raises OffloadError(ETIMEDOUT, EPROTO), PeerDied."""
        deadline_ns = self.now_ns() + HELLO_TIMEOUT_MS * 1_000_000
        if not self._wait([endpoint], deadline_ns):
            raise OffloadError(errno.ETIMEDOUT, f"{name} sent no HELLO in {HELLO_TIMEOUT_MS} ms")
        try:
            message = unpack(endpoint.receive()[0])
            if message.kind is not Kind.HELLO:
                raise FrameError(f"its first message is {message.kind.name}")
            return decode_hello(message.body)
        except ValueError as error:
            raise OffloadError(errno.EPROTO, f"{name} said no proper HELLO: {error}") from None

    def _check_caps(self, hello: Hello) -> None:
        wanted = parse_card(self._settings.card)
        if hello.caps != wanted:
            raise OffloadError(
                errno.EPROTO, f"{hello.name} came up with {hello.caps}, asked for was {wanted}"
            )

    # --- waiting and ending ---

    def _check(self) -> None:
        """Raise PeerDied if a process has ended, or what ended this lab before."""
        if self._over is not None:
            raise self._over
        for child in self._children:
            if child.ended():
                self._fail(child)
        if self._thread is not None and not self._thread.is_alive():
            raise OffloadError(errno.EIO, "the wire's thread has ended")

    def _wait(self, endpoints: list[Endpoint], deadline_ns: int) -> bool:
        """Whether one of `endpoints` became readable before the deadline."""
        poller = Poller(endpoints, [child.pidfd for child in self._children])
        while (left_ns := deadline_ns - self.now_ns()) > 0:
            ready = poller.wait(-(-left_ns // 1_000_000))
            self._check()
            if any(endpoint in ready for endpoint in endpoints):
                return True
        return False

    def _fail(self, child: Child) -> NoReturn:
        self._over = PeerDied(child.epitaph())
        self._end(grace_ms=0)
        raise self._over

    def _end(self, grace_ms: int) -> None:
        """End the children, with a goodbye if there is time for one, and remove everything."""
        if self._thread is not None:
            wires = self._thread.stop()
            if grace_ms:
                for endpoint in (*self._controls, *wires):
                    endpoint.send(pack(Kind.TERMINATE))
        Child.end_all(self._children, grace_ms / 1000)
        self._hub.close()
        self._run_dir.remove()
