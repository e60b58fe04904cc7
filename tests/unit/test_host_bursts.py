# SPDX-License-Identifier: Apache-2.0
"""Bursts: what goes out at once is what goes out one by one, to the last byte and counter.

Two labs of one seed are given the same; in one of them no burst is large enough to be one.
"""

import errno
import itertools
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from host_driver import sending
from host_driver.conformance.packets import ip, udp, with_option
from host_driver.lab import Lab
from host_driver.testing import packets as any_packets
from host_driver.testing.packets import fragments, tcp
from host_driver.xfrm.burst import NO_KEY, Burst
from host_driver.xfrm.flow import TCP, UDP, decode, find_upper
from proto.frame import Channel
from proto.limits import GENERATE_MAX, RING_SIZE, TXQUEUE_LEN
from proto.status import OffloadError
from support import twins
from support.examples import bounded
from support.inside import party

A, B, C = "10.0.0.1", "10.0.0.2", "10.9.0.2"
A6, B6 = "fd00::1", "fd00::2"
KEY = "0x" + bytes(range(20)).hex()
ALGORITHM = f"aead 'rfc4106(gcm(aes))' {KEY} 128"
ONE_BY_ONE, AT_ONCE = 1 << 30, 1


def state(
    spi: int, src: str = A, dst: str = B, how: str = "offload packet dev nic0 dir out"
) -> str:
    return (
        f"xfrm state add src {src} dst {dst} proto esp spi {spi:#x} reqid {spi & 1} mode transport "
        f"{ALGORITHM} {how}"
    )


def policy(src: str = A, dst: str = B, how: str = "offload packet dev nic0", reqid: int = 1) -> str:
    return (
        f"xfrm policy update src {src} dst {dst} dir out {how} "
        f"tmpl proto esp reqid {reqid} mode transport"
    )


PROTECTED = [state(0x1001), policy()]
PACKETS = [
    *(udp(b"x" * n, 1, port, A, B) for n in (18, 18, 40) for port in (2, 3)),
    *(udp(b"y" * n, 1, 2, A, C) for n in (0, 18)),
    *(udp(b"six" * n, 1, 2, A6, B6) for n in (1, 30)),
    tcp(b"data", 1, 2, A, B),
    ip(b"icmp", 1, A, B),
    ip(bytes(20), 50, A, B),
    ip(bytes(3), UDP, A, B),  # no room for its ports
    ip(bytes(3), UDP, A6, B6),
    with_option(udp(b"option", 1, 2, A, B)),
    *fragments(udp(bytes(100), 1, 2, A, B), 64),
    *fragments(udp(bytes(100), 1, 2, A6, B6), 64),
    udp(b"self", 1, 2, "127.0.0.1", "127.0.0.1"),
    udp(b"behind", 1, 2, A, B) + b"bytes behind it",
    udp(b"cut", 1, 2, A, B)[:-1],
    udp(b"cut", 1, 2, A6, B6)[:-1],
    udp(b"cut", 1, 2, A, B)[:15],
    b"",
    b"\x45",
    b"\x10 is no version",
    b"\x65" + bytes(60),
    *(udp(bytes(size - 28), 1, 2, A, B) for size in (1456, 1458, 1459, 1500, 1501)),
    *(udp(bytes(size - 28), 1, 2, A, B, flags=0) for size in (1456, 1459, 1501)),
    *(udp(bytes(size - 48), 1, 2, A6, B6) for size in (1440, 1470, 1501)),
]
EVENTS = [
    *(("ip", text) for text in (
        *PROTECTED,
        policy(A6, B6), state(0x2001, A6, B6), state(0x1003),
        policy(C, C), policy(how="action block priority 1"), policy(how=""),
        policy(reqid=0), state(0x1000, how=""),
        state(0x1002, how="offload crypto dev nic0 dir out"),
        f"xfrm state delete src {A} dst {B} proto esp spi 0x1001",
        f"xfrm policy delete src {A} dst {B} dir out",
        "xfrm state deleteall", "xfrm policy flush",
        "xfrm policy setdefault out block", "xfrm policy setdefault out accept",
        state(0x1001).replace("add", "update") + " limit packet-hard 1000000",
        state(0x1001, how="").replace("add", "update") + "encap espinudp 4500 4500 0.0.0.0",
    )),
    *(("link", change) for change in ({"mtu": 1400}, {"mtu": 1500}, {"up": False}, {"up": True})),
    *(("networks", these) for these in ((), ("10.0.0.0/24",))),
    *(("capture", on) for on in (True, False)),
    *(("carrier", up) for up in (True, False)),
    *(("seconds", count) for count in (1, 40)),
]  # fmt: skip
BURSTS = st.lists(st.sampled_from(PACKETS), min_size=1, max_size=12).flatmap(
    lambda few: st.builds(lambda times: few * times, st.sampled_from((1, 2, 25)))
)


