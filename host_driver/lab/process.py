# SPDX-License-Identifier: Apache-2.0
"""The lab as processes: every card and every host its own, the wire a thread of this one.

    1. run directory, DMA files, link keys          4. cards say HELLO on their wire
    2. compile the kernels, if nobody has yet       5. hosts start and dial; HELLO on control
    3. cards start and bind their links             6. the wire begins to carry frames

Every wait but that for a template also watches the children's pidfds, so a death is noticed at
once. One that the lab or a fault wanted is a state of the party (`lab.life`); by any other PeerDied
names the process, and everything else is ended and removed before it is raised.
"""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from host_driver.control import Answer, AnyQuery
from host_driver.lab.asking import A, PeerDied, checked, encode_ask, find_answer, no_answer
from host_driver.lab.child import Child
from host_driver.lab.launch import Launcher
from host_driver.lab.life import PartyDown, PartyState, after
from host_driver.lab.rundir import RunDir
from host_driver.lab.settings import Settings
from host_driver.lab.warm import warm_kernels
from host_driver.lab.wire import Wire
from host_driver.lab.wire_thread import WireThread
from nic_model.life_faults import CRASHED
from proto import management
from proto.caps import parse_card
from proto.clock import NS, RealClock
from proto.frame import FrameError, Kind, pack, unpack
from proto.hello import Hello, decode_hello
from proto.limits import CONTROL_TIMEOUT_MS, HELLO_TIMEOUT_MS, TERMINATE_TIMEOUT_MS
from proto.link.zmq import Endpoint, Hub, Poller
from proto.status import OffloadError

_NS_PER_MS = 1_000_000
DIAL_NS = 20 * _NS_PER_MS  # between tries to reach a party that is not there yet


