# SPDX-License-Identifier: Apache-2.0
"""LIFE-04 and LIFE-16 where the core protects packets itself: what counts, and when it looks.

Figures are those of Linux 7.3.4 and 6.12.
"""

import pytest

from host_driver.conformance import packets, texts
from host_driver.conformance.bench import Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import DESTINATION, SOURCE
from host_driver.conformance.packets import Esp
from host_driver.conformance.subject import Subject

PACKET = packets.udp(bytes(56))  # as a ping of 56 bytes: 64 bytes of IP payload


def sender(
    bench: Bench, more: str = "", mode: str = "transport", *, crypto: bool = False
) -> Subject:
    """A host with an outbound SA in software, or in crypto offload, and its policy."""
    host = bench.host()
    host.ok(texts.state(host.dev if crypto else None, offload="crypto", mode=mode, more=more))
    ends = (SOURCE, DESTINATION) if mode == "tunnel" else None
    host.ok(texts.policy(mode=mode, ends=ends))
    host.notes()
    return host


def receiver(bench: Bench, more: str = "") -> Subject:
    """A host with an inbound SA in software and its policy."""
    host = bench.host()
    host.ok(texts.state(dir="in", more=more))
    host.ok(texts.policy(dir="in"))
    host.notes()
    return host


def arrive(bench: Bench, host: Subject, numbers: range) -> None:
    """Let ESP packets with these sequence numbers arrive, one by one."""
    for seq in numbers:
        bench.arrive(Esp().seal(PACKET, seq))
        bench.settle()


@rule("LIFE-04")
@pytest.mark.parametrize(("mode", "octets"), [("transport", 64), ("tunnel", 84)])
def test_software_counts_what_it_encrypts_on_the_way_out(
    bench: Bench, mode: str, octets: int
) -> None:
    """The packet as the transform gets it: without its IP header in transport mode."""
    host = sender(bench, mode=mode)
    host.send([PACKET] * 10)
    found = host.sa()
    assert found is not None
    assert (found.curlft.packets, found.curlft.bytes) == (10, 10 * octets)


@rule("LIFE-04")
def test_software_counts_what_it_decrypted_on_the_way_in(bench: Bench) -> None:
    """The payload, without padding, ESP's own bytes and, in transport mode, the IP header."""
    host = receiver(bench)
    arrive(bench, host, range(1, 11))
    found = host.sa()
    assert found is not None
    assert (found.curlft.packets, found.curlft.bytes) == (10, 640)


@rule("LIFE-16", "LIFE-12")
@pytest.mark.parametrize("crypto", [False, True])
def test_the_core_looks_first_and_counts_then_on_the_way_out(bench: Bench, crypto: bool) -> None:
    """With a hard limit of 3 three packets pass; the fourth is refused and ends the SA."""
    host = sender(bench, "limit packet-hard 3", crypto=crypto)
    assert [host.send([PACKET])[0] for _ in range(3)] == [0, 0, 0]
    assert (host.expired(), host.mib()) == ([], {})
    host.send([PACKET])
    assert host.expired() == ["hard 0x1000"]
    assert host.mib() == {"XfrmOutStateExpired": 1}
    host.send([PACKET])
    assert host.mib() == {"XfrmOutStateExpired": 1, "XfrmOutNoStates": 1}
    assert len(bench.frames()) == 3


@rule("LIFE-16")
def test_software_looks_first_and_counts_then_on_the_way_in(bench: Bench) -> None:
    """With a hard limit of 2 two packets pass; the third is dropped and ends the SA."""
    host = receiver(bench, "limit packet-hard 2")
    arrive(bench, host, range(1, 3))
    assert (host.receive(), host.mib()) == ([PACKET] * 2, {})
    arrive(bench, host, range(3, 4))
    assert host.expired() == ["hard 0x1000"]
    arrive(bench, host, range(4, 5))
    assert host.receive() == []
    assert host.mib() == {"XfrmInStateExpired": 1, "XfrmInNoStates": 1}


@rule("LIFE-16")
def test_a_soft_limit_in_software_is_told_by_the_packet_after_it(bench: Bench) -> None:
    """The look comes before the count, so the third packet finds the two."""
    host = sender(bench, "limit packet-soft 2")
    told = []
    for _ in range(4):
        host.send([PACKET])
        told.append(host.expired())
    assert told == [[], [], ["soft 0x1000"], []]
    assert len(bench.frames()) == 4