class One:
    """A lab, and all that leaves its host."""

    def __init__(self, small: int, **how: object) -> None:
        self._small = small
        self.lab = Lab(target="sim", hosts=1, seed=5, **how).__enter__()
        self.host = self.lab.hosts[0]
        self.inside = party(self.lab, "host0")
        self.out: list[tuple[Channel, bytes]] = []
        step = self.inside.step
        self.inside.step = lambda now_ns, inputs: self._kept(step(now_ns, inputs))

    def _kept(self, outputs):
        self.out += [(way, bytes(raw)) for way, raw in outputs if way is not Channel.CONTROL]
        return outputs

    def run(self, action: object) -> object:
        """An event, or a burst of packets."""
        return self.send(action) if isinstance(action, list) else self.happen(action)

    def send(self, packets: list[bytes]) -> list[int]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sending, "SMALL", self._small)
            return self.host.send(packets)

    def happen(self, event: tuple[str, object]) -> object:
        kind, value = event
        try:
            if kind == "ip":
                return self.host.ip(value).rc
            if kind == "link":
                return self.host.set_link(**value)
            if kind == "networks":
                return self.host.set_networks(*value)
            if kind == "device":
                return self.host.add_device(value)
            if kind == "capture":
                self.inside.clear_side.on = value
            elif kind == "carrier":
                self.lab.wire.set_carrier(host=0, up=value)
                self.lab.settle()
            elif kind == "seconds":
                self.lab.advance(value)
        except OffloadError as error:
            return error.errno
        return None

    def seen(self) -> dict[str, object]:
        """Everything that one can tell two runs apart by."""
        self.lab.settle()
        net = self.inside.net
        return {
            "out": self.out,
            "frames": [(one.data, one.time) for one in self.lab.wire.frames()],
            "mib": self.host.mib(),
            "counters": self.host.nic.counters(),
            "notified": self.host.notifications(),
            "calls": self.host.trace(),
            "received": self.host.receive(),
            "used": [(xp.index, xp.curlft) for xp in net.spd],
            "states": [(x.id.spi, x.curlft, x.km.state, x.km.dying) for x in net.sad],
            "clear": self.inside.clear_side.take(),
        }


def compare(actions: list[object], **how: object) -> None:
    """Both ways for the same actions."""
    twins.compare((One(ONE_BY_ONE, **how), One(AT_ONCE, **how)), One.run, actions)


# After the first of each, of flows that the table has; the longest is as long as an SA takes.
KNOWN = [packet for packet in (*PACKETS[:6], udp(bytes(1430), 1, 2, A, B)) for _ in range(4)]
WHOLE = list(itertools.chain(PACKETS, PACKETS[:12] * 30, PACKETS))


@pytest.mark.parametrize("dst_protected", [False, True])
@pytest.mark.parametrize("link", ["ipc", "tcp"])
def test_every_kind_of_packet_goes_the_same_way(dst_protected, link) -> None:
    setup = [("ip", text) for text in PROTECTED] if dst_protected else []
    compare([*setup, WHOLE, WHOLE], link=link)


@pytest.mark.parametrize("setup", [[], PROTECTED], ids=["clear", "protected"])
@pytest.mark.parametrize("event", EVENTS, ids=str)
def test_what_changes_between_bursts_counts_for_the_next(event, setup) -> None:
    compare([*(("ip", text) for text in setup), KNOWN, event, KNOWN])


def test_another_device_in_the_place_of_one_that_left_is_another() -> None:
    """As many devices are up as before, and no SA or policy has changed: what the table knows of
    flows is of a device that is gone, and its policies were another device's."""
    of_another = policy(how="").replace("dir out", "dev dummy0 dir out")
    compare([
        ("device", "dummy0"), ("ip", of_another), KNOWN, KNOWN,
        ("link", {"unregister": True}), ("device", "dummy1"), KNOWN, KNOWN,
    ])  # fmt: skip


@bounded(40)
@given(st.lists(BURSTS | st.sampled_from(EVENTS), max_size=10))
@example([("ip", PROTECTED[1]), PACKETS[:6] * 8, ("ip", PROTECTED[0]), PACKETS[:6] * 8])
def test_bursts_and_single_packets_leave_the_same_behind(actions) -> None:
    compare(actions)


@given(st.lists(st.sampled_from(PACKETS) | any_packets() | st.binary(max_size=80), max_size=30))
def test_a_key_tells_flows_apart_as_decoding_does(packets) -> None:
    """Equal keys, equal flows, for those that are plain; of the others none has a key."""
    flows: dict[bytes, object] = {}
    keys = Burst.of(packets).keys() if packets else []
    for packet, key in zip(packets, keys, strict=True):
        upper = find_upper(packet)
        head = 20 if packet[:1] == b"\x45" else 40
        plain = (
            decode(packet) is not None and upper is not None and not upper.fragment
            and upper.proto in (TCP, UDP) and upper.offset == head
        )  # fmt: skip
        assert (key != NO_KEY) is plain
        if plain:
            assert flows.setdefault(key, decode(packet)) == decode(packet)
    assert len(set(flows.values())) == len(flows)


