# SPDX-License-Identifier: Apache-2.0
"""Received bursts: what is delivered together is what is delivered one by one, and nothing else.

Two labs of one seed get the same frames and the same descriptors; in one of them no burst is large
enough to be one.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_driver.conformance.packets import Esp, frame, ip, udp, with_option
from host_driver.lab import Lab
from host_driver.testing.packets import fragments, tcp
from proto.frame import Kind, pack, unpack
from proto.layouts import DESCRIPTOR
from proto.limits import SOCKET_RCVBUF_BYTES
from proto.link.dma import rx_offset
from proto.status import OffloadError
from support import twins
from support.examples import bounded
from support.inside import party

US, PEER, OTHER = "10.1.0.2", "10.1.0.1", "10.1.0.9"
US6, PEER6 = "fd00::2", "fd00::1"
KEY = bytes(range(1, 21))
ONE_BY_ONE, AT_ONCE = 1 << 30, 1
PACKET_IN = "offload packet dev nic0 dir in"


def state(spi: int, verb: str = "add", how: str = PACKET_IN, src: str = PEER, dst: str = US) -> str:
    return (
        f"xfrm state {verb} src {src} dst {dst} proto esp spi {spi:#x} reqid 1 mode transport "
        f"replay-window 32 aead 'rfc4106(gcm(aes))' 0x{KEY.hex()} 128 {how}"
    )


def policy(
    src: str = PEER, dst: str = US, how: str = "offload packet dev nic0", more: str = ""
) -> str:
    tmpl = "tmpl proto esp reqid 1 mode transport"
    return f"xfrm policy update src {src} dst {dst} dir in {more} {how} {tmpl}"


PROTECTED = [state(0x1001), policy()]
CLEAR = [
    *(udp(b"x" * n, 1, port, PEER, US) for n in (18, 40) for port in (2, 3)),
    *(udp(b"y" * n, 1, 2, OTHER, US) for n in (0, 18)),
    *(udp(b"six" * n, 1, 2, PEER6, US6) for n in (1, 30)),
    tcp(b"data", 1, 2, PEER, US),
    ip(b"icmp", 1, PEER, US),
    udp(b"\0\0\0\0ike", 500, 4500, PEER, US),
    udp(bytes((0, 0, 0x10, 0x03, 0, 0, 0, 9)) + bytes(40), 4500, 4500, PEER, US),
    udp(bytes((0, 0, 0x10, 0x03, 0, 0, 0, 9)) + bytes(40), 4500, 4501, PEER, US),
    with_option(udp(b"option", 1, 2, PEER, US)),
    *fragments(udp(bytes(100), 1, 2, PEER, US), 64),
    udp(b"behind", 1, 2, PEER, US) + b"bytes behind it",
    udp(b"cut", 1, 2, PEER, US)[:-1],
    b"\x45",
    b"\x10 is no version",
]
SECRET = [
    *(udp(b"z" * n, 1, port, PEER, US) for n in (18, 40) for port in (2, 3)),
    tcp(b"data", 1, 2, PEER, US),
    udp(b"who", 1, 2, OTHER, US),
    ip(b"icmp", 1, PEER, US),
]
# A packet, and the SPI it is sealed under, 0 for none.
PIECES = [*((packet, 0) for packet in CLEAR), *((packet, 0x1001) for packet in SECRET),
          *((packet, 0x1003) for packet in SECRET)]  # fmt: skip
KNOWN = [piece for piece in PIECES if piece[0] in CLEAR[:9] + SECRET[:5] for _ in range(4)]
EVENTS = [
    *(("ip", text) for text in (
        *PROTECTED,
        state(0x1003), state(0x1003, how=""), state(0x1003, how="offload crypto dev nic0 dir in"),
        state(0x1003, how="encap espinudp 4500 4501 0.0.0.0"),
        state(0x1001, "update", f"sel src {PEER} dst {US} proto udp dport 3 " + PACKET_IN),
        policy(OTHER), policy(how="", more="action block"), policy(how=""),
        policy(more="action block"),
        f"xfrm state delete src {PEER} dst {US} proto esp spi 0x1001",
        f"xfrm policy delete src {PEER} dst {US} dir in",
        "xfrm state deleteall", "xfrm policy flush",
        "xfrm policy setdefault in block", "xfrm policy setdefault in accept",
    )),
    *(("link", {"up": up}) for up in (False, True)),
    *(("capture", on) for on in (True, False)),
    ("reset", "firmware"), ("reset", "function"),
    ("seconds", 5),
]  # fmt: skip
BURSTS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=10).flatmap(
    lambda few: st.builds(lambda times: few * times, st.sampled_from((1, 2, 20)))
)


class One:
    """A lab of one host, to which frames come."""

    def __init__(self, small: int) -> None:
        self._patch = pytest.MonkeyPatch()
        self._small = small
        self.lab = Lab(target="sim", hosts=1, seed=5).__enter__()
        self.host = self.lab.hosts[0]
        self.inside = party(self.lab, "host0")
        self._seq = itertools.count(1)

    def run(self, action: object) -> object:
        """An event, or a burst of pieces."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("host_driver.driver.rx_queue.SMALL", self._small)
            if isinstance(action, list):
                return self.arrive(action)
            return self.happen(*action)

    def arrive(self, pieces: Sequence[tuple[bytes, int]]) -> None:
        """One frame for each piece, sealed by somebody else's ESP."""
        self.lab.wire.inject(host=0, frames=[
            frame(Esp(spi, KEY).seal(packet, next(self._seq)) if spi else packet, self.host.nic.mac)
            for packet, spi in pieces
        ])  # fmt: skip
        self.lab.settle()

    def happen(self, kind: str, value: object) -> object:
        try:
            if kind == "ip":
                return self.host.ip(value).rc
            if kind == "link":
                return self.host.set_link(**value)
            if kind == "capture":
                self.inside.clear_side.on = value
            elif kind == "reset":
                self.host.nic.reset(value)
                self.lab.settle()
            elif kind == "seconds":
                self.lab.advance(value)
        except OffloadError as error:
            return error.errno
        return None

    def seen(self) -> dict[str, object]:
        """Everything that one can tell two runs apart by."""
        net = self.inside.net
        return {
            "received": self.host.receive(),
            "mib": self.host.mib(),
            "snmp": self.host.snmp(),
            "counters": self.host.nic.counters(),
            "used": [(xp.index, xp.curlft) for xp in net.spd],
            "states": [(x.id.spi, x.curlft, x.stats) for x in net.sad],
            "calls": self.host.trace(),
            "notified": self.host.notifications(),
            "clear": self.inside.clear_side.take(),
            "queue": (self.inside.rx.state, self.inside.rx.error, self.inside.rx.index),
        }


