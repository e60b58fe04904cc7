# SPDX-License-Identifier: Apache-2.0
"""OPS-16..19, OPS-22, OPS-40: state_delete and state_free, where, how often, in which order."""

import pytest

from host_driver.conformance import messages, packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.probe import LINGER
from host_driver.conformance.subject import Subject
from proto.xfrm import Attr, Group, Msg
from proto.xfrm_structs import UserExpire, UserSaInfo

PACKET = packets.udp()
# How an SA ends, and where its state_delete is called.
ENDS = {"request": "lock", "flush": "lock", "time": "timer", "link": "lock"}


def protecting(bench: Bench, more: str = "") -> Subject:
    """A host whose outbound SA has protected one packet."""
    host = bench.host()
    host.ok(texts.state(host.dev, more=more))
    host.ok(texts.policy(host.dev))
    host.send([PACKET])
    return host


def end(bench: Bench, host: Subject, how: str) -> None:
    """Let the SA end in one of four ways."""
    if how == "request":
        host.ok(texts.delete())
    elif how == "flush":
        host.ok("xfrm state flush")
    elif how == "time":
        bench.advance(4)
    else:
        host.link(up=False)


@rule("OPS-16")
@pytest.mark.parametrize("how", ENDS)
def test_an_sa_is_deleted_once_under_its_lock(bench: Bench, how: str) -> None:
    """However it leaves the SAD: one state_delete, under x->lock, which does not sleep."""
    host = protecting(bench, "limit time-hard 3" if how == "time" else "")
    end(bench, host, how)
    (deleted,) = host.calls_of("state_delete")
    assert (deleted["context"], deleted["state"]) == (ENDS[how], "dead")
    assert deleted["keys"] == 20  # the object is whole until its free
    assert host.errors() == []
    assert host.sa() is None


@rule("OPS-16")
def test_a_deleted_sa_protects_nothing_any_more(bench: Bench) -> None:
    """After state_delete the device uses the SA neither out nor in; nothing leaves in clear."""
    a, b = bench.pair()
    a.ok(texts.state(a.dev))
    a.ok(texts.policy(a.dev))
    b.ok(texts.state(b.dev, dir="in"))
    b.ok(texts.policy(b.dev, dir="in"))
    a.send([PACKET])
    assert b.receive() == [PACKET]
    b.ok(texts.delete())
    bench.settle()
    a.send([PACKET])
    assert b.receive() == []
    a.ok(texts.delete())
    bench.settle()
    a.send([PACKET])
    assert bench.spis() == [0x1000, 0x1000]
    assert (a.errors(), b.errors()) == ([], [])


@rule("OPS-16")
def test_a_deleted_sa_stops_although_its_free_has_to_wait(bench: Bench) -> None:
    """The card does not answer the end of one SA, so the collector waits; another that is deleted
    meanwhile opens nothing any more, although its free has not come."""
    host = bench.host()
    spis = (0x1000, 0x1001)
    for spi in spis:
        host.ok(texts.state(host.dev, spi=spi, dir="in"))
    host.ok(texts.policy(host.dev, dir="in"))
    bench.arrive(*(packets.Esp(spi).seal(PACKET, 1) for spi in spis))
    assert host.receive() == [PACKET] * 2
    with host.restless():
        bench.lab.faults.add(site="mailbox.reply", kind="drop", times=1)
        for spi in spis:
            host.ok(texts.delete(spi=spi))
        host.census()  # the card works in order: now it has heard of both
    bench.arrive(packets.Esp(0x1001).seal(PACKET, 2))
    assert host.receive() == []
    assert (host.order("U"), host.errors()) == ("A A pA D F D F", [])


@rule("OPS-16", "OPS-17")
def test_an_sa_that_was_never_inserted_is_ended_for_the_user(bench: Bench) -> None:
    """A duplicate: delete in the context of the request, without the lock; then free."""
    host = protecting(bench)
    before, count = host.census(), len(host.calls())
    assert host.ip(texts.state(host.dev)).rc == 2
    ends = [(call["call"], call["context"]) for call in host.calls()[count:]]
    assert ends[1:] == [("xdo_dev_state_delete", "user"), ("xdo_dev_state_free", "gc")]
    assert host.census() == before
    host.send([PACKET])
    assert bench.spis() == [0x1000, 0x1000]


