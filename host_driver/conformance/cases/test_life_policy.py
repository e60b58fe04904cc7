# SPDX-License-Identifier: Apache-2.0
"""LIFE-50..52: limits of policies, which are times and nothing else."""

import pytest

from host_driver.conformance import packets, texts
from host_driver.conformance.bench import Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.subject import Subject
from proto.xfrm import Attr

POLICIES = "-s xfrm policy list"


def limited(bench: Bench, limits: str, *, offloaded: bool = False) -> Subject:
    """A host with an outbound policy that lets packets pass in clear."""
    host = bench.host()
    dev = host.dev if offloaded else None
    host.ok(texts.policy(dev, template=False, more=limits))
    host.notes()
    return host


@rule("LIFE-50")
def test_packets_and_bytes_never_expire_a_policy(bench: Bench) -> None:
    """Stored and shown, not enforced."""
    limits = "limit packet-soft 1 limit packet-hard 2 limit byte-soft 10 limit byte-hard 20"
    host = limited(bench, limits)
    assert host.send([packets.udp()] * 5) == [0] * 5
    bench.advance(3)
    shown = " ".join(host.ok(POLICIES).split())
    assert "limit: soft 10(bytes), hard 20(bytes)" in shown
    assert "limit: soft 1(packets), hard 2(packets)" in shown
    assert host.expired() == []


@rule("LIFE-50")
@pytest.mark.parametrize("limit", ["time-hard", "time-soft"])
def test_a_time_since_the_add_expires_a_policy(bench: Bench, limit: str) -> None:
    """hard_add deletes it, soft_add tells; its use makes no difference."""
    host = limited(bench, f"limit {limit} 5")
    bench.advance(3)
    host.send([packets.udp()])
    assert host.expired() == []
    bench.advance(3)
    assert host.expired() == [f"{limit[5:]} policy"]
    assert (host.ok("xfrm policy list") == "") == (limit == "time-hard")


@rule("LIFE-50")
@pytest.mark.parametrize("limit", ["time-use-hard", "time-use-soft"])
def test_a_time_since_the_use_expires_a_policy(bench: Bench, limit: str) -> None:
    """From the last use on; from the add on while it is unused."""
    host = limited(bench, f"limit {limit} 6")
    host.ok(texts.policy(src="10.9.0.1", dst="10.9.0.2", template=False, more=f"limit {limit} 6"))
    host.notes()
    bench.advance(4)
    host.send([packets.udp()])
    bench.advance(4)
    assert host.expired() == [f"{limit[9:]} policy"]
    bench.advance(4)
    assert host.expired() == [f"{limit[9:]} policy"]


@rule("LIFE-50")
def test_a_policy_that_is_used_again_and_again_does_not_expire_by_use(bench: Bench) -> None:
    """Each packet begins the time anew."""
    host = limited(bench, "limit time-use-hard 6")
    for _ in range(4):
        bench.advance(4)
        host.send([packets.udp()])
    assert host.expired() == []
    bench.advance(8)
    assert host.expired() == ["hard policy"]


@rule("LIFE-51")
def test_the_first_look_is_after_a_second(bench: Bench) -> None:
    """A limit that was over when the policy came is found then, not before."""
    host = bench.host()
    host.ok(texts.policy(template=False, more="limit time-hard 1"))
    assert host.note_names() == ["NEWPOLICY"]
    bench.advance(2)
    assert host.note_names() == ["POLEXPIRE"]


@rule("LIFE-51", "UAPI-62")
def test_a_hard_limit_deletes_an_offloaded_policy(bench: Bench) -> None:
    """The driver's delete and free, then POLEXPIRE hard = 1, which names the device, in every
    kernel; no DELPOLICY."""
    host = limited(bench, "limit time-hard 3", offloaded=True)
    bench.advance(5)
    assert host.order() == "pA pD pF"
    notes = host.notes()
    assert [note.name for note in notes] == ["POLEXPIRE"]
    assert Attr.OFFLOAD_DEV in notes[0].attributes
    assert host.ok("xfrm policy list") == ""
    assert host.census() == {}


@rule("LIFE-51")
def test_a_soft_limit_is_told_again_every_30_seconds(bench: Bench) -> None:
    """A policy knows no dying: the warning comes back."""
    host = limited(bench, "limit time-soft 3")
    told = []
    for seconds in (2, 3, 25, 5, 25, 5):
        bench.advance(seconds)
        told.append(host.expired())
    soft = ["soft policy"]
    assert told == [[], soft, [], soft, [], soft]


@rule("LIFE-52")
def test_received_packets_are_no_use_of_an_offloaded_policy(bench: Bench) -> None:
    """The card checks them: the limit counts from the add."""
    a, b = bench.pair()
    a.ok(texts.state(a.dev))
    a.ok(texts.policy(a.dev))
    b.ok(texts.state(b.dev, dir="in"))
    b.ok(texts.policy(b.dev, dir="in", more="limit time-use-hard 6"))
    b.notes()
    bench.advance(4)
    a.send([packets.udp()])
    assert b.receive() == [packets.udp()]
    bench.advance(4)
    assert b.expired() == ["hard policy"]


@rule("LIFE-52")
def test_sent_packets_are_a_use_of_an_offloaded_policy(bench: Bench) -> None:
    """The core looks it up for each flow: the limit counts from the first packet."""
    host = bench.host()
    host.ok(texts.state(host.dev))
    host.ok(texts.policy(host.dev, more="limit time-use-hard 8"))
    host.notes()
    bench.advance(4)
    host.send([packets.udp()])
    bench.advance(6)
    assert host.expired() == []
    bench.advance(4)
    assert host.expired() == ["hard policy"]