def test_a_payload_length_that_would_overflow_is_no_plain_packet() -> None:
    """65500 and 40 are more than 16 bits."""
    packet = bytearray(udp(bytes(40), 1, 2, A6, B6))
    struct.pack_into(">H", packet, 4, 65_500)
    assert Burst.of([bytes(packet)]).keys() == [NO_KEY]


@pytest.fixture
def one():
    made = One(AT_ONCE)
    yield made
    made.lab.close()


def long_way(one: One, monkeypatch) -> list[bytes]:
    """The packets that the core sees, from now on."""
    packets: list[bytes] = []
    output = one.inside.net.output
    monkeypatch.setattr(
        one.inside.net, "output",
        lambda packet, **more: packets.append(packet) or output(packet, **more),
    )  # fmt: skip
    return packets


def test_only_the_first_packet_of_a_flow_goes_the_long_way(one, monkeypatch) -> None:
    for text in PROTECTED:
        assert one.host.ip(text).rc == 0
    seen = long_way(one, monkeypatch)
    one.send(PACKETS[:6] * 100)
    assert seen == [PACKETS[0], PACKETS[1]], "one of each port"
    assert {frame.data[23] for frame in one.lab.wire.frames()} == {50}


def test_a_driver_that_is_asked_about_packets_is_asked_about_each(one, monkeypatch) -> None:
    """OPS-24."""
    for text in PROTECTED:
        assert one.host.ip(text).rc == 0
    asked = []
    monkeypatch.setattr(
        one.inside.nic.xfrmdev_ops, "xdo_dev_offload_ok", lambda skb, x: asked.append(skb) or True,
        raising=False,
    )  # fmt: skip
    one.send(PACKETS[:2] * 50)
    assert [skb.data for skb in asked] == PACKETS[:2] * 50


def test_more_flows_than_the_table_holds(one, monkeypatch) -> None:
    monkeypatch.setattr("host_driver.xfrm.flow_table.FLOW_CACHE", 4)
    packets = [udp(b"data", 1, port, A, B) for port in range(1, 11)]
    assert one.send(packets * 5) == [0] * 50
    one.lab.settle()
    assert [frame.data[14:] for frame in one.lab.wire.frames()] == packets * 5


def test_the_source_of_traffic_sends_round_and_round(one) -> None:
    packets = [udp(b"%d" % port, 1, port, A, B) for port in range(3)]
    count = 3 * RING_SIZE + 1
    told = one.host.generate(packets, count)
    assert (told["accepted"], told["refused"]) == (count, 0)
    one.lab.settle()
    frames = [frame.data[14:] for frame in one.lab.wire.frames()]
    assert frames == list(itertools.islice(itertools.cycle(packets), count))


def test_what_is_refused_of_it_is_told_by_errno(one) -> None:
    long = udp(bytes(1500), 1, 2, A, B)
    told = one.host.generate([PACKETS[0], long, b""], 3 * TXQUEUE_LEN)
    assert (told["accepted"], told["refused"]) == (TXQUEUE_LEN, 2 * TXQUEUE_LEN)
    assert told[f"errno_{errno.EMSGSIZE}"] == told[f"errno_{errno.EINVAL}"] == TXQUEUE_LEN


def test_a_source_without_a_way_out_ends(one) -> None:
    one.host.set_link(up=False)
    told = one.host.generate([PACKETS[0]], 20_000)
    assert told == {
        "accepted": 0, "refused": 20_000, f"errno_{errno.ENETUNREACH}": 20_000,
        "elapsed_ns": told["elapsed_ns"],
    }  # fmt: skip


@pytest.mark.parametrize(("packets", "count"), [([], 1), ([PACKETS[0]], -1)])
def test_a_source_of_nothing_is_refused(one, packets, count) -> None:
    with pytest.raises(OffloadError) as refused:
        one.host.generate(packets, count)
    assert refused.value.errno == errno.EINVAL
    assert str(GENERATE_MAX) in refused.value.text


def test_a_source_begins_again_where_it_was(one, monkeypatch) -> None:
    """Many packets are asked for in several questions; that does not show."""
    monkeypatch.setattr("host_driver.lab.handles.GENERATE_AT_ONCE", 7)
    packets = [udp(b"%d" % port, 1, port, A, B) for port in range(3)]
    assert one.host.generate(packets, 20)["accepted"] == 20
    one.lab.settle()
    frames = [frame.data[14:] for frame in one.lab.wire.frames()]
    assert frames == list(itertools.islice(itertools.cycle(packets), 20))


def test_a_source_whose_card_takes_nothing_says_so(one) -> None:
    one.host.nic.stop()
    with pytest.raises(OffloadError) as refused:
        one.host.generate(PACKETS[:1], 64)
    assert refused.value.errno == errno.ETIMEDOUT
    assert refused.value.text == "64 of 64 packets are still with the card"
