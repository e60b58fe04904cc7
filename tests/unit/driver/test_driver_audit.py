# SPDX-License-Identifier: Apache-2.0
"""The audit, quarantine and settings, against a card whose objects are not what they should be."""

import errno

import pytest

from host_driver.driver.objects import DESTROY_ATTEMPTS
from host_driver.ops import Extack
from host_driver.xfrm.state import OFFLOAD_CRYPTO, KmState, ReplayEsn
from proto import commands as c
from proto.caps import Caps
from proto.limits import AUDIT_INTERVAL_MS, COMMAND_TIMEOUT_MS, RECONCILE_INTERVAL_MS
from proto.status import OffloadError, Status
from proto.xfrm import AF_INET, IPPROTO_ESP, POLICY_IN, STATE_ESN
from proto.xfrm_structs import ReplayStateEsn, XfrmSelector

ADD = ["CreateKey", "CreateSa", "CreateSaRule"]
CLEAN = {"objects": 0, "orphans": 0, "undead": 0, "missing": 0, "lost": 0, "quarantined": 0}


def audit(bench) -> dict[str, int]:
    bench.results.pop("audit", None)
    bench.start("audit", bench.driver.audit())
    report = bench.results["audit"]
    return {name: count for name, count in report.items() if name not in ("known", "bound")}


def tick(bench) -> None:
    """One second, as the host sees it."""
    bench.wait_ms(RECONCILE_INTERVAL_MS)
    if bench.driver.needs_reconcile():
        bench.driver.reconcile()
    bench.run()


def install(bench, xp) -> None:
    bench.start("policy", bench.driver.xdo_dev_policy_add(xp, Extack()))
    assert bench.results["policy"] == 0


@pytest.fixture
def busy(bench, make_state, make_policy):
    """Two SAs and a policy, and the audit that finds nothing."""
    states = [make_state(), make_state(0x2000, c.IN)]
    for x in states:
        assert bench.add(x) == 0
        x.km.state = KmState.VALID
    install(bench, make_policy())
    assert audit(bench) == {**CLEAN, "objects": 7}
    assert (bench.results["audit"]["known"], bench.results["audit"]["bound"]) == (7, 2)
    return states


def test_an_audit_of_what_is_right_changes_nothing(bench, busy) -> None:
    before = list(bench.card.log)
    assert audit(bench) == {**CLEAN, "objects": 7}
    assert bench.card.log[len(before) :] == ["ListObjects"] * 3


@pytest.mark.parametrize("name", ["CreateKey", "CreateSa", "CreateSaRule"])
def test_an_orphan_is_destroyed(bench, busy, name) -> None:
    handle = bench.card.plant(name, cookie=0)
    report = audit(bench)
    assert (report["orphans"], report["objects"]) == (1, 8)
    assert handle not in bench.card.live
    assert audit(bench) == {**CLEAN, "objects": 7}
    assert bench.counters["audit_orphans"] == 1


def test_what_its_destroy_left_alive_is_stopped_and_destroyed(bench, busy) -> None:
    """F-CTL-15: all three of an SA; the order is rule, SA, key, and a stop before."""
    bench.card.undead = True
    assert bench.free(busy[0])
    bench.card.undead = False
    assert len(bench.card.live) == 7
    since = len(bench.card.log)
    assert audit(bench)["undead"] == 3
    assert bench.card.log[since + 3 :] == ["StopSa", "DestroyRule", "DestroySa", "DestroyKey"]
    assert len(bench.card.live) == 4
    assert audit(bench) == {**CLEAN, "objects": 4}


def test_a_card_that_should_be_empty_is_looked_at_once_more(bench, make_state) -> None:
    """Its last objects may be undead; after an audit that saw none there is nothing to ask."""
    x = make_state()
    assert bench.add(x) == 0
    bench.card.undead = True
    assert bench.free(x)
    bench.card.undead = False
    assert len(bench.card.live) == 3
    for _ in range(2):
        bench.now_ns += AUDIT_INTERVAL_MS * 1_000_000
        tick(bench)
        assert not bench.card.live
    assert bench.card.log.count("ListObjects") == 3


