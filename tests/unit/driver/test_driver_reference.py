# SPDX-License-Identifier: Apache-2.0
"""The reference driver against a scripted card: add and its unwind, delete, free, policies."""

import errno

import pytest

from host_driver.driver.totals import Reading
from host_driver.ops import Extack
from proto import commands as c
from proto.limits import COMMAND_TIMEOUT_MS, RECONCILE_INTERVAL_MS
from proto.status import Status
from proto.xfrm import (
    POLICY_BLOCK,
    POLICY_FWD,
    POLICY_IN,
    SA_XFLAG_OSEQ_MAY_WRAP,
    STATE_ESN,
    XFRM_INF,
)
from proto.xfrm_structs import (
    EncapTmpl,
    LifetimeCfg,
    LifetimeCur,
    ReplayState,
    ReplayStateEsn,
    XfrmSelector,
)

ADD = ["CreateKey", "CreateSa", "CreateSaRule"]
RETIRE = ["DestroyRule", "DestroySa", "DestroyKey"]


def test_add_makes_key_sa_rule_and_free_leaves_nothing(bench, make_state) -> None:
    x = make_state()
    assert bench.add(x) == 0
    assert bench.card.log == ADD
    assert x.xso.offload_handle != 0
    assert len(bench.context.sas) == 1
    assert bench.free(x)
    assert bench.card.log == ADD + RETIRE
    assert bench.card.live == {}
    assert len(bench.context.sas) == 0
    assert len(bench.sched) == 0


def test_the_command_carries_what_the_state_says(bench, make_state) -> None:
    x = make_state(
        sel=XfrmSelector(family=2, proto=17, sport=5, sport_mask=0xFFFF),
        lft=LifetimeCfg(hard_packet_limit=100, soft_packet_limit=80, hard_byte_limit=XFRM_INF),
        curlft=LifetimeCur(packets=30),
        encap=EncapTmpl(2, 4500, 4501),
        replay=ReplayState(oseq=9),
    )
    x.props.extra_flags = SA_XFLAG_OSEQ_MAY_WRAP
    assert bench.add(x) == 0
    key, sa, rule = bench.card.commands
    assert key.key == bytes(range(0x30, 0x40))
    assert sa.salt == bytes(range(0x40, 0x44))
    assert (sa.spi, sa.family, sa.saddr[:4], sa.daddr[:4]) == (
        0x1000,
        2,
        bytes((10, 0, 0, 1)),
        bytes((10, 0, 0, 2)),
    )
    assert (sa.icv_bytes, sa.direction, sa.reqid, sa.seq) == (16, c.OUT, 7, 9)
    assert (sa.packets, sa.soft_packets, sa.bytes) == (70, 50, c.INFINITE)
    assert (sa.encap_sport, sa.encap_dport, sa.may_wrap, sa.esn) == (4500, 4501, True, False)
    assert (sa.selector.sport, sa.selector.sport_mask) == (5, 0xFFFF)
    assert rule.sa == 2


def test_esn_takes_both_halves(bench, make_state) -> None:
    from host_driver.xfrm.state import ReplayEsn

    fixed = ReplayStateEsn(4, oseq=5, seq=6, oseq_hi=1, seq_hi=2, replay_window=128)
    for direction, seq, window in ((c.OUT, 1 << 32 | 5, 0), (c.IN, 2 << 32 | 6, 128)):
        x = make_state(0x1000 + direction, direction)
        x.replay_esn = ReplayEsn(fixed, [1, 2, 3, 4])
        x.props.flags = STATE_ESN
        assert bench.add(x) == 0
        sa = bench.card.commands[-2]
        assert (sa.esn, sa.seq, sa.replay_window) == (True, seq, window)
        assert sa.bitmap == (() if direction == c.OUT else (1, 2, 3, 4))


def test_the_legacy_bitmap_is_turned_into_positions(bench, make_state) -> None:
    """Highest 40, window 32: bit 0 is number 40, bit 9 is 31; the ESN form has n at n - 1."""
    x = make_state(0x1000, c.IN, replay=ReplayState(seq=40, bitmap=1 | 1 << 9))
    x.props.replay_window = 32
    assert bench.add(x) == 0
    assert bench.card.commands[1].bitmap == (1 << 7 | 1 << 30,)


def test_zero_and_reached_soft_limits_stay_positive(bench, make_state) -> None:
    x = make_state(lft=LifetimeCfg(soft_packet_limit=0, hard_packet_limit=5))
    assert bench.add(x) == 0
    assert bench.card.commands[1].soft_packets == 1


