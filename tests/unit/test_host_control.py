# SPDX-License-Identifier: Apache-2.0
"""The host's CONTROL channel and message edge, with a card that says yes to every command."""

import errno
import random

import msgspec
import numpy as np
import pytest

from host_driver import control
from host_driver.control import Answer, Ask
from host_driver.driver.command import FENCE
from host_driver.host import Host
from proto import commands as c
from proto.caps import PROFILES
from proto.events import Event, EventType
from proto.faults import FaultSpec
from proto.frame import HEADER, Channel, Kind, pack, unpack
from proto.health import FunctionState, HealthRecord
from proto.hello import decode_hello
from proto.layouts import DESCRIPTOR
from proto.limits import COMMAND_TIMEOUT_MS, RING_SIZE, TXQUEUE_LEN
from proto.link.dma import Dma, rx_offset
from proto.management import AddFault, RemoveFault
from proto.status import OffloadError

MAC, PEER = b"\x02xfrm\x00", b"\x02xfrm\x01"
START_NS = 1_700_000_000 * 10**9


def ipv4(source: bytes, target: bytes, payload: bytes = b"payload!") -> bytes:
    length = (20 + len(payload)).to_bytes(2)
    return b"\x45\x00" + length + bytes(4) + b"\x40\xfd" + bytes(2) + source + target + payload


PACKET = ipv4(bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2)))
LOCAL = ipv4(bytes((127, 0, 0, 1)), bytes((127, 0, 0, 1)))
FEATURES = ["esp-hw-offload", "tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-udp-segmentation"]


class Bench:
    """A host, its messages by hand, and time."""

    def __init__(self, **arguments) -> None:
        self.dma = Dma.anonymous()
        self.now_ns = START_NS
        self.answers: dict[int, Answer] = {}
        self.hello = None
        self.rings: list = []
        self.armed: list[int] = []
        self.commands: list = []
        self.card_silent = False
        self.fence = dict.fromkeys(FENCE, 0)
        self.asked = self.tx_first = 0
        self.host = Host("host0", MAC, PEER, self.dma, 1, **arguments)

    def step(self, *inputs) -> None:
        """One step of the host, then whatever the card answers, until both are quiet."""
        outputs = self.host.step(self.now_ns, inputs)
        replies = [reply for channel, raw in outputs for reply in self._sort(channel, raw)]
        if replies:
            self.step(*replies)

    def _sort(self, channel, raw):
        message = unpack(raw)
        if message.kind is Kind.HELLO:
            self.hello = decode_hello(message.body)
        elif message.kind is Kind.CONTROL:
            answer = msgspec.msgpack.decode(message.body, type=Answer)
            self.answers[answer.id] = answer
        elif channel is Channel.RINGS:
            self.rings.append(message)
        elif channel is Channel.EVENTS:
            self.armed.append(message.index)
        elif not self.card_silent:
            yield Channel.MAILBOX, self._card(message)

    def _card(self, message) -> bytes:
        request = msgspec.msgpack.decode(message.body, type=c.Request)
        self.commands.append(request.command)
        reply = c.Reply(request.token)
        if isinstance(request.command, c.QueryCaps):
            reply = c.Reply(request.token, caps=PROFILES["cx6dx"])
        elif isinstance(request.command, c.InitFunction):
            reply = c.Reply(request.token, values={"boot": 7, "health": 1, "revision": 5})
        elif isinstance(request.command, c.Fence):
            reply = c.Reply(request.token, values=self.fence)
        elif isinstance(request.command, c.QueryCounters):
            reply = c.Reply(request.token, values={"tx_packets": 4})
        elif isinstance(request.command, c.QueryCensus):
            reply = c.Reply(request.token, values={"sas": 0})
        return pack(Kind.REPLY, msgspec.msgpack.encode(reply), epoch=message.epoch)

    def ask(self, query) -> Answer | None:
        self.asked += 1
        body = msgspec.msgpack.encode(Ask(self.asked, query))
        self.step((Channel.CONTROL, pack(Kind.CONTROL, body)))
        return self.answers.get(self.asked)

    def receive(self, index: int, packet: bytes) -> tuple[Channel, bytes]:
        """An RX message with one clear packet in its slot."""
        frame = MAC + PEER + b"\x08\x00" + packet
        start = rx_offset(index)
        self.dma.memory[start : start + len(frame)] = np.frombuffer(frame, np.uint8)
        self.dma.rx_marks[index] = index + 1
        body = np.array([(start, len(frame), 0, 0, 0, 0)], DESCRIPTOR).tobytes()
        return Channel.RINGS, pack(Kind.RX, body, index, 1, self.host.epoch)

    def tx_done(self, count: int) -> tuple[Channel, bytes]:
        first, self.tx_first = self.tx_first, self.tx_first + count
        return Channel.RINGS, pack(Kind.TX_DONE, index=first, count=count, epoch=self.host.epoch)


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.step()
    return bench


