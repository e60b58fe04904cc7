# SPDX-License-Identifier: Apache-2.0
"""REPLAY-04, 05, 08..10, 14 and 15: numbers on the wire, and windows of what comes from it.

`packet` cases judge the device, `software` ones the core, by the same packets.
"""

import errno

import pytest

from host_driver.conformance import messages, packets, texts
from host_driver.conformance.bench import Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.packets import Esp
from host_driver.conformance.subject import Subject
from proto.xfrm import Attr

PACKET = packets.udp()
LAST = 0xFFFF_FFFF
WHERE = ["packet", "software"]
ESN = "flag esn"


def sender(bench: Bench, where: str, more: str) -> Subject:
    """A host that protects packets there."""
    host = bench.host()
    dev = host.dev if where != "software" else None
    if ESN in more and not bench.latest:  # there ESN needs a window, whatever the direction
        more += " replay-window 32"
    host.ok(texts.state(dev, offload=where, more=more))
    host.ok(texts.policy(host.dev if where == "packet" else None))
    host.notes()
    return host


def receiver(bench: Bench, where: str, more: str, card: str | None = None) -> Subject:
    """A host that opens packets there."""
    host = bench.host(card=card)
    host.ok(texts.state(host.dev if where == "packet" else None, dir="in", more=more))
    return host


def number(packet: bytes) -> int:
    """The sequence number of an IPv4 ESP packet."""
    return int.from_bytes(packet[24:28])


def arrives(bench: Bench, *numbers: tuple[int, int] | int) -> list[bool]:
    """Packets with these numbers, or pairs of high and low half, reach host 0: which are taken."""
    host, taken = bench.subjects[0], []
    for each in numbers:
        high, low = each if isinstance(each, tuple) else (None, each)
        bench.arrive(Esp(high=high).seal(PACKET, low))
        taken.append(host.receive() == [PACKET])
    return taken


@rule("REPLAY-04")
@pytest.mark.parametrize(
    ("more", "counter"),
    [
        ("replay-oseq 0xfffffffd", 0xFFFF_FFFD),
        (f"{ESN} replay-oseq 0xfffffffd replay-oseq-hi 0xffffffff", 0xFFFF_FFFD),
    ],
    ids=["32 bits", "64 bits"],
)
def test_software_stops_at_the_last_number(bench: Bench, more: str, counter: int) -> None:
    """EOVERFLOW and XfrmOutStateSeqError, again and again: the number stays at the last."""
    host = sender(bench, "software", more)
    assert host.send([PACKET] * 4) == [0, 0, errno.EOVERFLOW, errno.EOVERFLOW]
    assert host.mib() == {"XfrmOutStateSeqError": 2}
    assert [number(packet) for packet in bench.on_the_wire()] == [counter + 1, LAST]
    assert "oseq 0xffffffff" in host.ok(texts.get())
    assert host.sa() is not None


@rule("REPLAY-04")
def test_a_bitmap_stops_at_the_last_number_too(bench: Bench) -> None:
    """The ESN attribute without the flag."""
    host = bench.host()
    attribute = (
        (1).to_bytes(4, "little") + (0xFFFF_FFFD).to_bytes(4, "little") + bytes(12)
        + (32).to_bytes(4, "little") + bytes(4)
    )  # fmt: skip
    assert host.request(messages.new_sa(attributes={Attr.REPLAY_ESN_VAL: attribute})).errno == 0
    host.ok(texts.policy())
    assert host.send([PACKET] * 3) == [0, 0, errno.EOVERFLOW]
    assert host.mib() == {"XfrmOutStateSeqError": 1}


@rule("REPLAY-04", "REPLAY-05")
@pytest.mark.parametrize("where", WHERE)
def test_numbers_that_may_wrap(bench: Bench, where: str) -> None:
    """OSEQ_MAY_WRAP: 0 follows the last one, nothing stops, and no IV is used twice."""
    host = sender(bench, where, "replay-oseq 0xfffffffd extra-flag oseq-may-wrap")
    assert host.send([PACKET] * 5) == [0] * 5
    left = bench.on_the_wire()
    assert [number(packet) for packet in left] == [LAST - 1, LAST, 0, 1, 2]
    assert len({packet[28:36] for packet in left}) == 5
    assert [Esp().open(packet) for packet in left] == [PACKET] * 5
    assert (host.mib(), host.expired()) == ({}, [])


