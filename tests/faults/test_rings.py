# SPDX-License-Identifier: Apache-2.0
"""Rings, doorbells and the event queue under faults: every packet has one end, whatever happens to
what speaks of it, and a queue in error comes back.
"""

import errno
import itertools

import pytest

from proto import netlink
from proto.xfrm import Msg
from support.accounts import Accounts
from support.esp import datagram
from support.rows import row

GRACE_MS = 500


def pass_time(way, seconds: float) -> None:
    way.lab.advance(seconds)
    way.lab.settle()


def expires(host) -> list[int]:
    return [
        message.payload[224]
        for raw in host.notifications()
        for message in netlink.messages(raw)
        if message.type == Msg.EXPIRE
    ]


def numbers(way) -> list[int]:
    """Sequence numbers on the wire; every frame is ESP."""
    frames = way.frames()
    assert {frame[23] for frame in frames} <= {50}
    return [int.from_bytes(frame[38:42]) for frame in frames]


def sender_conserves(way, accounts: Accounts, sent: int) -> None:
    """To the packet, each number once, and nothing in clear."""
    seen = numbers(way)
    assert len(seen) == len(set(seen))
    assert sent == len(seen) + sum(accounts.unsent().values())


def receiver_conserves(way, accounts: Accounts, arrived: int) -> None:
    assert len(way.frames()) == arrived + sum(accounts.undelivered().values())


@row("F-RNG-01", process=True)
def test_a_lost_doorbell_is_rung_again(way, target) -> None:
    way = way(target)
    accounts = Accounts(way.a)
    way.lab.faults.add("doorbell-lost", host=0)
    sent = way.send(3)
    assert way.arrived() == sent
    assert accounts["driver_tx_rung_again"] >= 3
    sender_conserves(way, accounts, 3)


@row("F-RNG-02")
def test_only_slots_that_are_written_are_read(way, target) -> None:
    """The first doorbell is early: its packet is an error, those behind it are flushed, and what
    the slot held a lap ago does not leave. Each further one comes twice and is one."""
    way = way(target)
    accounts = Accounts(way.a)
    way.send(1024)
    before = len(way.arrived())
    way.lab.faults.add("doorbell-early-and-twice", host=0)
    way.send(5)
    assert way.arrived() == []
    assert accounts.unsent() == {"tx_drop_descriptor": 1, "tx_drop_flushed": 4}
    sent = way.send(200)
    assert way.arrived() == sent
    assert accounts["tx_stale"] > 0
    assert before == 1024
    sender_conserves(way, accounts, 1024 + 5 + 200)


@row("F-RNG-03", process=True)
def test_a_producer_index_beyond_the_ring_stops_the_queue_and_it_comes_back(way, target) -> None:
    way = way(target)
    accounts = Accounts(way.a)
    way.lab.faults.add("producer-index-beyond-the-ring", host=0)
    way.send(3)
    assert way.arrived() == []
    assert (accounts["tx_errors"], accounts["driver_tx_recover"]) == (1, 1)
    assert accounts.unsent() == {"driver_tx_drop_reset": 3}
    sent = way.send(3)
    assert way.arrived() == sent
    sender_conserves(way, accounts, 6)


@row("F-RNG-04")
def test_a_full_ring_pushes_back_and_loses_nothing(way, target) -> None:
    way = way(target)
    accounts = Accounts(way.a)
    way.lab.faults.add("transmit-ring-full", host=0)
    packets = [datagram(60, id=number) for number in range(3000)]
    errnos = way.a.send(packets)
    accepted = [packet for packet, code in zip(packets, errnos, strict=True) if not code]
    assert set(errnos) <= {0, errno.ENOBUFS}
    assert len(accepted) > 1024
    assert way.arrived() == accepted
    assert accounts["driver_tx_recover"] == 0


@row("F-RNG-05", process=True)
def test_a_completion_of_a_lap_ago_is_not_consumed(way, target) -> None:
    """Its packets are lost, counted, and not those that stood in the slots before."""
    way = way(target)
    accounts = Accounts(way.b)
    first = way.send(1)
    assert way.arrived() == first
    way.lab.faults.add("completion-of-a-lap-ago", host=1)
    way.send(2)
    assert way.arrived() == []
    sent = way.send(2)
    assert way.arrived() == sent
    assert accounts["driver_rx_stale"] == 1
    assert accounts.undelivered() == {"driver_rx_lost": 2}


