# SPDX-License-Identifier: Apache-2.0
"""TX-30..34: how long a packet of an SA may be, and what becomes of a longer one."""

import errno
import struct

import pytest

from host_driver.conformance import packets, texts
from host_driver.conformance.bench import Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import DESTINATION, SOURCE
from host_driver.conformance.packets import ETHERNET_BYTES, Esp
from host_driver.conformance.policies import chain
from host_driver.conformance.subject import Subject

SIX = "fd00:1::1", "fd00:1::2"
ENCAP = "encap espinudp 4500 4500 "
MORE_FRAGMENTS, DONT_FRAGMENT = 0x2000, 0x4000

# Link, family, mode, UDP encapsulation, bits of ICV, and the usable MTU.
VECTORS = [
    (1500, 4, "transport", False, 128, 1466),
    (1500, 6, "transport", False, 128, 1466),
    (1500, 4, "tunnel", False, 128, 1446),
    (1500, 6, "tunnel", False, 128, 1426),
    (1500, 4, "tunnel", True, 128, 1438),
    (1500, 4, "transport", True, 128, 1458),
    (1500, 4, "transport", False, 64, 1474),
    (1500, 4, "transport", False, 96, 1470),
    (9000, 4, "transport", False, 128, 8966),
]


def usable(link: int, family: int, mode: str, encap: bool, icv: int) -> int:
    """TX-30 for a valid AES-GCM SA."""
    outer = 20 if family == 4 else 40
    header = 16 + (outer if mode == "tunnel" else 0) + (8 if encap else 0)
    adjust = 0 if mode == "tunnel" else outer
    return (link - header - icv // 8 - adjust) // 4 * 4 + adjust - 2


def sender(
    bench: Bench, link: int, family: int, mode: str, encap: bool, icv: int, *, hardware: bool
) -> tuple[Subject, tuple[str, str]]:
    """A host with such an SA and its policy on a link of this MTU; and the two addresses."""
    ends = (SOURCE, DESTINATION) if family == 4 else SIX
    host = bench.host()
    host.link(mtu=link)
    dev = host.dev if hardware else None
    more = ENCAP + ("0.0.0.0" if family == 4 else "::") if encap else ""
    host.ok(texts.state(dev, src=ends[0], dst=ends[1], mode=mode, icv=icv, more=more))
    host.ok(texts.policy(dev, src=ends[0], dst=ends[1], mode=mode, ends=ends))
    return host, ends


def packet_of(length: int, ends: tuple[str, str], flags: int = DONT_FRAGMENT) -> bytes:
    """A UDP packet of this total length."""
    headers = 28 if "." in ends[0] else 48
    return packets.udp(bytes(length - headers), src=ends[0], dst=ends[1], flags=flags)


def judge(
    bench: Bench, vector: tuple[int, int, str, bool, int], limit: int, hardware: bool
) -> None:
    """A packet of `limit` bytes leaves within the link's MTU, one byte more is refused."""
    host, ends = sender(bench, *vector, hardware=hardware)
    assert host.send([packet_of(limit, ends)]) == [0]
    (refusal,) = host.send([packet_of(limit + 1, ends)])
    assert refusal in (errno.EMSGSIZE, errno.EHOSTUNREACH)
    (frame,) = bench.frames()
    assert vector[0] - 4 < len(frame) - ETHERNET_BYTES <= vector[0]


@rule("TX-32", "TX-30")
@pytest.mark.parametrize("hardware", [False, True], ids=["software", "packet"])
@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_vectors(
    bench: Bench, vector: tuple[int, int, str, bool, int, int], hardware: bool
) -> None:
    """So long a packet may be, and not a byte longer."""
    encap = vector[3]
    if encap and hardware and not bench.latest:
        hardware = False  # v6.2 offloads no encapsulated SA (STATE-27)
    judge(bench, vector[:5], vector[5], hardware)


@rule("TX-30")
@pytest.mark.parametrize("link", [1280, 1401, 1402, 1403])
@pytest.mark.parametrize("mode", ["transport", "tunnel"])
@pytest.mark.parametrize("family", [4, 6])
def test_the_formula(bench: Bench, link: int, mode: str, family: int) -> None:
    """On links whose MTU is no multiple of the block, too."""
    vector = (link, family, mode, False, 128)
    judge(bench, vector, usable(*vector), hardware=True)


@rule("TX-31")
@pytest.mark.parametrize("hardware", [False, True], ids=["software", "packet"])
def test_a_sender_hears_of_the_mtu_before_anything_is_counted(bench: Bench, hardware: bool) -> None:
    """A packet that must not be cut: EMSGSIZE of IP itself. The link's MTU counts anew for each."""
    host, ends = sender(bench, 1500, 4, "transport", False, 128, hardware=hardware)
    longest = packet_of(1466, ends)
    assert host.send([longest, packet_of(1467, ends)]) == [0, errno.EMSGSIZE]
    host.link(mtu=1400)
    assert host.send([packet_of(1366, ends), longest]) == [0, errno.EMSGSIZE]
    host.link(mtu=1500)
    assert host.send([longest]) == [0]
    assert host.mib() == {}


@rule("TX-31")
def test_the_mtu_of_a_chain_is_the_least_that_remains(bench: Bench) -> None:
    """A tunnel in transport mode: what the outer SA leaves of the link is what the inner has."""
    host = bench.host()
    chain(host)
    limit = usable(usable(1500, 4, "transport", False, 128), 4, "tunnel", False, 128)
    two = SOURCE, DESTINATION
    assert host.send([packet_of(limit, two), packet_of(limit + 1, two)]) == [0, errno.EMSGSIZE]
    (frame,) = bench.frames()
    assert len(frame) <= ETHERNET_BYTES + 1500


@rule("TX-34")
def test_hardware_takes_no_datagram_that_would_have_to_be_cut(bench: Bench) -> None:
    """It may be cut, and still fails the length test: EHOSTUNREACH."""
    host, ends = sender(bench, 1500, 4, "transport", False, 128, hardware=True)
    assert host.send([packet_of(3000, ends, flags=0)]) == [errno.EHOSTUNREACH]
    assert (bench.frames(), host.mib()) == ([], {"XfrmOutError": 1})


@rule("TX-34")
def test_software_encrypts_and_cuts_then(bench: Bench) -> None:
    """One ESP packet in pieces."""
    host, ends = sender(bench, 1500, 4, "transport", False, 128, hardware=False)
    packet = packet_of(3000, ends, flags=0)
    assert host.send([packet]) == [0]
    pieces = bench.on_the_wire()
    words = [struct.unpack_from(">H", piece, 6)[0] for piece in pieces]
    assert all(len(piece) <= 1500 for piece in pieces)
    assert [bool(word & MORE_FRAGMENTS) for word in words] == [True, True, False]
    whole = packets.ip(b"".join(piece[20:] for piece in pieces), packets.ESP, flags=0)
    assert Esp().open(whole) == packet


@rule("TX-34")
@pytest.mark.parametrize("word", [MORE_FRAGMENTS, MORE_FRAGMENTS | 60, 60])
def test_pieces_are_the_device_s_to_drop(bench: Bench, word: int) -> None:
    """What comes as a fragment leaves neither in clear nor protected."""
    host, _ = sender(bench, 1500, 4, "transport", False, 128, hardware=True)
    host.send([packets.udp(bytes(64), flags=word)])
    assert bench.frames() == []
