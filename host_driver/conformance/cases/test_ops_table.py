# SPDX-License-Identifier: Apache-2.0
"""OPS-01..03, OPS-35: which callbacks a driver must have, and which it may leave out."""

import pytest

from host_driver.conformance import packets, texts
from host_driver.conformance.bench import BARE, NO_DELETE, Bench
from host_driver.conformance.marks import rule
from proto.status import OffloadError


@rule("OPS-01")
def test_a_driver_without_state_delete_is_refused(bench: Bench) -> None:
    """A device with ESP offload needs state_add and state_delete: it is not registered."""
    with pytest.raises(OffloadError, match="xdo_dev_state_delete"):
        bench.host(driver=NO_DELETE)


@rule("OPS-01")
def test_checksums_of_esp_need_esp(bench: Bench) -> None:
    """The checksum feature cannot be on without ESP offload; the change fails as a whole."""
    host = bench.host()
    host.link(esp_tx_csum_hw_offload=True)
    with pytest.raises(OffloadError, match="esp-hw-offload"):
        host.link(esp_hw_offload=False)
    host.ok(texts.state(host.dev))
    host.link(up=False)  # the feature is still on, or this would not flush (NDEV-01)
    assert host.sa() is None
    host.link(esp_hw_offload=False, esp_tx_csum_hw_offload=False)
    with pytest.raises(OffloadError, match="esp-hw-offload"):
        host.link(esp_tx_csum_hw_offload=True)


@rule("OPS-02")
def test_adding_does_not_look_at_the_feature(bench: Bench) -> None:
    """With esp-hw-offload off the driver still gets SAs and policies."""
    host = bench.host()
    host.link(esp_hw_offload=False)
    host.ok(texts.state(host.dev))
    host.ok(texts.policy(host.dev))
    assert host.order("U") == "A pA"
    assert host.refcnt() == 2
    host.send([packets.udp()])
    assert bench.spis() == [0x1000]


@rule("OPS-01", "OPS-03")
def test_a_driver_may_have_next_to_nothing(bench: Bench) -> None:
    """Without state_free, policy_delete and policy_free: registered, nothing is called, and the
    device's references are given back."""
    host = bench.host(driver=BARE)
    host.ok(texts.state(host.dev))
    host.ok(texts.policy(host.dev))
    host.ok(texts.policy(host.dev, verb="update", priority=9))
    assert host.refcnt() == 2
    host.ok(texts.delete())
    host.ok(texts.policy_delete())
    assert host.order() == "A pA pA D"
    assert host.refcnt() == 0
    assert host.ok("xfrm policy list") == ""


@rule("OPS-03")
def test_a_flush_without_policy_callbacks_gives_the_device_back(bench: Bench) -> None:
    """FLUSHPOLICY and the end of the link: silently, completely."""
    host = bench.host(driver=BARE)
    host.ok(texts.policy(host.dev))
    host.ok("xfrm policy flush")
    assert host.refcnt() == 0
    host.ok(texts.policy(host.dev))
    host.link(up=False)
    assert (host.order(), host.refcnt()) == ("pA pA", 0)


@rule("OPS-35")
@pytest.mark.parametrize("first", ["policy", "state"])
def test_sas_and_policies_come_in_any_order(bench: Bench, first: str) -> None:
    """A policy before the SA that it names, and an SA before any policy: traffic passes."""
    a, b = bench.pair()
    for host, dir in ((a, "out"), (b, "in")):
        commands = [texts.state(host.dev, dir=dir), texts.policy(host.dev, dir=dir)]
        for command in commands if first == "state" else reversed(commands):
            host.ok(command)
        assert host.order("U") == ("A pA" if first == "state" else "pA A")
    packet = packets.udp()
    assert a.send([packet]) == [0]
    assert b.receive() == [packet]
    assert bench.spis() == [0x1000]
