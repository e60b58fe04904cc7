# SPDX-License-Identifier: Apache-2.0
"""NDEV-01..11: what becomes of SAs and policies when their device goes down, or away."""

import pytest

from host_driver.conformance import packets, texts
from host_driver.conformance.bench import PROBE, RESTORES, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import DESTINATION, SOURCE
from host_driver.conformance.subject import Subject
from proto.status import OffloadError

PACKET = packets.udp()


def offloading(bench: Bench, driver: str | None = None) -> Subject:
    """A host with an SA and a policy for its device; notifications were read."""
    host = bench.host(driver=driver)
    host.ok(texts.state(host.dev))
    host.ok(texts.policy(host.dev))
    host.notes()
    return host


def go(host: Subject, how: str) -> None:
    """The device goes down, or is unregistered."""
    host.link(**({"up": False} if how == "down" else {"unregister": True}))


def left(host: Subject) -> tuple[int, int]:
    """How many SAs and policies there are."""
    states, policies = host.ok("xfrm state list"), host.ok("xfrm policy list")
    return states.count("proto esp spi"), policies.count("priority")


@rule("NDEV-01")
@pytest.mark.parametrize("how", ["down", "unregister"])
def test_a_device_with_the_feature_is_flushed(bench: Bench, how: str) -> None:
    """Down, or unregistered: its SAs go, then its policies; the card has nothing left."""
    host = offloading(bench)
    go(host, how)
    late, early = "A pA D F pD pF", "A pA D pF F"
    assert host.order("U") == (late if bench.latest else early)
    assert left(host) == (0, 0)
    assert host.errors() == []
    if how == "down":
        assert (host.refcnt(), host.census()) == (0, {})


@rule("NDEV-01")
def test_a_device_without_the_feature_keeps_its_objects_when_down(bench: Bench) -> None:
    """With esp-hw-offload off, down flushes nothing."""
    host = offloading(bench)
    host.link(esp_hw_offload=False)
    host.link(up=False)
    assert (host.order("U"), left(host), host.refcnt()) == ("A pA", (1, 1), 2)
    host.link(up=True, esp_hw_offload=True)
    host.send([PACKET])
    assert bench.spis() == [0x1000]


@rule("NDEV-01", "NDEV-10", "TRAP-33")
def test_an_unregistered_device_is_flushed_without_the_feature(bench: Bench) -> None:
    """The feature was switched off before: late kernels flush all the same; v6.2 flushes nothing
    and keeps its references to a device that is gone."""
    host = offloading(bench)
    host.link(esp_hw_offload=False)
    host.link(unregister=True)
    if bench.latest:
        assert (host.order("U"), left(host)) == ("A pA D F pD pF", (0, 0))
        return
    assert (host.order("U"), left(host)) == ("A pA", (1, 1))
    host.ok(texts.delete())
    freed = host.calls_of("state_free")
    assert [call["refs"] for call in freed] == [2]


@rule("NDEV-02")
def test_all_sas_of_the_device_go_and_no_others(bench: Bench) -> None:
    """Packet and crypto, in and out, larval ones: deleted, and freed under RTNL in late kernels.
    SAs in software and of another device stay."""
    host = bench.host(driver=PROBE)
    second = host.second_device()
    host.ok(texts.policy(host.dev, dst="10.1.0.9"))
    host.send([packets.udp(dst="10.1.0.9")])
    host.ok(texts.state(host.dev))
    host.ok(texts.state(host.dev, spi=0x2000, src=DESTINATION, dst=SOURCE, dir="in"))
    host.ok(texts.state(host.dev, spi=0x1001, offload="crypto"))
    host.ok(texts.state(second, spi=0x1002))
    host.ok(texts.state(spi=0x1003))
    assert left(host) == (6, 1)
    before = len(host.calls())
    host.link(up=False)
    ended = host.calls()[before:]
    for end, context in (("delete", "lock"), ("free", "netdev" if bench.latest else "gc")):
        ours = [call for call in ended if call["call"] == f"xdo_dev_state_{end}"]
        assert sorted(call["spi"] for call in ours) == ["0x0", "0x1000", "0x1001", "0x2000"]
        assert {call["context"] for call in ours} == {context}
    assert left(host) == (2, 0)
    assert (host.sa(0x1002) is None, host.sa(0x1003) is None) == (False, False)
    assert host.refcnt(second) == 1


