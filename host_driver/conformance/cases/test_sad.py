# SPDX-License-Identifier: Apache-2.0
"""SAD-01..08: the order in which SAs are found, and what finds them.

SAs of one SPI differ by mark: number n is selected by bit n. GETSA with all bits finds the first on
the list, without its bit the next one, and so on: thus the list itself can be read.
"""

import struct

import pytest

from host_driver.conformance import messages, packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import DESTINATION, SOURCE
from host_driver.conformance.subject import Subject
from proto.xfrm import Attr, Msg
from proto.xfrm_structs import UserAcquire

PACKET = packets.udp()
OFFLOADS = {"P": "packet", "C": "crypto", "S": ""}


def protecting(host: Subject) -> list[str]:
    """The SPI of each packet that went to the driver."""
    return [call["spi"] for call in host.calls_of("offload_ok")]


def add(host: Subject, kinds: str, first: int = 0) -> None:
    """An SA for each letter: packet offload, crypto offload, software; numbered from `first`."""
    for number, kind in enumerate(kinds, first):
        mark = f"mark {1 << number:#x} mask {1 << number:#x}"
        dev = host.dev if OFFLOADS[kind] else None
        host.ok(texts.state(dev, offload=OFFLOADS[kind], more=mark))


def found(host: Subject, bits: int) -> int | None:
    """The number of the SA that GETSA finds with this mark."""
    mark = {Attr.MARK: struct.pack("<II", bits, 0xFFFF_FFFF)}
    notes = host.request(messages.request(Msg.GETSA, messages.sa_id(), mark)).notes
    if not notes:
        return None
    (value,) = struct.unpack_from("<I", notes[0].attributes[Attr.MARK])
    return int(value).bit_length() - 1


def order(host: Subject, count: int) -> list[int]:
    """The numbers of SAs in the order of the list."""
    bits, numbers = (1 << count) - 1, []
    while (number := found(host, bits)) is not None:
        numbers.append(number)
        bits &= ~(1 << number)
    return numbers


def acquire(host: Subject) -> int:
    """Send a packet of a software policy, which makes a larval SA; its sequence number."""
    host.ok(texts.policy(reqid=9))
    host.notes()
    host.send([PACKET])
    (note,) = host.notes()
    return UserAcquire.unpack(note.fixed).seq


def after_growth(numbers: list[int], kinds: str) -> list[int]:
    """SAD-01..03 to the letter, applied to one SA after the other from head to tail."""
    made: list[int] = []
    for number in numbers:
        others = [at for at, old in enumerate(made) if kinds[old] != "P"]
        made.insert(others[0] if others and kinds[number] != "P" else 0, number)
    return made


@rule("SAD-01")
@pytest.mark.parametrize(("kinds", "wanted"), [("PPP", [2, 1, 0]), ("SCPP", [3, 2, 1, 0])])
def test_packet_offload_stands_at_the_head(bench: Bench, kinds: str, wanted: list[int]) -> None:
    """Whatever was there before it."""
    host = bench.host(driver=PROBE)
    add(host, kinds)
    assert order(host, len(kinds)) == wanted


@rule("SAD-01")
def test_packet_offload_stands_at_the_head_where_policies_look(bench: Bench) -> None:
    """The list by addresses too: a hardware policy sees the SA that came behind software ones."""
    host = bench.host(driver=PROBE)
    host.ok(texts.policy(host.dev))
    host.ok(texts.state(spi=0x1001))
    host.ok(texts.state(host.dev, spi=0x1002))
    host.send([PACKET])
    assert protecting(host) == ["0x1002"]


@rule("SAD-02")
@pytest.mark.parametrize(
    ("kinds", "wanted"),
    [("SPS", [1, 2, 0]), ("CPPC", [2, 1, 3, 0]), ("SPCS", [1, 3, 2, 0])],
)
def test_others_stand_behind_the_leading_packet_ones(
    bench: Bench, kinds: str, wanted: list[int]
) -> None:
    """Directly before the first of their kind, so before the older ones."""
    host = bench.host(driver=PROBE)
    add(host, kinds)
    assert order(host, len(kinds)) == wanted


@rule("SAD-03")
@pytest.mark.parametrize(
    ("kinds", "wanted"), [("PS", [1, 0]), ("PPC", [2, 1, 0]), ("PPSP", [3, 2, 1, 0])]
)
def test_the_first_of_the_others_stands_before_all(
    bench: Bench, kinds: str, wanted: list[int]
) -> None:
    """A list of packet-offload SAs alone gets a software one at its head, a trap of the kernel."""
    host = bench.host(driver=PROBE)
    add(host, kinds)
    assert order(host, len(kinds)) == wanted


