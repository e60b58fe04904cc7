# SPDX-License-Identifier: Apache-2.0
"""Packets through Firmware.step. scapy makes and opens the ESP, never our own kernels."""

import msgspec
import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from proto import commands as c
from proto.events import EventType
from proto.frame import Channel, Kind, pack
from proto.layouts import SA_STOPPED, RxFlag, TxFlag
from proto.limits import BURST, RING_SIZE, WIRE_CREDITS
from proto.queue import QueueState
from proto.xfrm import AF_INET
from tests.unit.firmware.conftest import EPOCH

SPI = 0x1000


def clear(family, size=40, number=0):
    """A frame from A to B with `size` bytes of payload."""
    ip = (
        IP(src="10.1.0.1", dst="10.1.0.2")
        if family == AF_INET
        else IPv6(src="fd00:1::1", dst="fd00:1::2")
    )
    payload = Raw(bytes((number + i) % 256 for i in range(size)))
    return bytes(
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        / ip / UDP(sport=1000, dport=2000) / payload
    )  # fmt: skip


def scapy_sa(card, bits=256):
    return SecurityAssociation(
        ESP, spi=SPI, crypt_algo="AES-GCM", crypt_key=card.KEY[: bits // 8] + card.SALT
    )


def opened(card, frame):
    """The Ethernet frame that scapy finds in an ESP frame; raises when the ICV is wrong."""
    ether = Ether(frame)
    ip = ether.payload
    assert ESP in ip
    ether.remove_payload()
    return bytes(ether / scapy_sa(card).decrypt(ip))


def sealed(card, frame, seq):
    """An ESP frame made by scapy."""
    ether = Ether(frame)
    ip = ether.payload
    ether.remove_payload()
    return bytes(ether / scapy_sa(card).encrypt(ip, seq_num=seq, iv=seq.to_bytes(8, "big")))


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 100, 1400])
def test_sent_packet_is_esp_that_scapy_opens(card, read, family, size):
    card.protect(c.OUT, family)
    frame = clear(family, size)
    (out,) = read.frames(card.tx([frame]))
    assert Ether(out)[ESP].seq == 1
    assert Ether(out)[ESP].spi == SPI
    assert opened(card, out) == frame


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 100, 1400])
def test_received_esp_is_delivered_clear(card, read, family, size):
    sa = card.protect(c.IN, family)
    frame = clear(family, size)
    ((descriptor, got),) = card.received(card.rx([sealed(card, frame, 1)]))
    assert got == frame
    assert descriptor["flags"] == RxFlag.CRYPTO_DONE
    assert descriptor["handle"] == sa
    assert descriptor["generation"] == 1


def test_clear_packets_pass_without_policies(card, read):
    frames = [clear(AF_INET), bytes(Ether() / ARP()).ljust(60, b"\0")]
    assert read.frames(card.tx(frames)) == frames
    got = card.received(card.rx(frames))
    assert [data for _, data in got] == frames
    assert [int(one["flags"]) | int(one["handle"]) for one, _ in got] == [0, 0]


def test_protected_packet_never_leaves_in_clear(card, read):
    messages = card.tx([clear(AF_INET)], flags=TxFlag.PROTECT)
    assert read.kinds(messages) == [Kind.TX_DONE]
    assert card.counters["tx_drop_no_sa"] == 1


def test_counters_come_before_the_completions_they_belong_to(card, read, family):
    sent = card.protect(c.OUT, family)
    messages = card.tx([clear(family, 40)] * 3)
    assert read.kinds(messages) == [Kind.WIRE, Kind.COUNTERS, Kind.TX_DONE]
    (record,) = read.counters(messages)
    assert (record["handle"], record["generation"]) == (sent, 1)
    assert (record["packets"], record["bytes"], record["seq"]) == (3, 3 * 48, 3)
    assert read.credits(Kind.TX_DONE, messages) == 3

    got = card.protect(c.IN, family, spi=SPI)
    messages = card.rx([sealed(card, clear(family), 5)])
    assert read.kinds(messages) == [Kind.COUNTERS, Kind.RX]
    (record,) = read.counters(messages)
    assert (record["handle"], record["packets"], record["seq"]) == (got, 1, 5)


