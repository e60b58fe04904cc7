# SPDX-License-Identifier: Apache-2.0
"""The reference driver's crypto offload and tunnel mode: the commands and their undo."""

import errno

import pytest

from host_driver.ops import Extack
from host_driver.xfrm.state import OFFLOAD_CRYPTO, ReplayEsn
from proto import commands as c
from proto.caps import Caps
from proto.limits import COMMAND_TIMEOUT_MS
from proto.status import Status
from proto.xfrm import (
    AF_INET6,
    MODE_TRANSPORT,
    MODE_TUNNEL,
    POLICY_IN,
    SA_XFLAG_DONT_ENCAP_DSCP,
    STATE_DECAP_DSCP,
    STATE_ESN,
    STATE_NOECN,
    STATE_NOPMTUDISC,
)
from proto.xfrm_structs import LifetimeCfg, ReplayStateEsn, UserTmpl, XfrmId, XfrmSelector

SOURCE, TARGET = b"\x20\x01".ljust(16, b"\1"), b"\x20\x01".ljust(16, b"\2")


@pytest.fixture
def caps() -> Caps:
    return Caps(name="test", espinudp=True, tunnel=True, crypto=True)


@pytest.fixture
def make_crypto(make_state):
    """A validated SA that asks for crypto offload."""

    def make(direction: int = c.OUT, **changes):
        x = make_state(0x1000, direction, **changes)
        x.xso.type = OFFLOAD_CRYPTO
        return x

    return make


def esn(**fields) -> ReplayEsn:
    return ReplayEsn(ReplayStateEsn(4, replay_window=128, **fields), [0] * 4)


@pytest.mark.parametrize(
    ("direction", "log"),
    [(c.OUT, ["CreateKey", "CreateSa"]), (c.IN, ["CreateKey", "CreateSa", "CreateSaRule"])],
)
def test_add_and_free_leave_nothing(bench, make_crypto, direction, log) -> None:
    x = make_crypto(direction)
    assert bench.add(x) == 0
    assert bench.card.log == log
    assert bench.context.sas.of(x) is not None
    if direction == c.OUT:  # packets that the core has counted go first
        assert not bench.free(x)
        assert bench.card.log == log and bench.context.sas.of(x) is not None
        bench.drains[0].complete()
        bench.run()
        assert "free" in bench.results
    else:
        assert bench.free(x)
    assert bench.card.live == {} and len(bench.sched) == 0
    assert bench.context.sas.of(x) is None


def test_the_command_leaves_out_what_the_host_does(bench, make_crypto) -> None:
    x = make_crypto(
        c.IN,
        lft=LifetimeCfg(hard_packet_limit=10, soft_byte_limit=5),
        sel=XfrmSelector(family=2, proto=17),
        replay_esn=esn(seq=7, seq_hi=3),
    )
    x.props.mode, x.props.flags = MODE_TUNNEL, STATE_ESN
    assert bench.add(x) == 0
    command = bench.card.commands[1]
    assert command.crypto and command.mode == MODE_TRANSPORT
    assert (command.packets, command.soft_packets, command.bytes) == (c.INFINITE,) * 3
    assert (command.selector, command.reqid, command.bitmap) == (c.Selector(), 0, ())
    assert (command.esn, command.seq, command.replay_window) == (True, 3 << 32 | 7, 128)


def test_a_wire_that_stands_still_is_not_waited_for(bench, make_crypto) -> None:
    x = make_crypto()
    assert bench.add(x) == 0
    assert not bench.free(x)
    bench.wait_ms(COMMAND_TIMEOUT_MS)
    assert bench.card.live == {} and "free" in bench.results


@pytest.mark.parametrize("failing", ["CreateKey", "CreateSa", "CreateSaRule"])
def test_a_failure_is_taken_back_and_is_no_fallback(bench, make_crypto, failing) -> None:
    """Only EOPNOTSUPP means software (STATE-24); a full card is an error that the user sees."""
    bench.card.refuse[failing] = [Status.NO_RESOURCES]
    extack = Extack()
    assert bench.add(make_crypto(c.IN), extack) == -errno.ENOSPC
    assert failing in extack.msg
    assert bench.card.live == {} and len(bench.context.sas) == 0


