# SPDX-License-Identifier: Apache-2.0
"""The card's function: which states there are, who moves it, and that nothing leaves outside ACTIVE
(F-LIF-03, F-LIF-09, F-LIF-11, F-LIF-12)."""

import itertools
import random

import msgspec
import pytest

from nic_model.firmware import Firmware
from nic_model.life_faults import Crash
from proto import commands as c
from proto.caps import parse_card
from proto.faults import FaultSpec
from proto.frame import Channel, Kind, Message, pack, unpack
from proto.health import EDGES, FunctionState, HealthRecord
from proto.hello import decode_hello
from proto.layouts import DESCRIPTOR
from proto.limits import BOOT_MS, HEALTH_INTERVAL_MS, HOST_LOST_MS, RESET_MS
from proto.link.dma import Dma, tx_offset
from proto.status import HealthSyndrome, Status, Syndrome
from proto.wire import pack_frames

MS = 1_000_000
EPOCH, OTHER = 0xABC, 0xDEF
IP = b"\x45\x00" + (60).to_bytes(2) + bytes(4) + b"\x40\xfd" + bytes(50)
FRAME = bytes(12) + b"\x08\x00" + IP
State = FunctionState


class Card:
    """A firmware with a clock, and what it said."""

    def __init__(self) -> None:
        self.dma = Dma.anonymous()
        self.firmware = Firmware("card0", parse_card("tiny"), self.dma, random.Random(5))
        self.now_ns = 10**18
        self.tokens = itertools.count(33)
        self.records: list[HealthRecord] = []
        self.sent = self.wire_index = 0
        self.step()

    def step(self, *inputs: tuple[Channel, bytes]) -> list[Message]:
        messages = [unpack(raw) for _, raw in self.firmware.step(self.now_ns, inputs)]
        self.records += [
            msgspec.msgpack.decode(m.body, type=HealthRecord)
            for m in messages
            if m.kind is Kind.HEALTH
        ]
        return messages

    def wait(self, ms: int) -> list[Message]:
        """Live through every deadline of the next `ms`."""
        until_ns, messages = self.now_ns + ms * MS, []
        while (due_ns := self.firmware.deadline_ns()) <= until_ns:
            self.now_ns = max(self.now_ns, due_ns)
            messages += self.step()
        self.now_ns = until_ns
        return messages

    def ask(self, command: c.Command, epoch: int = EPOCH) -> c.Reply | None:
        body = msgspec.msgpack.encode(c.Request(next(self.tokens), command))
        messages = self.step((Channel.MAILBOX, bytearray(pack(Kind.COMMAND, body, epoch=epoch))))
        replies = [m for m in messages if m.kind is Kind.REPLY]
        return msgspec.msgpack.decode(replies[0].body, type=c.Reply) if replies else None

    def transmit(self, epoch: int = EPOCH) -> list[Message]:
        """One clear frame from the host."""
        at = tx_offset(0)
        self.dma.memory[at : at + len(FRAME)] = memoryview(FRAME)
        self.dma.tx_marks[0] = 1
        row = bytearray(DESCRIPTOR.itemsize)
        row[0:4] = at.to_bytes(4, "little")
        row[4:6] = len(FRAME).to_bytes(2, "little")
        return self.step((Channel.RINGS, pack(Kind.TX, bytes(row), 0, 1, epoch)))

    def receive(self) -> list[Message]:
        """The same from the wire."""
        message = pack(Kind.WIRE, pack_frames([FRAME]), self.wire_index, 1, self.firmware.life.boot)
        self.wire_index += 1
        return self.step((Channel.WIRE, message))

    @property
    def state(self) -> FunctionState:
        return self.firmware.life.state

    @property
    def census(self) -> int:
        return sum(self.firmware.objects.census().values())

    def fault(self, **fields) -> None:
        self.firmware.faults.add(FaultSpec(**fields))


def kinds(messages: list[Message]) -> list[Kind]:
    return [message.kind for message in messages]


@pytest.fixture
def card() -> Card:
    """A card of a host, with a key in it."""
    card = Card()
    assert card.ask(c.InitFunction(EPOCH)).status == Status.OK
    assert card.ask(c.CreateKey(bytes(16))).handle
    return card


def test_the_table_of_states():
    """Every pair is an edge or is prohibited, and those that matter are spelt out."""
    allowed = {
        State.BOOT: {State.IDLE, State.RESETTING},
        State.IDLE: {State.ACTIVE, State.ERROR, State.RESETTING},
        State.ACTIVE: {State.ACTIVE, State.IDLE, State.ERROR, State.RESETTING},
        State.ERROR: {State.RESETTING},
        State.RESETTING: {State.BOOT},
    }
    assert {(a, b) for a, ends in allowed.items() for b in ends} == EDGES
    for before, after in itertools.product(State, State):
        life = Card().firmware.life
        life.state = before
        if (before, after) in EDGES:
            life._move(after)
            assert life.state is after
        else:
            with pytest.raises(AssertionError, match="->"):
                life._move(after)


