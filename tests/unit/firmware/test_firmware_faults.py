# SPDX-License-Identifier: Apache-2.0
"""The card's management channel, and the faults that it arms: commands and tables."""

import msgspec
import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from proto import commands as c
from proto import management as m
from proto.events import EventType
from proto.faults import FaultSpec
from proto.frame import Channel, Kind, pack, unpack
from proto.status import Status, Syndrome
from tests.unit.firmware.conftest import EPOCH

MS = 1_000_000
KEY = bytes(range(16))
EMPTY = {"keys": 0, "sas": 0, "rules_sa": 0, "rules_policy": 0}


def manage(card, request, number: int = 7) -> m.Answer:
    """Ask past the host."""
    body = msgspec.msgpack.encode([number, request])
    ((channel, raw),) = card.firmware.step(0, [(Channel.CONTROL, pack(Kind.CONTROL, body))])
    assert channel is Channel.CONTROL
    answer = msgspec.msgpack.decode(unpack(raw).body, type=m.Answer)
    assert answer.id == number
    return answer


def arm(card, **spec) -> str:
    answer = manage(card, m.AddFault(FaultSpec(**{"site": "card.command", **spec})))
    assert answer.errno == 0, answer.text
    return answer.value


def send(card, command: c.Command, token: int = 5000, now_ns: int = 0) -> list[c.Reply]:
    """One command at a time of its own; its replies, however many."""
    body = msgspec.msgpack.encode(c.Request(token, command))
    return replies(
        card, now_ns, (Channel.MAILBOX, bytearray(pack(Kind.COMMAND, body, epoch=EPOCH)))
    )


def replies(card, now_ns: int, *inputs) -> list[c.Reply]:
    outputs = card.firmware.step(now_ns, inputs)
    return [
        msgspec.msgpack.decode(unpack(raw).body, type=c.Reply)
        for channel, raw in outputs
        if channel is Channel.MAILBOX
    ]


def test_the_card_tells_what_it_is_and_has(card):
    info = manage(card, m.Info()).value
    assert (info["name"], info["caps"]["name"]) == ("card0", "full")
    assert manage(card, m.Census()).value == EMPTY
    card.make(c.CreateKey(KEY))
    assert manage(card, m.Census()).value == EMPTY | {"keys": 1}
    assert manage(card, m.Counters()).value == card.counters


def test_the_card_tells_what_it_raised_until_it_boots_anew(card):
    """(time, type, handle, generation, SPI): what the host hears, and the SA's own number."""
    sa = card.protect(c.OUT, packets=5, soft_packets=3)
    packet = IP(src="10.1.0.1", dst="10.1.0.2") / UDP() / bytes(40)
    card.tx([bytes(Ether(dst="02:00:00:00:00:02") / packet)] * 8)
    raised = [[0, EventType.SOFT_LIMIT, sa, 1, 0x1000], [0, EventType.HARD_LIMIT, sa, 1, 0x1000]]
    assert manage(card, m.Events()).value == raised
    assert manage(card, m.Events(1)).value == raised[1:]
    card.firmware.life.reset_function()
    card.firmware.step(0, [])
    assert manage(card, m.Events()).value == raised
    card.firmware.power_on(2)
    card.firmware.step(0, [])
    assert manage(card, m.Events()).value == []


def test_faults_come_and_go_and_are_told(card):
    name = arm(card, kind="silent", match={"opcode": "QUERY_CENSUS"}, name="mute")
    assert send(card, c.QueryCensus()) == []
    ((spec, fired),) = manage(card, m.ListFaults()).value
    assert (spec["name"], fired) == ("mute", 1)
    (firing,) = manage(card, m.FaultLog()).value
    assert firing == [1, 0, "mute", "card.command", "silent", {"opcode": "QueryCensus"}]
    assert manage(card, m.FaultLog(after=1)).value == []
    assert manage(card, m.RemoveFault(name)).errno == 0
    assert manage(card, m.RemoveFault(name)).errno == 2
    assert len(send(card, c.QueryCensus(), token=5001)) == 1
    arm(card, kind="silent")
    manage(card, m.ResetFaults())
    assert manage(card, m.ListFaults()).value == []


@pytest.mark.parametrize(
    "request_",
    [
        ["nothing"],
        {"type": "NoSuchRequest"},
        {"type": "AddFault", "spec": {"site": "card.command"}},
        {"type": "RemoveFault", "name": 5},
    ],
)
def test_a_malformed_request_is_refused(card, request_):
    assert manage(card, request_).errno == 74
    assert manage(card, m.ListFaults()).value == []