def test_probe_brings_the_device_up_and_says_hello(bench) -> None:
    assert bench.commands == [
        c.InitFunction(bench.host.epoch), c.QueryCaps(), c.SetPort(mtu=1500),
    ]  # fmt: skip
    assert bench.host.epoch
    assert (bench.hello.party, bench.hello.name, bench.hello.caps.name) == (
        "host", "host0", "cx6dx",
    )  # fmt: skip
    info = bench.ask(control.Info()).value
    lo, nic = info["devices"]
    assert (lo["name"], lo["ifindex"], lo["up"]) == ("lo", 1, True)
    assert (nic["name"], nic["ifindex"], nic["mac"], nic["mtu"], nic["up"]) == (
        "nic0", 2, MAC, 1500, True,
    )  # fmt: skip
    assert nic["features"] == FEATURES


def test_messages_of_another_epoch_are_stale(bench) -> None:
    """What a dead card left in a queue is not taken for the answer of the next (F-LIF-11)."""
    other = bench.host.epoch ^ 1
    bench.step(
        (Channel.MAILBOX, pack(Kind.REPLY, msgspec.msgpack.encode(c.Reply(33)), epoch=other)),
        (Channel.EVENTS, pack(Kind.EVENTS, msgspec.msgpack.encode([]), 0, 0, other)),
        (Channel.RINGS, pack(Kind.TX_DONE, count=1, epoch=other)),
        (Channel.RINGS, pack(Kind.RX, b"", 0, 0, other)),
        (Channel.RINGS, pack(Kind.COUNTERS, b"", 0, 0, other)),
    )
    counters = bench.ask(control.Counters()).values
    assert counters["driver_messages_stale"] == 5
    assert "driver_mailbox_unexpected" not in counters
    assert "driver_tx_done_unexpected" not in counters


def test_every_probe_has_an_epoch_of_its_own() -> None:
    hosts = [Host("host0", MAC, PEER, Dma.anonymous(), seed) for seed in (1, 1, 2)]
    first, again, other = [host.new_epoch() for host in hosts]
    assert first == again != other
    assert hosts[0].new_epoch() not in (0, first)


def test_queries_wait_for_a_card_that_boots_slowly() -> None:
    bench = Bench()
    bench.card_silent = True
    bench.step((Channel.MAILBOX, pack(Kind.OPENED)))
    assert bench.ask(control.Info()) is None
    bench.card_silent = False
    bench.now_ns += 3 * COMMAND_TIMEOUT_MS * 1_000_000
    bench.step()
    assert bench.answers[1].value["devices"][1]["up"]


def test_without_a_card_a_host_comes_up_and_waits_for_one() -> None:
    bench = Bench()
    bench.card_silent = True
    bench.step()
    bench.now_ns += COMMAND_TIMEOUT_MS * 1_000_000
    bench.step()
    info = bench.ask(control.Info()).value
    nic = info["devices"][1]
    assert (info["device_state"], info["caps"]) == ("error", None)
    assert (nic["up"], nic["carrier"], nic["features"]) == (False, False, [])
    assert bench.ask(control.Census()).errno == errno.ENXIO
    asked = len(bench.commands)
    bench.now_ns += 3600 * 10**9
    bench.step()
    assert len(bench.commands) == asked, "nobody is asked again and again"
    bench.card_silent = False
    record = msgspec.msgpack.encode(HealthRecord(7, 1, FunctionState.IDLE))
    bench.step((Channel.EVENTS, pack(Kind.HEALTH, record)))
    bench.step()
    info = bench.ask(control.Info()).value
    assert (info["device_state"], info["caps"]["name"]) == ("up", "cx6dx")
    assert info["devices"][1]["features"] == FEATURES
    assert info["devices"][1]["up"]


def test_local_packets_come_back(bench) -> None:
    assert bench.ask(control.Send([LOCAL])).errnos == [0]
    assert bench.ask(control.Receive()).blobs == [LOCAL]
    assert bench.ask(control.Receive()).blobs == []


