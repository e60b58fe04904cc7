# SPDX-License-Identifier: Apache-2.0
"""What policies promise holds at every instant, in any order, and to the exact port; windows are
never narrower than asked for; floods cost the flooder only."""

import itertools
import random
import struct

import numpy as np
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether

from fuzz.bench import HERE, THERE, Bench, frames_of
from fuzz.frames import ipv4
from host_driver.lab import Lab
from host_driver.simulate.esp import Esp
from proto import commands as c
from proto import netlink
from proto.frame import Channel, Kind
from proto.limits import RING_SIZE
from proto.link.dma import Dma
from proto.queue import QueueState
from proto.xfrm import Msg
from support.esp import GCM, A, B, datagram
from support.inside import party
from support.rows import row
from support.way import KINDS, Way

OPERATIONS = ("add-policy", "add-state", "delete-policy", "delete-state")
ORDERS = list(itertools.permutations(OPERATIONS))
PEER_A, PEER_C, US = "192.0.2.1", "192.0.2.3", "192.0.2.9"
FLOOD = 5000


def clear_marks(lab: Lab) -> set[bytes]:
    """Payloads of clear IPv4 packets that have left the first card so far."""
    packets = [IP(frame.data[14:]) for frame in lab.wire.frames() if frame.src == 0]
    return {bytes(packet[UDP].payload) for packet in packets if packet.proto == 17}


class Gap:
    """One host that does the four operations in some order, with traffic after each."""

    def __init__(self, lab: Lab, kind: str) -> None:
        self.lab = lab
        (self.host,) = lab.hosts
        self.kind = kind
        self.sent = 0

    def do(self, operation: str) -> None:
        verb, _, what = operation.partition("-")
        device = "offload packet dev nic0" if self.kind == "packet" else ""
        for dir, ends in (("out", (A, B)), ("in", (B, A))):
            where = f"src {ends[0]} dst {ends[1]}"
            tmpl = f"tmpl {where} proto esp reqid 7 mode transport"
            sa = f"{where} proto esp spi 0x100{len(dir)}"
            texts = {
                "add-policy": f"policy add {where} dir {dir} {tmpl} {device}",
                "delete-policy": f"policy delete {where} dir {dir}",
                "add-state": f"state add {sa} reqid 7 mode transport {GCM} "
                + KINDS[self.kind].format(dir=dir),
                "delete-state": f"state delete {sa}",
            }
            self.host.ip(f"xfrm {texts[f'{verb}-{what}']}")

    def traffic(self) -> set[bytes]:
        """Packets in both directions; the payloads of those that were sent."""
        marks = set()
        for _ in range(3):
            self.sent += 1
            marks.add(b"MARK%06d" % self.sent)
        clear = [bytes(IP(src=A, dst=B) / UDP(sport=9, dport=10) / mark) for mark in sorted(marks)]
        self.host.send(clear)
        inward = bytes(IP(src=B, dst=A) / UDP(sport=9, dport=10) / b"clear text")
        self.lab.wire.inject(host=0, frames=[bytes(Ether(type=0x800)) + inward])
        self.lab.settle()
        return marks


@row("F-SEC-09", process=True)
@pytest.mark.parametrize("kind", KINDS)
def test_no_order_of_install_and_delete_leaks(target, kind) -> None:
    """INV-07: from the moment a policy is asked for until it is asked to go, nothing clear leaves
    and nothing clear is let in, whatever of the rest is there; also not later, from a queue."""
    orders = ORDERS if target == "sim" else random.Random(kind).sample(ORDERS, 6)
    with Lab(target=target, hosts=1, card="full", seed=9) as lab:
        gap = Gap(lab, kind)
        protected: set[bytes] = set()
        sealed = 0
        for order in orders:
            active = False
            for operation in order:
                gap.do(operation)
                active = {"add-policy": True, "delete-policy": False}.get(operation, active)
                marks = gap.traffic()
                delivered = [packet for packet in gap.host.receive() if b"clear text" in packet]
                if active:
                    protected |= marks
                    assert delivered == [], (order, operation)
            for table in ("policy", "state"):
                gap.host.ip(f"xfrm {table} flush")
            lab.settle()
            assert not clear_marks(lab) & protected, order
            frames = [IP(frame.data[14:]) for frame in lab.wire.frames() if frame.src == 0]
            sealed = sum(frame.proto == 50 for frame in frames)
        assert sealed, "some orders do protect"
        assert clear_marks(lab), "and what no policy covers goes in clear"


