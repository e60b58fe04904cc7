# SPDX-License-Identifier: Apache-2.0
"""The reference driver on a real card behind a mailbox that loses, doubles, delays and lies.

The model knows what the user was told: an add that said 0 is there, one that said anything else is
not, and what was freed is gone. While the mailbox misbehaves the card may hold more than that,
never less. Once it behaves, and some time has passed, the card holds exactly that: nothing that a
lost reply, a doubled command or a failed undo left behind.
"""

import errno
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from host_driver.ops import Extack
from host_driver.xfrm.policy import XfrmPolicy
from host_driver.xfrm.state import (
    OFFLOAD_CRYPTO,
    OFFLOAD_PACKET,
    Aead,
    DevOffload,
    KmState,
    XfrmState,
)
from nic_model.firmware import Firmware
from proto import commands as c
from proto.caps import parse_card
from proto.frame import Channel, unpack
from proto.link.dma import Dma
from proto.status import OffloadError, Status, Syndrome
from proto.xfrm import AF_INET, IPPROTO_ESP, POLICY_IN, POLICY_OUT
from proto.xfrm_structs import UserTmpl, XfrmId, XfrmSelector
from unit.driver.conftest import Bench

CAPS = parse_card("full:key_max=6,sa_max=6,rule_max=8")
NEAR, FAR = (bytes((10, 0, 0, last)) + bytes(12) for last in (1, 2))
SPIS = tuple(range(0x1000, 0x1008))
PATIENCE_MS, TICK_MS = 60_000, 500
HEALING_S = 130  # two intervals of audits

# What may happen to the next command, and to the next reply.
COMMAND_FATES = ("lose", "double", "late")
REPLY_FATES = ("lose", "double", "late", "cut", "wrong token", "says failed", "says busy")


