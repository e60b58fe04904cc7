# SPDX-License-Identifier: Apache-2.0
"""The wire loses, doubles, swaps, breaks, cuts and delays: what may and what must not arrive."""

import pytest

from support.rows import row
from support.way import KINDS, Way

OTHER_KEY = "aead 'rfc4106(gcm(aes))' 0x1112131415161718191a1b1c1d1e1f2021222324 128"
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
IPV4_ESP, IPV6_ESP = 14 + 20, 14 + 40  # where ESP begins in an Ethernet frame
REPLAYS = {"packet": "rx_drop_replay", "crypto": "XfrmInStateSeqError",
           "software": "XfrmInStateSeqError"}  # fmt: skip
BROKEN = {"packet": "rx_drop_integrity", "crypto": "XfrmInStateProtoError",
          "software": "XfrmInStateProtoError"}  # fmt: skip


def held_back(way: Way, size: int = 20) -> bytes:
    """A frame that a's card sent and b has not seen."""
    with way.lab.faults.inject(site="wire", kind="drop"):
        way.send(1, size)
        way.lab.settle()
    assert way.arrived() == []
    return way.frames()[-1]


@row("F-WIR-01", process=True)
@EVERY_KIND
def test_what_is_lost_is_lost_and_nothing_else(way, target, kind) -> None:
    way = way(target, kind)
    lost = way.lab.wire.counters().get("fault_dropped", 0)
    way.lab.faults.add("frames-lost", host=0)
    sent = way.send(300)
    arrived = way.arrived()
    assert len(sent) - len(arrived) == way.lab.wire.counters()["fault_dropped"] - lost > 0
    assert arrived == [packet for packet in sent if packet in set(arrived)]
    assert way.drops() == {}


@row("F-WIR-02", process=True)
@EVERY_KIND
@pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])
def test_what_comes_twice_is_delivered_once(way, target, kind, v6) -> None:
    way = way(target, kind, v6=v6)
    way.lab.faults.add("frames-doubled", host=0)
    sent = way.send(40)
    assert way.arrived() == sent
    assert way.drops()[REPLAYS[kind]] == len(sent)


@row("F-WIR-03", process=True)
@EVERY_KIND
def test_what_is_late_by_less_than_the_window_is_taken(way, target, kind) -> None:
    way = way(target, kind, window=32)
    way.lab.faults.add("frames-swapped", host=0, value=31, interval=40)
    sent = way.send(100)
    arrived = way.arrived()
    assert sorted(arrived) == sorted(sent)
    assert arrived != sent
    assert way.drops() == {}


@row("F-WIR-04", process=True)
@EVERY_KIND
@pytest.mark.parametrize(("window", "esn"), [(32, False), (64, True), (256, True)])
def test_what_is_late_by_the_window_is_dropped(way, target, kind, window, esn) -> None:
    way = way(target, kind, window=window, esn=esn)
    way.lab.faults.add("frames-far-behind", host=0, value=window, interval=50, times=3)
    sent = way.send(3 * 50 + window)
    late = sent[49:150:50]
    assert way.arrived() == [packet for packet in sent if packet not in late]
    # With ESN what is left of the window counts as of the next half: RFC 4303 appendix A2.2.
    assert way.drops()[(BROKEN if esn else REPLAYS)[kind]] == len(late)


@row("F-WIR-05")
@EVERY_KIND
def test_a_forged_jump_of_the_sequence_number_moves_no_window(way, target, kind) -> None:
    way = way(target, kind, window=64, esn=True)
    way.send(10)
    way.lab.faults.add("sequence-jump", host=0, times=1)
    sent = way.send(70)
    assert way.arrived()[-69:] == sent[1:]
    assert way.drops()[BROKEN[kind]] == 1