@row("F-SEC-08", lab=False)
@pytest.mark.parametrize("flags", [0, 1])
def test_the_card_asks_its_policies_for_every_packet_itself(flags) -> None:
    """Whoever hands a packet over, with or without a word of the core: admission is the card's."""
    bench = Bench()
    packet = ipv4(HERE[:4], THERE[:4], 17, struct.pack(">HHHH", 5, 6, 16, 0) + b"KNOWNTXT")
    (frame,) = frames_of(bench.step(Channel.RINGS, bench.tx([[0, 0, flags, 0, 0, 0, packet]])))
    assert frame[23] == 50
    assert b"KNOWNTXT" not in frame
    bench.tx_index += 1
    forwarded = ipv4(b"\x0a\x63\x01\x01", THERE[:4], 17, packet[34:])  # of another sender
    out = bench.step(Channel.RINGS, bench.tx([[0, 0, flags, 0, 0, 0, forwarded]]))
    assert frames_of(out) == []
    assert bench.counters()["tx_drop_no_sa"] == 1


@row("F-SEC-10", process=True)
@pytest.mark.parametrize("offloaded", [True, False])
def test_a_bypass_is_as_wide_as_its_ports(target, offloaded) -> None:
    device = "offload packet dev nic0" if offloaded else ""
    with Lab(target=target, hosts=1, card="full", seed=9) as lab:
        (host,) = lab.hosts
        sa = f"xfrm state add src {A} dst {B} proto esp spi 0x1000 reqid 7 mode transport {GCM} "
        tmpl = f"tmpl src {A} dst {B} proto esp reqid 7 mode transport"
        where = f"xfrm policy add src {A} dst {B}"
        for text in (
            sa + ("offload packet dev nic0 dir out" if offloaded else ""),
            f"{where} dir out priority 100 {tmpl} {device}",
            f"{where} proto udp sport 500 dport 500 dir out priority 1 {device}",
        ):
            assert host.ip(text).stderr == "", text
        layers = [UDP(sport=s, dport=d) for s in (499, 500, 501, 4500) for d in (500, 501, 4500)]
        layers += [TCP(sport=500, dport=500), ICMP(), UDP(sport=500 ^ 256, dport=500)]
        for layer in layers:
            before = len(lab.wire.frames())
            host.send([bytes(IP(src=A, dst=B) / layer / b"the payload")])
            lab.settle()
            frames = [frame.data for frame in lab.wire.frames(before)]
            exact = isinstance(layer, UDP) and (layer.sport, layer.dport) == (500, 500)
            clear = [frame for frame in frames if b"the payload" in frame]
            assert bool(clear) == exact, layer.summary()
            assert len(frames) == 1
        # A later fragment has no ports: it is covered by the policy of all the rest.
        before = len(lab.wire.frames())
        piece = IP(src=A, dst=B, frag=8, proto=17) / b"the payload"
        host.send([bytes(piece)])
        lab.settle()
        assert not any(b"the payload" in frame.data for frame in lab.wire.frames(before))


@row("F-SEC-07", process=True)
@pytest.mark.parametrize("kind", ["packet", "software"])
def test_a_peer_cannot_speak_for_another(target, kind) -> None:
    """Two tunnels, each for its own network: authentic ESP of one peer with a packet of the other
    peer's network inside is dropped."""
    keys = {PEER_A: bytes(range(20)), PEER_C: bytes(range(50, 70))}
    networks = {PEER_A: "10.1.0", PEER_C: "10.3.0"}
    device = "offload packet dev nic0" if kind == "packet" else ""
    with Lab(target=target, hosts=1, card="full", seed=9) as lab:
        (host,) = lab.hosts
        for number, (peer, key) in enumerate(keys.items(), 1):
            sa = f"src {peer} dst {US} proto esp spi {number:#x} reqid {number} mode tunnel"
            where = f"src {networks[peer]}.0/24 dst 10.9.0.0/24"
            for text in (
                f"xfrm state add {sa} replay-window 64 aead 'rfc4106(gcm(aes))' 0x{key.hex()} 128 "
                f"flag af-unspec {KINDS[kind].format(dir='in')}",
                f"xfrm policy add {where} dir in {device} "
                f"tmpl src {peer} dst {US} proto esp reqid {number} mode tunnel",
            ):
                assert host.ip(text).stderr == "", text

        def arrive(peer: str, inner_of: str, seq: int) -> list[bytes]:
            esp = Esp(list(keys).index(peer) + 1, keys[peer], 16)
            inner = bytes(IP(src=f"{networks[inner_of]}.5", dst="10.9.0.1") / UDP() / b"hello")
            outer = bytes(IP(src=peer, dst=US, proto=50) / b"")
            frame = bytes(Ether(type=0x800)) + esp.seal(inner, seq, outer)
            lab.wire.inject(host=0, frames=[frame])
            lab.settle()
            return [packet for packet in host.receive() if b"hello" in packet]

        for peer, other in ((PEER_A, PEER_C), (PEER_C, PEER_A)):
            assert len(arrive(peer, peer, 1)) == 1, "its own network"
            before = sum(host.mib().values()) + _dropped(host)
            assert arrive(peer, other, 2) == [], "the other's network"
            assert sum(host.mib().values()) + _dropped(host) > before, "and it is counted"


