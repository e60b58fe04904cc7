# SPDX-License-Identifier: Apache-2.0
"""MATCH-*: which SA a policy may use: packet-offload ones and others, on one device and on two."""

import pytest

from host_driver.conformance import packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.probe import AT_ONCE
from host_driver.conformance.subject import Subject

PACKET = packets.udp()
ACQUIRES, PENDING = "an acquire", "nothing, and no acquire"
A, B = "first", "second"


def used(bench: Bench, host: Subject, policy_on: str | None) -> str:
    """What a packet of the policy comes to: the SPI that protects it, or why there is none."""
    host.ok(texts.policy(host.dev if policy_on else None))
    host.notes()
    host.send([PACKET])
    if host.mib() == {"XfrmOutNoStates": 1}:
        assert bench.frames() == [], "a packet left although its policy found no SA"
        return ACQUIRES if "ACQUIRE" in host.note_names() else PENDING
    asked = [call["spi"] for call in host.calls_of("offload_ok")]
    frames = bench.on_the_wire()
    if policy_on:  # the scripted driver has no card behind it that would protect the packet
        assert [packet for packet in frames if not packets.is_esp(packet)] == []
        return str(asked[-1])
    (sent,) = frames
    spi = packets.spi(sent)
    assert packets.Esp(spi).open(sent) == PACKET
    return f"{spi:#x}"


def row(id: str, policy_on: str | None, sas: list[tuple[str, str]], result: str) -> object:
    """One row of the table; an SA is (kind, device), its SPI 0x1001, 0x1002, ..."""
    return pytest.param(policy_on, sas, result, marks=rule(id), id=id)


@pytest.mark.parametrize(
    ("policy_on", "sas", "result"),
    [
        row("MATCH-01", A, [("packet", A)], "0x1001"),
        row("MATCH-02", A, [("packet", B)], ACQUIRES),
        row("MATCH-03", A, [("crypto", A)], ACQUIRES),
        row("MATCH-04", A, [("software", "")], ACQUIRES),
        row("MATCH-05", None, [("packet", A)], ACQUIRES),
        row("MATCH-07", None, [("packet", A), ("software", "")], "0x1002"),
        row("MATCH-08", A, [("packet", A), ("packet", B)], "0x1001"),
        row("MATCH-09", A, [("packet", A), ("software", "")], ACQUIRES),
        row("MATCH-10", A, [("software", ""), ("packet", A)], "0x1002"),
    ],
)
def test_kinds_of_sas(
    bench: Bench, policy_on: str | None, sas: list[tuple[str, str]], result: str
) -> None:
    """A packet policy uses packet SAs of its own device; a software policy never uses one."""
    host = bench.host(driver=PROBE)
    devices = {A: host.dev, B: host.second_device() if ("packet", B) in sas else "", "": ""}
    for spi, (kind, where) in enumerate(sas, 0x1001):
        host.ok(texts.state(devices[where] or None, spi=spi, offload=kind))
    assert used(bench, host, policy_on) == result


@rule("MATCH-06")
def test_a_software_policy_uses_a_crypto_sa(bench: Bench) -> None:
    """The host builds the ESP packet, the device seals it."""
    host = bench.host()
    host.ok(texts.state(host.dev, spi=0x1001, offload="crypto"))
    assert used(bench, host, None) == "0x1001"


@rule("MATCH-11")
def test_a_fresh_sa_comes_before_a_dying_one(bench: Bench) -> None:
    """A rekey switches: the SA past its soft limit is used only as long as there is no other."""
    host = bench.host()
    host.ok(texts.state(host.dev, spi=0x1001, more="limit packet-soft 2"))
    host.ok(texts.policy(host.dev))
    host.send([PACKET])
    host.send([PACKET])
    assert host.expired() == ["soft 0x1001"]
    host.send([PACKET])
    host.ok(texts.state(host.dev, spi=0x1002))
    host.send([PACKET])
    assert bench.spis() == [0x1001, 0x1001, 0x1001, 0x1002]


@rule("MATCH-12")
def test_an_expired_sa_is_no_reason_for_another_acquire(bench: Bench) -> None:
    """Between its expiry and its end an SA is not used, and nobody is asked for a new one: the
    packet is gone as if one were pending."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev, reqid=AT_ONCE, more="limit packet-hard 1"))
    host.ok(texts.policy(host.dev, reqid=AT_ONCE))
    host.notes()
    assert host.send([PACKET] * 3) == [0] * 3  # expired by the first, its timer is due behind them
    assert [note.name for note in host.notes()] == ["EXPIRE"]
    assert host.mib() == {"XfrmOutNoStates": 2}
    assert host.order("U") == "A pA K D F"
    assert host.send([PACKET]) == [0]
    assert host.note_names() == ["ACQUIRE"]