@rule("REPLAY-04", "REPLAY-14")
@pytest.mark.parametrize("where", ["packet", "crypto", "software"])
def test_esn_goes_on_in_the_next_high_half(bench: Bench, where: str) -> None:
    """Only the low half is on the wire, the high half is authenticated; the length stays."""
    host = sender(bench, where, f"{ESN} replay-oseq 0xfffffffd replay-oseq-hi 6")
    assert host.send([PACKET] * 4) == [0] * 4
    left = bench.on_the_wire()
    assert [number(packet) for packet in left] == [LAST - 1, LAST, 0, 1]
    opened = [Esp(high=6 + at // 2).open(packet) for at, packet in enumerate(left)]
    assert opened == [PACKET] * 4
    assert {len(packet) for packet in left} == {len(Esp().seal(PACKET, 1))}


@rule("REPLAY-14")
@pytest.mark.parametrize("where", WHERE)
def test_the_high_half_is_authenticated(bench: Bench, where: str) -> None:
    """A packet with the right number and the wrong high half, or none, does not open."""
    more = f"{ESN} replay-window 32 replay-seq 100 replay-seq-hi 3"
    receiver(bench, where, more)
    assert arrives(bench, (2, 101), 101, (4, 101), (3, 101)) == [False, False, False, True]


@rule("REPLAY-05")
@pytest.mark.parametrize("more", ["", f"{ESN} replay-oseq-hi 0xffffffff "], ids=["32", "64"])
def test_a_device_stops_at_the_last_number(bench: Bench, more: str) -> None:
    """No packet behind the last number, no counter of the core, and the SA expires hard."""
    host = sender(bench, "packet", f"{more} replay-oseq 0xfffffffc")
    host.send([PACKET] * 9)
    assert [number(packet) for packet in bench.on_the_wire()] == [LAST - 2, LAST - 1, LAST]
    bench.lab.advance(3)
    assert host.expired() == ["hard 0x1000"]
    host.send([PACKET])
    assert len(bench.on_the_wire()) == 3
    assert "XfrmOutStateSeqError" not in host.mib()


@rule("REPLAY-05")
def test_a_device_stops_also_where_nobody_hears_it(bench: Bench) -> None:
    """Events and totals are lost: still no number comes twice."""
    host = sender(bench, "packet", "replay-oseq 0xfffffffc")
    bench.deafen()
    host.send([PACKET] * 9)
    assert [number(packet) for packet in bench.on_the_wire()] == [LAST - 2, LAST - 1, LAST]


@rule("REPLAY-09")
@pytest.mark.parametrize(
    ("where", "window"),
    # Windows that do not divide 2^32 are the device's alone: Linux takes packets twice with them.
    [*((where, window) for where in WHERE for window in (32, 64, 128)), ("packet", 100)],
)
def test_the_window(bench: Bench, where: str, window: int) -> None:
    """0 is refused; above the top: taken, and the window moves; inside: once; below: refused."""
    receiver(bench, where, f"replay-window {window}")
    edge = 1000 - window
    steps = [
        (0, False), (1, True), (1, False), (3, True), (2, True), (2, False),
        (1000, True), (1000, False), (3, False), (edge, False), (edge + 1, True),
        (edge + 1, False), (999, True), (1001, True), (edge + 1, False), (edge + 2, True),
        (1000 + 5 * window, True), (1002, False), (1001 + 4 * window, True),
        (0, False), (LAST, True), (LAST, False), (LAST - window, False), (LAST - window + 1, True),
    ]  # fmt: skip
    assert arrives(bench, *(each for each, _ in steps)) == [taken for _, taken in steps]


@rule("REPLAY-09")
@pytest.mark.parametrize("where", WHERE)
def test_a_forged_packet_moves_no_window(bench: Bench, where: str) -> None:
    """Far ahead and not authentic: what was inside the window still is, and the number is free."""
    host = receiver(bench, where, "replay-window 32")
    assert arrives(bench, 10) == [True]
    forged = Esp(key=bytes(20)).seal(PACKET, 5000)
    bench.arrive(forged)
    assert host.receive() == []
    assert arrives(bench, 9, 5000, 9) == [True, True, False]


# Top of the window as installed, then packets: high half, low half, whether it is taken.
EPOCHS = {
    "inside one subspace": (
        (3, 1000),
        [(3, 1001, True), (3, 970, True), (3, 970, False), (3, 969, False), (4, 969, True),
         (4, 970, True), (3, 1001, False)],
    ),
    "window spans a wrap": (
        (3, 5),
        [(2, LAST, True), (2, LAST, False), (2, LAST - 25, True), (2, LAST - 26, False),
         (3, 6, True), (3, 6, False), (3, 0, True), (3, 0, False), (2, LAST - 26, False)],
    ),
    "into the next subspace": (
        (0, LAST - 2),
        [(0, LAST, True), (0, LAST - 1, True), (1, 0, True), (1, 40, True), (0, LAST, False),
         (1, 9, True), (1, 8, False), (2, 8, True)],
    ),
    "the first subspace": (
        (0, 0),
        [(0, 0, False), (0, 1, True), (0, 5, True), (0, 3, True), (0, 3, False), (1, 7, False)],
    ),
}  # fmt: skip


@rule("REPLAY-08")
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("case", EPOCHS)
def test_the_high_half_is_inferred(bench: Bench, where: str, case: str) -> None:
    """Window 32: left of it a number belongs to the next high half; where it spans a wrap, numbers
    of its lower part belong to the one before."""
    (high, low), steps = EPOCHS[case]
    top = f"replay-seq {low} replay-seq-hi {high}"
    receiver(bench, where, f"{ESN} replay-window 32 {top}")
    taken = arrives(bench, *((high, low) for high, low, _ in steps))
    assert taken == [expected for *_, expected in steps]


@rule("REPLAY-10")
@pytest.mark.parametrize("window", [1, 31, 32, 33, 64, 96, 128, 256, 512, 1024])
def test_windows_of_the_strict_card(bench: Bench, window: int) -> None:
    """32, 64, 128 and 256, else EINVAL."""
    host = bench.host(card="cx6dx")
    result = host.ip(texts.state(host.dev, dir="in", more=f"replay-window {window}"))
    assert (result.rc == 0) is (window in (32, 64, 128, 256))
    assert result.rc == 0 or str(window) in result.stderr


@rule("REPLAY-10")
def test_the_strict_card_ignores_a_window_out(bench: Bench) -> None:
    """Of an SA for sending any window is taken."""
    host = bench.host(card="cx6dx")
    offload = host.offload()
    request = messages.new_sa(messages.sa_info(replay_window=7), offload)
    assert host.request(request).errno == 0


@rule("REPLAY-10", profile="latest")
def test_the_strict_card_counts_replays(bench: Bench) -> None:
    """A duplicate is one in stats.replay."""
    host = receiver(bench, "packet", "replay-window 64", card="cx6dx")
    assert arrives(bench, 5, 5, 6, 5) == [True, False, True, False]
    found = host.sa()
    assert found is not None and found.stats.replay == 2


@rule("REPLAY-15")
@pytest.mark.parametrize("where", ["crypto", "packet"])
def test_who_is_told_of_a_number_out(bench: Bench, where: str) -> None:
    """`latest` calls advance_esn in crypto mode, over the wrap, too (Linux 7.3.4: for every
    packet); v6.2 does not, and packet mode never."""
    host = sender(bench, where, f"{ESN} replay-oseq 0xfffffffd")
    host.send([PACKET] * 4)
    told = host.order("U", "K").split().count("E")
    assert told == (4 if bench.latest and where == "crypto" else 0)
    assert [number(packet) for packet in bench.on_the_wire()] == [LAST - 1, LAST, 0, 1]
