# SPDX-License-Identifier: Apache-2.0
"""A scripted card behind a real mailbox, and a driver context without core or rings."""

import itertools
from collections import Counter, deque

import msgspec
import pytest

from host_driver.driver.context import DriverContext
from host_driver.driver.mailbox import Mailbox
from host_driver.driver.reference import ReferenceDriver
from host_driver.driver.sa import SaTable
from host_driver.netdev import NetDevice
from host_driver.ops import Extack
from host_driver.sleep import Completion, Scheduler, may_sleep
from host_driver.xfrm.policy import XfrmPolicy
from host_driver.xfrm.state import Aead, DevOffload, KmState, XfrmState
from proto import commands as c
from proto.caps import Caps
from proto.frame import unpack
from proto.status import Status
from proto.xfrm import AF_INET, IPPROTO_ESP, POLICY_OUT
from proto.xfrm_structs import UserTmpl, XfrmId, XfrmSelector

KEY = bytes(range(0x30, 0x44))  # AES-128 and a salt of 4 bytes
A4, B4 = bytes((10, 0, 0, 1)) + bytes(12), bytes((10, 0, 0, 2)) + bytes(12)
CREATES = (c.CreateKey, c.CreateSa, c.CreateSaRule, c.CreatePolicyRule)
DESTROYS = (c.DestroyKey, c.DestroySa, c.DestroyRule)


class FakeCard:
    """Answers by script, else with OK and a new handle. It executes a token once.

    `lose` holds names of commands whose next reply gets lost; `refuse` statuses by name, one for
    each time; `script` fields of replies by name. Not `announced`: interrupts get lost. `undead`
    lets destroys do nothing and say OK; the card gives a handle in use for an object of the kind
    `alias`, and says no to one of the kind `liar` although it makes it.
    """

    def __init__(self, transmit_to) -> None:
        self.replied = transmit_to
        self.log: list[str] = []
        self.commands: list[c.AnyCommand] = []
        self.live: dict[int, str] = {}
        self.cookies: dict[int, int] = {}
        self.uses: dict[int, object] = {}
        self.lose: list[str] = []
        self.refuse: dict[str, list[Status]] = {}
        self.sa_state = None
        self.silent = False
        self.announced = True
        self.script: dict[str, dict[str, object]] = {}
        self.inbox_last = b""
        self.undead = False
        self.alias = self.liar = ""
        self._handles = itertools.count(1)
        self._answered: dict[int, c.Reply] = {}
        self.inbox: deque[bytes] = deque()
        self.last_reply = b""

    def run(self) -> bool:
        """Execute everything that waits; whether there was anything."""
        worked = bool(self.inbox)
        while self.inbox:
            self._execute(self.inbox.popleft())
        return worked

    def _execute(self, raw: bytes) -> None:
        request = msgspec.msgpack.decode(unpack(raw).body, type=c.Request)
        name = type(request.command).__name__
        self.inbox_last = raw
        if self.silent:
            return
        if request.token not in self._answered:
            self.log.append(name)
            self.commands.append(request.command)
            self._answered[request.token] = self._answer(request, name)
        if name in self.lose:
            self.lose.remove(name)
            return
        self.last_reply = msgspec.msgpack.encode(self._answered[request.token])
        self.replied(self.last_reply, self.announced)

    @staticmethod
    def name_of(raw: bytes) -> str:
        """The command of a message."""
        request = msgspec.msgpack.decode(unpack(raw).body, type=c.Request)
        return type(request.command).__name__

    def _answer(self, request: c.Request, name: str) -> c.Reply:
        command, token = request.command, request.token
        if self.refuse.get(name):
            status = self.refuse[name].pop(0)
            return c.Reply(token, status, 0x1234, f"card refuses {name}")
        if name in self.script:
            return c.Reply(token, **self.script[name])
        if isinstance(command, CREATES):
            handle = next(self._handles)
            self.live[handle] = name
            self.cookies[handle] = command.cookie
            self.uses[handle] = getattr(command, "sa", getattr(command, "key", 0))
            if name == self.liar:
                return c.Reply(token, Status.INTERNAL_ERROR)
            if name == self.alias:
                handle = next(one for one, kind in self.live.items() if kind == name)
            return c.Reply(token, handle=handle, generation=handle + 100)
        if isinstance(command, DESTROYS) and self.undead:
            return c.Reply(token)
        if isinstance(command, DESTROYS) and self.live.pop(command.handle, None) is None:
            return c.Reply(token, Status.BAD_OBJECT)
        if isinstance(command, c.QuerySa):
            return c.Reply(token, sa=self.sa_state)
        if isinstance(command, c.QueryCaps):
            return c.Reply(token, caps=Caps(name="fake"))
        if isinstance(command, c.ListObjects):
            return self._list(token, command)
        if isinstance(command, c.QueryCensus | c.QueryCounters | c.Fence):
            return c.Reply(token, values={"one": 1})
        return c.Reply(token)

    def plant(self, name: str, cookie: int) -> int:
        """An object that nobody asked for."""
        handle = next(self._handles)
        self.live[handle], self.cookies[handle] = name, cookie
        return handle

    def vanish(self, name: str) -> None:
        """The card loses its first object of a kind."""
        del self.live[next(handle for handle, kind in self.live.items() if kind == name)]

    def _used_by(self, handle: int) -> int:
        used = self.uses.get(handle, 0)
        return used if isinstance(used, int) else 0

    def _list(self, token: int, command: c.ListObjects) -> c.Reply:
        kinds = dict(zip(CREATES, (1, 2, 3, 3), strict=True))
        kind_of = {one.__name__: kind for one, kind in kinds.items()}
        found = tuple(
            c.ObjectInfo(handle, handle + 100, self.cookies[handle], self._used_by(handle))
            for handle, name in self.live.items()
            if kind_of[name] == command.kind and command.cookie in (0, self.cookies[handle])
        )
        return c.Reply(token, values={"next": 0}, objects=found)


