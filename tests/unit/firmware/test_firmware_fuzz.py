# SPDX-License-Identifier: Apache-2.0
"""Bad bytes on every channel: counted, answered where somebody asked, nothing changed."""

import random
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto import commands as c
from proto.frame import HEADER, Channel, Kind, pack, unpack
from proto.status import Status
from proto.xfrm import AF_INET
from tests.unit.firmware.conftest import EPOCH

ROUNDS = 10_000
CHANNELS = (Channel.MAILBOX, Channel.EVENTS, Channel.RINGS, Channel.WIRE, Channel.CONTROL)


@pytest.fixture
def busy_card(card):
    card.protect(c.OUT)
    card.protect(c.IN)
    return card


def valid_commands(card):
    return [
        c.QueryCaps(), c.CreateKey(card.KEY), c.DestroyKey(1), card.sa(0x1000001, c.IN),
        c.DestroySa(1), c.StopSa(0x1000001), c.QuerySa(0x1000001), c.CreateSaRule(2),
        card.policy(), c.DestroyRule(9), c.QueryCounters(), c.SetPort(mtu=1500), c.Fence(),
        c.Teardown(),
    ]  # fmt: skip


def replies(outputs):
    return [
        msgspec.msgpack.decode(unpack(raw).body, type=c.Reply)
        for channel, raw in outputs
        if channel is Channel.MAILBOX
    ]


def test_random_mailbox_bodies(busy_card):
    rng = random.Random(20)
    census = busy_card.census
    statuses = Counter()
    for _ in range(ROUNDS):
        message = pack(Kind.COMMAND, rng.randbytes(rng.randrange(80)), epoch=EPOCH)
        (reply,) = replies(busy_card.firmware.step(0, [(Channel.MAILBOX, message)]))
        statuses[reply.status] += 1
    assert set(statuses) <= {Status.BAD_MESSAGE, Status.BAD_OPCODE}
    assert busy_card.census == census
    assert busy_card.counters["cmd_refused"] == ROUNDS


@pytest.mark.parametrize("channel", CHANNELS)
def test_random_messages(busy_card, channel):
    rng = random.Random(21 + channel)
    census = busy_card.census
    for _ in range(ROUNDS):
        message = rng.randbytes(rng.randrange(60))
        assert busy_card.firmware.step(0, [(channel, message)]) == []
    assert busy_card.census == census
    assert busy_card.counters["msg_malformed"] == ROUNDS


def test_truncated_commands(busy_card):
    census = busy_card.census
    for command in valid_commands(busy_card):
        body = msgspec.msgpack.encode(c.Request(9, command))
        for size in range(len(body)):
            message = pack(Kind.COMMAND, body[:size], epoch=EPOCH)
            (reply,) = replies(busy_card.firmware.step(0, [(Channel.MAILBOX, message)]))
            assert reply.status == Status.BAD_MESSAGE
        message = pack(Kind.COMMAND, body, epoch=EPOCH)
        for size in range(len(message)):
            assert busy_card.firmware.step(0, [(Channel.MAILBOX, message[:size])]) == []
    assert busy_card.census == census


def test_deep_nesting_is_malformed(card):
    head = b"\x93\x01\x91\xa9QueryCaps"
    for body in (head + b"\x91" * 200_000, b"\x92\x01" + b"\x91" * 200_000, b"\x91" * 200_000):
        (reply,) = replies(
            card.firmware.step(0, [(Channel.MAILBOX, pack(Kind.COMMAND, body, epoch=EPOCH))])
        )
        assert reply.status == Status.BAD_MESSAGE


@pytest.mark.parametrize("channel", CHANNELS)
def test_random_bodies_of_every_kind(busy_card, channel):
    rng = random.Random(22)
    census = busy_card.census
    for kind in [*Kind] * 50:
        body = rng.randbytes(rng.randrange(64))
        index, count = rng.choice((0, rng.randrange(1 << 32))), rng.randrange(5)
        epoch = busy_card.firmware.life.boot if channel is Channel.WIRE else 0
        for raw in (pack(kind, body, index, count, epoch), pack(kind, b"", index, count, epoch)):
            busy_card.firmware.step(0, [(channel, raw)])
    assert busy_card.census == census