@rule("OPS-17")
@pytest.mark.parametrize("how", ENDS)
def test_an_sa_is_freed_once_without_its_keys(bench: Bench, how: str) -> None:
    """One state_free behind the delete, by the collector, which has taken the key; a device that
    goes down frees at once in late kernels. Then nothing is left of the SA."""
    host = protecting(bench, "limit time-hard 3" if how == "time" else "")
    end(bench, host, how)
    assert host.order("U", "K", "pD", "pF") == "A pA D F"
    (freed,) = host.calls_of("state_free")
    at_once = how == "link" and bench.latest
    assert freed["context"] == ("netdev" if at_once else "gc")
    assert (freed["keys"] == 0) == (not at_once)
    assert host.errors() == []
    assert {"sas", "keys"} & host.census().keys() == set()
    assert host.refcnt() == (0 if how == "link" else 1)


@rule("OPS-17", "OPS-19")
def test_a_failed_acquire_ends_in_the_packet_path(bench: Bench) -> None:
    """Nobody takes the ACQUIRE: the larval SA is deleted, and late kernels free it there, where
    nothing may sleep; v6.2 never frees it."""
    host = bench.host()
    host.ok(texts.policy(host.dev))
    host.listen(*Group, room=0)
    host.send([PACKET])
    bench.advance(40)
    ends = [(call["call"], call["context"]) for call in host.calls()[2:]]
    both = [("xdo_dev_state_delete", "data"), ("xdo_dev_state_free", "data")]
    assert ends == (both if bench.latest else both[:1])
    assert host.errors() == []
    assert host.refcnt() == (1 if bench.latest else 0)


@rule("OPS-17", profile="latest")
def test_a_free_must_not_sleep_in_the_packet_path(bench: Bench) -> None:
    """A driver that sleeps there is stopped and named; its device is given back all the same."""
    host = bench.host(driver=PROBE)
    host.ok(texts.policy(host.dev, reqid=LINGER))
    host.listen(*Group, room=0)
    host.send([PACKET])
    assert host.violations() == ["OPS-17"]
    assert host.refcnt() == 1


@rule("OPS-18", profile="v6.2")
def test_a_free_without_delete_leaves_nothing(bench: Bench) -> None:
    """UPDSA frees what it had offered without a delete: card and SA are as before."""
    host = protecting(bench)
    before = host.census()
    host.ok(texts.state(host.dev, verb="update"))
    assert host.order("U", "K", numbered=True) == "A1 pA2 A3 F3"
    assert (host.census(), host.refcnt(), host.errors()) == (before, 2, [])
    host.send([PACKET])
    assert bench.spis() == [0x1000, 0x1000]


@rule("OPS-22", profile="latest")
def test_totals_are_asked_for_between_delete_and_free(bench: Bench) -> None:
    """The message about a dead SA asks the driver once more, and shows all that passed."""
    host = protecting(bench)
    host.send([PACKET] * 2)
    host.notes()
    host.ok(texts.delete())
    names = [call["call"] for call in host.calls()]
    deleted = names.index("xdo_dev_state_delete")
    assert names[deleted + 1 :] == ["xdo_dev_state_update_curlft", "xdo_dev_state_free"]
    assert host.errors() == []
    (note,) = host.notes()
    sa = UserSaInfo.unpack(note.attributes[Attr.SA])
    assert sa.curlft.packets == 3


@rule("OPS-22", profile="latest")
def test_a_hard_expire_asks_a_deleted_sa_for_totals(bench: Bench) -> None:
    """EXPIRE is built after the delete: the driver answers, and the totals have not gone back."""
    host = protecting(bench, "limit packet-hard 3")
    host.send([PACKET] * 2)
    names = [call["call"] for call in host.calls()]
    deleted = names.index("xdo_dev_state_delete")
    assert "xdo_dev_state_update_curlft" in names[deleted:]
    assert host.errors() == []
    (note,) = [note for note in host.notes() if note.type == Msg.EXPIRE]
    sa = UserExpire.unpack(note.fixed).state
    assert (sa.curlft.packets, sa.lft.hard_packet_limit) == (3, 3)


@rule("OPS-40")
def test_the_free_comes_later_and_the_device_is_held_until_then(bench: Bench) -> None:
    """Delete and add of one identity in one datagram: the new add comes before the old free, which
    finds both references, and the new SA works (TRAP-48)."""
    host = protecting(bench)
    device = host.offload()
    delete = messages.request(Msg.DELSA, messages.sa_id())
    before = len(host.calls())
    assert host.request(delete + messages.new_sa(attributes=device)).errno == 0
    assert host.order("U", since=before, numbered=True) == "D1 A2 F1"
    counts = [call["refs"] for call in host.calls()[before:] if "update" not in call["call"]]
    assert counts == [2, 3, 3]  # with the policy's
    assert host.refcnt() == 2
    host.send([PACKET])
    assert bench.spis() == [0x1000, 0x1000]