class Bench:
    """Scheduler, mailbox, card and driver on one table; time moves by `wait_ms`."""

    def __init__(self, caps: Caps) -> None:
        self.now_ns = 1_700_000_000 * 10**9
        self.counters: Counter[str] = Counter()
        self.sched = Scheduler()
        self.mailbox = Mailbox(self._transmit, self.counters)
        self.mailbox.now_ns = self.now_ns
        self.card = FakeCard(self.mailbox.replied)
        self.drains: list[Completion] = []
        self.mib: Counter[str] = Counter()
        self.expire_calls: list[XfrmState] = []
        self.expire_hook = lambda x: None
        self.dev = NetDevice("nic0", start_xmit=lambda skb: 0)
        self.expired: list[XfrmState] = []
        self.context = DriverContext(
            dev=self.dev,
            mailbox=self.mailbox,
            sas=SaTable(),
            caps=caps,
            now_ns=lambda: self.now_ns,
            spawn=self.sched.spawn,
            xfrm_state_check_expire=self._check_expire,
            xfrm_state_expire=self._expire,
            netif_rx=lambda skb: None,
            tx_drained=self._tx_drained,
            xfrm_add_stats=lambda name, count: self.mib.update({name: count}),
            counters=self.counters,
        )
        self.driver = ReferenceDriver(self.context)
        self.results: dict[str, object] = {}

    def _tx_drained(self) -> Completion:
        self.drains.append(Completion())
        return self.drains[-1]

    def _transmit(self, message: bytearray, command: c.AnyCommand) -> None:
        self.card.inbox.append(bytes(message))

    def _expire(self, x: XfrmState) -> None:
        self.expired.append(x)

    def _check_expire(self, x: XfrmState) -> int:
        self.expire_calls.append(x)
        self.expire_hook(x)
        return 0

    def run(self) -> None:
        """Until neither tasks nor card move."""
        self.sched.run(self.now_ns)
        while self.card.run():
            self.sched.run(self.now_ns)

    def wait_ms(self, milliseconds: int) -> None:
        """Let time pass, then everything happen."""
        self.now_ns += milliseconds * 1_000_000
        self.mailbox.expire(self.now_ns)
        self.run()

    def start(self, name: str, value: object) -> None:
        """Run a callback's result as a task; its end is found in `results[name]`."""

        def task():
            self.results[name] = yield from may_sleep(value)

        self.sched.spawn(task())
        self.run()

    def add(self, x: XfrmState, extack: Extack | None = None) -> object:
        """xdo_dev_state_add to its end, as far as the card answers."""
        self.results.pop("add", None)
        self.start("add", self.driver.xdo_dev_state_add(self.dev, x, extack or Extack()))
        return self.results.get("add")

    def free(self, x: XfrmState) -> bool:
        """Delete and free; whether free has returned."""
        self.driver.xdo_dev_state_delete(self.dev, x)
        self.start("free", self.driver.xdo_dev_state_free(self.dev, x))
        return "free" in self.results


@pytest.fixture
def caps() -> Caps:
    return Caps(name="test", espinudp=True)


@pytest.fixture
def bench(caps: Caps) -> Bench:
    return Bench(caps)


@pytest.fixture
def make_bench():
    """A bench of another card."""
    return Bench


@pytest.fixture
def make_state():
    """A validated outbound packet-offload SA; keywords change attributes."""

    def make(spi: int = 0x1000, direction: int = c.OUT, **changes) -> XfrmState:
        x = XfrmState(id=XfrmId(B4, spi, IPPROTO_ESP))
        x.props.family, x.props.saddr, x.props.reqid = AF_INET, A4, 7
        x.aead = Aead("rfc4106(gcm(aes))", bytearray(KEY), 128, 160)
        x.xso = DevOffload(None, 0, direction, 2)
        x.km.state = KmState.VALID
        for name, value in changes.items():
            setattr(x, name, value)
        return x

    return make


@pytest.fixture
def make_policy():
    """An outbound packet-offload policy with one ESP transport template."""

    def make(direction: int = POLICY_OUT, **changes) -> XfrmPolicy:
        selector = XfrmSelector(daddr=B4, family=AF_INET, prefixlen_d=32)
        xp = XfrmPolicy(selector, priority=10, dir=direction, family=AF_INET)
        xp.xfrm_vec = [UserTmpl(XfrmId(bytes(16), 0, IPPROTO_ESP), AF_INET, reqid=7)]
        xp.xdo = DevOffload(None, 0, direction + 1, 2)
        for name, value in changes.items():
            setattr(xp, name, value)
        return xp

    return make
