# SPDX-License-Identifier: Apache-2.0
"""SPD-20..27: how a packet finds its policy among exact and inexact chains."""

import errno
import struct
from typing import Any

import pytest

from host_driver.conformance import messages, packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import DESTINATION, SOURCE, new_policy, selector
from host_driver.conformance.policies import NETS, PACKET, allow, block, protect, verdict
from host_driver.conformance.subject import Subject
from proto.xfrm import Attr, Msg
from proto.xfrm_structs import UserPolicyInfo, XfrmSelector

WIDE: dict[str, Any] = {"src": "10.1.0.0/16", "dst": "10.1.0.0/16"}
BLOCK, ALLOW = errno.EPERM, 0


def forbid(
    sel: XfrmSelector | None = None, *, priority: int = 0, attributes: messages.Attributes = ()
) -> bytes:  # fmt: skip
    """NEWPOLICY that blocks."""
    return new_policy(
        sel=sel or selector(), action=1, templates=[], attributes=attributes, priority=priority
    )


def first_use(host: Subject) -> int:
    """use_time of the policy between the two hosts."""
    wanted = messages.policy_id(selector())
    (note,) = host.request(messages.request(Msg.GETPOLICY, wanted)).notes
    return UserPolicyInfo.unpack(note.fixed).curlft.use_time


@rule("SPD-20")
@pytest.mark.parametrize(
    "passed_over",
    [
        forbid(attributes={Attr.MARK: struct.pack("<II", 5, 0xFF)}),
        forbid(attributes={Attr.IF_ID: struct.pack("<I", 7)}),
        forbid(selector(proto=6)),
        forbid(selector(proto=17, dport=5001, dport_mask=0xFFFF)),
    ],
    ids=["mark", "if_id", "protocol", "port"],
)
def test_the_first_that_matches_is_the_candidate(bench: Bench, passed_over: bytes) -> None:
    """What stands before it in the chain and does not match in all is passed over."""
    host = bench.host()
    assert host.request(passed_over).errno == 0
    assert host.send([PACKET]) == [ALLOW]
    host.ok(block(1, 10))
    host.ok(allow(2, 20))
    assert host.send([PACKET]) == [BLOCK]


@rule("SPD-21")
@pytest.mark.parametrize("number", [0, 1, 100])
def test_an_exact_packet_policy_ends_the_search(bench: Bench, number: int) -> None:
    """However good the priority of an inexact one is; an exact one in software does not end it."""
    host = bench.host(driver=PROBE)
    host.ok(block(1, number, **NETS))
    protect(host, 1, 100)
    assert verdict(host) == "1"
    host.ok(texts.policy(verb="update", priority=101, template=False, more="proto udp"))
    assert verdict(host) == "block"


@rule("SPD-22")
@pytest.mark.parametrize("older", ["exact", "inexact"])
@pytest.mark.parametrize("number", [40, 49, 50, 51])
def test_a_lower_number_beats_the_exact_candidate(bench: Bench, number: int, older: str) -> None:
    """An exact policy of 50: an inexact one wins with less, and with as much if it is older."""
    host = bench.host()
    commands = [allow(1, 50), block(1, number, **NETS)]
    for command in commands if older == "exact" else reversed(commands):
        host.ok(command)
    inexact = number < 50 or (number == 50 and older == "inexact")
    assert host.send([PACKET]) == [BLOCK if inexact else ALLOW]


@rule("SPD-22")
@pytest.mark.parametrize("updated", ["exact", "inexact"])
def test_an_update_is_younger_than_what_other_chains_have(bench: Bench, updated: str) -> None:
    """Of one priority, what was updated last gives way."""
    host = bench.host()
    exact, inexact = allow(1, 5), block(1, 5, **NETS)
    host.ok(exact)
    host.ok(inexact)
    again = exact if updated == "exact" else inexact
    host.ok(again.replace("policy add", "policy update"))
    assert host.send([PACKET]) == [BLOCK if updated == "exact" else ALLOW]


@rule("SPD-22")
@pytest.mark.parametrize("first", ["block", "allow"])
def test_between_inexact_chains_the_older_of_equals_wins(bench: Bench, first: str) -> None:
    """Of one priority, whichever prefix is longer."""
    host = bench.host()
    for where in (NETS, WIDE):
        pair = [block(1, 5, **where), allow(1, 5, **(WIDE if where is NETS else NETS))]
        for command in pair if first == "block" else reversed(pair):
            host.ok(command)
        assert host.send([PACKET]) == [BLOCK if first == "block" else ALLOW]
        host.ok("xfrm policy flush")


