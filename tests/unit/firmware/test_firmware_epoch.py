# SPDX-License-Identifier: Apache-2.0
"""Whose card it is: INIT_FUNCTION opens an epoch, and what belongs to another one changes nothing
(F-LIF-11, F-LIF-21)."""

import random

import msgspec
import pytest

from nic_model.firmware import Firmware
from proto import commands as c
from proto.caps import parse_card
from proto.frame import Channel, Kind, pack, unpack
from proto.hello import decode_hello
from proto.layouts import DESCRIPTOR
from proto.link.dma import Dma
from proto.status import Status, Syndrome

OLD, NEW = 0x1111_1111, 0x2222_2222


def command(command: c.Command, token: int, epoch: int) -> tuple[Channel, bytearray]:
    body = msgspec.msgpack.encode(c.Request(token, command))
    return Channel.MAILBOX, bytearray(pack(Kind.COMMAND, body, epoch=epoch))


def ask(card, asked: c.Command, token: int, epoch: int) -> c.Reply:
    """The only reply, which carries the epoch of its command."""
    (message,) = [m for m in card.step(command(asked, token, epoch)) if m.kind is Kind.REPLY]
    assert message.epoch == epoch
    return msgspec.msgpack.decode(message.body, type=c.Reply)


@pytest.fixture
def taken(new_card):
    """A card of a host whose SA protects everything."""
    card = new_card()
    assert ask(card, c.InitFunction(OLD), 33, OLD).values["boot"] == card.firmware.life.boot
    key = ask(card, c.CreateKey(card.KEY), 34, OLD).handle
    sa = ask(card, card.sa(key), 35, OLD).handle
    ask(card, c.CreateSaRule(sa), 36, OLD)
    ask(card, card.policy(), 37, OLD)
    return card


def census(card) -> int:
    return sum(card.firmware.objects.census().values())


def test_a_new_host_finds_an_empty_card(taken):
    assert census(taken) == 4
    assert ask(taken, c.InitFunction(NEW), 33, NEW).status == Status.OK
    assert census(taken) == 0
    assert not taken.firmware.objects.tables.keys.any()


def test_messages_of_another_epoch_change_nothing_and_are_wiped(taken):
    ask(taken, c.InitFunction(NEW), 33, NEW)
    before = taken.firmware.counters["msg_stale"]
    late = [
        command(c.CreateKey(taken.KEY), 65, OLD),
        (Channel.RINGS, bytearray(pack(Kind.TX, bytes(DESCRIPTOR.itemsize), 0, 1, OLD))),
        (Channel.RINGS, bytearray(pack(Kind.RX_DONE, count=1, epoch=OLD))),
        (Channel.WIRE, bytearray(pack(Kind.WIRE, bytes(8), 0, 1, taken.firmware.life.boot ^ 1))),
    ]
    assert taken.firmware.step(0, late) == []
    assert not any(late[0][1])
    assert census(taken) == 0
    counters = ask(taken, c.QueryCounters(), 66, NEW).values
    assert counters["msg_stale"] == before + 4
    assert counters["tx_descriptors"] == counters["rx_lost"] == counters["msg_malformed"] == 0


def test_an_epoch_is_taken_once(taken):
    """A copy of INIT_FUNCTION that comes late must not bring its host back."""
    ask(taken, c.InitFunction(NEW), 33, NEW)
    reply = ask(taken, c.InitFunction(OLD), 33, OLD)
    assert (reply.status, reply.syndrome) == (Status.BAD_PARAMETER, Syndrome.EPOCH)
    assert hex(OLD) in reply.text
    assert ask(taken, c.QueryCensus(), 67, NEW).status == Status.OK
    assert ask(taken, c.InitFunction(0), 68, NEW).syndrome == Syndrome.EPOCH


@pytest.mark.parametrize("epoch", [-1, -(2**63), 2**32, 2**63])
def test_an_epoch_that_no_header_can_carry_is_refused(taken, epoch):
    """Taken, it would keep the card from ever sending a message again."""
    reply = ask(taken, c.InitFunction(epoch), 68, OLD)
    assert (reply.status, reply.syndrome) == (Status.BAD_PARAMETER, Syndrome.EPOCH)
    assert ask(taken, c.QueryCensus(), 69, OLD).status == Status.OK


def test_a_doubled_init_function_destroys_nothing(taken):
    """Its reply was lost, and it comes again with its token (INV-48)."""
    assert ask(taken, c.InitFunction(OLD), 33, OLD).values["boot"] == taken.firmware.life.boot
    assert census(taken) == 4


def test_an_epoch_that_the_header_does_not_carry_is_not_opened(taken):
    assert taken.step(command(c.InitFunction(NEW), 33, NEW ^ 1)) == []
    assert census(taken) == 4


def test_tokens_of_a_new_host_are_new(taken):
    """Both count from the same token on: the second must not get the answers of the first."""
    ask(taken, c.InitFunction(NEW), 33, NEW)
    assert ask(taken, c.QueryCensus(), 34, NEW).values["keys"] == 0


def test_rings_begin_anew(taken):
    """What waits for credits is never sent, unread frames give their wire credits back."""
    frame = bytes(12) + b"\x08\x00" + bytes(60)
    taken.firmware.port._out.credits = 0
    taken.step((Channel.RINGS, pack(Kind.TX, bytes(DESCRIPTOR.itemsize), 0, 1, OLD)))
    ip = b"\x45" + bytes(1) + (60).to_bytes(2) + bytes(4) + b"\x40\xfd" + bytes(50)
    received = taken.rx([frame[:14] + ip])
    assert [m.kind for m in received if m.kind is Kind.RX] == [Kind.RX]
    messages = taken.step(command(c.InitFunction(NEW), 33, NEW))
    assert [(m.kind, m.count) for m in messages if m.kind is Kind.WIRE_DONE] == [
        (Kind.WIRE_DONE, 1)
    ]
    fence = ask(taken, c.Fence(), 69, NEW).values
    assert (fence["tx"], fence["rx"], fence["queued"], fence["events"]) == (0, 0, 0, 0)
    assert ask(taken, c.QueryCounters(), 70, NEW).values["tx_drop_flushed"] == 1


def test_hello_comes_first_and_carries_the_boot_id():
    boots = set()
    for seed in (1, 2):
        firmware = Firmware("card0", parse_card("tiny"), Dma.private(), random.Random(seed))
        assert firmware.deadline_ns() == 0
        (channel, raw), *_ = firmware.step(0, [])
        assert channel is Channel.WIRE
        boots.add(decode_hello(unpack(raw).body).boot)
        assert firmware.life.boot in boots
        assert firmware.deadline_ns() > 0
    assert len(boots) == 2