@pytest.mark.parametrize("name", ADD)
def test_an_sa_whose_object_is_gone_expires_hard(bench, busy, name) -> None:
    bench.card.vanish(name)
    report = audit(bench)
    assert report["missing"] == 1
    assert bench.expired == [busy[0]]
    assert bench.free(busy[0])
    bench.run()
    assert audit(bench) == {**CLEAN, "objects": 4}


def test_a_policy_that_is_gone_is_made_again(bench, busy) -> None:
    bench.card.vanish("CreatePolicyRule")
    assert audit(bench)["missing"] == 1
    assert "CreatePolicyRule" in bench.card.live.values()
    assert audit(bench) == {**CLEAN, "objects": 7}
    assert bench.expired == []


def test_equal_policies_come_back_in_their_order(bench, make_policy) -> None:
    """The newest of equal priority wins on the card, so those behind the lost one follow it."""
    first, second, other = make_policy(), make_policy(), make_policy(priority=3)
    for xp in (first, second, other):
        install(bench, xp)
    bench.card.vanish("CreatePolicyRule")
    since = len(bench.card.commands)
    audit(bench)
    rules = [one for one in bench.card.commands[since:] if isinstance(one, c.CreatePolicyRule)]
    assert [rule.priority for rule in rules] == [10, 10]
    assert list(bench.card.live.values()) == ["CreatePolicyRule"] * 3
    log = bench.card.log
    assert log[-1] == "DestroyRule", "the old one goes after the new one has come"


def test_a_policy_that_cannot_be_made_again_is_tried_with_each_audit(bench, busy) -> None:
    bench.card.vanish("CreatePolicyRule")
    bench.card.refuse["CreatePolicyRule"] = [Status.NO_RESOURCES]
    audit(bench)
    assert "CreatePolicyRule" not in bench.card.live.values()
    audit(bench)
    assert "CreatePolicyRule" in bench.card.live.values()


def test_a_handle_that_is_in_use_is_no_handle(bench, busy, make_state) -> None:
    """F-CTL-07: nobody shares a handle; the new object is found by its cookie and goes."""
    bench.card.alias = "CreateSa"
    x, extack = make_state(0x3000), Extack()
    assert bench.add(x, extack) == -errno.EIO
    assert "which is in use (F-CTL-07)" in extack.msg or "which is in use" in extack.msg
    assert len(bench.card.live) == 7
    assert bench.counters["orphans_destroyed"] == 1
    assert audit(bench) == {**CLEAN, "objects": 7}
    bench.card.alias = ""
    assert bench.add(x) == 0


@pytest.mark.parametrize("status", [Status.OBJECT_BUSY, Status.INTERNAL_ERROR, 99])
def test_what_cannot_be_destroyed_is_quarantined(bench, busy, status) -> None:
    """F-CTL-14: the SA is stopped, its handle nobody else's, and each audit tries again."""
    bench.card.refuse["DestroySa"] = [status] * (2 * DESTROY_ATTEMPTS)
    bench.free(busy[0])
    for _ in range(DESTROY_ATTEMPTS):
        tick(bench)
    assert "free" in bench.results, "bounded"
    assert bench.counters["quarantined"] == 1
    assert bench.card.log.count("StopSa") == DESTROY_ATTEMPTS
    assert sorted(bench.card.live.values()).count("CreateSa") == 2
    bench.start("audit", bench.driver.audit())
    for _ in range(DESTROY_ATTEMPTS):
        tick(bench)
    assert bench.results.pop("audit")["quarantined"] == 1
    bench.card.refuse.clear()
    assert audit(bench)["quarantined"] == 0
    assert sorted(bench.card.live.values()).count("CreateSa") == 1
    assert audit(bench) == {**CLEAN, "objects": 4}


