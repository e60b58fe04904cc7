# SPDX-License-Identifier: Apache-2.0
"""Objects that will not go, that stay although they went, that were never there: quarantine, audit,
and settings that the card does not take."""

import errno

import pytest

from host_driver.ip import run
from proto.limits import AUDIT_INTERVAL_MS
from support.adds import ADDS, attempt, clear_host, counted, empty, labs, other
from support.esp import A, B, datagram
from support.rows import row
from support.way import Way

ADD, IN, POLICY = ADDS["packet-out"].text, ADDS["packet-in"].text, ADDS["protect-out"].text
CLEAN = ("orphans", "undead", "missing", "lost", "quarantined")

lab = labs(seed=43, hosts=2)


@pytest.fixture
def world(lab, target):
    made = lab(target)
    clear_host(made)
    yield made
    clear_host(made)


def findings(host) -> dict[str, int]:
    """What an audit finds, where it finds anything."""
    report = host.nic.audit()
    return {name: report[name] for name in CLEAN if report[name]}


@row("F-CTL-14", process=True, once=True)
@pytest.mark.parametrize("status", ["OBJECT_BUSY", "INTERNAL_ERROR", "77"])
def test_a_destroy_that_fails_is_tried_again(world, target, status) -> None:
    host = world.hosts[0]
    assert attempt(host, IN) == (0, "")
    world.faults.add("destroy-fails", host=0, value=status, times=2)
    assert host.ip("xfrm state flush").rc == 0
    world.settle()
    assert host.nic.census() == {"keys": 0, "sas": 0, "rules_sa": 0, "rules_policy": 0}
    assert counted(host, "quarantined") == (0,)


@row("F-CTL-14")
@pytest.mark.parametrize("opcode", ["DESTROY_RULE", "DESTROY_SA", "DESTROY_KEY"])
def test_what_cannot_be_destroyed_is_kept_apart(world, target, opcode) -> None:
    """Its handle is nobody else's, its key stays as long as it does, no packet uses it, and each
    audit tries again."""
    b = world.hosts[1]
    way = Way(world)
    (sent,) = way.send(1)
    assert way.arrived() == [sent]
    (frame,) = held_back(way)
    left = {"DESTROY_RULE": (1, 1, 1), "DESTROY_SA": (1, 1, 0), "DESTROY_KEY": (1, 0, 0)}[opcode]
    world.faults.add("destroy-fails", host=1, match={"opcode": opcode})
    way.delete_sa(hosts=[1])
    world.advance(10)
    census = b.nic.census()
    assert (census["keys"], census["sas"], census["rules_sa"]) == left
    way.inject(frame)
    assert way.arrived() == [], "nothing that is to go delivers a packet"
    code, said = attempt(b, IN)
    if opcode == "DESTROY_RULE":
        assert (code, "exists" in said) == (errno.EEXIST, True)
    else:
        assert code == 0
    world.faults.reset()
    b.ip("xfrm state flush")
    assert findings(b) == {}, "what was kept apart has gone"
    world.settle()
    assert b.nic.census()["keys"] == 0
    assert attempt(b, IN) == (0, "")


@row("F-CTL-15", process=True)
def test_what_stays_although_it_went_is_used_by_nobody_and_found(world, target) -> None:
    """The card says OK to every destroy and does nothing: no packet is sealed or delivered by what
    it still has, and the audit stops and destroys it."""
    a, b = world.hosts
    way = Way(world)
    assert len(way.send(1)) == len(way.arrived()) == 1
    (frame,) = held_back(way)
    world.faults.add("undead-objects")
    way.delete_sa()
    world.faults.reset()
    for host in (a, b):
        assert host.ip("xfrm state list").stdout == ""
        assert host.nic.census()["sas"] == 1
    frames = len(way.frames())
    a.send([datagram()])
    way.inject(frame)
    assert way.arrived() == []
    assert len(way.frames()) == frames, "nothing is sealed by it"
    assert b.nic.counters()["driver_rx_drop_sadb_miss"] >= 1
    for host in (a, b):
        assert findings(host) == {"undead": 3}
        assert findings(host) == {}
        assert host.nic.census() == {"keys": 0, "sas": 0, "rules_sa": 0, "rules_policy": 1}


def host_with_undead(world):
    """A host whose card still has two SAs that it says are gone."""
    host = world.hosts[0]
    assert attempt(host, ADD) == attempt(host, IN.replace("0x1000", "0x1001")) == (0, "")
    world.faults.add("undead-objects", host=0)
    assert host.ip("xfrm state flush").rc == 0
    world.settle()
    world.faults.reset()
    return host


@row("F-CTL-15")
def test_what_stays_is_found_without_being_asked_for(world, target) -> None:
    """The slow audit looks at the whole card, whether anybody doubts or not."""
    host = host_with_undead(world)
    assert host.nic.census()["sas"] == 2
    world.advance(AUDIT_INTERVAL_MS / 1000 + 5)
    assert not any(host.nic.census().values())
    assert counted(host, "audit_undead") == (6,)