@pytest.mark.parametrize("step", range(3))
@pytest.mark.parametrize(
    "status", [Status.NO_RESOURCES, Status.BAD_PARAMETER, Status.INTERNAL_ERROR]
)
def test_a_refusal_at_any_step_leaves_nothing(bench, make_state, step, status) -> None:
    bench.card.refuse[ADD[step]] = [status]
    x, extack = make_state(), Extack()
    expected = {
        Status.NO_RESOURCES: errno.ENOSPC,
        Status.BAD_PARAMETER: errno.EINVAL,
        Status.INTERNAL_ERROR: errno.EIO,
    }
    assert bench.add(x, extack) == -expected[status]
    assert extack.msg == f"card refuses {ADD[step]} (syndrome 0x1234)"
    assert bench.card.live == {}
    asked = ["ListObjects"] if status == Status.INTERNAL_ERROR else []  # it may be there
    stopped = ["StopSa"] if asked and step == 2 else []  # with a rule, if there is one
    assert bench.card.log == ADD[: step + 1] + stopped + asked + RETIRE[3 - step :]
    assert x.xso.offload_handle == 0
    assert len(bench.context.sas) == 0


@pytest.mark.parametrize("step", range(3))
def test_a_lost_reply_at_any_step_leaves_nothing(bench, make_state, step) -> None:
    x, extack = make_state(), Extack()
    bench.card.lose = [ADD[step]]
    bench.add(x, extack)
    assert "add" not in bench.results
    bench.wait_ms(COMMAND_TIMEOUT_MS)
    assert bench.results["add"] == -errno.ETIMEDOUT
    assert "no reply from the card in 2000 ms" in extack.msg
    assert bench.counters["orphans_destroyed"] == 1
    assert bench.card.live == {}
    assert len(bench.context.sas) == 0


def test_a_silent_card_is_cleaned_when_it_speaks_again(bench, make_state) -> None:
    x = make_state()
    bench.card.lose = ["CreateSa"] * 4
    bench.add(x)
    for _ in range(3):
        bench.wait_ms(COMMAND_TIMEOUT_MS)
        assert bench.card.live != {}
    assert bench.results["add"] == -errno.ETIMEDOUT
    bench.wait_ms(COMMAND_TIMEOUT_MS)
    assert bench.card.live == {}
    assert bench.card.log.count("CreateSa") == 1
    assert len(bench.sched) == 0


def test_a_reply_without_handle_is_a_firmware_bug(bench, make_state, monkeypatch) -> None:
    answer = bench.card._answer

    def no_handle(request, name):
        reply = answer(request, name)
        return c.Reply(reply.token) if name == "CreateSa" else reply

    monkeypatch.setattr(bench.card, "_answer", no_handle)
    assert bench.add(make_state()) == -errno.EIO
    assert "CreateKey" not in bench.card.live.values()


def test_delete_never_sleeps_and_free_waits(bench, make_state) -> None:
    x = make_state()
    bench.add(x)
    bench.card.silent = True
    assert bench.driver.xdo_dev_state_delete(bench.dev, x) is None
    assert bench.driver.xdo_dev_state_delete(bench.dev, x) is None, "a second time does nothing"
    bench.start("free", bench.driver.xdo_dev_state_free(bench.dev, x))
    assert "free" not in bench.results
    bench.card.silent = False
    bench.wait_ms(COMMAND_TIMEOUT_MS)
    assert "free" in bench.results
    assert bench.card.live == {}
    assert bench.card.log == ADD + RETIRE


def test_free_gives_up_on_a_dead_card(bench, make_state) -> None:
    x = make_state()
    bench.add(x)
    bench.card.silent = True
    assert not bench.free(x)
    bench.wait_ms(2 * COMMAND_TIMEOUT_MS)
    assert "free" in bench.results


def test_free_without_delete_takes_everything_away(bench, make_state) -> None:
    x = make_state()
    bench.add(x)
    bench.start("free", bench.driver.xdo_dev_state_free(bench.dev, x))
    assert bench.card.live == {}


def test_a_busy_destroy_is_tried_again(bench, make_state) -> None:
    x = make_state()
    bench.add(x)
    bench.card.refuse = {"DestroySa": [Status.OBJECT_BUSY], "DestroyKey": [Status.OBJECT_BUSY] * 2}
    assert not bench.free(x)
    bench.wait_ms(RECONCILE_INTERVAL_MS)
    assert list(bench.card.live.values()) == ["CreateKey"]
    bench.wait_ms(RECONCILE_INTERVAL_MS)
    assert bench.card.live == {}
    assert "free" in bench.results


def test_rows_are_free_before_the_next_add_asks(bench, make_state) -> None:
    x, y = make_state(), make_state(0x1001)
    bench.add(x)
    bench.driver.xdo_dev_state_delete(bench.dev, x)
    bench.add(y)
    assert bench.card.log == ADD + RETIRE + ADD


def test_a_larval_state_is_a_placeholder(bench, make_state) -> None:
    x = make_state(0, aead=None)
    x.xso.flags = 1
    assert bench.driver.xdo_dev_state_add(bench.dev, x, Extack()) == 0, "no generator"
    assert x.xso.offload_handle != 0
    bench.driver.xdo_dev_state_update_curlft(x)
    bench.driver.xdo_dev_state_delete(bench.dev, x)
    assert bench.driver.xdo_dev_state_free(bench.dev, x) is None
    bench.run()
    assert bench.card.log == []