@row("F-RNG-06")
def test_a_completion_before_its_payload_delivers_nothing(way, target) -> None:
    way = way(target)
    accounts = Accounts(way.b)
    way.send(1024)
    assert len(way.arrived()) == 1024  # every slot holds an older packet
    way.lab.faults.add("completion-before-its-payload", host=1)
    way.send(1)
    assert way.arrived() == []
    assert accounts.undelivered() == {"driver_rx_not_written": 1}
    assert accounts["driver_rx_recover"] == 1
    sent = way.send(3)
    assert way.arrived() == sent
    receiver_conserves(way, accounts, 1024 + 3)


@row("F-RNG-07", process=True)
@pytest.mark.parametrize("twice", [False, True])
def test_a_completion_of_what_was_never_sent_frees_nothing(way, target, twice) -> None:
    """Twice: the second says nothing. Beyond: the queue stops, and comes back."""
    way = way(target)
    accounts = Accounts(way.a)
    if twice:
        way.lab.faults.add(site="ring.tx_done", kind="duplicate", host=0)
    else:
        way.lab.faults.add("completion-of-what-was-never-sent", host=0)
    sent = way.send(40)
    assert way.arrived() == sent
    assert accounts["driver_tx_recover"] == (0 if twice else 1)
    assert (accounts["driver_tx_done_stale"] > 0) == twice
    sent = way.send(2000)
    assert way.arrived() == sent
    sender_conserves(way, accounts, 2040)


@row("F-RNG-08")
def test_slots_that_nobody_had_stop_the_receive_queue_and_it_comes_back(way, target) -> None:
    """The card says so by an event; frames that come meanwhile are counted."""
    way = way(target)
    accounts = Accounts(way.b)
    way.lab.faults.add("slots-given-back-that-nobody-had", host=1)
    sent = way.send(3)
    assert way.arrived() == sent
    assert (accounts["rx_errors"], accounts["driver_rx_recover"]) == (1, 1)
    assert accounts["driver_events_queue_error"] == 1
    sent = way.send(1500)
    assert way.arrived() == sent
    receiver_conserves(way, accounts, 1503)


@row("F-RNG-09", process=True)
@pytest.mark.parametrize("syndrome", [1, 2, 4, 0x10, 0x11, 0x12, 99])
def test_an_error_completion_is_recovered_from(way, target, syndrome) -> None:
    """What stands behind it is flushed and not sent again."""
    way = way(target)
    accounts = Accounts(way.a)
    way.lab.faults.add("error-completion", host=0, value=syndrome, skip=2)
    sent = way.send(10)
    assert way.arrived() == sent[:2]
    assert accounts["driver_tx_recover"] == accounts["driver_tx_errors"] == 1
    assert accounts.unsent() == {"tx_drop_engine": 1, "tx_drop_flushed": 7}
    later = way.send(3)
    assert way.arrived() == later
    assert numbers(way) == [1, 2, 3, 4, 5]
    sender_conserves(way, accounts, 13)


def test_recoveries_keep_the_grace_period(way) -> None:
    """F-RNG-09: one after the other fails, and no two recoveries are closer than the grace."""
    way = way("sim")
    accounts = Accounts(way.a)
    way.lab.faults.add(site="card.tx", kind="error", host=0)
    for _ in range(8):
        way.send(1)
    pass_time(way, 10)
    assert 1 <= accounts["driver_tx_recover"] <= 8
    firings = [entry["time_ns"] for entry in way.lab.faults.log() if entry["site"] == "card.tx"]
    gaps = [(b - a) / 1e6 for a, b in itertools.pairwise(firings)]
    assert all(gap == 0 or gap >= GRACE_MS for gap in gaps), gaps
    assert way.frames() == []


@row("F-RNG-10", process=True)
def test_frames_without_a_slot_are_counted(way, target) -> None:
    way = way(target)
    accounts = Accounts(way.b)
    with way.lab.faults.inject("no-slot-at-all", host=1):
        way.send(7)
        assert way.arrived() == []
    assert accounts.undelivered() == {"rx_drop_no_buffer": 7}
    sent = way.send(3)
    assert way.arrived() == sent


@row("F-RNG-11")
def test_a_length_beyond_the_buffer_is_not_read(way, target) -> None:
    way = way(target)
    accounts = Accounts(way.b)
    way.lab.faults.add("length-beyond-the-buffer", host=1)
    way.send(1)
    assert way.arrived() == []
    assert accounts.undelivered() == {"driver_rx_malformed": 1}
    assert accounts["driver_rx_recover"] == 1
    sent = way.send(1100)
    assert way.arrived() == sent