def test_a_sender_waits_for_room_instead_of_failing(bench) -> None:
    count = RING_SIZE + TXQUEUE_LEN + 500
    assert bench.ask(control.Send([PACKET] * count)) is None
    while bench.asked not in bench.answers:
        assert bench.rings, "the ring stands still"
        credits = sum(message.count for message in bench.rings)
        bench.rings.clear()
        bench.step(bench.tx_done(credits))
    assert bench.answers[bench.asked].errnos == [0] * count


def test_receive_is_bounded_by_its_limit(bench) -> None:
    bench.step(*(bench.receive(index, PACKET) for index in range(5)))
    assert len(bench.ask(control.Receive(limit=3)).blobs) == 3
    assert bench.ask(control.Receive(limit=1)).blobs == [PACKET]
    assert bench.ask(control.Discard()).values == {"packets": 1, "bytes": len(PACKET)}
    assert bench.ask(control.Discard()).values == {"packets": 0, "bytes": 0}
    assert bench.ask(control.Receive(limit=3)).blobs == []


def test_counters_of_card_and_driver_keep_their_names_apart(bench) -> None:
    bench.step(bench.receive(0, PACKET))
    values = bench.ask(control.Counters()).values
    assert (values["tx_packets"], values["driver_rx_packets"]) == (4, 1)


def test_set_link(bench) -> None:
    assert bench.ask(control.SetLink("nic9")).errno == errno.ENODEV
    assert bench.ask(control.SetLink("nic0", mtu=100)).errno == errno.EINVAL
    bench.commands.clear()
    assert bench.ask(control.SetLink("nic0", mtu=9000, up=False)).errno == 0
    assert bench.commands == [c.SetPort(mtu=9000)]
    assert bench.ask(control.Send([PACKET])).errnos != [0]
    assert bench.ask(control.SetLink("nic0", up=True, esp_hw_offload=False)).errno == 0
    nic = bench.ask(control.Info()).value["devices"][1]
    assert (nic["mtu"], nic["up"], nic["features"]) == (9000, True, FEATURES[1:])
    assert bench.ask(control.SetLink("nic0", unregister=True)).errno == 0
    assert len(bench.ask(control.Info()).value["devices"]) == 1


def test_capture_records_the_clear_side(bench) -> None:
    assert bench.ask(control.Capture()).value == []
    bench.ask(control.Capture(True))
    bench.ask(control.Send([PACKET]))
    bench.step(bench.receive(0, LOCAL))
    bench.ask(control.Capture(False))
    bench.ask(control.Send([PACKET]))
    assert bench.ask(control.Capture()).value == [
        [START_NS, "out", PACKET], [START_NS, "in", LOCAL],
    ]  # fmt: skip


def test_quiesce_waits_for_packets_and_for_what_the_card_has_sent(bench) -> None:
    bench.fence |= dict(rx=1, events=2, wire=7)
    bench.ask(control.Send([PACKET]))
    assert bench.ask(control.Quiesce()) is None, "a packet is out"
    number = bench.asked
    bench.step(bench.tx_done(1))
    assert number not in bench.answers, "the card has sent a packet and two events"
    bench.step(bench.receive(0, PACKET))
    body = msgspec.msgpack.encode([Event(EventType.SOFT_LIMIT, 1, 1)] * 2)
    bench.step((Channel.EVENTS, pack(Kind.EVENTS, body, 0, 2, bench.host.epoch)))
    values = bench.answers[number].values
    assert (values["tx_index"], values["rx_index"], values["events"], values["wire"]) == (
        1,
        1,
        2,
        7,
    )


def test_quiesce_does_not_wait_for_lost_events(bench) -> None:
    bench.fence["events"] = 1
    bench.ask(AddFault(FaultSpec(site="events", kind="drop")))
    body = msgspec.msgpack.encode([Event(EventType.SOFT_LIMIT, 1, 1)])
    bench.step((Channel.EVENTS, pack(Kind.EVENTS, body, 0, 1, bench.host.epoch)))
    assert bench.ask(control.Quiesce()).values["events"] == 1


def test_two_askers_may_wait_for_the_end_of_things(bench) -> None:
    bench.ask(control.Send([PACKET]))
    assert bench.ask(control.Quiesce()) is bench.ask(control.Quiesce()) is None
    bench.step(bench.tx_done(1))
    assert {2, 3} <= bench.answers.keys()