@pytest.mark.parametrize("direction", [c.IN, c.OUT])
def test_a_second_sa_of_the_same_identity_is_taken_without_rule(
    bench, make_state, direction
) -> None:
    """The core refuses it right afterwards; the driver must see add, delete, free (TRACE-03)."""
    x, y = make_state(0x1000, direction), make_state(0x1000, direction)
    assert bench.add(x) == 0
    assert bench.add(y) == 0
    assert bench.free(y)
    assert bench.card.log[3:] == ["CreateKey", "CreateSa", "DestroySa", "DestroyKey"]
    assert sorted(bench.card.live.values()) == sorted(ADD)


def test_a_shadowed_sa_gets_its_rule_when_the_other_goes(bench, make_state) -> None:
    x, y = make_state(0x1000, c.IN), make_state(0x1000, c.IN)
    bench.add(x)
    bench.add(y)
    bench.free(x)
    assert bench.card.log[-4:] == [*RETIRE, "CreateSaRule"]
    assert bench.free(y)
    assert bench.card.live == {}


def test_exists_without_a_twin_is_refused(bench, make_state) -> None:
    bench.card.refuse["CreateSaRule"] = [Status.EXISTS]
    assert bench.add(make_state(0x1000, c.IN)) == -errno.EEXIST
    assert bench.card.live == {}


def test_totals_are_written_absolute_and_never_go_back(bench, make_state) -> None:
    x = make_state(curlft=LifetimeCur(bytes=1000, packets=10))
    bench.add(x)
    sa = next(iter(bench.context.sas))
    sa.totals.take(Reading(5, 300, 5))
    sa.totals.take_failures({"replay_window": 1, "replay": 2, "integrity_failed": 3})
    bench.driver.xdo_dev_state_update_curlft(x)
    sa.totals.take(Reading(4, 200, 4))
    bench.driver.xdo_dev_state_update_curlft(x)
    assert (x.curlft.packets, x.curlft.bytes) == (15, 1300)
    assert (x.stats.replay_window, x.stats.replay, x.stats.integrity_failed) == (1, 2, 3)
    assert bench.mib == {"XfrmInStateSeqError": 3, "XfrmInStateProtoError": 3}  # each once
    bench.free(x)
    bench.driver.xdo_dev_state_update_curlft(x)
    assert x.curlft.packets == 15


def test_the_drivers_copy_of_a_key_is_gone_after_the_add(bench, make_state) -> None:
    x = make_state()
    bench.add(x)
    assert x.aead.key == bytes(range(0x30, 0x44)), "the core's own copy stays"
    assert "0, 1, 2" not in repr(bench.card.commands[0])
    assert bytes(range(0x30, 0x40)) not in repr(bench.context.sas.__dict__).encode()


def test_policy_add_delete_free(bench, make_policy) -> None:
    xp = make_policy()
    bench.start("add", bench.driver.xdo_dev_policy_add(xp, Extack()))
    assert bench.results["add"] == 0
    assert xp.xdo.offload_handle != 0
    rule = bench.card.commands[0]
    assert (rule.direction, rule.priority, rule.action) == (c.OUT, 10, c.ALLOW)
    assert (rule.protect, rule.reqid, rule.selector.prefixlen_d) == (True, 7, 32)
    assert bench.driver.xdo_dev_policy_delete(xp) is None
    assert bench.driver.xdo_dev_policy_free(xp) is None
    bench.run()
    assert bench.card.log == ["CreatePolicyRule", "DestroyRule"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"action": POLICY_BLOCK}, (c.BLOCK, False)),
        ({"xfrm_vec": []}, (c.ALLOW, False)),
        ({"direction": POLICY_IN}, (c.ALLOW, True)),
    ],
)
def test_block_and_bypass(bench, make_policy, changes, expected) -> None:
    xp = make_policy(**changes)
    bench.start("add", bench.driver.xdo_dev_policy_add(xp, Extack()))
    rule = bench.card.commands[0]
    assert (rule.action, rule.protect) == expected
    assert rule.direction == (c.IN if changes.get("direction") == POLICY_IN else c.OUT)


def test_a_refused_policy_leaves_nothing(bench, make_policy) -> None:
    xp, extack = make_policy(POLICY_FWD), Extack()
    bench.start("add", bench.driver.xdo_dev_policy_add(xp, extack))
    assert bench.results["add"] == -errno.EINVAL
    assert extack.msg == (
        "policy fwd priority 10: forward policies are not offered, card takes in and out"
    )
    assert bench.card.log == []


def test_a_policy_timeout_leaves_nothing(bench, make_policy) -> None:
    bench.card.lose = ["CreatePolicyRule"]
    bench.start("add", bench.driver.xdo_dev_policy_add(make_policy(), Extack()))
    bench.wait_ms(COMMAND_TIMEOUT_MS)
    assert bench.results["add"] == -errno.ETIMEDOUT
    assert bench.card.live == {}