def compare(actions: list[object]) -> dict[str, object]:
    """Both ways for the same actions; what was seen at the end."""
    return twins.compare((One(ONE_BY_ONE), One(AT_ONCE)), One.run, actions)


@pytest.mark.parametrize("setup", [[], PROTECTED], ids=["clear", "protected"])
def test_every_kind_of_packet_ends_the_same_way(setup) -> None:
    whole = [*PIECES, *KNOWN, *PIECES]
    seen = compare([*(("ip", text) for text in setup), whole, whole])
    assert len(seen["received"]) > len(KNOWN)


@pytest.mark.parametrize("setup", [[], PROTECTED], ids=["clear", "protected"])
@pytest.mark.parametrize("event", EVENTS, ids=str)
def test_what_changes_between_bursts_counts_for_the_next(event, setup) -> None:
    compare([*(("ip", text) for text in setup), KNOWN, event, KNOWN])


@bounded(30)
@given(st.lists(BURSTS | st.sampled_from(EVENTS), max_size=8))
def test_bursts_and_single_packets_leave_the_same_behind(actions) -> None:
    compare([*(("ip", text) for text in PROTECTED), *actions])


@pytest.fixture
def one(monkeypatch):
    monkeypatch.setattr("host_driver.driver.rx_queue.SMALL", AT_ONCE)
    made = One(AT_ONCE)
    yield made
    made.lab.close()


def test_policies_that_let_packets_pass_are_used_by_each() -> None:
    allow = f"xfrm policy add src {OTHER} dst {US} dir in"
    compare([("ip", allow), KNOWN, ("seconds", 5), [(CLEAR[4], 0)] * 20])


IKE = udp(b"\0\0\0\0ike", 4500, 4500, PEER, US)
ESP_IN_UDP = [udp(bytes((0, 0, 0x10, 0x03, 0, 0, 0, n)) + bytes(40), 4500, port, PEER, US)
              for n in (1, 2) for port in (4500, 4501)]  # fmt: skip


@pytest.mark.parametrize("how", ["", "offload packet dev nic0 dir in"])
def test_datagrams_may_be_esp_whatever_their_flow_was_before(how) -> None:
    """RFC 3948: to port 4500, and to that of an SA."""
    other = udp(b"\0\0\0\0 no ike", 4500, 4501, PEER, US)
    burst = [(packet, 0) for packet in (IKE, other) for _ in range(10)]
    burst += [(packet, 0) for packet in ESP_IN_UDP * 4]
    encapsulated = state(0x1003, how="encap espinudp 4500 4501 0.0.0.0 " + how)
    compare([burst, ("ip", encapsulated), burst, ("ip", "xfrm state deleteall"), burst])


@pytest.mark.parametrize("flows", [1, 2])
def test_only_the_first_packet_of_a_flow_goes_the_long_way(one, monkeypatch, flows) -> None:
    for text in PROTECTED:
        assert one.host.ip(text).rc == 0
    seen = []
    netif_rx = one.inside.rx._netif_rx
    monkeypatch.setattr(one.inside.rx, "_netif_rx", lambda skb: seen.append(skb) or netif_rx(skb))
    pieces = [(SECRET[0], 0x1001), (CLEAR[6], 0)][:flows]
    one.arrive(pieces * 60)
    packets = [packet for packet, _ in pieces]
    assert [skb.data for skb in seen] == packets
    assert one.host.receive() == packets * 60