@row("F-CTL-15")
def test_what_stays_and_what_it_keeps_from_going_leave_in_one_audit(world, target) -> None:
    """A rule that is undead keeps its SA, which keeps a key that is undead: rule, SA and key of
    which the driver knows only the SA go in that order."""
    host = world.hosts[0]
    assert attempt(host, IN) == (0, "")
    for table in ("rules", "keys"):
        world.faults.add(site="card.object.destroy", kind="undead", match={"table": table}, host=0)
    assert host.ip("xfrm state flush").rc == 0
    world.advance(10)
    world.faults.reset()
    assert counted(host, "quarantined") == (1,)
    assert host.nic.census()["keys"] == host.nic.census()["sas"] == 1
    assert findings(host) == {"undead": 2}
    assert empty(host)


@pytest.mark.parametrize("target", ["sim"])
def test_an_audit_that_a_card_holds_up_is_answered_in_time_and_goes_on(world, target) -> None:
    host = host_with_undead(world)
    for opcode in ("DestroyRule", "DestroySa", "DestroyKey"):
        match = {"opcode": opcode}
        world.faults.add(site="card.command", kind="wrong-token", match=match, host=0)
    assert host.nic.audit() == {"unfinished": 1}
    world.faults.reset()
    world.advance(AUDIT_INTERVAL_MS / 1000 * 2)
    assert not any(host.nic.census().values())


@row("F-CTL-16")
def test_a_high_half_that_the_card_did_not_take_is_told_again(world, target) -> None:
    """Numbers pass 2^32 while the card refuses to hear of it: no packet is lost."""
    b = world.hosts[1]
    way = Way(world, "crypto", esn=True)
    way.delete_sa()
    way.add_sa(out="replay-oseq 0xfffffff0", hosts=[0])
    text = ADDS["crypto-in"].text.replace("replay-window 32", "flag esn replay-window 32")
    text = text.replace("reqid 1 ", f"reqid {0x1000} ")
    text = text.replace("offload", "replay-seq 0xffffffef offload")
    assert attempt(b, text) == (0, "")
    world.faults.add("esn-not-taken", host=1, times=3)
    sent = way.send(40)
    assert way.arrived() == sent
    assert counted(b, "settings_errors") == (1,)
    world.advance(5)
    assert counted(b, "settings_errors") == (3,)
    sent = way.send(10)
    assert way.arrived() == sent
    world.advance(5)
    assert counted(b, "settings_errors") == (3,)


@row("F-TAB-05", process=True)
def test_updates_of_one_sa_reach_the_card_in_their_order(world, target) -> None:
    """Three at one moment, to a card that answers slowly: the last one holds."""
    host = world.hosts[0]
    assert attempt(host, ADD) == attempt(host, POLICY) == (0, "")
    world.faults.add("settings-slow", host=0)
    requests = [
        request
        for limit in (2, 3, 5)
        for request in requests_of(
            host, ADD.replace("add", "update", 1) + f" limit packet-hard {limit}"
        )
    ]
    for replies in host.netlink_together(requests):
        assert replies
    world.advance(4)
    host.send([datagram(ends=(A, B))] * 20)
    world.settle()
    assert len(world.wire.frames()) - host.frames_before == 5


def requests_of(host, text: str) -> list[bytes]:
    """The netlink requests behind an `ip` command, which are not sent."""
    requests: list[bytes] = []

    def keep(request: bytes) -> list[bytes]:
        requests.append(bytes(request))
        return []

    run(text, keep, {"nic0": host.nic.ifindex}, True)
    return requests


@row("F-CTL-15")
@pytest.mark.parametrize("table", ["keys", "sas", "rules"])
def test_an_sa_that_the_card_never_had_ends_with_a_hard_expiry(world, target, table) -> None:
    """The reply named an object that is not there: the add fails, or the audit finds it, and the
    user is told."""
    host = world.hosts[0]
    world.faults.add(site="card.object", kind="phantom", match={"table": table}, times=1, host=0)
    code, _ = attempt(host, IN)
    world.faults.reset()
    assert code == (0 if table == "rules" else errno.ENOENT)
    if not code:
        assert findings(host) == {"missing": 1}
        world.settle()
    assert host.ip("xfrm state list").stdout == ""
    assert empty(host)
    assert attempt(host, IN) == (0, "")


@row("F-CTL-15")
def test_policies_that_the_card_never_had_come_back_by_the_audit(world, target) -> None:
    host = world.hosts[0]
    world.faults.add(site="card.object", kind="phantom", match={"table": "rules"}, host=0)
    for number in range(5):
        assert attempt(host, other(POLICY, number)) == (0, "")
    world.faults.reset()
    assert findings(host) == {"missing": 5}
    assert host.nic.census()["rules_policy"] == 5
    assert findings(host) == {}


def held_back(way: Way) -> list[bytes]:
    """A frame that a's card sent and b has not seen."""
    with way.lab.faults.inject(site="wire", kind="drop"):
        way.send(1)
        way.lab.settle()
    assert way.arrived() == []
    return way.frames()[-1:]
