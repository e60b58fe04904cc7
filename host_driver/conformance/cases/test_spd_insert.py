# SPDX-License-Identifier: Apache-2.0
"""SPD-01..04, SPD-10: which policies are the same one, what replaces what, and indexes."""

import errno
import itertools
import struct
from typing import Any

import pytest

from host_driver.conformance import messages, packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import new_policy, selector
from host_driver.conformance.subject import Subject
from proto.xfrm import Attr, Msg
from proto.xfrm_structs import LifetimeCfg, UserPolicyInfo

PACKET = packets.udp()
MARK = struct.pack("<II", 1, 0xFF)


def dumped(host: Subject) -> list[UserPolicyInfo]:
    """All policies, as the dump shows them."""
    notes = host.policies()
    return [UserPolicyInfo.unpack(note.fixed) for note in notes]


def added(host: Subject, **how: Any) -> int:
    """The index of a policy that is added now."""
    known = {policy.index for policy in dumped(host)}
    assert host.request(new_policy(templates=[], **how)).errno == 0
    (index,) = {policy.index for policy in dumped(host)} - known
    return index


@rule("SPD-01")
@pytest.mark.parametrize(
    "other",
    [
        {"dir": 0},
        {"attributes": {Attr.POLICY_TYPE: b"\1" + bytes(5)}},
        {"attributes": {Attr.IF_ID: struct.pack("<I", 7)}},
        {"attributes": {Attr.MARK: MARK}},
        {"sel": selector(src="10.1.0.3")},
        {"sel": selector(prefixlen=24)},
        {"sel": selector(proto=17)},
        {"sel": selector(proto=17, sport=9, sport_mask=0xFFFF)},
        {"sel": selector(proto=17, dport=9, dport_mask=0xFF00)},
        {"sel": selector(ifindex=1)},
        {"sel": selector(user=5)},
        {"sel": selector("fd00:1::1", "fd00:1::2")},
    ],
    ids=lambda value: "-".join(str(part) for item in value.items() for part in item)[:40],
)
def test_what_makes_another_policy(bench: Bench, other: dict[str, Any]) -> None:
    """Direction, type, if_id, mark and every member of the selector: both policies are there, and
    each of them only once."""
    host = bench.host()
    assert host.request(new_policy(templates=[])).errno == 0
    distinct = new_policy(templates=[], **other)
    assert host.request(distinct).errno == 0
    assert len(dumped(host)) == 2
    assert host.request(distinct).errno == errno.EEXIST


@rule("SPD-01")
@pytest.mark.parametrize("other", [struct.pack("<II", 2, 0xFF), struct.pack("<II", 1, 0xFFF)])
def test_marks_are_compared_value_and_mask(bench: Bench, other: bytes) -> None:
    """v and m as they are, not by what they would match."""
    host = bench.host()
    for mark in (MARK, other):
        assert host.request(new_policy(attributes={Attr.MARK: mark})).errno == 0
    assert host.request(new_policy(attributes={Attr.MARK: MARK})).errno == errno.EEXIST


@rule("SPD-01", "SPD-02")
@pytest.mark.parametrize(
    "same",
    [
        {"priority": 9},
        {"action": 1},
        {"templates": [messages.template(reqid=4)]},
        {"templates": [messages.template()] * 2},
        {"flags": 1},
        {"share": 1},
        {"lft": LifetimeCfg(hard_packet_limit=5)},
        {"index": 0x809},
    ],
    ids=str,
)
def test_what_makes_no_other_policy(bench: Bench, same: dict[str, Any]) -> None:
    """Priority, action, templates, flags, limits, index: EEXIST, and the first one stays."""
    host = bench.host()
    assert host.request(new_policy()).errno == 0
    before = dumped(host)
    assert host.request(new_policy(**same)).errno == errno.EEXIST
    assert dumped(host) == before


@rule("SPD-02")
@pytest.mark.parametrize("first", ["nic", "port", "software"])
@pytest.mark.parametrize("second", ["nic", "port", "software"])
def test_offload_makes_no_other_policy(bench: Bench, first: str, second: str) -> None:
    """In software or offloaded, to this device or that, with any priority: EEXIST."""
    host = bench.host(driver=PROBE)
    device = {"nic": host.dev, "port": host.second_device(), "software": None}
    host.ok(texts.policy(device[first]))
    for priority in (0, 9):
        refused = host.ip(texts.policy(device[second], priority=priority))
        assert (refused.rc, "File exists" in refused.stderr) == (2, True)


@rule("SPD-03")
def test_an_update_without_a_policy_is_an_insert(bench: Bench) -> None:
    """UPDPOLICY where there is none: success."""
    host = bench.host()
    assert host.request(new_policy(type=Msg.UPDPOLICY, priority=3)).errno == 0
    assert [policy.priority for policy in dumped(host)] == [3]