class MangledCard:
    """A firmware behind a pipe; `fates` say what happens to the messages that come next."""

    def __init__(self, firmware: Firmware, bench: "CardBench") -> None:
        self.firmware = firmware
        self.bench = bench
        self.inbox: deque[bytes] = deque()
        self.commands: deque[str] = deque()
        self.replies: deque[str] = deque()
        self.held: list[bytes] = []
        self.held_replies: list[bytes] = []
        self.silent = False

    def run(self) -> bool:
        """Everything that waits; whether there was anything."""
        worked = bool(self.inbox)
        while self.inbox:
            raw = self.inbox.popleft()
            if self.silent:
                continue
            fate = self.commands.popleft() if self.commands else ""
            if fate == "late":
                self.held.append(raw)
            elif fate != "lose":
                for _ in range(1 + (fate == "double")):
                    self.execute(raw)
        return worked

    def execute(self, raw: bytes) -> None:
        for channel, message in self.firmware.step(0, [(Channel.MAILBOX, bytearray(raw))]):
            if channel is Channel.MAILBOX:
                self.reply(bytes(unpack(message).body))

    def reply(self, body: bytes) -> None:
        fate = self.replies.popleft() if self.replies else ""
        reply = msgspec.msgpack.decode(body, type=c.Reply)
        if fate == "late":
            self.held_replies.append(body)
            return
        if fate == "lose":
            return
        if fate == "wrong token":
            reply = msgspec.structs.replace(reply, token=reply.token + 32 * 1000)
        if fate == "says failed":
            reply = msgspec.structs.replace(
                reply, status=Status.INTERNAL_ERROR, syndrome=Syndrome.NONE, text="stumbled"
            )
        if fate == "says busy":
            reply = msgspec.structs.replace(reply, status=Status.OBJECT_BUSY, text="not now")
        body = msgspec.msgpack.encode(reply)
        if fate == "cut":
            body = body[: len(body) // 2]
        for _ in range(1 + (fate == "double")):
            self.bench.mailbox.replied(body)

    def let_go(self) -> None:
        """What was held comes now."""
        held, self.held = self.held, []
        late, self.held_replies = self.held_replies, []
        for raw in held:
            self.execute(raw)
        for body in late:
            self.bench.mailbox.replied(body)

    def heal(self) -> None:
        self.commands.clear()
        self.replies.clear()
        self.silent = False


class CardBench(Bench):
    """The bench of the driver's tests with a real card."""

    def __init__(self) -> None:
        super().__init__(CAPS)
        self.epoch = 0
        self.card = MangledCard(self.new_firmware(), self)
        self.take()

    def new_firmware(self) -> Firmware:
        firmware = Firmware("card0", CAPS, Dma.private(), random.Random(self.epoch), bytes(6))
        firmware.step(0, [])
        return firmware

    def take(self) -> None:
        """What the host does at a probe."""
        self.epoch += 1
        self.mailbox.begin(self.epoch)
        self.start("init", self.mailbox.execute(c.InitFunction(self.epoch)))
        assert "init" in self.results

    def tick(self, milliseconds: int) -> None:
        self.wait_ms(milliseconds)
        if self.driver.needs_reconcile():
            self.driver.reconcile()
            self.run()


@dataclass(eq=False)
class Made:
    """An SA or policy that the user has, or is giving back."""

    thing: Any
    name: str
    extack: Extack = field(default_factory=Extack)

    @property
    def rule(self) -> bool:
        """Whether a rule of the card steers to it: not to an outbound SA of crypto offload."""
        xso = self.thing.xso
        return not (xso.type == OFFLOAD_CRYPTO and xso.dir == c.OUT)


class DriverMachine(RuleBasedStateMachine):
    """One driver, one card."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = CardBench()
        self.sas: list[Made] = []
        self.policies: list[Made] = []
        self.calls = 0
        self.disturbed = False

    # --- running callbacks ---

    def call(self, value: object) -> object:
        """Run a callback to its end, which comes within PATIENCE_MS whatever the card does."""
        self.calls += 1
        name = f"call {self.calls}"
        self.bench.start(name, value)
        waited = 0
        while name not in self.bench.results:
            assert waited < PATIENCE_MS, f"{name} does not end (INV-46)"
            self.bench.tick(TICK_MS)
            waited += TICK_MS
        return self.bench.results[name]

    # --- the mailbox misbehaves ---

    @rule(fates=st.lists(st.sampled_from(COMMAND_FATES), min_size=1, max_size=3),
          good=st.integers(0, 2))  # fmt: skip
    def disturb_commands(self, fates: list[str], good: int) -> None:
        self.bench.card.commands += [""] * good + fates
        self.disturbed = True

    @rule(fates=st.lists(st.sampled_from(REPLY_FATES), min_size=1, max_size=3),
          good=st.integers(0, 2))  # fmt: skip
    def disturb_replies(self, fates: list[str], good: int) -> None:
        self.bench.card.replies += [""] * good + fates
        self.disturbed = True

    @rule(silent=st.booleans())
    def silence(self, silent: bool) -> None:
        self.bench.card.silent = silent
        self.disturbed = self.disturbed or silent

    @rule()
    def late_ones_come(self) -> None:
        self.bench.card.let_go()
        self.bench.run()

    @rule(seconds=st.sampled_from((1, 3, 10)))
    def time_passes(self, seconds: int) -> None:
        for _ in range(seconds):
            self.bench.tick(1000)

    # --- SAs and policies ---

    @rule(
        spi=st.sampled_from(SPIS), direction=st.sampled_from((c.IN, c.OUT)),
        kind=st.sampled_from((OFFLOAD_PACKET, OFFLOAD_PACKET, OFFLOAD_CRYPTO)),
        fault=st.none() | st.integers(1, 6),
    )  # fmt: skip
    def add_sa(self, spi: int, direction: int, kind: int, fault: int | None) -> None:
        """`fault`: a step of the add fails in the host (F-CTL-16)."""
        if any(made.thing.id.spi == spi for made in self.sas):
            return  # the core refuses those
        x = XfrmState(id=XfrmId(FAR, spi, IPPROTO_ESP))
        x.props.family, x.props.saddr, x.props.reqid = AF_INET, NEAR, 7
        x.aead = Aead("rfc4106(gcm(aes))", bytearray(range(20)), 128, 160)
        x.xso = DevOffload(None, 0, direction, kind)
        x.km.state = KmState.VALID
        made = Made(x, f"SA {spi:#x}")
        self.steps_fail(fault)
        answer = self.call(self.bench.driver.xdo_dev_state_add(self.bench.dev, x, made.extack))
        self.steps_fail(None)
        self.judge(made, answer, self.sas, fault)

    @rule(prefix=st.integers(1, 32), inward=st.booleans(), fault=st.none() | st.integers(1, 3))
    def add_policy(self, prefix: int, inward: bool, fault: int | None) -> None:
        selector = XfrmSelector(daddr=FAR, family=AF_INET, prefixlen_d=prefix)
        direction = POLICY_IN if inward else POLICY_OUT
        xp = XfrmPolicy(selector, priority=prefix, dir=direction, family=AF_INET)
        xp.xfrm_vec = [UserTmpl(XfrmId(bytes(16), 0, IPPROTO_ESP), AF_INET, reqid=7)]
        xp.xdo = DevOffload(None, 0, direction + 1, OFFLOAD_PACKET)
        made = Made(xp, f"policy /{prefix}")
        self.steps_fail(fault)
        answer = self.call(self.bench.driver.xdo_dev_policy_add(xp, made.extack))
        self.steps_fail(None)
        self.judge(made, answer, self.policies, fault)

    def steps_fail(self, nth: int | None) -> None:
        left = [nth or 0]

        def step(call: str, step: str) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise OffloadError(errno.ENOMEM, f"{call}: {step} fails")

        self.bench.context.step = step

    def judge(self, made: Made, answer: object, there: list[Made], fault: int | None) -> None:
        assert isinstance(answer, int) and answer <= 0
        if answer:
            assert made.extack.msg, f"{made.name} was refused with {answer} and no word"
        else:
            there.append(made)
        if not self.disturbed and fault is None:
            full = len(self.sas) >= CAPS.sa_max or self.steered() >= CAPS.rule_max
            assert answer in (0, -errno.ENOSPC) and (answer == 0 or full)

    def steered(self) -> int:
        return sum(made.rule for made in self.sas) + len(self.policies)

    @precondition(lambda self: self.sas)
    @rule(which=st.integers(0, 20))
    def delete_sa(self, which: int) -> None:
        made = self.sas.pop(which % len(self.sas))
        self.free(made)

    def free(self, made: Made) -> None:
        driver = self.bench.driver
        driver.xdo_dev_state_delete(self.bench.dev, made.thing)
        for drain in self.bench.drains:
            drain.complete()
        self.call(driver.xdo_dev_state_free(self.bench.dev, made.thing))

    @precondition(lambda self: self.policies)
    @rule(which=st.integers(0, 20))
    def delete_policy(self, which: int) -> None:
        made = self.policies.pop(which % len(self.policies))
        self.bench.driver.xdo_dev_policy_delete(made.thing)
        self.call(self.bench.driver.xdo_dev_policy_free(made.thing))

    # --- the card dies ---

    @rule()
    def the_card_reboots(self) -> None:
        """All that was on it is gone; SAs expire, policies come back (F-LIF-03)."""
        bench = self.bench
        bench.mailbox.fail_all(OffloadError(errno.ENXIO, "the card died"))
        bench.run()
        bench.driver.firmware_lost()
        bench.card.heal()
        bench.card.held, bench.card.held_replies = [], []
        bench.card.inbox.clear()
        bench.card.firmware = bench.new_firmware()
        bench.take()
        self.call(bench.driver.recovered(CAPS))
        lost, self.sas = self.sas, []
        for made in lost:
            assert made.thing in bench.expired, f"{made.name} did not expire"
            self.free(made)

    # --- what holds ---

    def census(self) -> dict[str, int]:
        return self.bench.card.firmware.objects.census()

    @invariant()
    def what_was_promised_is_there(self) -> None:
        census = self.census()
        assert census["sas"] >= len(self.sas) and census["keys"] >= len(self.sas)
        assert census["rules_policy"] >= len(self.policies)

    @rule()
    def heal(self) -> None:
        """The mailbox behaves, time passes: the card holds what it should, and an audit agrees."""
        self.bench.card.heal()
        self.bench.card.let_go()
        for _ in range(HEALING_S):
            self.bench.tick(1000)
        self.disturbed = False
        assert self.census() == {
            "keys": len(self.sas),
            "sas": len(self.sas),
            "rules_sa": sum(made.rule for made in self.sas),
            "rules_policy": len(self.policies),
        }
        assert len(self.bench.context.sas) == len(self.sas)
        report = self.call(self.bench.driver.audit())
        assert isinstance(report, dict)
        found = {name: report[name] for name in ("orphans", "undead", "missing", "lost")}
        assert not any(found.values()), found

    def teardown(self) -> None:
        """Everything goes back; nothing is left on the card (INV-39)."""
        for made in self.sas:
            self.free(made)
        for made in self.policies:
            self.bench.driver.xdo_dev_policy_delete(made.thing)
        self.sas, self.policies = [], []
        self.heal()
        assert not any(self.census().values())
