# SPDX-License-Identifier: Apache-2.0
"""Host and card together, no lab between them: requests in, frames and censuses out."""

import errno
import random
from collections import deque

import msgspec
import pytest

from host_driver import control
from host_driver.control import Answer, Ask
from host_driver.host import Host
from host_driver.ip import run
from nic_model.firmware import Firmware
from proto.caps import parse_card
from proto.faults import FaultSpec
from proto.frame import Channel, Kind, pack, unpack
from proto.link.dma import Dma
from proto.management import AddFault
from proto.wire import unpack_frames

EMPTY = {"keys": 0, "sas": 0, "rules_sa": 0, "rules_policy": 0}
ONE_SA = {"keys": 1, "sas": 1, "rules_sa": 1, "rules_policy": 0}
STATE = (
    "xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x1000 reqid 1 mode transport "
    "aead 'rfc4106(gcm(aes))' 0x000102030405060708090a0b0c0d0e0f10111213 128 {limits} "
    "offload packet dev nic0 dir {dir}"
)
POLICY = (
    "xfrm policy add src 10.0.0.1 dst 10.0.0.2 dir out offload packet dev nic0 "
    "tmpl proto esp reqid 1 mode transport"
)
DELETE = "xfrm state delete src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x1000"
PACKET = (
    b"\x45\x00\x00\x1c\x00\x00\x00\x00\x40\xfd\x66\xc2"
    + bytes((10, 0, 0, 1, 10, 0, 0, 2))
    + b"payload!"
)


class Pair:
    """A host and its card; the wire takes every frame."""

    def __init__(self, card: str = "full", shared: bool = True) -> None:
        host_dma = Dma.anonymous()
        card_dma = host_dma
        if not shared:
            host_dma, card_dma = Dma.private(), Dma.private()
        self.card = Firmware("card0", parse_card(card), card_dma, random.Random(1))
        self.host = Host("host0", b"\x02xfrm\x00", b"\x02xfrm\x01", host_dma, 2)
        self.now_ns = 1_700_000_000 * 10**9
        self.frames: list[bytes] = []
        self.answers: dict[int, Answer] = {}
        self.asked = 0
        self.run()

    def run(self, to_host=()) -> None:
        """Until neither has anything to say."""
        to_host, to_card = deque(to_host), deque()
        first = True
        while to_host or to_card or first:
            first = False
            outputs = self.host.step(self.now_ns, list(to_host))
            to_host.clear()
            for channel, raw in outputs:
                if channel is Channel.CONTROL:
                    self._answer(unpack(raw))
                else:
                    to_card.append((channel, raw))
            outputs = self.card.step(self.now_ns, list(to_card))
            to_card.clear()
            for channel, raw in outputs:
                message = unpack(raw)
                if channel is not Channel.WIRE:
                    to_host.append((channel, raw))
                elif message.kind is Kind.WIRE:
                    epoch = message.epoch
                    self.frames += unpack_frames(message.body, message.count)
                    to_card.append(
                        (Channel.WIRE, pack(Kind.WIRE_DONE, count=message.count, epoch=epoch))
                    )

    def _answer(self, message) -> None:
        if message.kind is Kind.CONTROL:
            answer = msgspec.msgpack.decode(message.body, type=Answer)
            self.answers[answer.id] = answer

    def ask(self, query) -> Answer:
        """The answer, however long it takes: time goes from deadline to deadline."""
        self.asked += 1
        body = msgspec.msgpack.encode(Ask(self.asked, query))
        self.run([(Channel.CONTROL, pack(Kind.CONTROL, body))])
        for _ in range(100):
            if self.asked in self.answers:
                return self.answers[self.asked]
            self.now_ns = max(self.now_ns, self.host.deadline_ns())
            self.run()
        raise AssertionError(f"no answer to {query}")

    def ip(self, text: str):
        transact = lambda request: self.ask(control.Netlink(bytes(request))).blobs  # noqa: E731
        return run(text, transact, {"lo": 1, "nic0": 2})

    def settle(self) -> dict[str, int]:
        return self.ask(control.Quiesce()).values

    def census(self) -> dict[str, int]:
        return self.ask(control.Census()).values

    def calls(self) -> list[str]:
        entries = self.ask(control.Trace()).value
        return [e["call"].removeprefix("xdo_dev_") for e in entries if "update" not in e["call"]]

    def expires(self) -> list[int]:
        """The `hard` byte of every EXPIRE notification (UAPI-43)."""
        blobs = self.ask(control.Notifications()).blobs
        return [blob[16 + 224] for blob in blobs if blob[4:6] == b"\x18\x00"]


@pytest.fixture
def pair() -> Pair:
    return Pair()


def add(pair, limits="", direction="out"):
    return pair.ip(STATE.format(limits=limits, dir=direction))


def test_add_and_delete(pair) -> None:
    assert add(pair).rc == 0
    assert pair.census() == ONE_SA
    assert pair.ip(DELETE).rc == 0
    pair.settle()
    assert pair.census() == EMPTY
    assert pair.calls() == ["state_add", "state_delete", "state_free"]


@pytest.mark.parametrize("direction", ["out", "in"])
def test_a_duplicate_is_added_deleted_and_freed(pair, direction) -> None:
    """TRACE-03; the first SA is untouched."""
    add(pair, direction=direction)
    result = add(pair, direction=direction)
    pair.settle()
    assert (result.rc, "File exists" in result.stderr) == (2, True)
    assert pair.census() == ONE_SA
    assert pair.calls() == ["state_add", "state_add", "state_delete", "state_free"]