def test_totals_and_conservation(card):
    card.protect(c.OUT)
    card.protect(c.IN)
    good = [sealed(card, clear(AF_INET), seq) for seq in (1, 2, 3)]
    broken = bytearray(sealed(card, clear(AF_INET), 4))
    broken[-1] ^= 1
    card.rx([*good, good[0], bytes(broken), clear(AF_INET), b"\0" * 20])
    other = bytes(Ether(dst="02:00:00:00:00:02") / IPv6(dst="fd00:1::2") / TCP())
    card.tx([clear(AF_INET), other, b"\0" * 5])

    values = card.counters
    drops = {
        side: sum(n for name, n in values.items() if name.startswith(f"{side}_drop_"))
        for side in ("tx", "rx")
    }
    assert values["rx_packets"] == 7 == values["rx_delivered"] + drops["rx"]
    assert values["tx_descriptors"] == 3 == values["tx_packets"] + drops["tx"]
    assert (values["rx_drop_replay"], values["rx_drop_integrity"]) == (1, 1)
    assert values["rx_drop_clear_text"] == 1
    assert (values["ipsec_rx_pkts"], values["ipsec_tx_pkts"]) == (3, 1)
    # Bytes of payload data: UDP header and 40 bytes each.
    assert (values["ipsec_rx_bytes"], values["ipsec_tx_bytes"]) == (3 * 48, 48)


def test_soft_then_hard_event_and_exactly_n_frames(card, read):
    sa = card.protect(c.OUT, packets=5, soft_packets=3)
    messages = card.tx([clear(AF_INET)] * 8)
    assert len(read.frames(messages)) == 5
    assert [tuple(map(int, (e.type, e.handle, e.generation))) for e in read.events(messages)] == [
        (EventType.SOFT_LIMIT, sa, 1), (EventType.HARD_LIMIT, sa, 1),
    ]  # fmt: skip
    kinds = read.kinds(messages)
    assert kinds.index(Kind.COUNTERS) < kinds.index(Kind.EVENTS)
    (record,) = read.counters(messages)
    assert (record["packets"], record["flags"] & SA_STOPPED) == (5, SA_STOPPED)
    assert card.counters["tx_drop_hard_limit"] == 3
    assert card.counters["events_raised"] == 2


def test_events_are_numbered_and_overrun_is_told(new_card, read):
    card = new_card("tiny:event_queue=2")
    key = card.make(c.CreateKey(card.KEY))
    for number in range(4):
        selector = c.Selector(family=AF_INET, proto=17, dport=2000 + number, dport_mask=0xFFFF)
        sa = card.sa(key, spi=SPI + number, reqid=number + 1, packets=1)
        card.make(c.CreateSaRule(card.make(sa)))
        card.make(card.policy(selector=selector, reqid=number + 1))

    def udp(port):
        return bytes(Ether() / IP(src="10.1.0.1", dst="10.1.0.2") / UDP(dport=port))

    first = card.tx([udp(2000)])
    assert [event.type for event in read.events(first)] == [EventType.HARD_LIMIT]
    assert read.of(Kind.EVENTS, first)[0].index == 0
    messages = card.tx([udp(2001), udp(2002), udp(2003)])
    events = read.events(messages)
    assert [e.type for e in events] == [EventType.HARD_LIMIT] * 2 + [EventType.OVERRUN]
    assert read.of(Kind.EVENTS, messages)[0].index == 1
    values = card.counters
    assert (values["events_raised"], values["events_overrun"]) == (3, 1)
    assert card.values(c.Fence())["events"] == 4