@pytest.mark.parametrize("cut", [1, 4, 15, 16, 17, 32])
def test_truncated_ring_and_wire_messages_leave_the_index(card, cut):
    for channel, message in (card.tx_message([bytes(60)] * 2), card.wire_message([bytes(60)] * 2)):
        header = HEADER.unpack_from(message)
        short = (
            HEADER.pack(*header[:-2], header[-2] - cut, header[-1]) + message[HEADER.size : -cut]
        )
        assert card.firmware.step(0, [(channel, short)]) == []
        assert card.firmware.step(0, [(channel, message)]) != []
    counters = card.counters
    assert (counters["msg_malformed"], counters["tx_lost"], counters["rx_lost"]) == (2, 0, 0)


INTEGERS = st.one_of(
    st.integers(-3, 70),
    st.sampled_from([2**n + d for n in (7, 8, 15, 16, 24, 31, 32, 62, 63) for d in (-1, 0, 1)]),
    st.just(2**64 - 1),
    st.just(-(2**63)),
)
ADDRESSES = st.one_of(st.binary(max_size=20), st.just(bytes(16)))
SELECTORS = st.builds(
    c.Selector,
    family=st.sampled_from([0, 2, 10, 11]),
    saddr=ADDRESSES,
    daddr=ADDRESSES,
    prefixlen_s=INTEGERS,
    prefixlen_d=INTEGERS,
    proto=INTEGERS,
    sport=INTEGERS,
    sport_mask=INTEGERS,
    dport=INTEGERS,
    dport_mask=INTEGERS,
)
SAS = st.fixed_dictionaries(
    {},
    optional={
        "salt": st.binary(max_size=5),
        "icv_bytes": INTEGERS,
        "spi": INTEGERS,
        "family": st.sampled_from([2, 10, 3]),
        "saddr": ADDRESSES,
        "daddr": ADDRESSES,
        "direction": st.sampled_from([1, 2, 0]),
        "reqid": INTEGERS,
        "selector": SELECTORS,
        "esn": st.booleans(),
        "may_wrap": st.booleans(),
        "seq": INTEGERS,
        "replay_window": INTEGERS,
        "bitmap": st.lists(INTEGERS, max_size=4).map(tuple),
        "packets": INTEGERS,
        "soft_packets": INTEGERS,
        "bytes": INTEGERS,
        "encap_sport": INTEGERS,
        "encap_dport": INTEGERS,
    },
)
POLICIES = st.fixed_dictionaries(
    {},
    optional={
        "direction": st.sampled_from([1, 2, 3]),
        "selector": SELECTORS,
        "priority": INTEGERS,
        "action": st.sampled_from([0, 1, 2]),
        "protect": st.booleans(),
        "reqid": INTEGERS,
        "spi": INTEGERS,
    },
)


@given(fields=SAS)
def test_any_field_values_of_an_sa_are_taken_or_refused(shared_card, fields):
    card = shared_card
    key = card.make(c.CreateKey(card.KEY))
    census = card.census
    command = msgspec.structs.replace(card.sa(key, c.IN), **fields)
    reply = card.command(command)
    if reply.status == 0:
        assert card.command(c.QuerySa(reply.handle)).sa is not None
        card.make(c.CreateSaRule(reply.handle))
    else:
        assert reply.text
        assert card.census == census
    card.make(c.Teardown())


@given(fields=POLICIES)
def test_any_field_values_of_a_policy_are_taken_or_refused(shared_card, fields):
    card = shared_card
    census = card.census
    reply = card.command(msgspec.structs.replace(card.policy(c.OUT, AF_INET), **fields))
    if reply.status == 0:
        card.make(c.DestroyRule(reply.handle))
    assert card.census == census
