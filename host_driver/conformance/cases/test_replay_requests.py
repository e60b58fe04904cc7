# SPDX-License-Identifier: Apache-2.0
"""REPLAY-01..03, 06, 07 and 11..13: replay state that a request sets, shows and is told about."""

import errno

import pytest

from host_driver.conformance import layouts, messages, packets, texts
from host_driver.conformance.bench import BARE, PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import Note
from host_driver.conformance.packets import Esp
from host_driver.conformance.subject import Subject
from proto.netlink import NLM_F_ACK, NLM_F_REPLACE
from proto.xfrm import Attr, Msg

PACKET = packets.udp()
ESN_FLAG = 128
AE_CR, AE_CE, AE_CU = 16, 32, 64  # why NEWAE was sent


def esn(words: int = 4, **fields: int) -> bytes:
    """REPLAY_ESN_VAL with so many words of bitmap, all 0."""
    return layouts.REPLAY_STATE_ESN.make(bmp_len=words, **fields) + bytes(4 * words)


def request(words: int, window: int, flag: bool, dir: int = 0) -> bytes:
    """NEWSA with that attribute."""
    attributes = {Attr.REPLAY_ESN_VAL: esn(words, replay_window=window)}
    if dir:
        attributes[Attr.SA_DIR] = bytes((dir,))
    return messages.new_sa(messages.sa_info(flags=ESN_FLAG if flag else 0), attributes)


def arrive(bench: Bench, *numbers: int, high: int | None = None) -> list[int]:
    """ESP packets with these numbers reach host 0; the numbers of those delivered."""
    host = bench.subjects[0]
    esp = Esp(high=high)
    sealed = [esp.seal(packets.udp(number.to_bytes(8)), number) for number in numbers]
    bench.arrive(*sealed)
    return [int.from_bytes(packet[28:36]) for packet in host.receive()]


def numbers_sent(bench: Bench) -> list[int]:
    """Sequence numbers on the wire."""
    return [int.from_bytes(frame[38:42]) for frame in bench.frames()]


def counters(host: Subject) -> tuple[int, int]:
    """GETAE: oseq and seq as the core has them."""
    event = layouts.AEVENT_ID.make(sa_id=messages.sa_id())
    (note,) = host.request(messages.request(Msg.GETAE, event)).notes
    if Attr.REPLAY_ESN_VAL in note.attributes:
        state = layouts.REPLAY_STATE_ESN.read(note.attributes[Attr.REPLAY_ESN_VAL])
    else:
        state = layouts.REPLAY_STATE.read(note.attributes[Attr.REPLAY_VAL])
    return state.oseq, state.seq


@rule("REPLAY-01")
@pytest.mark.parametrize(("asked", "kept"), [(8, 8), (32, 32), (33, 32), (255, 32)])
def test_a_legacy_window_has_at_most_32_packets(bench: Bench, asked: int, kept: int) -> None:
    """The fixed part says more: cut to 32, in what is shown and in what is accepted."""
    host = bench.host()
    assert host.request(messages.new_sa(messages.sa_info(replay_window=asked))).errno == 0
    found = host.sa()
    assert found is not None and found.replay_window == kept
    assert arrive(bench, 1000, 1000 - kept, 1001 - kept) == [1000, 1001 - kept]


@rule("REPLAY-01")
@pytest.mark.parametrize("window", [64, 128, 1024])
def test_a_bitmap_is_wider(bench: Bench, window: int) -> None:
    """The ESN attribute without the flag: a wide window of 32-bit numbers."""
    host = bench.host()
    host.ok(texts.state(dir="in", more=f"replay-window {window}"))
    found = host.sa()
    assert found is not None and found.replay_window == 0
    assert arrive(bench, 5000, 5000 - window, 5001 - window, 5000) == [5000, 5001 - window]


@rule("REPLAY-01")
def test_numbers_of_64_bits(bench: Bench) -> None:
    """With the flag: behind 2^32 - 1 comes 0 of the next high half."""
    host = bench.host()
    host.ok(texts.state(dir="in", more="flag esn replay-window 64 replay-seq 0xfffffff0"))
    assert arrive(bench, 0xFFFF_FFFE, 0xFFFF_FFFF, high=0) == [0xFFFF_FFFE, 0xFFFF_FFFF]
    assert arrive(bench, 0, 1, 0, high=1) == [0, 1]


