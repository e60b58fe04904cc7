# SPDX-License-Identifier: Apache-2.0
"""RX-01..04, RX-08 and RX-10..12: packets that a device has opened, and what is its duty before."""

import struct

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from host_driver.conformance import packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import DESTINATION, KEY, SOURCE
from host_driver.conformance.packets import Esp
from host_driver.conformance.probe import RETURN
from host_driver.conformance.subject import Subject

PACKET = packets.udp(bytes(20))
DONE = 2 << 16  # flags of the offload record (OBJ-31): CRYPTO_DONE
SUCCESS, GENERIC_ERROR = 1, 2  # bits of its status (OBJ-32)
AUTH_FAILED = (4, 8, 16, 32)


def receiver(bench: Bench, more: str = "", card: str | None = None) -> Subject:
    """A host with a packet-offload SA in and its policy."""
    host = bench.host(card=card)
    host.ok(texts.state(host.dev, dir="in", more=more))
    host.ok(texts.policy(host.dev, dir="in"))
    host.notes()
    return host


@rule("RX-01")
def test_the_stack_sees_a_plain_packet(bench: Bench) -> None:
    """A good packet arrives without ESP, and the core does nothing for the SA: its replay state and
    all counters stand still, and the packet counts once, at the device."""
    host = receiver(bench)
    bench.arrive(*(Esp().seal(PACKET, seq) for seq in (1, 2, 3)))
    assert host.receive() == [PACKET] * 3
    assert host.mib() == {}
    shown = host.ok(texts.get())
    assert "seq 0x0, oseq 0x0, bitmap 0x00000000" in shown
    found = host.sa()
    assert found is not None
    if bench.latest:  # v6.2 shows what the driver had said last (DUMP-03)
        assert found.curlft.packets == 3


@rule("RX-01")
def test_no_limit_is_looked_at(bench: Bench) -> None:
    """Three packets of an SA whose hard limit is one: all are delivered, nothing expires."""
    host = bench.host(driver=PROBE)
    order = RETURN | DONE | SUCCESS
    host.ok(texts.state(host.dev, reqid=order, more="limit packet-hard 1"))
    host.ok(texts.policy(host.dev, reqid=order))
    host.send([PACKET] * 3)
    assert (host.receive(), host.expired(), host.mib()) == ([PACKET] * 3, [], {})
    found = host.sa()
    assert found is not None and found.curlft.packets == 0


@rule("RX-02", "RX-03", "RX-04")
@pytest.mark.parametrize("policy", ["none", "block", "template", "default"])
@pytest.mark.parametrize(
    ("record", "good"),
    [
        (DONE | SUCCESS, True),
        (DONE | SUCCESS | GENERIC_ERROR, True),
        (DONE, False),
        (DONE | GENERIC_ERROR, False),
        *((DONE | status, False) for status in AUTH_FAILED),
        (SUCCESS, False),
    ],
    ids=hex,
)
def test_the_record_alone_decides(bench: Bench, record: int, good: bool, policy: str) -> None:
    """CRYPTO_DONE and CRYPTO_SUCCESS: delivered, else dropped. No policy, selector or direction of
    the SA is compared, and no counter moves in either case."""
    host = bench.host(driver=PROBE)
    order = RETURN | record
    host.ok(texts.state(host.dev, reqid=order))
    host.ok(texts.policy(host.dev, reqid=order))
    if policy == "block":
        host.ok(texts.policy(dir="in", template=False, more="action block"))
    elif policy == "template":
        host.ok(texts.policy(dir="in", reqid=77))
    elif policy == "default":
        host.ok("xfrm policy setdefault in block")
    assert host.send([PACKET]) == [0]
    assert host.receive() == ([PACKET] if good else [])
    assert host.mib() == {}
    if policy in ("block", "template"):
        shown = host.ok(f"-s xfrm policy get src {SOURCE} dst {DESTINATION} dir in")
        assert "use -" in shown, "a policy was looked up"


@rule("RX-07", "RX-10")
def test_clear_packets_do_not_pass_an_offloaded_policy(bench: Bench) -> None:
    """What the policy wants protected and comes in clear is not delivered: by the card, if the core
    trusts it with that."""
    host = receiver(bench)
    bench.arrive(PACKET, Esp().seal(PACKET, 1))
    assert host.receive() == [PACKET], "one of the two was protected"


@rule("RX-08", profile="latest")
@pytest.mark.parametrize("offloaded", [True, False])
def test_the_core_leaves_clear_packets_to_the_device(bench: Bench, offloaded: bool) -> None:
    """Under an offloaded policy they pass the core; under one in software they do not."""
    host = bench.host(driver=PROBE)
    host.ok(texts.policy(host.dev if offloaded else None, dir="in"))
    bench.arrive(PACKET)
    assert host.receive() == ([PACKET] if offloaded else [])
    assert host.mib() == ({} if offloaded else {"XfrmInTmplMismatch": 1})