def test_a_fault_that_cannot_happen_is_refused(card):
    answer = manage(card, m.AddFault(FaultSpec(site="card.command", kind="melt")))
    assert answer.errno == 22
    assert "known are delay" in answer.text


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x91" * 5000, msgspec.msgpack.encode({})])
def test_what_has_no_id_is_counted_and_gets_no_answer(card, body):
    before = card.counters["msg_malformed"]
    assert card.firmware.step(0, [(Channel.CONTROL, pack(Kind.CONTROL, body))]) == []
    assert card.counters["msg_malformed"] == before + 1


@pytest.mark.parametrize(
    ("value", "status", "syndrome", "text"),
    [
        ("NO_RESOURCES", Status.NO_RESOURCES, 0, ""),
        ("object_busy:TABLE_FULL", Status.OBJECT_BUSY, Syndrome.TABLE_FULL, ""),
        ("9:0xdeadbeef:no: really", 9, 0xDEADBEEF, "no: really"),
        (77, 77, 0, ""),
    ],
)
def test_a_status_is_told_and_nothing_executed(card, value, status, syndrome, text):
    arm(card, kind="status", value=value, times=1)
    (reply,) = send(card, c.CreateKey(KEY))
    assert (reply.status, reply.syndrome, reply.text) == (status, syndrome, text)
    assert manage(card, m.Census()).value == EMPTY
    assert send(card, c.CreateKey(KEY)) == [reply]  # the same token gets the same answer


def test_a_misreport_is_told_although_it_was_executed(card):
    arm(card, kind="misreport", value="INTERNAL_ERROR", times=1)
    (reply,) = send(card, c.CreateKey(KEY))
    assert (reply.status, reply.handle) == (Status.INTERNAL_ERROR, 0)
    assert manage(card, m.Census()).value["keys"] == 1


def test_silence_executes_and_the_repeated_token_is_answered(card):
    arm(card, kind="silent", times=1)
    assert send(card, c.CreateKey(KEY)) == []
    assert manage(card, m.Census()).value["keys"] == 1
    (reply,) = send(card, c.CreateKey(KEY))
    assert reply.status == 0
    assert manage(card, m.Census()).value["keys"] == 1


def test_silence_before_executes_nothing(card):
    arm(card, kind="silent", value="before", times=1)
    assert send(card, c.CreateKey(KEY)) == []
    assert manage(card, m.Census()).value == EMPTY
    assert len(send(card, c.CreateKey(KEY))) == 1
    assert manage(card, m.Census()).value["keys"] == 1


def test_a_late_reply_comes_when_it_is_due(card):
    arm(card, kind="delay", delay_ms=30, times=1)
    assert send(card, c.CreateKey(KEY)) == []
    assert manage(card, m.Census()).value["keys"] == 1
    assert card.firmware.deadline_ns() == 30 * MS
    assert replies(card, 30 * MS - 1) == []
    (reply,) = replies(card, 30 * MS)
    assert reply.token == 5000
    assert card.firmware.deadline_ns() > 30 * MS


def test_a_late_execution_keeps_no_key(card):
    arm(card, kind="delay", value="before", delay_ms=30, times=1)
    assert send(card, c.CreateKey(KEY)) == []
    assert manage(card, m.Census()).value == EMPTY
    (reply,) = replies(card, 30 * MS)
    assert (reply.token, reply.status) == (5000, 0)
    assert manage(card, m.Census()).value["keys"] == 1


def test_what_is_late_comes_at_once_when_the_fault_goes(card):
    arm(card, kind="delay", delay_ms=60_000)
    send(card, c.QueryCensus())
    manage(card, m.ResetFaults())
    assert len(replies(card, 1)) == 1


@pytest.mark.parametrize(
    ("table", "left"), [("keys", {}), ("sas", {"keys": 1}), ("rules", {"keys": 1, "sas": 1})]
)
def test_a_full_table_refuses_and_changes_nothing(card, table, left):
    arm(card, site="card.table", kind="full", match={"table": table}, times=1)

    def add() -> c.Reply:
        key = card.command(c.CreateKey(KEY))
        sa = card.command(card.sa(key.handle)) if not key.status else key
        return card.command(c.CreateSaRule(sa.handle)) if not sa.status else sa

    reply = add()
    assert (reply.status, reply.syndrome) == (Status.NO_RESOURCES, Syndrome.TABLE_FULL)
    assert "table is full at" in reply.text
    assert manage(card, m.Census()).value == EMPTY | left
    assert add().status == 0


def test_probability_zero_changes_no_byte(new_card):
    def life(faulty: bool) -> list[bytes]:
        card = new_card()
        if faulty:
            for kind in ("status", "misreport", "silent", "delay"):
                value = "NO_RESOURCES" if kind in ("status", "misreport") else None
                arm(card, kind=kind, value=value, delay_ms=5, probability=0.0)
            arm(card, site="card.table", kind="full", probability=0.0)
        card.protect()
        card.command(c.QueryCensus())
        return [bytes(message.body) for message in card.log]

    assert life(True) == life(False)