def test_a_driver_that_wants_to_see_each_packet_in_clear_does(one, monkeypatch) -> None:
    """One with `unenforced` and without `all_enforced`."""
    asked = []
    driver = type("Asks", (), {"unenforced": lambda self, packet: asked.append(packet)})()
    monkeypatch.setattr(one.inside, "driver", driver)
    one.arrive([(CLEAR[0], 0)] * 40)
    assert asked == [CLEAR[0]] * 40


def test_a_full_socket_takes_what_fits(one, monkeypatch) -> None:
    size = len(CLEAR[0])
    monkeypatch.setattr("host_driver.inbox.SOCKET_RCVBUF_BYTES", 25 * size)
    one.arrive([(CLEAR[0], 0)] * 40)
    assert one.inside.received.delivered == 25
    assert one.inside.counters["socket_overrun"] == 15
    assert 25 * size < SOCKET_RCVBUF_BYTES


CHANGES = [
    ("offset", 4), ("offset", -10_240), ("length", 1), ("length", -1), ("length", -40),
    ("length", 60_000), ("flags", 1), ("flags", 2), ("flags", 3), ("flags", 64), ("syndrome", 1),
    ("handle", 1), ("generation", 1), ("mark", 1), ("type", 1), ("version", 1),
]  # fmt: skip


def rows(one: One, changes: list[tuple[int, tuple[str, int]]]) -> None:
    """What a card may say: 16 packets by an SA in the ring, some of them wrong."""
    rx = one.inside.rx
    sa = next(iter(one.inside.sas))
    first, count, packet = rx.index, 16, SECRET[0]
    data = bytearray(frame(packet, one.host.nic.mac))
    descriptors = np.zeros(count, DESCRIPTOR)
    for at in range(count):
        mine = {name: by for number, (name, by) in changes if number == at}
        sent = bytes(data)
        if "type" in mine:
            sent = sent[:13] + b"\xdd" + sent[14:]
        if "version" in mine:
            sent = sent[:14] + b"\x65" + sent[15:]
        offset = rx_offset(first + at)
        rx._dma.memory[offset : offset + len(sent)] = np.frombuffer(sent, np.uint8)
        rx._dma.rx_marks[(first + at) % 1024] = first + at + 1 + mine.get("mark", 0)
        row = {
            "offset": offset, "length": len(sent), "flags": 1, "syndrome": 0, "handle": sa.handle,
            "generation": sa.generation,
        }  # fmt: skip
        for name, value in row.items():
            descriptors[name][at] = (value + mine.get(name, 0)) % (
                1 << 16 if name == "length" else 1 << 32
            )
    message = pack(Kind.RX, rx._dma.gather(descriptors), first, count, rx.epoch)
    rx.arrived(unpack(message))


@bounded(40)
@given(st.lists(st.tuples(st.integers(0, 15), st.sampled_from(CHANGES)), max_size=3))
def test_a_card_that_says_what_cannot_be_is_heard_the_same_way(changes) -> None:
    seen = []
    for small in (ONE_BY_ONE, AT_ONCE):
        one = One(small)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("host_driver.driver.rx_queue.SMALL", small)
            for text in PROTECTED:
                assert one.host.ip(text).rc == 0
            one.arrive([(SECRET[0], 0x1001)] * 20)
            rows(one, changes)
            inside = one.inside
            seen.append(
                (inside.received.take(99), dict(inside.counters), inside.rx.state, inside.rx.error)
            )
        one.lab.close()
    assert seen[0] == seen[1]


def test_what_is_learned_of_a_flow_is_of_the_bytes_that_were_judged(one, monkeypatch) -> None:
    """The card writes into a slot while the host looks at another of the same message."""
    blocked, allowed = udp(b"blocked!", 1, 2, OTHER, US), udp(b"allowed!", 1, 2, PEER, US)
    assert one.host.ip(f"xfrm policy add src {OTHER} dst {US} dir in action block").rc == 0
    netif_rx, memory = one.inside.rx._netif_rx, one.inside.rx._memory
    second = rx_offset(one.inside.rx.index + 1) + 14

    def meanwhile(skb) -> None:
        memory[second : second + len(allowed)] = allowed
        netif_rx(skb)

    monkeypatch.setattr(one.inside.rx, "_netif_rx", meanwhile)
    first = udp(b"another!", 7, 7, PEER, US)
    one.arrive([(first, 0), *[(blocked, 0)] * 7])
    one.arrive([(blocked, 0)] * 8)
    assert one.host.receive() == [first]
    assert one.host.mib()["XfrmInPolBlock"] == 15