def _dropped(host) -> int:
    return sum(n for name, n in host.nic.counters().items() if name.startswith("rx_drop_"))


@row("F-SEC-12", process=True)
@pytest.mark.parametrize("kind", KINDS)
def test_a_window_without_esn_is_enforced(target, kind) -> None:
    with Lab(target=target, hosts=2, card="full", seed=21) as lab:
        way = Way(lab, kind, window=32, esn=False)
        way.send(5)
        assert len(way.arrived()) == 5
        way.inject(*way.frames(), *way.frames())
        assert way.arrived() == []
        assert way.drops()["XfrmInStateSeqError"] == 10
        way.clear()


@row("F-SEC-13", lab=False)
@pytest.mark.parametrize("asked", [1, 31, 33, 48, 63, 100])
def test_a_window_is_never_narrower_than_asked_for(asked) -> None:
    """One of odd size: 48 packets back is taken once; a card that has no such size says so."""
    with Lab(target="sim", hosts=2, card="full", seed=21) as lab:
        way = Way(lab, "packet", window=asked)
        with lab.faults.inject(site="wire", kind="drop"):
            way.send(260)
            lab.settle()
        frames = way.frames()
        way.inject(frames[-1])
        assert len(way.arrived()) == 1
        oldest = frames[-asked]  # the last place inside the window
        way.inject(oldest)
        assert len(way.arrived()) == (asked > 1), "it is the top itself when the window is 1"
        way.inject(oldest, frames[0])
        assert way.arrived() == [], "once only, and not from far behind"
        way.clear()
    with Lab(target="sim", hosts=1, card="cx6dx", seed=21) as lab:
        (host,) = lab.hosts
        refused = host.ip(
            f"xfrm state add src {A} dst {B} proto esp spi 1 mode transport {GCM} "
            f"replay-window {asked} offload packet dev nic0 dir in"
        )
        assert refused.rc == 2
        assert f"replay window {asked}" in refused.stderr
        assert "32, 64, 128" in refused.stderr.replace("/", ", ")
        assert not any(host.nic.census().values())


def _sizes_of_logs(lab: Lab) -> dict[str, int]:
    paths = lab.run_dir.glob("*.log") if lab.run_dir else ()
    return {path.name: path.stat().st_size for path in paths}


