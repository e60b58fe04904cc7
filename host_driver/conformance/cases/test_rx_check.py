# SPDX-License-Identifier: Apache-2.0
"""RX-06, RX-07, RX-09, RX-13 and RX-14: the check in software, and which counter says what.

Counters are those of Linux 7.3.4 and 6.12.
"""

import pytest

from host_driver.conformance import messages, packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import DESTINATION, SOURCE
from host_driver.conformance.packets import Esp
from host_driver.conformance.probe import RETURN
from host_driver.conformance.subject import Subject
from proto.xfrm_structs import LifetimeCfg

PACKET = packets.udp(bytes(20))
ENDS = f"src {SOURCE} dst {DESTINATION}"
TEMPLATE = f" tmpl {ENDS} proto esp mode transport"
DONE = 2 << 16  # of the offload record: CRYPTO_DONE


def arrive(bench: Bench, *arriving: bytes) -> list[bytes]:
    """IP packets come over the wire to host 0; what of them is delivered."""
    bench.arrive(*arriving)
    return bench.subjects[0].receive()


@rule("RX-06")
def test_without_a_policy_clear_packets_pass(bench: Bench) -> None:
    """No policy and default accept: delivered. Default block: XfrmInNoPols."""
    host = bench.host()
    assert arrive(bench, PACKET) == [PACKET]
    host.ok("xfrm policy setdefault in block")
    assert arrive(bench, PACKET) == []
    assert host.mib() == {"XfrmInNoPols": 1}


@rule("RX-06")
def test_a_policy_for_others_changes_nothing(bench: Bench) -> None:
    """The full check runs, and finds no policy for this packet."""
    host = bench.host()
    host.ok(texts.policy(dir="in", dst="10.9.9.9"))
    assert (arrive(bench, PACKET), host.mib()) == ([PACKET], {})


@rule("RX-07")
def test_a_clear_packet_where_esp_is_due(bench: Bench) -> None:
    """The policy's template is not satisfied: XfrmInTmplMismatch. The same in ESP passes."""
    host = bench.host()
    host.ok(texts.state(dir="in"))
    host.ok(texts.policy(dir="in"))
    assert arrive(bench, PACKET, Esp().seal(PACKET, 1)) == [PACKET]
    assert host.mib() == {"XfrmInTmplMismatch": 1}


@rule("RX-07", profile="v6.2")
def test_v6_2_checks_clear_packets_against_offloaded_policies_too(bench: Bench) -> None:
    """Whatever the device lets through: XfrmInTmplMismatch."""
    host = bench.host(driver=PROBE)
    host.ok(texts.policy(host.dev, dir="in"))
    assert (arrive(bench, PACKET), host.mib()) == ([], {"XfrmInTmplMismatch": 1})


@rule("RX-09")
@pytest.mark.parametrize(
    ("policy", "counter"),
    [
        (texts.policy(dir="in"), ""),
        ("", ""),
        (texts.policy(dir="in", template=False), ""),
        (texts.policy(dir="in", template=False, more="action block"), "XfrmInPolBlock"),
        (texts.policy(dir="in", reqid=2), "XfrmInTmplMismatch"),
        (texts.policy(dir="in", mode="tunnel"), "XfrmInTmplMismatch"),
        (texts.policy(dir="in").replace("esp", "esp spi 0x9"), "XfrmInTmplMismatch"),
        (texts.policy(dir="in", reqid=2) + " level use", ""),
        ("xfrm policy setdefault in block", "XfrmInNoPols"),
        (texts.policy(dir="in") + TEMPLATE * 5, "XfrmInBufferError"),
    ],
    ids=["fits", "none", "allow", "block", "reqid", "mode", "spi", "use", "default", "templates"],
)  # fmt: skip
def test_what_a_policy_says_to_a_protected_packet(bench: Bench, policy: str, counter: str) -> None:
    """Block, another template, none of it, too many of them."""
    host = bench.host()
    host.ok(texts.state(dir="in"))
    if policy:
        host.ok(policy)
    assert arrive(bench, Esp().seal(PACKET, 1)) == ([] if counter else [PACKET])
    assert host.mib() == ({counter: 1} if counter else {})


@rule("RX-09")
def test_what_came_out_of_a_tunnel_needs_a_policy(bench: Bench) -> None:
    """None is there: XfrmInNoPols. Of transport mode that passes."""
    host = bench.host()
    host.ok(texts.state(dir="in", mode="tunnel"))
    sealed = Esp().seal(PACKET, 1, outer=packets.ip(b""))
    assert (arrive(bench, sealed), host.mib()) == ([], {"XfrmInNoPols": 1})