class ProcessWorld:
    """A lab of processes (`host_driver.lab.asking.World`)."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clock = RealClock()
        self._children: dict[str, Child] = {}  # those that live
        self._states: dict[str, PartyState] = {}
        self._controls: dict[str, Endpoint] = {}
        self._thread: WireThread | None = None
        self._asked = 0
        self._over: OffloadError | None = None
        self._run_dir = RunDir(settings.run_dir)
        self._hub = Hub()
        try:
            self._launcher = Launcher(settings, self.run_dir)
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
        """Process ids of those that live, by name: card0, host0, ..."""
        return {name: child.pid for name, child in self._children.items()}

    # --- World ---

    def ask(self, host: int, query: AnyQuery) -> Answer:
        """Ask over the control socket; bounded by CONTROL_TIMEOUT_MS."""
        return self._exchange(f"host{host}", query, Answer)

    def ask_card(self, card: int, request: management.AnyRequest) -> Any:
        """As `ask`, past the host."""
        return self._exchange(f"card{card}", request, management.Answer).value

    def _exchange(self, party: str, query: AnyQuery | management.AnyRequest, kind: type[A]) -> A:
        self._check()
        if self._states[party] is not PartyState.RUNNING:
            raise PartyDown(party, self._states[party])
        self._asked += 1
        control = self._controls[party]
        deadline_ns = self.now_ns() + CONTROL_TIMEOUT_MS * _NS_PER_MS
        while not control.send(encode_ask(self._asked, query)):  # it has not dialled yet
            if self.now_ns() >= deadline_ns:
                raise no_answer(party, query)
            self._wait([], self.now_ns() + DIAL_NS)
        while self._wait([control], deadline_ns) or self.now_ns() < deadline_ns:
            if answer := find_answer(control.receive(), self._asked, kind):
                return checked(answer)
            if self._states[party] is not PartyState.RUNNING:
                raise PartyDown(party, self._states[party])
        raise no_answer(party, query)

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
        until_ns = self.now_ns() + round(seconds * NS)
        while self.now_ns() < until_ns:
            self._wait([], until_ns)

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

    # --- life and death ---

    def tell(self, party: str, request: management.AnyRequest) -> None:
        """Say something to a party that is stopped: it hears it when it goes on."""
        self._asked += 1
        self._controls[party].send(encode_ask(self._asked, request))

    def state(self, party: str) -> PartyState:
        """Whether a party ("host0", "card1") runs."""
        self._check()
        return self._states[party]

    def live(self, party: str, verb: str, card: str | None = None) -> None:
        """Kill, stop, resume or restart a party; a card may come back as another one. Returns when
        it is so; a host that is started again probes its card in its own time."""
        self._check()
        state = after(party, self._states[party], verb)
        if verb == "stop":
            self._children[party].stop()
        elif verb == "resume":
            self._children[party].resume()
        elif party in self._children:
            self._states[party] = PartyState.DEAD
            self._buried(party)
        if verb == "restart":
            self._begin(party, card)
        self._states[party] = state

    def _buried(self, party: str) -> None:
        """Nothing of a process is left, and the link of a card is down."""
        self._children.pop(party).kill()
        if party.startswith("card") and self._thread is not None:
            with self._thread.lock:
                self._thread.wire.detach(int(party[4:]))
            self._thread.kick()

    def _begin(self, party: str, card: str | None) -> None:
        number = int(party[4:])
        if party.startswith("host"):
            self._controls[party].receive()  # of the last life
            self._children[party] = self._launcher.host(number)
            self._hello(self._controls[party], party)
            return
        wanted = card or self._settings.card
        parse_card(wanted)
        assert self._thread is not None
        with self.wire() as wire:
            before = wire.greetings(number)
        self._children[party] = self._launcher.card(number, wanted)
        deadline_ns = self.now_ns() + HELLO_TIMEOUT_MS * _NS_PER_MS
        while self.now_ns() < deadline_ns:
            with self.wire() as wire:
                if wire.greetings(number) != before:
                    return
            if self._wait([], deadline_ns, [self._thread.greeted]):
                self._thread.forget_greeting()
        raise _no_hello(party)

    # --- start ---

    def _start(self) -> None:
        hosts = range(self._settings.hosts)
        warm_kernels()
        self._launcher.prepare()
        wires = [self._hub.bind(self._launcher.wire(number)) for number in hosts]
        for party in [f"{kind}{number}" for kind in ("host", "card") for number in hosts]:
            self._controls[party] = self._hub.bind(self._launcher.control(party))
        for number in hosts:
            self._children[f"card{number}"] = self._launcher.card(number, self._settings.card)
        wire = Wire(self._settings.hosts)
        for number in hosts:
            hello = self._hello(wires[number], f"card{number}")
            self._check_caps(hello)
            self._launcher.bound(number, hello)
            wire.attach(number, hello.boot)
        for number in hosts:
            self._children[f"host{number}"] = self._launcher.host(number)
        for number in hosts:
            self._hello(self._controls[f"host{number}"], f"host{number}")
        self._states = dict.fromkeys(self._children, PartyState.RUNNING)
        self._thread = WireThread(wire, wires, self._clock)

    def _hello(self, endpoint: Endpoint, name: str) -> Hello:
        """The HELLO of one child. Raises OffloadError(ETIMEDOUT, EPROTO), PeerDied."""
        deadline_ns = self.now_ns() + HELLO_TIMEOUT_MS * _NS_PER_MS
        while not self._wait([endpoint], deadline_ns):
            if self.now_ns() >= deadline_ns:
                raise _no_hello(name)
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
        """Raise PeerDied if a process has ended by itself, or what ended this lab before."""
        if self._over is not None:
            raise self._over
        for name, child in [*self._children.items()]:
            if not child.ended():
                continue
            if child.status != CRASHED:
                self._fail(child)
            self._states[name] = PartyState.DEAD  # a fault wanted it
            self._buried(name)
        if self._thread is not None and not self._thread.is_alive():
            raise OffloadError(errno.EIO, "the wire's thread has ended")

    def _wait(
        self, endpoints: list[Endpoint], deadline_ns: int, handles: Sequence[int] = ()
    ) -> bool:
        """Whether one of `endpoints` or `handles` became readable; False at the deadline, and when
        a fault has ended a process meanwhile."""
        while (left_ns := deadline_ns - self.now_ns()) > 0:
            pidfds = [child.pidfd for child in self._children.values()]
            ready = Poller(endpoints, [*pidfds, *handles]).wait(-(-left_ns // _NS_PER_MS))
            self._check()
            if any(one in ready for one in (*endpoints, *handles)):
                return True
            if len(pidfds) != len(self._children):
                return False
        return False

    def _fail(self, child: Child) -> NoReturn:
        self._over = PeerDied(child.epitaph())
        self._end(grace_ms=0)
        raise self._over

    def _end(self, grace_ms: int) -> None:
        """End the children, with a goodbye if there is time for one, and remove everything."""
        children = list(self._children.values())
        for child in children:
            child.resume()  # one that is stopped hears nothing
        if self._thread is not None:
            wires = self._thread.stop()
            if grace_ms:
                for endpoint in (*self._controls.values(), *wires):
                    endpoint.send(pack(Kind.TERMINATE))
        Child.end_all(children, grace_ms / 1000)
        self._hub.close()
        self._run_dir.remove()


def _no_hello(name: str) -> OffloadError:
    return OffloadError(errno.ETIMEDOUT, f"{name} sent no HELLO in {HELLO_TIMEOUT_MS} ms")