def test_an_unclear_refusal_is_looked_into(bench, busy, make_state) -> None:
    """INV-47: a card that says no and does it all the same."""
    bench.card.liar = "CreateSa"
    assert bench.add(make_state(0x3000)) == -errno.EIO
    assert len(bench.card.live) == 7


def test_a_list_that_fails_is_asked_again_by_the_tick(bench, busy) -> None:
    bench.card.plant("CreateKey", cookie=0)
    bench.card.refuse["ListObjects"] = [Status.INTERNAL_ERROR]
    assert audit(bench)["unfinished"] == 1
    tick(bench)
    assert len(bench.card.live) == 7


def test_a_list_without_end_ends(bench, busy) -> None:
    bench.card.script["ListObjects"] = {"values": {"next": 5}, "objects": ()}
    assert audit(bench)["unfinished"] == 1
    bench.card.script.clear()


def test_the_tick_audits_after_doubt_and_now_and_then(bench, busy, make_state) -> None:
    listed = bench.card.log.count("ListObjects")
    tick(bench)
    assert bench.card.log.count("ListObjects") == listed
    bench.card.lose = ["CreateKey"]
    bench.add(make_state(0x3000))
    bench.wait_ms(COMMAND_TIMEOUT_MS)
    tick(bench)
    assert bench.card.log.count("ListObjects") == listed + 3
    bench.now_ns += AUDIT_INTERVAL_MS * 1_000_000
    tick(bench)
    assert bench.card.log.count("ListObjects") == listed + 6


def test_an_audit_during_adds_disturbs_none(bench, busy, make_state) -> None:
    """What is being made is no orphan, whatever the audit sees of it."""
    bench.start("audit", bench.driver.audit())
    states = [make_state(0x4000 + number) for number in range(4)]
    for number, x in enumerate(states):
        bench.start(f"add{number}", bench.driver.xdo_dev_state_add(bench.dev, x, Extack()))
        bench.start(f"audit{number}", bench.driver.audit())
    assert [bench.results[f"add{number}"] for number in range(4)] == [0] * 4
    for number in range(4):
        report = bench.results[f"audit{number}"]
        assert {name: report[name] for name in CLEAN if name != "objects"} == {
            name: 0 for name in CLEAN if name != "objects"
        }


def test_a_lost_rule_stops_its_sa_before_the_add_fails(bench, make_state) -> None:
    """F-CTL-01: nobody may use an SA of which the user was told that it is not there."""
    bench.card.lose = ["CreateSaRule"] * 3
    x = make_state()
    bench.add(x)
    bench.wait_ms(COMMAND_TIMEOUT_MS)
    assert bench.results["add"] == -errno.ETIMEDOUT
    assert bench.card.log == [*ADD, "StopSa"]
    bench.wait_ms(2 * COMMAND_TIMEOUT_MS)
    bench.wait_ms(2 * COMMAND_TIMEOUT_MS)
    assert bench.card.live == {}


def test_a_lost_card_expires_all_sas_and_keeps_the_policies(bench, busy, caps) -> None:
    bench.mailbox.fail_all(OffloadError(errno.ENXIO, "the card is in error"))
    bench.driver.firmware_lost()
    assert bench.expired == busy
    for x in busy:
        assert bench.free(x)
    bench.card.live.clear()
    bench.mailbox.begin(2)
    bench.start("recovered", bench.driver.recovered(caps))
    assert "recovered" in bench.results
    assert list(bench.card.live.values()) == ["CreatePolicyRule"]
    assert audit(bench) == {**CLEAN, "objects": 1}


def clear(target: int = 2, proto: int = 17) -> bytes:
    """An IPv4 packet to 10.0.0.`target`; 2 is whom `make_policy` is about."""
    head = bytes((0x45, 0, 0, 28, 0, 0, 0, 0, 64, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, target))
    return head + bytes(8)