def test_a_card_without_crypto_is_not_asked(make_bench, make_crypto) -> None:
    bench = make_bench(Caps(name="test"))
    assert bench.add(make_crypto()) == -errno.EOPNOTSUPP
    assert bench.card.log == []


def test_the_hosts_counts_and_limits_stay_the_hosts(bench, make_crypto) -> None:
    x = make_crypto(lft=LifetimeCfg(hard_packet_limit=10))
    assert bench.add(x) == 0
    sent = len(bench.card.log)
    x.km.dying = True
    x.lft.hard_packet_limit = 5
    x.curlft.packets = 3
    bench.driver.xdo_dev_state_update_curlft(x)
    bench.run()
    assert x.curlft.packets == 3 and len(bench.card.log) == sent
    assert not bench.driver.needs_reconcile() and bench.expire_calls == []


def test_a_new_high_half_is_told_once(bench, make_crypto) -> None:
    x = make_crypto(c.IN, replay_esn=esn(seq=0xFFFF_FFF0, seq_hi=1))
    x.props.flags = STATE_ESN
    assert bench.add(x) == 0
    handle = bench.context.sas.of(x).handle
    told = len(bench.card.log)
    for seq, high in ((0xFFFF_FFF1, 1), (0xFFFF_FFFF, 1), (2, 2), (3, 2)):
        x.replay_esn.fixed.seq, x.replay_esn.fixed.seq_hi = seq, high
        bench.driver.xdo_dev_state_advance_esn(x)
        bench.run()
    assert bench.card.commands[told:] == [c.AdvanceEsn(handle, 2 << 32 | 2)]


def test_what_goes_out_tells_its_high_half_by_itself(bench, make_crypto, make_state) -> None:
    x, packet = make_crypto(replay_esn=esn()), make_state(0x2000, c.IN, replay_esn=esn())
    assert bench.add(x) == bench.add(packet) == 0
    told = len(bench.card.log)
    for one in (x, packet, make_crypto(c.IN)):
        if one.replay_esn:
            one.replay_esn.fixed.oseq_hi = one.replay_esn.fixed.seq_hi = 9
        bench.driver.xdo_dev_state_advance_esn(one)
    bench.run()
    assert len(bench.card.log) == told


@pytest.mark.parametrize(
    ("flags", "extra", "names"),
    [
        (0, 0, set()),
        (STATE_NOECN, 0, {"noecn"}),
        (STATE_DECAP_DSCP | STATE_NOPMTUDISC, 0, {"decap_dscp", "nopmtudisc"}),
        (0, SA_XFLAG_DONT_ENCAP_DSCP, {"dont_encap_dscp"}),
    ],
)
def test_a_tunnel_is_told_with_its_flags(bench, make_state, flags, extra, names) -> None:
    x = make_state()
    x.props.mode, x.props.flags, x.props.extra_flags = MODE_TUNNEL, flags, extra
    assert bench.add(x) == 0
    command = bench.card.commands[1]
    all_flags = ("noecn", "decap_dscp", "nopmtudisc", "dont_encap_dscp")
    assert {name for name in all_flags if getattr(command, name)} == names
    assert (command.mode, command.crypto, command.reqid) == (MODE_TUNNEL, False, 7)


def test_a_tunnel_template_is_told_with_its_ends(bench, make_policy) -> None:
    tmpl = UserTmpl(XfrmId(TARGET, 0, 50), AF_INET6, SOURCE, reqid=7, mode=MODE_TUNNEL)
    any_tmpl = UserTmpl(XfrmId(bytes(16), 0, 50), reqid=7, mode=MODE_TUNNEL)
    bench.start("out", bench.driver.xdo_dev_policy_add(make_policy(xfrm_vec=[tmpl]), Extack()))
    xp = make_policy(POLICY_IN, xfrm_vec=[any_tmpl])
    bench.start("in", bench.driver.xdo_dev_policy_add(xp, Extack()))
    assert (bench.results["out"], bench.results["in"]) == (0, 0)
    out, inward = bench.card.commands
    assert (out.mode, out.tmpl_family, out.tmpl_saddr, out.tmpl_daddr) == (
        MODE_TUNNEL, AF_INET6, SOURCE, TARGET,
    )  # fmt: skip
    assert (inward.mode, inward.tmpl_family, inward.tmpl_saddr) == (MODE_TUNNEL, 2, bytes(16))