@row("F-RNG-12")
def test_a_flood_of_events_loses_no_limit(way, target) -> None:
    """The ring is full: one event says so, and everything is read."""
    way = way(target)
    way.delete_sa(hosts=[0])
    way.add_sa(out="limit packet-soft 3 limit packet-hard 5", hosts=[0])
    way.a.notifications()
    accounts = Accounts(way.a)
    way.lab.faults.add("event-flood", host=0)
    told = []
    for _ in range(8):
        way.a.send([datagram()])
        way.lab.settle()
        told += expires(way.a)
    assert (told, len(way.frames())) == ([0, 1], 5)
    assert accounts["events_overrun"] > 0 and accounts["driver_events_overrun"] == 1
    assert accounts["driver_events_unknown"] > 0


@row("F-RNG-13", process=True)
def test_lost_interrupts_are_found_by_polling(way, target) -> None:
    way = way(target)
    way.delete_sa(hosts=[0])
    way.add_sa(out="limit packet-soft 3 limit packet-hard 5", hosts=[0])
    way.a.notifications()
    accounts = Accounts(way.a)
    way.lab.faults.add("event-interrupt-lost", host=0)
    way.lab.faults.add(site="ring.counters", kind="drop", host=0)
    told = []
    for _ in range(8):
        way.a.send([datagram()])
        way.lab.settle()
        told += expires(way.a)
    assert (told, len(way.frames())) == ([0, 1], 5)
    assert accounts["driver_events_polled"] > 0
    assert accounts["driver_events_soft_limit"] == accounts["driver_events_hard_limit"] == 1


@row("F-RNG-14", process=True)
def test_a_spurious_interrupt_is_nothing(way, target) -> None:
    way = way(target)
    way.delete_sa(hosts=[0])
    way.add_sa(out="limit packet-soft 3 limit packet-hard 5", hosts=[0])
    way.a.notifications()
    accounts = Accounts(way.a)
    way.lab.faults.add("spurious-interrupt", host=0)
    told = []
    for _ in range(8):
        way.a.send([datagram()])
        way.lab.settle()
        told += expires(way.a)
    assert (told, len(way.frames())) == ([0, 1], 5)
    assert accounts["driver_events_spurious"] == 2
    assert accounts["driver_events_doubled"] == accounts["driver_events_lost"] == 0


def begin_at(lab, index: int) -> None:
    """Let every ring, event queue and wire go on at a running number, as after so many packets."""
    parties = {node.name: node.party for node in lab._world._simulator.nodes}
    for number in range(2):
        card, host = parties[f"card{number}"], parties[f"host{number}"]
        port = parties["wire"]._ports[number]
        for consumer, producer in (
            (card.queues.tx, host.tx._producer),
            (host.rx._consumer, card.queues.rx),
            (port.arriving, card.port._out),
            (card.port._in, port.leaving),
        ):
            consumer.restart(index)
            producer.restart(index)
        host.events._consumer.restart(index)
        host.records._consumer.restart(index)
        card.events.restart(host.epoch, index)
        card.queues._records = index
        host.events.arm()


@row("F-RNG-15")
@pytest.mark.parametrize("index", [(1 << 32) - 700, (1 << 32) - 1, (1 << 16) - 2, (1 << 24) - 300])
def test_all_indices_wrap(way, target, index) -> None:
    way = way(target)
    way.delete_sa(hosts=[0])
    way.add_sa(out="limit packet-soft 900 limit packet-hard 1500", hosts=[0])
    begin_at(way.lab, index)
    way.a.notifications()
    sender, receiver = Accounts(way.a), Accounts(way.b)
    sent, got, told = [], [], []
    for count in (1, 500, 256, 200, 600):
        sent += way.send(count)
        got += way.arrived()
        told += expires(way.a)
    assert (got, told) == (sent[:1500], [0, 1])
    assert sender.unsent() == {"tx_drop_hard_limit": 57}
    assert receiver.undelivered() == {}
    for accounts in (sender, receiver):
        strange = ("x_stale", "lost", "unexpected", "doubled", "rung_again", "polled", "recover")
        assert [name for name in accounts.moved() if name.endswith(strange)] == []


@row("F-RNG-16")
def test_a_descriptor_of_a_freed_sa_is_caught_by_its_generation(way, target) -> None:
    """Another SA has taken the row meanwhile: its key does not seal the packets of the first."""
    way = way(target, "crypto")
    accounts = Accounts(way.a)
    way.lab.faults.add("descriptor-of-a-freed-sa", host=0)
    way.a.send([datagram()] * 3)
    way.ip(way.a, "xfrm state flush")
    way.lab.advance(3)  # who waits for the packets has given up
    way.add_sa(0x2000, hosts=[0])
    assert way.a.nic.census()["sas"] == 1
    way.lab.settle()
    assert way.frames() == []
    assert accounts.unsent() == {"tx_drop_crypto": 3}