@rule("REPLAY-02")
@pytest.mark.parametrize("flag", [True, False])
def test_a_window_must_fit_its_bitmap(bench: Bench, flag: bool) -> None:
    """Wider than its bitmap: EINVAL. As wide: taken."""
    host = bench.host()
    assert host.request(request(2, 65, flag)).errno == errno.EINVAL
    assert host.request(request(2, 64, flag)).errno == 0


@rule("REPLAY-02")
def test_esn_needs_a_window(bench: Bench) -> None:
    """A window of 0: EINVAL with the flag, nothing wrong without it."""
    host = bench.host()
    assert host.request(request(1, 0, True)).errno == errno.EINVAL
    assert host.request(request(1, 0, False)).errno == 0


@rule("REPLAY-02", profile="latest")
def test_esn_out_needs_no_window(bench: Bench) -> None:
    """Allowed where the SA's direction is out, and only there."""
    host = bench.host()
    assert host.request(request(1, 0, True, dir=1)).errno == errno.EINVAL
    assert host.request(request(0, 0, True, dir=2)).errno == 0


@rule("REPLAY-03")
@pytest.mark.parametrize("offload", ["packet", "crypto", ""])
@pytest.mark.parametrize("oseq", [0, 41])
def test_sending_goes_on_behind_oseq(bench: Bench, oseq: int, offload: str) -> None:
    """oseq N: the next packet gets N + 1; the first of all gets 1."""
    host = bench.host()
    dev = host.dev if offload else None
    host.ok(texts.state(dev, offload=offload, more=f"replay-oseq {oseq}" if oseq else ""))
    host.ok(texts.policy(host.dev if offload == "packet" else None))
    host.send([PACKET] * 2)
    assert numbers_sent(bench) == [oseq + 1, oseq + 2]


@rule("REPLAY-03")
@pytest.mark.parametrize("offload", [True, False])
def test_receiving_goes_on_behind_seq(bench: Bench, offload: bool) -> None:
    """Top 1000 and bitmap 101b: 1000 and 998 were there already, 999 and 1001 were not."""
    host = bench.host()
    attributes = {
        Attr.REPLAY_ESN_VAL: esn(1, replay_window=32, seq=1000)[:24]
        # Bit (seq - 1) mod 32 is that of seq.
        + (1 << 999 % 32 | 1 << 997 % 32).to_bytes(4, "little"),
    }
    if offload:
        attributes[Attr.OFFLOAD_DEV] = messages.offload(host.ifindex, 6)
    assert host.request(messages.new_sa(messages.sa_info(), attributes)).errno == 0
    assert arrive(bench, 998, 1000, 999, 1001, 968) == [999, 1001]


@rule("REPLAY-06", "REPLAY-07")
def test_the_core_s_numbers_stay_as_installed(bench: Bench) -> None:
    """Packets of a packet-offload SA with ESN, over the end of the low half: GETAE and dumps show
    what was installed, and advance_esn is never called."""
    host = bench.host()
    more = "flag esn replay-oseq 0xfffffffd" + ("" if bench.latest else " replay-window 32")
    host.ok(texts.state(host.dev, more=more))
    host.ok(texts.policy(host.dev))
    host.send([PACKET] * 5)
    assert counters(host) == (0xFFFF_FFFD, 0)
    assert "oseq-hi 0x0, oseq 0xfffffffd" in host.ok("xfrm state list")
    assert numbers_sent(bench) == [0xFFFF_FFFE, 0xFFFF_FFFF, 0, 1, 2]
    assert "E" not in host.order().split()


@rule("REPLAY-06")
def test_a_receiver_s_numbers_stay_as_installed(bench: Bench) -> None:
    """Neither top nor bitmap follow what the card receives."""
    host = bench.host()
    host.ok(texts.state(host.dev, dir="in", more="replay-seq 10"))
    assert arrive(bench, 11, 12, 500) == [11, 12, 500]
    assert counters(host) == (0, 10)
    assert "seq 0xa, oseq 0x0, bitmap 0x00000000" in host.ok("xfrm state list")