@rule("SPD-22")
def test_the_lowest_number_of_all_chains_wins(bench: Bench) -> None:
    """Three inexact chains: the number decides, not the prefix; in a chain, its first match."""
    host = bench.host()
    host.ok(allow(1, 30, **NETS))
    host.ok(allow(2, 25, **NETS))
    host.ok(block(1, 20, **WIDE))
    host.ok(allow(1, 22, src="10.0.0.0/8", dst="0.0.0.0/0"))
    assert host.send([PACKET]) == [BLOCK]
    host.ok(f"xfrm policy delete src {WIDE['src']} dst {WIDE['dst']} proto udp dir out")
    assert host.send([PACKET]) == [ALLOW]
    host.ok(block(0, 21, **NETS))
    assert host.send([PACKET]) == [BLOCK]


@rule("SPD-23")
@pytest.mark.parametrize("hidden", [True, False])
def test_a_packet_policy_can_hide_a_better_one_behind_it(bench: Bench, hidden: bool) -> None:
    """Exact in software 50; an inexact chain [packet 200, software 10]: the scan stops at 200, and
    50 is met. Without the packet policy it is 10."""
    host = bench.host(driver=PROBE)
    host.ok(allow(1, 50))
    host.ok(block(1, 10, **NETS))
    if hidden:
        protect(host, 2, 200, **NETS)
    assert verdict(host) == ("clear" if hidden else "block")


@rule("SPD-24")
@pytest.mark.parametrize(("sub", "main"), [("allow", "block"), ("block", "allow"), ("allow",) * 2])
def test_sub_policies_come_before_main_ones(bench: Bench, sub: str, main: str) -> None:
    """A sub policy that blocks does so, however good the priority of the main one is; one that
    allows leaves the word to the main one."""
    host = bench.host()
    added = host.ip(texts.policy(template=False, more=f"ptype sub action {sub}", priority=99))
    if added.rc and bench.target == "kernel":
        pytest.skip("this kernel was built without sub policies")
    assert host.send([PACKET]) == [BLOCK if sub == "block" else ALLOW]
    host.ok(texts.policy(template=False, more=f"action {main}", priority=1))
    assert host.send([PACKET]) == [BLOCK if "block" in (sub, main) else ALLOW]


V6: dict[str, Any] = {"src": "fd00:1::1", "dst": "fd00:1::2"}
MASKED: dict[str, Any] = {"proto": 17, "dport": 0x1300, "dport_mask": 0xFF00}


@rule("SPD-25")
@pytest.mark.parametrize(
    ("sel", "packet", "matches"),
    [
        (selector(), PACKET, True),
        (selector(), packets.udp(dst="10.1.0.3"), False),
        (selector(), packets.udp(src="10.1.0.3"), False),
        (selector("10.1.0.0", "10.1.0.0", 30), packets.udp(dst="10.1.0.3"), True),
        (selector("10.1.0.0", "10.1.0.0", 30), packets.udp(dst="10.1.0.4"), False),
        (selector("0.0.0.0", "0.0.0.0", 0), packets.udp(dst="10.7.0.4"), True),
        (selector("0.0.0.0", "0.0.0.0", 0), packets.udp(**V6), False),
        (selector(**V6), packets.udp(**V6), True),
        (selector("fd00:1::", "fd00:1::", 64), packets.udp(**V6), True),
        (selector("fd00:2::", "fd00:2::", 32), packets.udp(**V6), False),
        (selector(proto=17), PACKET, True),
        (selector(proto=6), PACKET, False),
        (selector(**MASKED), packets.udp(dport=0x13FF), True),
        (selector(**MASKED), packets.udp(dport=0x1400), False),
        (selector(proto=17, sport=4000, sport_mask=0xFFFF), PACKET, True),
        (selector(proto=17, sport=4001, sport_mask=0xFFFF), PACKET, False),
        (selector(proto=17, sport=5000, sport_mask=0xFFFF), PACKET, False),
    ],
)  # fmt: skip
def test_what_a_selector_covers(
    bench: Bench, sel: XfrmSelector, packet: bytes, matches: bool
) -> None:
    """Family, prefixes, protocol (0 is any), ports under their masks."""
    host = bench.host()
    assert host.request(forbid(sel)).errno == 0
    assert host.send([packet]) == [BLOCK if matches else ALLOW]


@rule("SPD-25")
@pytest.mark.parametrize("dev", ["own", "other"])
def test_a_selector_may_name_the_device(bench: Bench, dev: str) -> None:
    """ifindex 0 is any; another one is the flow's or does not match."""
    host = bench.host()
    if bench.target == "kernel":
        pytest.skip("packets of target kernel leave by another device than the one under test")
    ifindex = host.ifindex if dev == "own" else host.ifindex + 90
    assert host.request(forbid(selector(ifindex=ifindex))).errno == 0
    assert host.send([PACKET]) == [BLOCK if dev == "own" else ALLOW]