@row("F-RNG-17")
def test_no_bytes_of_an_older_packet_reach_the_stack(way, target) -> None:
    """A descriptor longer or shorter than what was written does not fit the IP header."""
    way = way(target)
    accounts = Accounts(way.b)
    for kind, value in (("long", 9), ("short", 1), ("short", 60)):
        with way.lab.faults.inject("payload-in-part", host=1, kind=kind, value=value):
            way.send(3)
            assert way.arrived() == []
    assert accounts.undelivered() == {"driver_rx_length": 9}
    sent = way.send(1)
    assert way.arrived() == sent


def test_a_transmit_queue_that_stands_still_for_long_is_reset(way) -> None:
    """After TX_TIMEOUT_MS what waits is given up; the same number never leaves twice."""
    way = way("sim")
    accounts = Accounts(way.a)
    way.lab.faults.add(site="card.tx", kind="stall", host=0, delay_ms=60_000, times=1)
    way.send(5)
    pass_time(way, 20)
    assert (accounts["driver_tx_timeouts"], accounts["driver_tx_recover"]) == (1, 1)
    assert way.frames() == []
    assert accounts.unsent() == {"tx_drop_flushed": 5}
    sent = way.send(2)
    assert way.arrived() == sent
    assert numbers(way) == [1, 2]


@pytest.mark.parametrize(
    ("site", "host"), [("ring.rx_done", 1), ("ring.rx", 1), ("ring.tx_done", 0)]
)
def test_a_heartbeat_finds_what_got_lost_where_nothing_moves_any_more(way, site, host) -> None:
    """Else a receive ring whose last slots were given back in vain would stand still for ever."""
    way = way("sim")
    with way.lab.faults.inject(site=site, kind="drop", host=host):
        for _ in range(6):
            way.a.send([datagram()] * 200)
            way.lab.advance(0.01)  # no settling, which would ask
    way.lab.advance(5)
    before = len(way.frames())
    way.b.receive()
    way.a.send([datagram()] * 300)
    way.lab.advance(0.5)
    assert len(way.frames()) - before >= 300
    assert len(way.b.receive()) >= 300


@pytest.mark.parametrize("kind", ["drop", "duplicate", "corrupt", "reorder", "delay", "truncate"])
@pytest.mark.parametrize(
    "site", ["ring.tx", "ring.tx_done", "ring.rx", "ring.rx_done", "ring.arm", "ring.counters"]
)
def test_whatever_happens_to_a_ring_message(way, site, kind) -> None:
    """Nothing in clear, nothing twice, every packet with one end; and afterwards all is well."""
    way = way("sim")
    sender, receiver = Accounts(way.a), Accounts(way.b)
    delay = {"delay_ms": 40} if kind == "delay" else {}
    way.lab.faults.add(site=site, kind=kind, probability=0.4, **delay)
    sent, got = [], []
    for count in (1, 40, 300, 2, 700):
        sent += way.send(count)
        got += way.arrived()
    way.lab.faults.reset()
    pass_time(way, 30)
    got += way.b.receive()
    assert len(got) == len(set(got)) and set(got) <= set(sent)
    sender_conserves(way, sender, len(sent))
    receiver_conserves(way, receiver, len(got))
    last = way.send(1500)
    assert way.arrived() == last


@pytest.mark.parametrize("value", [-5000, -300, -1, 1, 255, 1024, 1 << 20, 1 << 31])
@pytest.mark.parametrize("kind", ["index", "count"])
@pytest.mark.parametrize("site", ["ring.tx", "ring.tx_done", "ring.rx", "ring.rx_done", "ring.arm"])
def test_whatever_a_peer_scribbles_into_its_indices(way, site, kind, value) -> None:
    """F-SEC-16: validated, queue error, no crash; and it comes back."""
    if kind == "count" and abs(value) > 65_535:
        pytest.skip("a count has 16 bits")
    way = way("sim")
    way.send(300)
    assert len(way.arrived()) == 300
    way.lab.faults.add(site=site, kind=kind, value=value, times=2, interval=2)
    for count in (1, 40, 300):
        way.send(count)
        way.arrived()
    way.lab.faults.reset()
    pass_time(way, 40)
    way.b.receive()
    last = way.send(1500)
    assert way.arrived() == last
    seen = numbers(way)
    assert len(seen) == len(set(seen))
