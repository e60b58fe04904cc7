# SPDX-License-Identifier: Apache-2.0
"""SPD-05..09: where a policy stands in its chain, seen by which one a packet meets."""

import errno
import itertools
import struct
from typing import Any

import pytest

from host_driver.conformance import messages, packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.policies import (
    ALL,
    HOSTS,
    NETS,
    PACKET,
    allow,
    block,
    protect,
    verdict,
)
from host_driver.conformance.subject import Subject
from proto.xfrm import Msg


@rule("SPD-05")
@pytest.mark.parametrize("where", [HOSTS, NETS], ids=["exact", "inexact"])
@pytest.mark.parametrize("order", list(itertools.permutations((0, 1, 2))), ids=str)
def test_software_policies_stand_by_priority(
    bench: Bench, order: tuple[int, ...], where: dict[str, Any]
) -> None:
    """However they came in, the lowest number is met first; without it, the next one."""
    host = bench.host()
    commands = [block(0, 10, **where), allow(1, 20, **where), block(2, 30, **where)]
    for at in order:
        host.ok(commands[at])
    assert host.send([PACKET]) == [errno.EPERM]
    host.ok(f"xfrm policy delete {_selector(where)} dir out")
    assert host.send([PACKET]) == [0]
    host.ok(f"xfrm policy delete {_selector(where)} proto udp dir out")
    assert host.send([PACKET]) == [errno.EPERM]


@rule("SPD-05")
@pytest.mark.parametrize("where", [HOSTS, NETS], ids=["exact", "inexact"])
@pytest.mark.parametrize("first", ["block", "allow"])
def test_equal_priorities_stand_as_they_came(
    bench: Bench, first: str, where: dict[str, Any]
) -> None:
    """Of the same number, the one that was inserted first."""
    host = bench.host()
    pair = [block(1, 7, **where), allow(2, 7, **where)]
    for command in pair if first == "block" else reversed(pair):
        host.ok(command)
    assert host.send([PACKET]) == [errno.EPERM if first == "block" else 0]


def _selector(where: dict[str, Any]) -> str:
    ends = {"src": messages.SOURCE, "dst": messages.DESTINATION} | where
    return f"src {ends['src']} dst {ends['dst']}"


@rule("SPD-06")
@pytest.mark.parametrize("where", [HOSTS, NETS], ids=["exact", "inexact"])
@pytest.mark.parametrize("priorities", [(1, 9), (9, 1), (5, 5)], ids=str)
def test_the_newest_packet_policy_stands_first(
    bench: Bench, priorities: tuple[int, int], where: dict[str, Any]
) -> None:
    """Whatever the numbers are."""
    host = bench.host(driver=PROBE)
    protect(host, 1, priorities[0], 1, **where)
    assert verdict(host) == "1"
    protect(host, 2, priorities[1], 2, **where)
    assert verdict(host) == "2"


@rule("SPD-06")
def test_the_chain_does_not_look_at_the_device(bench: Bench) -> None:
    """The newest policy is of another device than the route's: it is the one, and its device is
    asked for an SA."""
    host = bench.host(driver=PROBE)
    protect(host, 1, 5)
    assert verdict(host) == "1"
    second = host.second_device()
    host.ok(texts.policy(second, priority=9, reqid=2, more=ALL[2]))
    host.notes()
    assert host.send([PACKET]) == [0]
    assert host.note_names() == ["ACQUIRE"]
    asked = host.calls()[-1]
    assert (asked["call"], asked["dev"]) == ("xdo_dev_state_add", second)


@rule("SPD-07")
@pytest.mark.parametrize("where", [HOSTS, NETS], ids=["exact", "inexact"])
@pytest.mark.parametrize(
    ("first", "software", "winner"),
    [("device", 50, "block"), ("software", 50, "1"), ("device", 100, "1"), ("software", 100, "1")],
)
def test_order_decides_between_software_and_device(
    bench: Bench, first: str, software: int, winner: str, where: dict[str, Any]
) -> None:
    """A packet policy of number 100. One in software of 50 after it goes to the head and wins; of
    100 it stands behind. A packet policy that comes last wins."""
    host = bench.host(driver=PROBE)
    if first == "software":
        host.ok(block(1, software, **where))
    protect(host, 0, 100, **where)
    if first == "device":
        host.ok(block(1, software, **where))
    assert verdict(host) == winner


@rule("SPD-08")
def test_hosts_are_exact_by_default(bench: Bench) -> None:
    """32 and 32 bits of IPv4, 128 and 128 of IPv6; GETSPDINFO shows what is set."""
    host = bench.host()
    assert thresholds(host) == {3: (32, 32), 4: (128, 128)}
    host.ok("xfrm policy set hthresh4 24 28 hthresh6 64 0")
    assert thresholds(host) == {3: (24, 28), 4: (64, 0)}


def thresholds(host: Subject) -> dict[int, tuple[int, ...]]:
    """Local and remote bits by attribute: 3 is IPv4, 4 IPv6."""
    asked = messages.request(Msg.GETSPDINFO, struct.pack("<I", 0))
    (note,) = host.request(asked).notes
    return {kind: tuple(value) for kind, value in note.attributes.items() if kind in (3, 4)}


@rule("SPD-09")
@pytest.mark.parametrize("updated", [False, True])
def test_a_rebuild_keeps_the_order_of_insertion(bench: Bench, updated: bool) -> None:
    """Two policies of one priority in a chain: the older one is met, and the other one if that is
    the older one after all: an update stays in its place until the tables are built anew."""
    host = bench.host()
    host.ok(allow(1, 5))
    host.ok(block(2, 5))
    if updated:
        host.ok(allow(1, 5).replace("policy add", "policy update"))
    assert host.send([PACKET]) == [0]
    host.ok("xfrm policy set hthresh4 24 24")
    bench.advance(1)  # the tables are rebuilt in the background
    assert host.send([PACKET]) == [errno.EPERM if updated else 0]


@rule("SPD-08")
@pytest.mark.parametrize(
    ("bits", "winner"), [("24 32", "1"), ("32 24", "block"), ("25 32", "block")]
)
def test_thresholds_are_of_the_local_and_the_remote_end(
    bench: Bench, bits: str, winner: str
) -> None:
    """Outbound the source is the local end. A packet policy from a network to a host ends the
    search where it is exact, and is passed over by number where it is not."""
    host = bench.host(driver=PROBE)
    host.ok(f"xfrm policy set hthresh4 {bits}")
    host.ok(block(1, 10))
    protect(host, 1, 100, src="10.1.0.0/24")
    bench.advance(1)
    assert verdict(host) == winner


@rule("SPD-09")
def test_a_larger_table_reorders_packet_policies(bench: Bench) -> None:
    """[HW2, HW1, SW] becomes [HW1, SW, HW2] when the table of the direction grows."""
    host = bench.host(driver=PROBE)
    protect(host, 2, 10, 1)
    protect(host, 1, 10, 2)
    host.ok(block(0, 10))
    other = packets.udp(dport=6000)  # HW1 does not cover it
    assert (verdict(host), verdict(host, other)) == ("2", "2")
    for number in range(300):
        host.ok(texts.policy(template=False, dst=f"10.9.{number >> 8}.{number & 255}"))
        if verdict(host) != "2":
            break
    assert (verdict(host), verdict(host, other)) == ("1", "block")