@rule("RX-09")
@pytest.mark.parametrize(("port", "counter"), [(5000, ""), (9, "XfrmInStateMismatch")])
def test_the_selector_of_the_sa_is_for_what_was_inside(
    bench: Bench, port: int, counter: str
) -> None:
    """Another packet: XfrmInStateMismatch, after it was opened and counted."""
    host = bench.host()
    host.ok(texts.state(dir="in", more=f"sel {ENDS} proto udp dport {port}"))
    assert arrive(bench, Esp().seal(PACKET, 1)) == ([] if counter else [PACKET])
    assert host.mib() == ({counter: 1} if counter else {})
    found = host.sa()
    assert found is not None and found.curlft.packets == 1


@rule("RX-09", profile="latest")
def test_an_sa_for_sending_receives_nothing(bench: Bench) -> None:
    """XfrmInStateDirError."""
    host = bench.host()
    host.ok(texts.state(dir="out"))
    assert (arrive(bench, Esp().seal(PACKET, 1)), host.mib()) == ([], {"XfrmInStateDirError": 1})


def stray(bench: Bench, more: str = "") -> Subject:
    """A packet-offload SA in whose ESP the device leaves to the stack."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev, dir="in", more=more))
    return host


@rule("RX-13")
def test_software_on_a_larval_sa(bench: Bench) -> None:
    """XfrmAcquireError."""
    host = bench.host()
    assert host.request(messages.alloc_spi(0x1000)).errno == 0
    assert (arrive(bench, Esp().seal(PACKET, 1)), host.mib()) == ([], {"XfrmAcquireError": 1})


@rule("RX-13")
def test_software_and_a_replay(bench: Bench) -> None:
    """XfrmInStateSeqError, before the ICV is looked at."""
    host = stray(bench)
    sealed = Esp().seal(PACKET, 1)
    bad = packets.broken(sealed)
    assert arrive(bench, sealed, sealed, bad) == [PACKET]
    assert host.mib() == {"XfrmInStateSeqError": 2}
    found = host.sa()
    assert found is not None
    assert (found.stats.replay, found.stats.integrity_failed) == (2, 0)


@rule("RX-13")
def test_software_and_a_forged_packet(bench: Bench) -> None:
    """XfrmInStateProtoError and integrity_failed; the window stays where it was."""
    host = stray(bench)
    sealed = Esp().seal(PACKET, 7)
    bad = packets.broken(sealed)
    assert arrive(bench, bad, sealed) == [PACKET]
    assert host.mib() == {"XfrmInStateProtoError": 1}
    found = host.sa()
    assert found is not None and found.stats.integrity_failed == 1


@rule("RX-13")
def test_software_and_a_hard_limit(bench: Bench) -> None:
    """XfrmInStateExpired for the packet that finds it passed, then there is no SA."""
    host = stray(bench, "limit packet-hard 2")
    host.notes()
    assert arrive(bench, *(Esp().seal(PACKET, seq) for seq in (1, 2))) == [PACKET] * 2
    for seq in (3, 4):
        assert arrive(bench, Esp().seal(PACKET, seq)) == []
    assert host.mib() == {"XfrmInStateExpired": 1, "XfrmInNoStates": 1}
    assert host.expired() == ["hard 0x1000"]


@rule("RX-13")
def test_an_sa_that_is_no_longer_valid(bench: Bench) -> None:
    """A packet that the device hands up for an SA that has just expired: XfrmInStateInvalid."""
    crypto(bench, DONE | 1, lft=LifetimeCfg(hard_packet_limit=0))
    host = bench.subjects[0]
    host.send([Esp().seal(PACKET, 1)])
    assert host.receive() == []
    assert host.mib() == {"XfrmOutStateExpired": 1, "XfrmInStateInvalid": 1}


def crypto(bench: Bench, record: int, lft: LifetimeCfg | None = None) -> Subject:
    """A crypto-offload SA whose device hands up what it is asked about, with this record."""
    host = bench.host(driver=PROBE)
    info = messages.sa_info(reqid=RETURN | record, lft=lft)
    offload = host.offload(0)
    assert host.request(messages.new_sa(info, offload)).errno == 0
    host.ok(texts.policy(reqid=RETURN | record))
    return host


@rule("RX-14")
@pytest.mark.parametrize(
    ("status", "counter", "failed"),
    [
        *((status, "XfrmInStateProtoError", 1) for status in (4, 8, 16, 32)),
        (128, "XfrmInStateProtoError", 0),
        (2, "XfrmInBufferError", 0),
        (64, "XfrmInBufferError", 0),
        (0, "XfrmInBufferError", 0),
    ],
)
def test_what_a_device_reports_in_crypto_mode(
    bench: Bench, status: int, counter: str, failed: int
) -> None:
    """A record without success: four bits of failed authentication, a wrong protocol, others."""
    host = crypto(bench, DONE | status)
    host.send([Esp().seal(PACKET, 1)])
    assert host.receive() == []
    assert host.mib() == {counter: 1}
    found = host.sa()
    assert found is not None and found.stats.integrity_failed == failed