def test_stopped_sa_sends_nothing(card, read):
    sa = card.protect(c.OUT)
    card.make(c.StopSa(sa))
    assert read.frames(card.tx([clear(AF_INET)])) == []
    assert card.counters["tx_drop_hard_limit"] == 1


def test_no_counters_for_an_sa_destroyed_in_the_same_step(card, read):
    key = card.make(c.CreateKey(card.KEY))
    sa = card.make(card.sa(key))
    rule = card.make(c.CreateSaRule(sa))
    card.make(card.policy())
    commands = [
        (Channel.MAILBOX, pack(Kind.COMMAND, body(command, token), epoch=EPOCH))
        for token, command in enumerate((c.DestroyRule(rule), c.DestroySa(sa)), 1)
    ]
    messages = card.step(card.tx_message([clear(AF_INET)]), *commands)
    assert len(read.frames(messages)) == 1
    assert read.counters(messages) == []


def body(command, token=1):
    return msgspec.msgpack.encode(c.Request(token, command))


def test_without_wire_credits_packets_wait_and_none_is_lost(card, read):
    card.protect(c.OUT)
    total = 0
    for _ in range(WIRE_CREDITS // BURST):
        total += len(read.frames(card.tx([clear(AF_INET, 0)] * BURST)))
    assert total == WIRE_CREDITS

    stalled = card.tx([clear(AF_INET, 0)] * RING_SIZE)
    assert stalled == []
    assert card.values(c.Fence())["queued"] == RING_SIZE

    some = card.wire_done(100)
    assert len(read.frames(some)) == read.credits(Kind.TX_DONE, some) == 100
    rest = card.wire_done(WIRE_CREDITS - 100)
    frames = read.frames(rest)
    assert len(frames) == read.credits(Kind.TX_DONE, rest) == RING_SIZE - 100
    assert Ether(frames[-1])[ESP].seq == WIRE_CREDITS + RING_SIZE
    fence = card.values(c.Fence())
    assert (fence["queued"], fence["wire"]) == (0, WIRE_CREDITS + RING_SIZE)


def test_dropped_packets_need_no_wire_credits_of_their_own(card, read):
    blocked = card.policy(action=c.BLOCK, protect=False)
    card.make(blocked)
    for _ in range(3 * WIRE_CREDITS // RING_SIZE):
        messages = card.tx([clear(AF_INET, 0)] * RING_SIZE)
        assert read.credits(Kind.TX_DONE, messages) == RING_SIZE
    assert card.counters["tx_drop_policy_block"] == 3 * WIRE_CREDITS


def test_a_received_frame_keeps_its_wire_credit_until_the_host_has_read_it(card, read):
    assert read.credits(Kind.WIRE_DONE, card.rx([clear(AF_INET, 0)] * 3)) == 0
    assert read.credits(Kind.WIRE_DONE, card.rx_done(2)) == 2


def test_without_receive_slots_frames_are_counted_and_wire_credits_return(card, read):
    frames = [clear(AF_INET, 0, number) for number in range(BURST)]
    for _ in range(RING_SIZE // BURST):
        card.rx(frames)
    messages = card.rx(frames[:3])
    assert read.kinds(messages) == [Kind.WIRE_DONE]
    assert read.credits(Kind.WIRE_DONE, messages) == 3
    assert card.counters["rx_drop_no_buffer"] == 3
    card.rx_done(1)
    ((_, data),) = card.received(card.rx(frames[5:7]))
    assert data == frames[5]
    assert card.counters["rx_drop_no_buffer"] == 4


def test_wire_credits_for_frames_that_never_left_are_malformed(card):
    assert card.wire_done(1) == []
    assert card.counters["msg_malformed"] == 1


def test_a_lost_doorbell_is_counted_and_its_credits_return(card, read):
    card.tx_message([clear(AF_INET)] * 4)  # never arrives
    messages = card.tx([clear(AF_INET)] * 2)
    assert len(read.frames(messages)) == 2
    assert read.credits(Kind.TX_DONE, messages) == 6
    assert card.counters["tx_lost"] == 4
    assert card.values(c.Fence())["tx"] == 6


def test_lost_wire_frames_are_counted_and_their_credits_return(card, read):
    card.wire_message([clear(AF_INET)] * 4)
    messages = card.rx([clear(AF_INET)])
    assert read.credits(Kind.WIRE_DONE, messages) == 4
    assert card.counters["rx_lost"] == 4


def test_a_doubled_wire_message_changes_nothing(card):
    wire = card.wire_message([clear(AF_INET)])
    assert len(card.received(card.step(wire, wire))) == 1
    assert card.counters["msg_malformed"] == 1


def test_fence_counts_everything_that_came_before_it(card, read):
    card.protect(c.OUT, soft_packets=2)
    fence = (Channel.MAILBOX, pack(Kind.COMMAND, body(c.Fence()), epoch=EPOCH))
    messages = card.step(
        card.tx_message([clear(AF_INET)] * 3), card.wire_message([clear(AF_INET)]), fence
    )
    (reply,) = read.of(Kind.REPLY, messages)
    values = msgspec.msgpack.decode(reply.body, type=c.Reply).values
    assert values == {
        "tx": 3, "tx_done": 3, "tx_state": QueueState.RDY, "queued": 0,
        "rx": 1, "rx_done": 0, "rx_state": QueueState.RDY, "events": 1, "wire": 3,
        "records": 1,
    }  # fmt: skip
    kinds = read.kinds(messages)
    assert kinds.index(Kind.EVENTS) < kinds.index(Kind.REPLY)


def test_inline_link_carries_the_packets_in_the_messages(new_card, read, family):
    card = new_card(shared=False)
    card.protect(c.OUT, family)
    card.protect(c.IN, family)
    frames = [clear(family, size, 9) for size in (0, 33, 1400)]
    messages = card.tx(frames)
    assert [opened(card, frame) for frame in read.frames(messages)] == frames
    got = card.received(card.rx([sealed(card, frame, n) for n, frame in enumerate(frames, 1)]))
    assert [data for _, data in got] == frames


def test_mac_filter(new_card):
    card = new_card(mac=bytes.fromhex("020000000002"))
    foreign = b"\x02" + bytes(4) + b"\x09" + clear(AF_INET)[6:]
    assert len(card.received(card.rx([foreign, clear(AF_INET)]))) == 2
    card.make(c.SetPort(mtu=1500, mac_filter=True))
    assert [data for _, data in card.received(card.rx([foreign, clear(AF_INET)]))] == [
        clear(AF_INET)
    ]
    assert card.counters["rx_drop_mac_filter"] == 1


def test_mtu_bounds_the_packet_on_the_wire(card, read):
    card.protect(c.OUT)
    card.make(c.SetPort(mtu=576))
    # IPv4 20 + ESP 8 + IV 8 + UDP 8 + n + trailer 2, padded to 4, + ICV 16
    assert len(read.frames(card.tx([clear(AF_INET, 514), clear(AF_INET, 515)]))) == 1
    assert card.counters["tx_drop_too_long"] == 1


def test_equal_seeds_and_inputs_give_equal_bytes(new_card, family):
    def run(seed):
        card = new_card("full:counter_bits=8", seed=seed)
        card.protect(c.OUT, family, packets=300, soft_packets=200)
        card.protect(c.IN, family)
        for number in range(5):
            card.tx([clear(family, size, number) for size in range(70)])
            card.rx([sealed(card, clear(family, 8), number + 1)])
        card.command(c.QueryCounters())
        return [(m.kind, m.index, m.count, bytes(m.body)) for m in card.log]

    first = run(3)
    assert first == run(3)
    assert first != run(4)  # the IV mask