@rule("REPLAY-07")
@pytest.mark.parametrize("offload", ["packet", "crypto"])
def test_whether_esn_needs_the_callback(bench: Bench, offload: str) -> None:
    """A driver without advance_esn: `latest` refuses ESN in crypto mode alone, v6.2 in both."""
    host = bench.host(driver=BARE)
    sa = texts.state(host.dev, dir="in", offload=offload, more="flag esn replay-window 32")
    assert (host.ip(sa).rc == 0) is (bench.latest and offload == "packet")


@rule("REPLAY-11")
def test_windows_of_software_end_at_4096(bench: Bench) -> None:
    """4096 bits are kept to the last; a longer bitmap is refused."""
    host = bench.host()
    assert host.request(request(129, 4128, False)).errno == errno.EINVAL
    assert host.request(request(128, 4096, False)).errno == 0
    assert arrive(bench, 9000, 4904, 4905, 4905) == [9000, 4905]


def causes(notes: list[Note]) -> list[int]:
    """Of the messages that are NEWAE, why they were sent."""
    found = (layouts.AEVENT_ID.read(note.fixed) for note in notes if note.type == Msg.NEWAE)
    return [event.flags & (AE_CR | AE_CE | AE_CU) for event in found]


def with_thresholds(bench: Bench, host: Subject, *, packet: bool) -> None:
    """An SA out whose counters are told each 3 packets, or 0.5 s after they moved."""
    offload = host.offload() if packet else {}
    thresholds = {Attr.REPLAY_THRESH: (3).to_bytes(4, "little"), Attr.ETIMER_THRESH: b"\5\0\0\0"}
    assert host.request(messages.new_sa(attributes=thresholds | offload)).errno == 0
    host.ok(texts.policy(host.dev if packet else None))
    host.notes()


@rule("REPLAY-12")
def test_software_tells_that_counters_moved(bench: Bench) -> None:
    """NEWAE at a difference of 3, and some time after a smaller one."""
    host = bench.host()
    with_thresholds(bench, host, packet=False)
    told = []
    for _ in range(6):
        host.send([PACKET])
        told.append(causes(host.notes()))
    assert told == [[], [], [AE_CR], [], [], [AE_CR]]
    host.send([PACKET])
    bench.advance(2)
    assert AE_CE in causes(host.notes())


@rule("REPLAY-12")
def test_packet_offload_has_nothing_to_tell(bench: Bench) -> None:
    """Its counters do not move: no NEWAE, neither by difference nor by age. A user's own NEWAE is
    still told to all."""
    host = bench.host()
    with_thresholds(bench, host, packet=True)
    host.send([PACKET] * 10)
    bench.advance(3)
    assert causes(host.notes()) == []
    assert new_ae(host, 7) == 0
    assert causes(host.notes()) == [AE_CU]


def new_ae(host: Subject, oseq: int) -> int:
    """A user sets oseq; the errno."""
    return host.request(
        messages.request(
            Msg.NEWAE,
            layouts.AEVENT_ID.make(sa_id=messages.sa_id()),
            {Attr.REPLAY_VAL: layouts.REPLAY_STATE.make(oseq=oseq)},
            NLM_F_ACK | NLM_F_REPLACE,
        )
    ).errno


@rule("REPLAY-13")
def test_a_user_s_numbers_are_the_core_s_alone(bench: Bench) -> None:
    """NEWAE on a packet-offload SA: GETAE shows them, no driver hears of it, and the device goes on
    with its own."""
    host = bench.host()
    host.ok(texts.state(host.dev))
    host.ok(texts.policy(host.dev))
    host.send([PACKET])
    before = len(host.calls())
    assert new_ae(host, 1000) == 0
    assert counters(host) == (1000, 0)
    assert host.order("U", since=before) == ""
    host.send([PACKET])
    assert numbers_sent(bench) == [1, 2]


@rule("REPLAY-13")
def test_a_user_s_numbers_count_in_software(bench: Bench) -> None:
    """There the next packet goes on behind them."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state())
    host.ok(texts.policy())
    host.send([PACKET])
    assert new_ae(host, 1000) == 0
    host.send([PACKET])
    assert numbers_sent(bench) == [1, 1001]