@row("F-SEC-14", process=True)
def test_a_flood_of_bad_packets_starves_nobody(target) -> None:
    with Lab(target=target, hosts=2, card="full", seed=21) as lab:
        way = Way(lab, "packet", window=64)
        way.send(1)
        assert len(way.arrived()) == 1
        bad = bytearray(way.frames()[-1])
        bad[-1] ^= 1
        logs = _sizes_of_logs(lab)
        way.b.notifications()
        traces = len(way.b.trace())
        for number in range(FLOOD // 500):
            bad[14 + 20 + 4 : 14 + 20 + 8] = (100 + number).to_bytes(4)  # would be new
            way.inject(*[bytes(bad)] * 500)
            done = way.b.ip("xfrm state list nokeys")  # the control path answers meanwhile
            assert done.rc == 0
            assert "spi 0x00001000" in done.stdout
        assert way.arrived() == []
        assert way.drops() == {"rx_drop_integrity": FLOOD, "XfrmInStateProtoError": FLOOD}
        assert len(way.b.trace()) - traces <= 4 * FLOOD // 500  # of the listings, not of packets
        assert way.b.notifications() == []
        assert _sizes_of_logs(lab) == logs, "no line for each packet"
        way.send(3)  # the window has not moved
        assert len(way.arrived()) == 3
        way.clear()


@row("F-SEC-15", process=True)
@pytest.mark.parametrize("queue", [2, 1023])
def test_a_flood_of_soft_limits_is_no_attack(target, queue) -> None:
    """Each SA is told of once, however short the event queue is, and the card stays well."""
    count = 40
    with Lab(target=target, hosts=1, card=f"full:event_queue={queue}", seed=9) as lab:
        (host,) = lab.hosts
        for number in range(1, count + 1):
            where = f"src {A} dst 10.1.1.{number}"
            for text in (
                f"xfrm state add {where} proto esp spi {number} reqid {number} mode transport "
                f"{GCM} limit packet-soft 1 offload packet dev nic0 dir out",
                f"xfrm policy add {where} dir out offload packet dev nic0 "
                f"tmpl {where} proto esp reqid {number} mode transport",
            ):
                assert host.ip(text).stderr == "", text
        host.notifications()
        for _ in range(5):
            packets = [datagram(ends=(A, f"10.1.1.{n}")) for n in range(1, count + 1)]
            assert not any(host.send(packets))
        lab.settle()
        lab.advance(3)
        lab.settle()
        expired = [
            message
            for raw in host.notifications()
            for message in netlink.messages(raw)
            if message.type == Msg.EXPIRE
        ]
        assert len(expired) == count
        assert len({message.payload for message in expired}) == count
        assert len(lab.wire.frames()) == 5 * count
        assert host.ip("xfrm state flush").rc == 0


@row("F-SEC-16", lab=False)
def test_ring_indices_that_were_scribbled_over_stop_the_queue_and_nothing_else() -> None:
    bench = Bench()
    packet = ipv4(HERE[:4], THERE[:4], 17, bytes(8))
    rng = random.Random(3)
    for _ in range(200):
        index, count = rng.randrange(1 << 32), rng.randrange(1 << 16)
        kind = rng.choice((Kind.TX, Kind.RX_DONE))
        body = rng.randbytes(16 * (count % 8))
        bench.step(Channel.RINGS, bench.pack(kind, body, index, count))
        fence = bench.command(c.Fence()).values
        assert fence["queued"] <= RING_SIZE  # INV-52
        for queue, name in ((0, "tx"), (1, "rx")):
            if fence[f"{name}_state"] == QueueState.ERR:
                assert bench.command(c.SetQueue(queue, QueueState.RST)).status == 0
                assert bench.command(c.SetQueue(queue, QueueState.RDY, fence[name])).status == 0
    bench.tx_index = bench.command(c.Fence()).values["tx"]
    (frame,) = frames_of(bench.step(Channel.RINGS, bench.tx([[0, 0, 1, 0, 0, 0, packet]])))
    assert frame[23] == 50
    assert bench.counters()["msg_malformed"] > 50


@row("F-SEC-16", process=True)
def test_shared_memory_that_somebody_scribbles_in(target) -> None:
    """Both sides live, and afterwards everything arrives again."""
    with Lab(target=target, hosts=2, card="full", seed=21) as lab:
        way = Way(lab, "packet", window=64)
        if target == "sim":
            memory = party(lab, "card0").queues.tx._dma.memory
        else:
            memory = Dma.open(lab.run_dir / "dma0").memory
        rng = random.Random(8)
        for _ in range(20):
            for _ in range(200):
                at, size = rng.randrange(len(memory) - 64), rng.randrange(1, 64)
                memory[at : at + size] = np.frombuffer(rng.randbytes(size), np.uint8)
            way.a.send([datagram(200)] * 20)
            for start in range(0, len(memory), 1 << 20):
                memory[start : start + 4096] = 0xFF
            lab.settle()
        assert {frame[23] for frame in way.frames()} <= {50}, "nothing clear"
        way.arrived()
        lab.advance(5)  # a queue that stopped is back by now
        lab.settle()
        sent = way.send(50)
        assert [packet for packet in way.arrived() if packet in sent] == sent
        way.clear()