@row("F-WIR-05")
@EVERY_KIND
@pytest.mark.parametrize(
    ("jump", "taken"),
    [
        (0x8000_0100, True),
        (0xFFFF_FF00, True),
        (0xFFFF_FFD0, False),  # RFC 4303 appendix A2.1: taken for the half before the first
    ],
)
def test_a_true_jump_is_judged_by_the_rule_of_esn(way, target, kind, jump, taken) -> None:
    way = way(target, kind, window=64, esn=True)
    way.send(10)
    old = held_back(way)
    assert len(way.arrived()) == 0
    way.delete_sa(hosts=[0])
    way.add_sa(out=f"replay-oseq {jump:#x}", hosts=[0])
    sent = way.send(3)
    assert way.arrived() == (sent if taken else [])
    way.inject(old)
    assert len(way.arrived()) == (0 if taken else 1)
    assert sum(way.drops().values()) >= (1 if taken else 3)


@row("F-WIR-06")
@EVERY_KIND
@pytest.mark.parametrize(("v6", "esp"), [(False, IPV4_ESP), (True, IPV6_ESP)],
                         ids=["ipv4", "ipv6"])  # fmt: skip
def test_no_frame_with_a_flipped_bit_is_accepted(way, target, kind, v6, esp) -> None:
    way = way(target, kind, v6=v6)
    frame = held_back(way)
    first = esp if v6 else 14  # an IPv6 header has no checksum, and ESP does not cover it
    for bit in range(first * 8, len(frame) * 8):
        before = way.drops()
        with way.lab.faults.inject("frames-corrupted", value=bit):
            way.inject(frame)
            assert way.arrived() == [], f"byte {bit // 8}, bit {bit % 8}"
        counted = {name for name, count in way.drops().items() if count != before.get(name)}
        if bit // 8 in range(esp, esp + 4):
            assert counted == {"XfrmInNoStates"}
        elif bit // 8 in range(esp + 4, esp + 8):
            assert counted & {BROKEN[kind], REPLAYS[kind]}
        elif bit // 8 >= esp:
            assert BROKEN[kind] in counted
    way.inject(frame)
    assert len(way.arrived()) == 1


@row("F-WIR-06", process=True)
def test_broken_frames_among_good_ones_are_the_only_ones_lost(way, target) -> None:
    way = way(target)
    way.lab.faults.add("frames-corrupted", host=0, interval=4, value=IPV4_ESP * 8 + 90)
    sent = way.send(40)
    assert way.arrived() == [packet for at, packet in enumerate(sent, 1) if at % 4]
    assert way.drops()["rx_drop_integrity"] == 10


@row("F-WIR-07", process=True)
@pytest.mark.parametrize("mode", ["transport", "tunnel"])
def test_a_frame_cut_anywhere_is_dropped(way, target, mode) -> None:
    way = way(target, mode=mode)
    frame = held_back(way)
    for length in range(0, len(frame), 1 if target == "sim" else 13):
        with way.lab.faults.inject("frames-truncated", value=length):
            way.inject(frame)
            assert way.arrived() == [], length
    way.inject(frame)
    assert len(way.arrived()) == 1


@row("F-WIR-07")
def test_esp_that_is_cut_with_its_ip_header_is_too_short_or_broken(way, target) -> None:
    way = way(target)
    frame = held_back(way)
    for length in range(IPV4_ESP, len(frame)):
        way.inject(with_ip_length(frame[:length]))
        assert way.arrived() == []
    assert set(way.drops()) <= {
        "rx_drop_esp_header", "rx_drop_integrity", "XfrmInHdrError", "XfrmInStateProtoError",
    }  # fmt: skip


def with_ip_length(frame: bytes) -> bytes:
    """The IPv4 header told the truth about a frame that was cut."""
    header = bytearray(frame[14:IPV4_ESP])
    header[2:4] = (len(frame) - 14).to_bytes(2)
    header[10:12] = bytes(2)
    total = sum(int.from_bytes(header[at : at + 2]) for at in range(0, 20, 2))
    header[10:12] = (0xFFFF - total % 0xFFFF).to_bytes(2)
    return frame[:14] + bytes(header) + frame[IPV4_ESP:]