@rule("SAD-03")
def test_hardware_behind_software_is_out_of_sight_until_more_comes(bench: Bench) -> None:
    """Hardware, then software: a hardware policy finds nothing. The next hardware SA is seen."""
    host = bench.host(driver=PROBE)
    host.ok(texts.policy(host.dev))
    host.ok(texts.state(host.dev, spi=0x1001))
    host.ok(texts.state(spi=0x1002))
    host.send([PACKET])
    assert host.mib() == {"XfrmOutNoStates": 1}
    host.ok(texts.state(host.dev, spi=0x1003))
    host.send([PACKET])
    assert host.mib() == {"XfrmOutNoStates": 1}
    assert protecting(host) == ["0x1003"]


@rule("SAD-04")
def test_newer_ones_precede_older_ones_of_software(bench: Bench) -> None:
    """A software-only list is the newest first."""
    host = bench.host()
    add(host, "SSSS")
    assert order(host, 4) == [3, 2, 1, 0]


@rule("SAD-04")
def test_newer_ones_precede_older_ones_of_hardware(bench: Bench) -> None:
    """Within each class, while the classes stay apart."""
    host = bench.host(driver=PROBE)
    add(host, "SPSPSP")
    assert order(host, 6) == [5, 3, 1, 4, 2, 0]


@rule("SAD-05")
@pytest.mark.parametrize("kinds", ["PPPPPPPP", "SPSPSPPP", "SSPPPPSP"])
def test_a_larger_table_is_filled_by_the_same_rules(bench: Bench, kinds: str) -> None:
    """With the eighth SA the tables grow: each list is put in anew, from head to tail."""
    host = bench.host(driver=PROBE, fresh=True)
    add(host, kinds[:7])
    before = order(host, 7)
    add(host, kinds[7], 7)
    bench.settle()
    assert order(host, 8) == after_growth([7, *before], kinds)


@rule("SAD-06")
def test_the_lookup_by_spi_knows_no_types(bench: Bench) -> None:
    """The first whose identity matches is it, hardware or software."""
    host = bench.host(driver=PROBE)
    add(host, "SPC")
    assert [found(host, bits) for bits in (1, 2, 3, 4, 5, 7)] == [0, 1, 1, 2, 2, 1]


@rule("SAD-06")
def test_a_packet_finds_the_hardware_sa_of_its_spi(bench: Bench) -> None:
    """ESP that the device let through is not lost for an SA of the device: it is decrypted, by the
    key of the first on the list that its mark (0) selects."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(dir="in", key=bytes(20), more="mark 1 mask 1"))
    host.ok(texts.state(host.dev, dir="in"))
    bench.arrive(packets.Esp().seal(PACKET, 1))
    assert host.receive() == [PACKET]
    assert host.mib() == {}


@rule("SAD-07")
def test_a_sequence_number_resolves_an_acquire(bench: Bench) -> None:
    """An SA with the number takes the larval one's place, although its reqid is another."""
    host = bench.host()
    asked = acquire(host)
    assert host.request(messages.new_sa(seq=asked + 1, reqid=7)).errno == 0
    assert host.spis() == [0x1000, 0]
    assert host.request(messages.new_sa(spi=0x1001, seq=asked, reqid=7)).errno == 0
    assert host.spis() == [0x1001, 0x1000]


@rule("SAD-07")
def test_a_sequence_number_finds_larval_ones_only(bench: Bench) -> None:
    """Once the larval SA is finished, more SAs with its number replace nothing."""
    host = bench.host()
    asked = acquire(host)
    for spi in (0x1000, 0x1001, 0x1002):
        assert host.request(messages.new_sa(spi=spi, seq=asked)).errno == 0
    assert host.spis() == [0x1002, 0x1001, 0x1000]


@rule("SAD-08")
def test_the_count_is_of_all_sas(bench: Bench) -> None:
    """GETSADINFO counts finished and larval ones of every kind."""
    host = bench.host()
    assert host.ok("xfrm state count").split() == ["SAD", "count", "0"]
    host.ok(texts.state(spi=0x1001))
    host.ok(texts.state(host.dev, spi=0x1002, src=DESTINATION, dst=SOURCE))
    acquire(host)
    assert host.ok("xfrm state count").split() == ["SAD", "count", "3"]
    host.ok(texts.delete(spi=0x1001))
    assert host.ok("xfrm state count").split() == ["SAD", "count", "2"]