def test_what_a_lost_policy_would_refuse_is_no_clear_packet(bench, busy, make_policy, caps) -> None:
    """Between the loss of a card and its restored rules the core would believe that the card has
    enforced the policy (RX-08). The first policy decides; ESP is for the stack."""
    everybody = XfrmSelector(family=AF_INET)
    install(bench, make_policy(POLICY_IN, selector=everybody, priority=50))
    install(bench, make_policy(POLICY_IN))
    unenforced = bench.driver.unenforced
    assert not unenforced(clear(2)) and not unenforced(clear(3))
    bench.mailbox.fail_all(OffloadError(errno.ENXIO, "the card is in error"))
    bench.driver.firmware_lost()
    bench.card.live.clear()
    assert unenforced(clear(2)) and unenforced(clear(3))
    assert not unenforced(clear(2, IPPROTO_ESP)) and not unenforced(bytes(20))
    bench.mailbox.begin(2)
    bench.card.refuse["CreatePolicyRule"] = [Status.NO_RESOURCES] * 2
    bench.start("recovered", bench.driver.recovered(caps))
    assert not unenforced(clear(2)) and unenforced(clear(3))
    bench.start("again", bench.driver.recovered(caps))
    assert not unenforced(clear(2)) and not unenforced(clear(3))


def test_limits_that_the_card_did_not_take_are_told_again(bench, busy) -> None:
    """F-TAB-04: the driver does not believe its own table."""
    x = busy[0]
    bench.card.refuse["SetLimits"] = [Status.INTERNAL_ERROR, Status.NO_RESOURCES]
    x.lft.hard_packet_limit = 500
    bench.driver.xdo_dev_state_update_curlft(x)
    bench.run()
    assert bench.driver.needs_reconcile()
    tick(bench)
    tick(bench)
    told = [one.packets for one in bench.card.commands if isinstance(one, c.SetLimits)]
    assert told == [500, 500, 500]
    assert bench.counters["settings_errors"] == 2
    tick(bench)
    assert bench.card.log.count("SetLimits") == 3


def test_settings_of_an_sa_go_one_at_a_time_and_the_newest_last(bench, busy) -> None:
    """F-TAB-05"""
    x = busy[0]
    for limit in (500, 400, 300):
        x.lft.hard_packet_limit = limit
        bench.driver.xdo_dev_state_update_curlft(x)
        bench.sched.run(bench.now_ns)
    assert len(bench.card.inbox) == 1
    bench.run()
    told = [one.packets for one in bench.card.commands if isinstance(one, c.SetLimits)]
    assert told == [500, 300]


@pytest.fixture
def esn(bench, make_state):
    """An inbound crypto SA just before its numbers have a new high half."""
    x = make_state(0x3000, c.IN)
    x.xso.type = OFFLOAD_CRYPTO
    x.replay_esn = ReplayEsn(ReplayStateEsn(1, seq=0xFFFF_FFFF, replay_window=32), [0])
    x.props.flags = STATE_ESN
    bench.context.caps = Caps(name="test", crypto=True)
    assert bench.add(x) == 0
    x.km.state = KmState.VALID
    return x


def see(bench, x, number: int) -> None:
    x.replay_esn.fixed.seq_hi, x.replay_esn.fixed.seq = number >> 32, number & 0xFFFF_FFFF
    bench.driver.xdo_dev_state_advance_esn(x)
    bench.run()


def test_a_new_high_half_that_the_card_did_not_take_is_told_again(bench, esn) -> None:
    """F-CTL-16"""
    bench.card.refuse["AdvanceEsn"] = [Status.INTERNAL_ERROR] * 2
    see(bench, esn, (1 << 32) + 5)
    assert bench.counters["settings_errors"] == 1
    see(bench, esn, (1 << 32) + 9)
    tick(bench)
    told = [one.seq for one in bench.card.commands if isinstance(one, c.AdvanceEsn)]
    assert told == [(1 << 32) + 5, (1 << 32) + 9, (1 << 32) + 9]
    tick(bench)
    assert bench.card.log.count("AdvanceEsn") == 3
    assert bench.expired == []


