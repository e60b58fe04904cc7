# SPDX-License-Identifier: Apache-2.0
"""LIFE-40..44: two SAs for the same traffic, and which of them takes it."""

from host_driver.conformance import packets, texts
from host_driver.conformance.bench import Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import KEY
from host_driver.conformance.packets import Esp
from host_driver.conformance.subject import Subject

PACKET = packets.udp()
OLD, NEW = 0x1000, 0x1001
NEW_KEY = bytes(range(41, 61))


def spis(bench: Bench) -> list[int]:
    """The SPI of each packet on the wire; nothing may be in clear."""
    found = bench.spis()
    assert 0 not in found, "a packet left in clear"
    return found


def outbound(bench: Bench, old: str = "", new: str = "") -> Subject:
    """A host with an older and a newer SA, two seconds apart, and a policy."""
    host = bench.host()
    host.ok(texts.state(host.dev, more=old))
    host.ok(texts.policy(host.dev))
    bench.advance(2)
    host.ok(texts.state(host.dev, spi=NEW, key=NEW_KEY, more=new))
    host.notes()
    return host


@rule("LIFE-40", "LIFE-42", "LIFE-43")
def test_a_rekey_loses_no_packet(bench: Bench) -> None:
    """Soft EXPIRE, the new SA at the receiver, then at the sender; traffic moves over; the old one
    is deleted."""
    a, b = bench.pair()
    a.ok(texts.state(a.dev, more="limit packet-soft 2"))
    a.ok(texts.policy(a.dev))
    b.ok(texts.state(b.dev, dir="in"))
    b.ok(texts.policy(b.dev, dir="in"))
    for _ in range(2):
        a.send([PACKET])
    assert a.expired() == ["soft 0x1000"]
    bench.advance(2)
    b.ok(texts.state(b.dev, spi=NEW, key=NEW_KEY, dir="in"))
    a.send([PACKET])
    a.ok(texts.state(a.dev, spi=NEW, key=NEW_KEY))
    a.send([PACKET] * 2)
    for host in (a, b):
        host.ok(texts.delete(spi=OLD))
    a.send([PACKET])
    assert spis(bench) == [OLD] * 3 + [NEW] * 3
    assert b.receive() == [PACKET] * 6
    assert (a.mib(), b.mib()) == ({}, {})


@rule("LIFE-41")
def test_a_new_sa_is_used_from_the_next_packet_on(bench: Bench) -> None:
    """No route that was resolved before it keeps it out: the core asks the driver of the new SA."""
    host = bench.host()
    host.ok(texts.state(host.dev))
    host.ok(texts.policy(host.dev))
    host.send([PACKET] * 2)
    bench.advance(2)
    host.ok(texts.state(host.dev, spi=NEW, key=NEW_KEY))
    before = len(host.calls())
    host.send([PACKET])
    host.ok(texts.delete(spi=NEW))
    host.send([PACKET])
    asked = [call["spi"] for call in host.calls()[before:] if call["call"].endswith("offload_ok")]
    assert asked in ([], [hex(NEW), hex(OLD)])  # a driver may leave offload_ok out
    assert spis(bench) == [OLD, OLD, NEW, OLD]


@rule("LIFE-42")
def test_the_card_takes_the_newest_of_equals(bench: Bench) -> None:
    """The packet names no SA; the card's choice is the core's (TX-13), with the right key."""
    host = outbound(bench)
    host.send([PACKET])
    (sent,) = bench.on_the_wire()
    assert Esp(NEW, NEW_KEY).open(sent) == PACKET


@rule("LIFE-42")
def test_the_card_takes_a_living_sa_before_a_dying_one(bench: Bench) -> None:
    """The newer one reaches its soft limit: traffic goes back to the older one."""
    host = outbound(bench, new="limit packet-soft 2")
    for _ in range(4):
        host.send([PACKET])
    assert host.expired() == ["soft 0x1001"]
    assert spis(bench) == [NEW, NEW, OLD, OLD]


@rule("LIFE-43")
def test_both_spis_are_received_until_each_is_deleted(bench: Bench) -> None:
    """Old and new are open at once, in any order; a deleted one is closed."""
    host = bench.host()
    for spi, key in ((OLD, KEY), (NEW, NEW_KEY)):
        host.ok(texts.state(host.dev, spi=spi, key=key, dir="in"))
    host.ok(texts.policy(host.dev, dir="in"))
    old, new = Esp(OLD), Esp(NEW, NEW_KEY)

    def arrives(esp: Esp, seq: int) -> bool:
        bench.arrive(esp.seal(PACKET, seq))
        return host.receive() == [PACKET]

    assert all(arrives(esp, seq) for esp, seq in ((old, 1), (new, 1), (old, 2), (new, 2)))
    host.ok(texts.delete(spi=OLD))
    bench.settle()  # state_delete waits for nothing (MLX-13)
    assert [arrives(old, 3), arrives(new, 3)] == [False, True]


@rule("LIFE-44")
def test_a_dying_sa_is_used_while_there_is_no_better_one(bench: Bench) -> None:
    """After the soft limit traffic goes on."""
    host = bench.host()
    host.ok(texts.state(host.dev, more="limit packet-soft 1"))
    host.ok(texts.policy(host.dev))
    for _ in range(3):
        assert host.send([PACKET]) == [0]
    assert host.expired() == ["soft 0x1000"]
    assert spis(bench) == [OLD] * 3
    assert host.mib() == {}


@rule("LIFE-42")
def test_the_device_picks_by_the_reqid_of_the_policy(bench: Bench) -> None:
    """Two policies of different reqid between the same hosts: each gets its own SA."""
    host = bench.host()
    for spi, reqid, port in ((OLD, 7, 1007), (NEW, 8, 1008)):
        host.ok(texts.state(host.dev, spi=spi, reqid=reqid))
        host.ok(texts.policy(host.dev, reqid=reqid, more=f"proto udp dport {port}"))
    host.send([packets.udp(dport=port) for port in (1007, 1008, 1007)])
    assert spis(bench) == [OLD, NEW, OLD]
