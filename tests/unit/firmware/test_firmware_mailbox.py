# SPDX-License-Identifier: Apache-2.0
"""The card's mailbox: tokens in and out of order, messages that are too long, lists of objects."""

import msgspec
import pytest

from proto import commands as c
from proto.frame import Channel, Kind, pack
from proto.limits import LIST_PAGE, MAILBOX_GENERATIONS, MAILBOX_MESSAGE_BYTES, MAILBOX_SLOTS
from proto.status import Delivery, Status, Syndrome
from tests.unit.firmware.conftest import EPOCH


def send(card, token: int, command) -> c.Reply:
    body = msgspec.msgpack.encode(c.Request(token, command))
    raw = bytearray(pack(Kind.COMMAND, body, epoch=EPOCH))
    (message,) = card.step((Channel.MAILBOX, raw))
    return msgspec.msgpack.decode(message.body, type=c.Reply)


def test_a_token_that_comes_again_gets_the_reply_again(card):
    first = send(card, 64, c.CreateKey(card.KEY, 5))
    assert send(card, 64, c.CreateKey(card.KEY, 5)) == first
    assert card.command(c.QueryCensus()).values["keys"] == 1


@pytest.mark.parametrize("later", [1, 2, MAILBOX_GENERATIONS // 2 - 1])
def test_a_token_older_than_its_slots_last_is_not_executed(card, later):
    """A copy that was held up on the way finds its slot taken by another command."""
    old, new = 5 + MAILBOX_SLOTS, 5 + MAILBOX_SLOTS * (1 + later)
    send(card, old, c.QueryCaps())
    kept = send(card, new, c.CreateKey(card.KEY))
    late = send(card, old, c.CreateKey(card.KEY))
    assert (late.token, late.delivery) == (old, Delivery.TOKEN)
    assert late.syndrome == Syndrome.TOKEN_STALE
    assert card.command(c.QueryCensus()).values["keys"] == 1
    assert send(card, new, c.CreateKey(card.KEY)) == kept, "the slot still knows its last token"


def test_generations_of_tokens_wrap(card):
    send(card, 5 + MAILBOX_SLOTS * MAILBOX_GENERATIONS, c.QueryCaps())
    assert send(card, 5 + MAILBOX_SLOTS, c.QueryCaps()).delivery == Delivery.OK


def test_other_slots_have_tokens_of_their_own(card):
    send(card, 5 + 9 * MAILBOX_SLOTS, c.QueryCaps())
    assert send(card, 6 + MAILBOX_SLOTS, c.QueryCaps()).delivery == Delivery.OK


def test_a_message_longer_than_the_mailbox_is_not_delivered(card):
    """F-CTL-12: the length is judged before anything of the command is read."""
    reply = send(card, 64, c.CreateKey(bytes(MAILBOX_MESSAGE_BYTES)))
    assert (reply.delivery, reply.syndrome) == (
        Delivery.INPUT_LENGTH, Syndrome.MESSAGE_TOO_LONG,
    )  # fmt: skip
    assert str(MAILBOX_MESSAGE_BYTES) in reply.text


def test_the_longest_command_fits(card):
    handle = card.make(c.CreateKey(card.KEY))
    command = card.sa(
        handle, direction=c.IN, replay_window=4096, bitmap=((1 << 32) - 1,) * 128, spi=0xFFFF_FFFF,
        reqid=0xFFFF_FFFF, packets=1 << 40, soft_packets=1 << 40, bytes=1 << 60, cookie=1 << 63,
    )  # fmt: skip
    assert card.command(command).status == Status.OK
    assert len(msgspec.msgpack.encode(c.Request(1 << 31, command))) < MAILBOX_MESSAGE_BYTES


def test_objects_are_listed_with_what_they_use(card):
    key = card.make(c.CreateKey(card.KEY, 11))
    made = card.command(card.sa(key, spi=0x77, cookie=12))
    rule = card.make(c.CreateSaRule(made.handle, 13))
    policy = card.make(card.policy(cookie=14))
    assert [one.handle for one in listed(card, c.ObjectKind.KEY)] == [key]
    (sa,) = listed(card, c.ObjectKind.SA)
    assert sa == c.ObjectInfo(made.handle, made.generation, 12, key, 0x77)
    rules = {one.cookie: one for one in listed(card, c.ObjectKind.RULE)}
    assert (rules[13].handle, rules[13].uses, rules[13].spi) == (rule, made.handle, 0x77)
    assert (rules[14].handle, rules[14].uses, rules[14].spi) == (policy, 0, 0)
    assert [one.cookie for one in listed(card, c.ObjectKind.RULE, cookie=14)] == [14]
    assert listed(card, c.ObjectKind.KEY, cookie=99) == []


def listed(card, kind, cookie: int = 0) -> list[c.ObjectInfo]:
    """All pages of a kind."""
    found, after, pages = [], 0, 0
    while True:
        reply = card.command(c.ListObjects(kind, after, cookie))
        assert len(reply.objects) <= LIST_PAGE
        found += reply.objects
        pages += 1
        after = reply.values["next"]
        if not after:
            return found


@pytest.mark.parametrize("count", [LIST_PAGE - 1, LIST_PAGE, LIST_PAGE + 1, 3 * LIST_PAGE])
def test_pages_list_every_object_once(card, count):
    handles = [card.make(c.CreateKey(card.KEY, number + 1)) for number in range(count)]
    for handle in handles[::7]:
        card.make(c.DestroyKey(handle))
    left = [handle for number, handle in enumerate(handles) if number % 7]
    assert [one.handle for one in listed(card, c.ObjectKind.KEY)] == left


@pytest.mark.parametrize(
    "command",
    [
        c.ListObjects(0), c.ListObjects(4), c.ListObjects(1, -1), c.ListObjects(1, 1 << 32),
        c.ListObjects(1, 0, -1), c.CreateKey(bytes(16), -1),
        c.CreateSaRule(1, -7),
    ],
)  # fmt: skip
def test_what_cannot_be_listed_or_marked_is_refused(card, command):
    reply = card.command(command)
    assert (reply.status, reply.syndrome) == (Status.BAD_PARAMETER, Syndrome.FIELD)
