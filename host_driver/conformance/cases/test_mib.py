# SPDX-License-Identifier: Apache-2.0
"""MIB-01 and MIB-02: the counters of /proc/net/xfrm_stat."""

import pytest

from host_driver.conformance import packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.packets import Esp

# The table of the contract.
NAMES = """
    XfrmInError XfrmInBufferError XfrmInHdrError XfrmInNoStates XfrmInStateProtoError
    XfrmInStateModeError XfrmInStateSeqError XfrmInStateExpired XfrmInStateMismatch
    XfrmInStateInvalid XfrmInTmplMismatch XfrmInNoPols XfrmInPolBlock XfrmInPolError XfrmOutError
    XfrmOutBundleGenError XfrmOutBundleCheckError XfrmOutNoStates XfrmOutStateProtoError
    XfrmOutStateModeError XfrmOutStateSeqError XfrmOutStateExpired XfrmOutPolBlock XfrmOutPolDead
    XfrmOutPolError XfrmFwdHdrError XfrmOutStateInvalid XfrmAcquireError
""".split()
SINCE_6_10 = ["XfrmOutStateDirError", "XfrmInStateDirError"]
SINCE_6_14 = ["XfrmInIptfsError", "XfrmOutNoQueueSpace"]


@rule("MIB-01")
def test_all_counters_stand_in_their_order(bench: Bench) -> None:
    """The kernel's names, those that came with v6.10 and v6.14 last; nothing else is there."""
    shown = list(bench.host().raw.mib())
    newer = [SINCE_6_10, SINCE_6_14] if bench.latest else []
    if bench.target == "kernel":
        newer = [part for part in (SINCE_6_10, SINCE_6_14) if part[0] in shown]
    assert shown == NAMES + [name for part in newer for name in part]


@rule("MIB-01")
@pytest.mark.parametrize("offload", ["packet", "crypto"])
def test_reading_them_asks_the_drivers(bench: Bench, offload: str) -> None:
    """`latest` lets every driver bring the statistics of its SAs up to date first, v6.2 none."""
    host = bench.host(driver=PROBE)
    for spi in (0x1000, 0x2000):
        host.ok(texts.state(host.dev, spi=spi, offload=offload))
    before = len(host.calls())
    host.mib()
    assert host.order(since=before) == ("U U" if bench.latest else "")


@rule("MIB-02")
def test_errors_that_hardware_found(bench: Bench) -> None:
    """A forged packet and a replay, found by the card of a packet-offload SA: no trace in v6.2; in
    `latest` a driver may add what it found to these counters, and to no other."""
    host = bench.host()
    host.ok(texts.state(host.dev, dir="in"))
    host.ok(texts.policy(host.dev, dir="in"))
    packet = packets.udp()
    sealed = Esp().seal(packet, 1)
    for each in (sealed, sealed, Esp(key=bytes(20)).seal(packet, 2)):
        bench.arrive(each)
    assert host.receive() == [packet]
    allowed = {"XfrmInStateSeqError": 1, "XfrmInStateProtoError": 1} if bench.latest else {}
    assert host.mib().items() <= allowed.items()