@pytest.mark.parametrize("opcode", ["CREATE_KEY", "CREATE_SA", "CREATE_SA_RULE"])
@pytest.mark.parametrize("site", ["mailbox.command", "mailbox.reply"])
def test_a_lost_message_fails_the_add_and_leaves_nothing(pair, site, opcode) -> None:
    """F-CTL-01: an object that was made in spite of it is found and destroyed."""
    spec = FaultSpec(site=site, kind="drop", match={"opcode": opcode}, times=1)
    pair.ask(AddFault(spec))
    result = add(pair)
    assert result.rc == 2
    assert f"{opcode}: no reply from the card in 2000 ms" in result.stderr
    pair.settle()
    assert pair.census() == EMPTY
    assert pair.calls() == ["state_add"]
    assert add(pair).rc == 0
    assert pair.census() == ONE_SA


@pytest.mark.parametrize("opcode", ["DESTROY_RULE", "DESTROY_SA", "DESTROY_KEY"])
@pytest.mark.parametrize("site", ["mailbox.command", "mailbox.reply"])
def test_a_lost_destroy_is_repeated(pair, site, opcode) -> None:
    add(pair)
    pair.ask(AddFault(FaultSpec(site=site, kind="drop", match={"opcode": opcode}, times=1)))
    assert pair.ip(DELETE).rc == 0
    pair.settle()
    assert pair.census() == EMPTY


@pytest.mark.parametrize("site", ["mailbox.command", "mailbox.reply"])
def test_everything_doubled_changes_nothing(pair, site) -> None:
    pair.ask(AddFault(FaultSpec(site=site, kind="duplicate")))
    assert add(pair).rc == 0
    assert pair.census() == ONE_SA
    pair.ip(DELETE)
    pair.settle()
    assert pair.census() == EMPTY


def test_a_full_table_refuses_and_has_room_after_a_delete() -> None:
    pair = Pair("tiny:sa_max=1")
    assert add(pair).rc == 0
    second = STATE.format(limits="", dir="out").replace("0x1000", "0x1001")
    result = pair.ip(second)
    assert (result.rc, "SA table is full at 1" in result.stderr) == (2, True)
    assert pair.census() == ONE_SA
    pair.ip(DELETE)
    assert pair.ip(second).rc == 0, "the row is free before the next add asks for it"


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "inline"])
def test_protected_packets_leave_as_esp(shared) -> None:
    pair = Pair(shared=shared)
    add(pair)
    assert pair.ip(POLICY).rc == 0
    assert pair.ask(control.Send([PACKET] * 300)).errnos == [0] * 300
    pair.settle()
    assert len(pair.frames) == 300
    assert {frame[23] for frame in pair.frames} == {50}
    assert {frame[34:38] for frame in pair.frames} == {bytes.fromhex("00001000")}
    assert len({frame[38:42] for frame in pair.frames}) == 300


LIMITS = "limit packet-soft 6 limit packet-hard 10"


@pytest.mark.parametrize(
    "faults",
    [
        [],
        [("events", "drop")],
        [("events", "duplicate")],
        [("events", "drop"), ("ring.counters", "drop")],
    ],
    ids=["no fault", "lost events", "doubled events", "lost events and counters"],
)  # fmt: skip
def test_limits_hold_whatever_happens_to_events(pair, faults) -> None:
    """Exactly ten frames, soft before hard, each once (INV-22, 25, 26, 27)."""
    add(pair, LIMITS)
    pair.ip(POLICY)
    for site, kind in faults:
        pair.ask(AddFault(FaultSpec(site=site, kind=kind)))
    for _ in range(14):
        pair.ask(control.Send([PACKET]))
        pair.settle()
        pair.now_ns += 1_100_000_000  # the reconcile tick sees each step
        pair.run()
    assert len(pair.frames) == 10
    assert pair.expires()[:2] == [0, 1]
    assert "0x00001000" not in pair.ip("xfrm state list").stdout
    pair.settle()
    assert pair.census() == {**EMPTY, "rules_policy": 1}


@pytest.mark.parametrize("site", ["ring.tx", "ring.tx_done"])
def test_a_lost_doorbell_or_completion_loses_no_packet(pair, site) -> None:
    pair.ask(AddFault(FaultSpec(site=site, kind="drop", times=1)))
    pair.ask(control.Send([PACKET] * 3))
    values = pair.settle()
    assert len(pair.frames) == 3
    assert values["wire"] == 3
    assert pair.ask(control.Send([PACKET])).errnos == [0]
    pair.settle()
    assert len(pair.frames) == 4


def test_link_down_flushes_without_a_word(pair) -> None:
    """NDEV-01..04."""
    add(pair)
    pair.ip(POLICY)
    pair.ask(control.Notifications())
    pair.ask(control.SetLink("nic0", up=False))
    pair.settle()
    assert pair.census() == EMPTY
    assert pair.ask(control.Notifications()).blobs == []


def test_a_refused_sa_says_why(pair) -> None:
    result = pair.ip(STATE.format(limits="", dir="out").replace("mode transport", "mode beet"))
    assert "SA 0x1000: mode beet is not offered, card takes transport, tunnel" in result.stderr
    assert result.rc == 2
    assert pair.ask(control.SetLink("nic9")).errno == errno.ENODEV
    assert pair.census() == EMPTY