def _fragment(packet: bytes) -> bytes:
    """The packet's IP header says that more pieces follow."""
    head = bytearray(packet[:20])
    head[6:8], head[10:12] = b"\x20\0", bytes(2)
    head[10:12] = packets.checksum(bytes(head)).to_bytes(2)
    return bytes(head) + packet[20:]


def _bad_trailer() -> bytes:
    """An authentic packet that says it has more padding than it has bytes."""
    header, iv = struct.pack(">II", 0x1000, 9), bytes(8)
    sealed = AESGCM(KEY[:16]).encrypt(KEY[16:] + iv, bytes(20) + b"\xff\x11", header)
    return packets.ip(header + iv + sealed, packets.ESP)


BAD = {
    "integrity": packets.broken(Esp().seal(PACKET, 9)),
    "another key": Esp(key=bytes(20)).seal(PACKET, 9),
    "replay": Esp().seal(PACKET, 1),
    "trailer": _bad_trailer(),
    "unknown spi": Esp(spi=0x2000).seal(PACKET, 9),
    "fragment": _fragment(Esp().seal(PACKET, 9)),
    "clear fragment": _fragment(PACKET),
    "short": packets.ip(Esp().seal(PACKET, 9)[20:36], packets.ESP),
}


@rule("RX-10")
@pytest.mark.parametrize("what", BAD)
def test_what_a_device_must_not_let_through(bench: Bench, what: str) -> None:
    """Each is dropped, and the good packets before and after it are delivered."""
    host = receiver(bench)
    bench.arrive(Esp().seal(PACKET, 1), BAD[what], Esp().seal(PACKET, 10))
    assert host.receive() == [PACKET] * 2


@rule("RX-10")
def test_what_comes_after_the_hard_limit_is_dropped_by_the_device(bench: Bench) -> None:
    """Also before the core has heard of it."""
    host = receiver(bench, "limit packet-hard 2")
    bench.deafen()
    bench.arrive(*(Esp().seal(PACKET, seq) for seq in range(1, 6)))
    assert host.receive() == [PACKET] * 2


@rule("RX-11", "RX-03")
def test_the_strict_card_in_packet_mode(bench: Bench) -> None:
    """Decrypted: delivered. Authentication failed or bad trailer: dropped without a counter of the
    core; a driver may add the bad ICV that its device counted when the counters are read."""
    host = receiver(bench, card="cx6dx")
    bench.arrive(BAD["integrity"], BAD["trailer"], Esp().seal(PACKET, 10))
    by_driver = {"XfrmInStateProtoError": 1} if bench.latest else {}  # MLX-14, DUMP-04
    assert host.receive() == [PACKET] and host.mib() in ({}, by_driver)


@rule("RX-11", "RX-14")
@pytest.mark.parametrize("card", ["cx6dx", "full"])
def test_a_device_says_that_authentication_failed(bench: Bench, card: str) -> None:
    """In crypto mode that is what the core counts: integrity_failed, XfrmInStateProtoError."""
    host = bench.host(card=card)
    host.ok(texts.state(host.dev, dir="in", offload="crypto"))
    host.ok(texts.policy(dir="in"))
    bench.arrive(Esp().seal(PACKET, 1), BAD["integrity"], Esp().seal(PACKET, 10))
    assert host.receive() == [PACKET] * 2
    assert host.mib() == {"XfrmInStateProtoError": 1}
    found = host.sa()
    assert found is not None and found.stats.integrity_failed == 1


@rule("RX-12")
def test_esp_that_no_device_has_opened_is_opened_in_software(bench: Bench) -> None:
    """The look-up by SPI finds the packet-offload SA, whose keys the core has: the packet is
    delivered, and window and totals move in software (Linux 7.3.4: 28 bytes, seq 1, bitmap 1)."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev, dir="in"))
    host.ok(texts.policy(host.dev, dir="in"))
    bench.arrive(Esp().seal(PACKET, 1))
    assert (host.receive(), host.mib()) == ([PACKET], {})
    found = host.sa()
    assert found is not None
    assert (found.curlft.packets, found.curlft.bytes) == (1, 28)
    assert "seq 0x1, oseq 0x0, bitmap 0x00000001" in host.ok(texts.get())


@rule("RX-10")
def test_an_sa_opens_only_what_its_selector_covers(bench: Bench) -> None:
    """The core compares nothing (RX-04), so the device keeps the SA to its selector."""
    host = receiver(bench, more="sel src 10.1.0.1/32 dst 10.1.0.2/32 proto udp dport 5000")
    bench.arrive(Esp().seal(PACKET, 1), Esp().seal(packets.udp(dport=5001), 2))
    assert host.receive() == [PACKET]