def test_faults_come_and_go(bench) -> None:
    assert bench.ask(AddFault(FaultSpec(site="nowhere", kind="drop"))).errno == errno.EINVAL
    name = bench.ask(
        AddFault(FaultSpec(site="mailbox.command", kind="drop", match={"opcode": "QUERY_CENSUS"}))
    ).value
    assert bench.ask(control.Census()) is None
    assert bench.ask(control.Counters()).errno == 0
    assert bench.ask(RemoveFault(name)).errno == 0
    assert bench.ask(RemoveFault(name)).errno == errno.ENOENT
    bench.now_ns += COMMAND_TIMEOUT_MS * 1_000_000
    bench.step()
    assert bench.answers[3].errno == 0  # a tool's question is asked again until it is answered


@pytest.mark.parametrize("kind", ["drop", "truncate", "corrupt"])
def test_broken_receive_messages_cost_packets_but_no_credits(bench, kind) -> None:
    value = None if kind == "drop" else 3
    fault = FaultSpec(site="ring.rx", kind=kind, value=value, times=1)
    assert bench.ask(AddFault(fault)).errno == 0
    bench.step(bench.receive(0, PACKET))
    bench.step(bench.receive(1, PACKET))
    assert [message.count for message in bench.rings] == [1, 1]
    assert len(bench.ask(control.Receive()).blobs) == 1


def test_a_doubled_command_reaches_the_card_in_buffers_of_their_own(bench) -> None:
    bench.ask(AddFault(FaultSpec(site="mailbox.command", kind="duplicate")))
    sent = []
    bench.host.mailbox.post(c.QueryCensus())
    for channel, raw in bench.host.step(bench.now_ns, []):
        assert channel is Channel.MAILBOX
        sent.append(raw)
    assert sent[0] == sent[1]
    assert sent[0] is not sent[1]


def test_malformed_queries_are_answered_where_possible(bench) -> None:
    body = msgspec.msgpack.encode([77, {"type": "NoSuchQuery"}])
    bench.step((Channel.CONTROL, pack(Kind.CONTROL, body)))
    assert bench.answers[77].errno == errno.EBADMSG
    bench.step((Channel.CONTROL, pack(Kind.CONTROL, b"\xc1")))
    assert bench.host.counters["control_malformed"] == 2


def test_random_bytes_on_every_channel_change_nothing(bench) -> None:
    rng = random.Random(5)
    kinds = list(Kind)
    for _ in range(2000):
        channel = rng.choice(list(Channel))
        raw = rng.randbytes(rng.randrange(80))
        if rng.random() < 0.7:
            raw = pack(rng.choice(kinds), raw, rng.getrandbits(32), rng.randrange(4))
        if rng.random() < 0.3:
            raw = raw[: rng.randrange(len(raw) + 1)]
        bench.host.step(bench.now_ns, [(channel, raw)])
    bench.answers.clear()
    assert len(bench.ask(control.Info()).value["devices"]) == 2
    assert bench.ask(control.Trace()).value == []


def test_a_message_of_another_version_is_counted(bench) -> None:
    raw = bytearray(pack(Kind.RX, b""))
    assert len(raw) == HEADER.size
    raw[2] = 99
    bench.step((Channel.RINGS, bytes(raw)))
    assert bench.host.counters["messages_malformed"] == 1
    bench.step((Channel.RINGS, pack(Kind.REPLY, b"")))
    assert bench.host.counters["messages_unexpected"] == 1


def test_netlink_garbage_gets_an_answer_and_nothing_else(bench) -> None:
    answer = bench.ask(control.Netlink(bytes(7)))
    assert answer is not None
    assert bench.ask(control.Trace()).value == []


class Broken:
    """A driver that cannot start."""

    def __init__(self, context) -> None:
        raise RuntimeError("no such card")

    def xdo_dev_state_add(self, dev, x, extack):
        return 0

    def xdo_dev_state_delete(self, dev, x):
        return None


def test_a_driver_that_cannot_start_leaves_a_device_without_offload(monkeypatch) -> None:
    monkeypatch.setattr("host_driver.host.load_driver", lambda name: Broken)
    bench = Bench(driver="my.module:Broken")
    bench.step()
    info = bench.ask(control.Info()).value
    assert info["error"] == "driver my.module:Broken: RuntimeError: no such card"
    assert info["devices"][1]["features"] == []


def test_unknown_drivers_and_profiles_are_refused() -> None:
    with pytest.raises(OffloadError, match="is not written as"):
        Bench(driver="nonsense")
    with pytest.raises(OffloadError, match="kernel profile 'p62' is unknown"):
        Bench(profile="p62")