@row("F-WIR-08", process=True)
@EVERY_KIND
@pytest.mark.parametrize("mode", ["transport", "tunnel"])
@pytest.mark.parametrize("pad", [1, 18, 46])
def test_what_follows_the_ip_packet_is_no_part_of_it(way, target, kind, mode, pad) -> None:
    way = way(target, kind, mode=mode)
    way.lab.faults.add("frames-padded", host=0, value=pad)
    sent = way.send(10, size=0)
    assert way.arrived() == sent
    assert way.drops() == {}


@row("F-WIR-09", process=True)
@pytest.mark.parametrize("mode", ["transport", "tunnel"])
def test_esp_in_fragments_is_never_opened_by_the_card(way, target, mode) -> None:
    way = way(target, mode=mode)
    way.lab.faults.add("frames-fragmented", host=0, value=32)
    way.send(10, size=200)
    assert way.arrived() == []
    assert way.drops() == {"XfrmInStateProtoError": 10}
    way.lab.faults.reset()
    sent = way.send(3)
    assert way.arrived() == sent


@row("F-WIR-09")
def test_software_puts_fragments_together_in_any_order(way, target) -> None:
    way = way(target, "software")
    way.lab.faults.add("frames-fragmented", host=0, value=40)
    sent = way.send(20, size=300)
    assert way.arrived() == sent


@row("F-WIR-10", process=True)
@EVERY_KIND
def test_a_capture_is_worth_nothing_after_the_rekey(way, target, kind) -> None:
    way = way(target, kind)
    sent = way.send(10)
    assert way.arrived() == sent
    capture = way.frames()
    way.add_sa(0x2000, OTHER_KEY)
    way.delete_sa(0x1000)
    way.inject(*capture)
    assert way.arrived() == []
    assert way.drops() == {"XfrmInNoStates": 10}
    way.add_sa(0x1000, OTHER_KEY)  # the SPI again, another key
    way.inject(*capture)
    assert way.arrived() == []
    assert way.drops()[BROKEN[kind]] == 10


@row("F-WIR-11", process=True)
@EVERY_KIND
def test_the_old_sa_is_good_until_it_is_deleted(way, target, kind) -> None:
    way = way(target, kind)
    way.lab.faults.add("frames-late", host=0, delay_ms=300)
    old = way.send(5)
    way.add_sa(0x2000, OTHER_KEY)
    way.delete_sa(0x1000, hosts=[0])
    new = way.send(5)
    assert sorted(way.arrived()) == sorted(old + new)
    way.lab.faults.reset()
    late = way.frames()[0]
    way.delete_sa(0x1000, hosts=[1])
    way.inject(late)
    assert way.arrived() == []
    assert way.drops() == {"XfrmInNoStates": 1}


@row("F-WIR-12", process=True)
@pytest.mark.parametrize("kind", ["packet", "software"])
@pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])
def test_clear_text_that_should_be_protected_is_dropped(way, target, kind, v6) -> None:
    way = way(target, kind, v6=v6)
    (packet,) = way.send(1)
    assert way.arrived() == [packet]
    ethernet = way.frames()[0][:14]
    way.inject(*[ethernet + packet] * 7)
    assert way.arrived() == []
    counter = "rx_drop_clear_text" if kind == "packet" else "XfrmInTmplMismatch"
    assert way.drops()[counter] == 7


def test_a_slow_wire_gives_no_more_than_its_rate(labs) -> None:
    """Not in the catalogue: a rate must hold packets back, lose none, and keep their order."""
    way = Way(labs("sim"))
    way.lab.faults.add(site="wire", kind="rate", value=10_000, host=0)
    begin_ns = way.lab.now_ns()
    sent = way.send(50, size=100)
    assert way.arrived() == sent
    size = sum(len(frame) for frame in way.frames())
    assert (way.lab.now_ns() - begin_ns) / 1e9 == pytest.approx(size / 10_000, abs=0.2)
    way.clear()