def test_a_card_that_never_takes_it_loses_the_sa_within_half_a_cycle(bench, esn) -> None:
    """F-CTL-16: before the card could take the wrong half, nobody uses the SA any more."""
    bench.card.refuse["AdvanceEsn"] = [Status.INTERNAL_ERROR] * 99
    see(bench, esn, (1 << 32) + (1 << 31) - 1)
    tick(bench)
    assert bench.expired == []
    see(bench, esn, (1 << 32) + (1 << 31))
    tick(bench)
    assert bench.expired == [esn]
    assert bench.counters["esn_given_up"] == 1


def test_an_add_that_outlives_a_reset_fails(bench, make_state) -> None:
    """While it waits for an SA that leaves, the card is emptied: its handles mean others then."""
    x, y = make_state(0x1000, c.IN), make_state(0x1000, c.IN)
    assert bench.add(x) == 0
    bench.card.silent = True
    bench.driver.xdo_dev_state_delete(bench.dev, x)
    bench.card.silent = False
    bench.card.inbox.clear()
    extack = Extack()
    bench.start("second", bench.driver.xdo_dev_state_add(bench.dev, y, extack))
    assert "second" not in bench.results
    bench.mailbox.fail_all(OffloadError(errno.ENXIO, "the card is in error"))
    bench.driver.firmware_lost()
    bench.mailbox.begin(2)
    since = len(bench.card.log)
    bench.run()
    assert bench.results["second"] == -errno.ENXIO
    assert "the card was reset meanwhile" in extack.msg
    assert bench.card.log[since:] == []


def test_an_orphan_that_will_not_go_is_tried_with_each_audit(bench, busy) -> None:
    handle = bench.card.plant("CreateKey", cookie=0)
    bench.card.refuse["DestroyKey"] = [Status.INTERNAL_ERROR] * (DESTROY_ATTEMPTS + 1)
    bench.start("audit", bench.driver.audit())
    for _ in range(DESTROY_ATTEMPTS):
        tick(bench)
    assert handle in bench.card.live
    assert bench.results["audit"]["orphans"] == bench.results["audit"]["quarantined"] == 1
    bench.start("audit", bench.driver.audit())
    tick(bench)
    assert handle not in bench.card.live
    assert audit(bench) == {**CLEAN, "objects": 7}


def test_a_reply_that_comes_with_the_end_of_its_card_makes_no_object(bench, make_state) -> None:
    """The reply and the news of a reset are in one batch: the reply is of a card that is gone."""
    bench.card.silent = True
    extack = Extack()
    bench.start("late", bench.driver.xdo_dev_state_add(bench.dev, make_state(), extack))
    bench.card.silent = False
    bench.card.inbox.append(bench.card.inbox_last)
    bench.card.run()
    bench.mailbox.fail_all(OffloadError(errno.ENXIO, "the card is in error"))
    bench.driver.firmware_lost()
    bench.mailbox.begin(2)
    bench.run()
    assert bench.results["late"] == -errno.ENXIO
    assert bench.card.log == ["CreateKey"]
    assert len(bench.driver._objects) == 0


def test_what_was_on_its_way_out_is_not_looked_for_on_the_next_card(bench, busy) -> None:
    """A retry must not stop or destroy what has the same handle there."""
    bench.card.refuse["DestroySa"] = [Status.INTERNAL_ERROR]
    bench.free(busy[0])
    since = len(bench.card.log)
    bench.mailbox.fail_all(OffloadError(errno.ENXIO, "the card is in error"))
    bench.driver.firmware_lost()
    bench.mailbox.begin(2)
    for _ in range(DESTROY_ATTEMPTS):
        tick(bench)
    assert "DestroySa" not in bench.card.log[since:]
    assert "StopSa" not in bench.card.log[since:]