def test_a_card_without_host_is_closed():
    card = Card()
    assert card.state is State.IDLE
    assert card.ask(c.QueryCensus(), epoch=0).status == Status.OK
    reply = card.ask(c.CreateKey(bytes(16)), epoch=0)
    assert (reply.status, reply.syndrome) == (Status.BAD_SYSTEM_STATE, Syndrome.FUNCTION_STATE)
    assert "IDLE" in reply.text
    assert card.transmit(epoch=0) == []
    assert kinds(card.receive()) == [Kind.WIRE_DONE]
    counters = card.firmware.all_counters()
    assert (counters["rx_drop_closed"], counters["rx_delivered"], counters["msg_stale"]) == (
        1,
        0,
        1,
    )


def test_the_same_frames_pass_an_active_card(card):
    assert Kind.WIRE in kinds(card.transmit())
    assert Kind.RX in kinds(card.receive())


def test_a_record_each_second_and_at_each_change(card):
    del card.records[:]
    first = card.firmware.life.counter
    card.wait(3 * HEALTH_INTERVAL_MS)
    assert [r.counter for r in card.records] == [first + 1, first + 2, first + 3]
    assert {(r.boot, r.state, r.epoch) for r in card.records} == {
        (card.firmware.life.boot, State.ACTIVE, EPOCH)
    }
    card.firmware.life.reset_function()
    card.step()
    assert (card.records[-1].state, card.records[-1].epoch) == (State.IDLE, 0)


def test_init_function_says_how_far_the_health_counter_is():
    card = Card()
    reply = card.ask(c.InitFunction(EPOCH))
    assert reply.values["health"] == card.records[-1].counter
    assert reply.values["revision"] == 5


def test_a_host_that_falls_silent_loses_the_card(card):
    """F-LIF-09: nobody's SAs encrypt for nobody."""
    card.wait(HOST_LOST_MS - 1)
    card.step((Channel.EVENTS, pack(Kind.ARM, epoch=EPOCH)))
    card.wait(HOST_LOST_MS - 1)
    assert (card.state, card.census) == (State.ACTIVE, 1)
    card.step((Channel.EVENTS, pack(Kind.ARM, epoch=OTHER)))  # somebody else's word
    card.wait(1)
    assert (card.state, card.census) == (State.IDLE, 0)
    assert not card.firmware.objects.tables.keys.any()
    assert card.firmware.life.counters["host_lost"] == 1
    assert card.ask(c.QueryCensus()) is None


def test_a_function_reset_flushes_what_is_under_way(card):
    """F-LIF-12: completed with error under the old epoch, and never sent."""
    card.firmware.port._out.credits = 0
    assert kinds(card.transmit()) == []
    card.firmware.life.reset_function()
    messages = card.step()
    (done,) = [m for m in messages if m.kind is Kind.TX_DONE]
    assert (done.count, done.epoch) == (1, EPOCH)
    assert Kind.WIRE not in kinds(messages)
    assert card.firmware.all_counters()["tx_drop_flushed"] == 1
    card.step((Channel.WIRE, pack(Kind.WIRE_DONE, count=0, epoch=card.firmware.life.boot)))
    assert card.transmit() == []


def test_a_firmware_reset_wipes_at_once_and_boots_anew(card):
    before = card.firmware.life.boot
    assert card.ask(c.Reset(EPOCH)).status == Status.OK
    assert (card.state, card.census) == (State.RESETTING, 0)
    assert not card.firmware.objects.tables.keys.any()
    assert card.ask(c.InitFunction(OTHER), epoch=OTHER).syndrome == Syndrome.INITIALIZING
    card.wire_index = 0
    messages = card.wait(RESET_MS)
    assert card.state is State.BOOT
    (hello,) = [decode_hello(m.body) for m in messages if m.kind is Kind.HELLO]
    assert hello.boot == card.firmware.life.boot != before
    reply = card.ask(c.InitFunction(OTHER), epoch=OTHER)
    assert (reply.status, reply.syndrome) == (Status.NOT_READY, Syndrome.INITIALIZING)
    card.wait(BOOT_MS)
    assert card.state is State.IDLE
    assert card.ask(c.InitFunction(OTHER), epoch=OTHER).status == Status.OK
    assert card.ask(c.InitFunction(EPOCH), epoch=EPOCH).syndrome == Syndrome.EPOCH
    boots = [(r.boot == before, r.state) for r in card.records][-5:]
    assert boots == [
        (True, State.ACTIVE), (True, State.RESETTING), (False, State.BOOT), (False, State.IDLE),
        (False, State.ACTIVE),
    ]  # fmt: skip