@rule("SPD-03")
def test_an_update_keeps_the_index(bench: Bench) -> None:
    """The new policy has all that was given, and the index of the old one, whatever it asks for."""
    host = bench.host()
    index = added(host, priority=3)
    again = new_policy(type=Msg.UPDPOLICY, priority=8, action=1, index=0x4001, templates=[])
    assert host.request(again).errno == 0
    (policy,) = dumped(host)
    assert (policy.index, policy.priority, policy.action) == (index, 8, 1)


@rule("SPD-03")
def test_an_update_moves_a_policy_between_software_and_devices(bench: Bench) -> None:
    """Software, device, another device, software: the old one is freed, and the device held."""
    host = bench.host(driver=PROBE)
    second = host.second_device()
    host.ok(texts.policy())
    for device, order in ((host.dev, "pA1"), (second, "pA1 pA2"), (None, "pA1 pA2")):
        host.ok(texts.policy(device, verb="update"))
        assert host.order("pD", "pF", numbered=True) == order
        assert host.refcnt() == (device == host.dev)
        assert host.refcnt(second) == (device == second)
    assert host.order("pA", "pD") == "pF pF"
    assert "offload" not in host.ok("xfrm policy list")


@rule("SPD-03")
def test_an_update_takes_over_the_packets_that_are_held(bench: Bench) -> None:
    """With xfrm_larval_drop = 0 a packet waits in its policy; the update names the reqid of an SA
    that is there, and the packet leaves."""
    host = bench.host()
    host.sysctl("larval_drop", 0)
    host.ok(texts.state(reqid=2))
    host.ok(texts.policy(reqid=1))
    assert host.send([PACKET]) == [0]
    assert bench.frames() == []
    host.ok(texts.policy(verb="update", reqid=2))
    bench.lab.advance(1)
    assert bench.spis() == [0x1000]


@rule("SPD-04")
@pytest.mark.parametrize("dir", [0, 1, 2])
def test_a_generated_index_steps_by_8(bench: Bench, dir: int) -> None:
    """Never 0, its low three bits are the direction, the next one is 8 further on."""
    host = bench.host()
    indexes = [added(host, dir=dir, sel=selector(proto=proto)) for proto in (1, 2, 3)]
    assert [index & 7 for index in indexes] == [dir] * 3
    assert 0 not in indexes
    assert [b - a for a, b in itertools.pairwise(indexes)] == [8, 8]


@rule("SPD-04")
def test_directions_share_one_counter(bench: Bench) -> None:
    """Out, in, out, forward: each 8 further, apart from the direction."""
    host = bench.host()
    indexes = [
        added(host, dir=dir, sel=selector(proto=at)) for at, dir in enumerate((1, 0, 1, 2), 1)
    ]
    assert [(b & ~7) - (a & ~7) for a, b in itertools.pairwise(indexes)] == [8, 8, 8]


@rule("SPD-04")
def test_a_requested_index_is_used_once(bench: Bench) -> None:
    """The one asked for where it is free; in use, a generated one, without a word."""
    host = bench.host()
    assert added(host, index=0x4001) == 0x4001
    other = added(host, index=0x4001, sel=selector(proto=17))
    assert (other != 0x4001, other & 7) == (True, 1)
    wrong = new_policy(index=0x4000, sel=selector(proto=6), templates=[])
    assert host.request(wrong).errno == errno.EINVAL
    host.ok("xfrm policy delete index 0x4001 dir out")
    assert added(host, index=0x4001) == 0x4001


@rule("SPD-10")
def test_a_new_policy_holds_for_flows_that_are_cached(bench: Bench) -> None:
    """Added, replaced or deleted: the next packet of a running flow meets it."""
    host = bench.host()
    assert host.send([PACKET] * 2) == [0, 0]
    block = texts.policy(template=False, more="action block")
    for command, wanted in (
        (block, errno.EPERM),
        (texts.policy(verb="update", template=False), 0),
        (texts.policy(template=False, more="proto udp action block", priority=0), 0),
        (texts.policy_delete(), errno.EPERM),
    ):
        host.ok(command)
        assert host.send([PACKET] * 2) == [wanted] * 2, command


@rule("SPD-10")
def test_dumps_show_the_newest_first(bench: Bench) -> None:
    """The list keeps the order of insertion, priorities notwithstanding; an update is a new one."""
    host = bench.host()
    for proto, priority in ((1, 30), (2, 10), (3, 20)):
        assert host.request(new_policy(sel=selector(proto=proto), priority=priority)).errno == 0
    assert [policy.priority for policy in dumped(host)] == [20, 10, 30]
    update = new_policy(type=Msg.UPDPOLICY, sel=selector(proto=1), priority=40)
    assert host.request(update).errno == 0
    assert [policy.priority for policy in dumped(host)] == [40, 20, 10]


@rule("SPD-10")
def test_the_timer_of_a_policy_looks_after_a_second(bench: Bench) -> None:
    """A limit of one second is told and ends the policy then, not at once and not much later."""
    host = bench.host()
    host.ok(texts.policy(template=False, more="limit time-hard 1"))
    assert len(dumped(host)) == 1
    bench.advance(3)
    assert dumped(host) == []
    assert host.expired() == ["hard policy"]