@rule("SPD-25")
@pytest.mark.parametrize(
    ("kind", "value", "matches"),
    [
        (Attr.MARK, struct.pack("<II", 0, 0xFF), True),
        (Attr.MARK, struct.pack("<II", 4, 0xFF), False),
        (Attr.IF_ID, struct.pack("<I", 7), False),
    ],
)
def test_mark_and_interface_of_a_flow_must_fit(
    bench: Bench, kind: Attr, value: bytes, matches: bool
) -> None:
    """(mark of the packet & m) == v, and the if_id equal; here the packet has neither."""
    host = bench.host()
    assert host.request(forbid(attributes={kind: value})).errno == 0
    assert host.send([PACKET]) == [BLOCK if matches else ALLOW]


@rule("SPD-26")
def test_a_look_up_sets_the_time_of_use(bench: Bench) -> None:
    """use_time is 0, then the second of a packet that met the policy, not of another one."""
    host = bench.host()
    assert host.request(new_policy(templates=[])).errno == 0
    assert first_use(host) == 0
    host.send([packets.udp(dst="10.1.0.9")])
    assert first_use(host) == 0
    host.send([PACKET])
    assert first_use(host) > 1_000_000_000


@rule("SPD-26")
@pytest.mark.parametrize(("default", "wanted"), [("block", BLOCK), ("accept", ALLOW)])
def test_without_a_policy_the_default_holds(bench: Bench, default: str, wanted: int) -> None:
    """The direction's own; a policy that matches comes first."""
    host = bench.host()
    host.ok(f"xfrm policy setdefault in accept fwd accept out {default}")
    assert host.send([PACKET]) == [wanted]
    action = "allow" if default == "block" else "block"
    host.ok(texts.policy(template=False, more=f"action {action}"))
    assert host.send([PACKET]) == [ALLOW if wanted == BLOCK else BLOCK]


@rule("SPD-27")
@pytest.mark.parametrize("first", [10, 20])
def test_the_device_goes_by_the_number(bench: Bench, first: int) -> None:
    """Two offloaded policies cover a packet: the device takes the lower number, in whatever order
    they came, where the core's own chain has the newest first."""
    host = bench.host()
    for priority in (first, 30 - first):
        protect(host, priority // 10, priority, priority)
    assert host.send([PACKET]) == [0]
    assert bench.spis() == [0x1000 + 10]


@rule("SPD-25")
@pytest.mark.parametrize(
    ("narrow", "other"),
    [
        ("src 10.1.0.1/32 dst 10.1.0.0/24", {"src": "10.1.0.9"}),
        ("src 10.1.0.0/24 dst 10.1.0.2/32", {"dst": "10.1.0.9"}),
        ("src 10.1.0.0/24 dst 10.1.0.0/24", {"src": "10.1.1.1"}),
        ("src 10.1.0.0/24 dst 10.1.0.0/24", {"dst": "10.1.1.1"}),
        ("src 10.1.0.0/24 dst 10.1.0.0/24 proto udp", {"icmp": True}),
        ("src 10.1.0.0/24 dst 10.1.0.0/24 proto udp dport 5000", {"dport": 5001}),
        ("src 10.1.0.0/24 dst 10.1.0.0/24 proto udp sport 4000", {"sport": 4001}),
    ],
    ids=lambda value: value if isinstance(value, str) else "".join(value),
)
def test_a_device_covers_what_the_selector_covers(
    bench: Bench, narrow: str, other: dict[str, Any]
) -> None:
    """An offloaded policy blocks a received packet that its selector matches, and no other."""
    host = bench.host()
    host.ok(f"xfrm policy add {narrow} dir in action block offload packet dev {host.dev}")
    icmp = packets.ip(b"\x08\0\xf7\xff\0\0\0\0", 1)
    outside = icmp if "icmp" in other else packets.udp(**other)
    bench.arrive(PACKET)
    bench.arrive(outside)
    assert host.receive() == [outside]


@rule("SPD-27")
@pytest.mark.parametrize("first", [10, 20])
def test_the_device_goes_by_the_number_for_what_comes_in(bench: Bench, first: int) -> None:
    """Number 10 blocks, 20 lets pass: the device drops, before the core sees the packet."""
    host = bench.host()
    ends: dict[str, Any] = {"src": DESTINATION, "dst": SOURCE, "dir": "in"}
    for priority in (first, 30 - first):
        action = "proto udp action block" if priority == 10 else "action allow"
        policy = texts.policy(
            host.dev, template=False, priority=priority, more=action, **ends
        )  # fmt: skip
        host.ok(policy)
    bench.arrive(packets.udp(src=DESTINATION, dst=SOURCE))
    assert host.receive() == []
    assert host.counters().get("rx_drop_policy_block") == 1
    assert host.mib() == {}