@rule("NDEV-03")
def test_all_policies_of_the_device_go_and_no_others(bench: Bench) -> None:
    """Every direction and type; those in software and of another device stay."""
    host = bench.host(driver=PROBE)
    second = host.second_device()
    for dir in ("in", "out", "fwd"):
        for type in ("main", "sub"):
            host.ok(texts.policy(host.dev, dir=dir, more=f"ptype {type}"))
    host.ok(texts.policy(second, dst="10.1.0.8"))
    host.ok(texts.policy(dst="10.1.0.9"))
    host.notes()
    before = len(host.calls())
    host.link(up=False)
    assert host.order(since=before) == " ".join(["pD pF" if bench.latest else "pF"] * 6)
    kept = host.ok("xfrm policy list")
    assert ("10.1.0.8" in kept, "10.1.0.9" in kept, kept.count("priority")) == (True, True, 2)
    assert (host.refcnt(), host.refcnt(second)) == (0, 1)


@rule("NDEV-04")
@pytest.mark.parametrize("how", ["down", "unregister"])
def test_nobody_is_told(bench: Bench, how: str) -> None:
    """No DELSA, DELPOLICY, EXPIRE or flush for anything, then or later."""
    host = offloading(bench)
    host.ok(texts.state(host.dev, spi=0x1001, more="limit time-hard 5 limit packet-soft 1"))
    host.notes()
    go(host, how)
    bench.advance(7)
    assert host.note_names() == []


@rule("NDEV-05")
def test_nothing_comes_back(bench: Bench) -> None:
    """Down and up: all offloaded objects are lost, and what was protected leaves in clear, unless
    a policy in software says otherwise."""
    host = offloading(bench)
    host.send([PACKET])
    host.link(up=False)
    host.link(up=True)
    assert left(host) == (0, 0)
    host.send([PACKET])
    assert bench.spis() == [0x1000, 0]
    assert host.order("U", "K", "D", "F", "pD", "pF") == "A pA"
    host.ok(texts.policy(template=False, more="action block"))
    assert host.send([PACKET]) != [0]
    assert bench.spis() == [0x1000, 0]


@rule("NDEV-06")
def test_sas_go_before_policies(bench: Bench) -> None:
    """All SAs are deleted while every policy is there still: what is sent then finds no SA."""
    host = offloading(bench)
    host.ok(texts.state(host.dev, spi=0x1001))
    host.ok(texts.policy(host.dev, src=DESTINATION, dst=SOURCE, dir="in"))
    before = len(host.calls())
    host.link(up=False)
    order = host.order("U", since=before).split()
    deleted = [at for at, letter in enumerate(order) if letter == "D"]
    gone = [at for at, letter in enumerate(order) if letter in ("pD", "pF")]
    assert len(deleted) == 2
    assert max(deleted) < min(gone)


@rule("NDEV-07")
def test_only_late_kernels_delete_the_policies_of_a_device(bench: Bench) -> None:
    """v6.2 calls policy_free alone, and the driver takes the policy out of the device there."""
    host = bench.host()
    host.ok(texts.policy(host.dev))
    host.link(up=False)
    assert host.order() == ("pA pD pF" if bench.latest else "pA pF")
    assert (host.census(), host.refcnt()) == ({}, 0)


@rule("NDEV-11")
def test_the_core_never_offers_an_sa_again(bench: Bench) -> None:
    """Features off and on, another MTU, down and up, an SA refused and one deleted: one add per
    request, never one by itself."""
    host = offloading(bench)
    host.link(esp_hw_offload=False)
    host.link(esp_hw_offload=True)
    host.link(mtu=1400)
    assert host.order("U", "K") == "A pA"
    host.link(up=False)
    host.link(up=True)
    bench.advance(5)
    assert host.order("U", "K", "D", "F", "pD", "pF") == "A pA"


@rule("NDEV-11")
def test_there_is_no_callback_to_restore(bench: Bench) -> None:
    """A driver that waits for a restore operation waits in vain, so it is refused by name."""
    with pytest.raises(OffloadError, match="xdo_dev_state_restore"):
        bench.host(driver=RESTORES)