def test_a_fatal_error_empties_and_closes_the_card_until_it_is_reset(card):
    card.firmware.life.fatal(HealthSyndrome.HARDWARE)
    card.step()
    record = card.records[-1]
    assert (record.state, record.syndrome, record.rfr) == (State.ERROR, 8, True)
    assert (card.census, record.epoch) == (0, EPOCH)
    assert card.transmit() == []
    assert Kind.RX not in kinds(card.receive())
    assert card.ask(c.QueryCounters()).status == Status.OK
    reply = card.ask(c.CreateKey(bytes(16)))
    assert (reply.status, reply.syndrome) == (Status.BAD_SYSTEM_STATE, Syndrome.FUNCTION_STATE)
    assert card.ask(c.InitFunction(OTHER), epoch=OTHER).syndrome == Syndrome.FUNCTION_STATE
    card.wait(HOST_LOST_MS)
    assert card.state is State.ERROR
    assert card.ask(c.Reset(OTHER), epoch=OTHER).status == Status.OK  # whoever comes may reset it
    card.wait(RESET_MS + BOOT_MS)
    assert (card.state, card.firmware.life.syndrome) == (State.IDLE, 0)


def test_only_its_host_resets_a_card_that_works(card):
    assert card.ask(c.Reset(OTHER), epoch=OTHER) is None
    assert (card.state, card.census) == (State.ACTIVE, 1)


def test_a_reset_that_another_function_refuses_changes_nothing(card):
    """F-CTL-21"""
    card.fault(site="card.reset", kind="refuse", match={"level": "firmware"}, times=1)
    reply = card.ask(c.Reset(EPOCH))
    assert (reply.status, reply.syndrome) == (Status.OBJECT_BUSY, Syndrome.RESET_REFUSED)
    assert (card.state, card.census) == (State.ACTIVE, 1)
    assert card.ask(c.Reset(EPOCH)).status == Status.OK


def test_a_slow_boot(card):
    card.fault(site="card.reset", kind="slow", delay_ms=700)
    card.ask(c.Reset(EPOCH))
    card.wait(RESET_MS + BOOT_MS + 699)
    assert card.state is State.BOOT
    card.wait(1)
    assert card.state is State.IDLE


def test_a_frozen_counter_says_nothing_new(card):
    card.fault(site="card.health", kind="freeze", name="ice")
    del card.records[:]
    card.wait(3 * HEALTH_INTERVAL_MS)
    assert card.records == []
    card.firmware.faults.remove("ice")
    card.wait(HEALTH_INTERVAL_MS)
    assert len(card.records) == 1


def test_syndromes_are_told_and_fatal_ones_stop(card):
    card.fault(site="card.health", kind="syndrome", value="TEMPERATURE", times=1)
    card.wait(2 * HEALTH_INTERVAL_MS)
    assert [(r.syndrome, r.rfr) for r in card.records[-2:]] == [(0x10, False)] * 2
    assert card.state is State.ACTIVE
    card.fault(site="card.health", kind="fatal", value="0x12", times=1)
    card.wait(HEALTH_INTERVAL_MS)
    assert (card.state, card.firmware.life.syndrome) == (State.ERROR, 0x12)


def test_a_crash_ends_the_step(card):
    card.fault(site="card.process", kind="crash", match={"kind": "TX"})
    assert card.ask(c.QueryCensus()).status == Status.OK
    with pytest.raises(Crash):
        card.transmit()


def test_a_hang_lets_everything_wait_and_nothing_be_done_twice(card):
    """F-LIF-03: late, but valid, and in order."""
    card.fault(
        site="card.process", kind="hang", match={"channel": "mailbox"}, delay_ms=900, times=1
    )
    assert card.ask(c.CreateKey(bytes(range(16)))) is None
    assert card.ask(c.CreateKey(bytes(16))) is None
    assert card.census == 1
    assert card.transmit() == []
    messages = card.wait(899)
    assert messages == []
    messages = card.wait(1)
    assert kinds(messages).count(Kind.REPLY) == 2
    assert Kind.WIRE in kinds(messages)
    assert card.census == 3


def test_time_may_skip_heartbeats_and_nothing_else(card):
    """What a simulator does with a day in which nothing happens."""
    assert card.firmware.at_ease
    counter = card.firmware.life.counter
    day_ns = 86_400_000 * MS
    card.firmware.skip(day_ns)
    card.now_ns += day_ns
    card.step()
    assert (card.state, card.census, card.firmware.life.counter) == (State.ACTIVE, 1, counter)
    card.wait(HEALTH_INTERVAL_MS)
    assert card.firmware.life.counter == counter + 1
    card.fault(site="card.health", kind="freeze")
    assert not card.firmware.at_ease
    card.firmware.faults.reset()
    card.firmware.life.reset_firmware()
    assert not card.firmware.at_ease
