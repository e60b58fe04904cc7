# SPDX-License-Identifier: Apache-2.0
"""Two hosts, two cards: tunnels across families, whoever seals and whoever opens; what a bit flip,
a replay, a limit, a wrap and a card without crypto mean to crypto offload."""

import itertools

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6

from host_driver.lab import Lab

KEY = "0x" + bytes(range(20)).hex()
SECRET = b"what nobody may read on the wire"
GATES = {4: ("10.1.0.1", "10.1.0.2"), 6: ("fd00:1::1", "fd00:1::2")}
INSIDE = {4: ("10.9.0.1", "10.9.1.1"), 6: ("fd00:9::1", "fd00:9:1::1")}
WHO = ["packet", "crypto", "software"]


def packet(src: str, dst: str, text: bytes = SECRET) -> bytes:
    ip = IPv6(src=src, dst=dst) if ":" in src else IP(src=src, dst=dst)
    return bytes(ip / UDP(sport=4000, dport=4000) / text)


class Flow:
    """One direction from a to b: SA and policy at both ends."""

    def __init__(self, lab, *, mode="transport", outer=4, inner=4, out="crypto", into="crypto",
                 more="", more_out="", more_in="replay-window 64") -> None:  # fmt: skip
        self.lab, (self.a, self.b) = lab, lab.hosts
        src, dst = GATES[outer]
        self.ends = INSIDE[inner] if mode == "tunnel" else (src, dst)
        af = "flag af-unspec" if outer != inner else ""
        for host, direction, who, extra in (
            (self.a, "out", out, more_out),
            (self.b, "in", into, more_in),
        ):
            offload = "" if who == "software" else f"offload {who} dev nic0"
            self.must(
                host,
                f"xfrm state add src {src} dst {dst} proto esp spi 0x1000 reqid 1 mode {mode} "
                f"aead 'rfc4106(gcm(aes))' {KEY} 128 {af} {more} {extra} "
                + (f"{offload} dir {direction}" if offload else ""),
            )
            self.must(
                host,
                f"xfrm policy add src {self.ends[0]} dst {self.ends[1]} dir {direction} "
                f"tmpl src {src} dst {dst} proto esp reqid 1 mode {mode} "
                + (offload if who == "packet" else ""),
            )

    @staticmethod
    def must(host, command: str) -> None:
        result = host.ip(command)
        assert (result.rc, result.stderr) == (0, ""), command

    def send(self, count: int, text: bytes = SECRET) -> list[bytes]:
        """Send packets; returns what arrived. Nothing of them is to be read on the wire."""
        before = len(self.lab.wire.frames())
        self.results = self.a.send([packet(*self.ends, text)] * count)
        self.lab.settle()
        for frame in self.lab.wire.frames()[before:]:
            assert SECRET not in frame.data
        return self.b.receive()

    def stats(self) -> str:
        return " ".join(self.b.ip("-s xfrm state").stdout.split())


@pytest.fixture(scope="module", params=["sim", "process"])
def labs(request):
    """One lab for each pair of cards of this target."""
    made: dict[str, Lab] = {}

    def lab(card: str = "full") -> Lab:
        if card not in made:
            made[card] = Lab(target=request.param, hosts=2, card=card, seed=3)
            made[card].start()
        return made[card]

    yield lab
    for one in made.values():
        one.close()


@pytest.fixture
def pair(labs):
    """Both hosts empty again after each test."""
    used: list[Lab] = []

    def lab(card: str = "full") -> Lab:
        used.append(labs(card))
        return used[-1]

    yield lab
    for one in used:
        one.faults.reset()
        for host in one.hosts:
            for what in ("state", "policy"):
                assert host.ip(f"xfrm {what} flush").rc == 0
        one.settle()
        for host in one.hosts:
            host.receive()
            host.notifications()
            assert not any(host.nic.census().values())


@pytest.mark.parametrize(("out", "into"), list(itertools.product(WHO, WHO)))
@pytest.mark.parametrize(("outer", "inner"), [(4, 6), (6, 4)])
def test_a_tunnel_carries_the_other_family(pair, outer, inner, out, into):
    lab = pair()
    before = [host.nic.counters() for host in lab.hosts]
    flow = Flow(lab, mode="tunnel", outer=outer, inner=inner, out=out, into=into)
    for size in (0, 1, 2, 3, 1000):
        text = SECRET + bytes(size)
        assert flow.send(3, text) == [packet(*flow.ends, text)] * 3
    after = [host.nic.counters() for host in lab.hosts]
    sealed = after[0]["ipsec_tx_pkts"] - before[0]["ipsec_tx_pkts"]
    opened = after[1]["ipsec_rx_pkts"] - before[1]["ipsec_rx_pkts"]
    assert (sealed, opened) == (0 if out == "software" else 15, 0 if into == "software" else 15)
    assert "15(packets)" in flow.stats()


@pytest.mark.parametrize("mode", ["transport", "tunnel"])
def test_a_bit_flip_is_counted_by_the_host(pair, mode):
    """RX-14: the card hands the packet up with what it found."""
    lab = pair()
    flow = Flow(lab, mode=mode)
    mib, card = flow.b.mib(), flow.b.nic.counters()
    lab.faults.add(site="wire", kind="corrupt", value=8 * 60, times=1, host=0)
    assert len(flow.send(3)) == 2
    moved = {name: n - mib[name] for name, n in flow.b.mib().items() if n != mib[name]}
    assert moved == {"XfrmInStateProtoError": 1}
    assert "failed 1" in flow.stats() and "2(packets)" in flow.stats()
    drops = {n: v - card[n] for n, v in flow.b.nic.counters().items() if n.startswith("rx_drop")}
    assert not any(drops.values())


def test_a_key_that_comes_again_repeats_no_iv(pair):
    """Software seals in between what is too long, and the SA is deleted and added again."""
    lab = pair()
    first = len(lab.wire.frames())
    for _ in range(3):
        flow = Flow(lab)
        for text in (SECRET, SECRET * 60, SECRET):
            assert flow.send(2, text) == [packet(*flow.ends, text)] * 2
        for host in lab.hosts:
            for what in ("state", "policy"):
                flow.must(host, f"xfrm {what} flush")
        lab.settle()
    whole = [frame.data for frame in lab.wire.frames()[first:] if frame.data[20:22] == b"\0\0"]
    assert len(whole) >= 12 and len({data[42:50] for data in whole}) == len(whole)


def test_a_replay_is_the_hosts_to_see(pair):
    lab = pair()
    flow, before = Flow(lab), len(lab.wire.frames())
    assert len(flow.send(2)) == 2
    frames = [frame.data for frame in lab.wire.frames()[before:]]
    mib = flow.b.mib()
    lab.wire.inject(host=1, frames=frames)
    lab.settle()
    assert flow.b.receive() == []
    assert flow.b.mib()["XfrmInStateSeqError"] - mib["XfrmInStateSeqError"] == 2
    assert "replay 2 failed 0" in flow.stats()


def test_limits_are_the_hosts(pair):
    """The card has none. What the core has counted leaves, though the SA goes with the packet
    behind it, in the same burst (LIFE-12)."""
    flow = Flow(pair(), more_out="limit packet-hard 3")
    expired = flow.a.mib()["XfrmOutStateExpired"]
    assert len(flow.send(5)) == 3
    assert flow.a.mib()["XfrmOutStateExpired"] == expired + 1
    assert "spi 0x00001000" not in flow.a.ip("xfrm state list").stdout
    assert not any(flow.a.nic.census().values())


@pytest.mark.parametrize("start", [0xFFFF_FFFA, 0xFFFF_FFFF])
def test_esn_wraps(pair, start):
    lab = pair()
    flow = Flow(
        lab,
        more_out=f"flag esn replay-oseq {start:#x} replay-oseq-hi 6",
        more_in=f"flag esn replay-window 64 replay-seq {start:#x} replay-seq-hi 6",
    )
    for _ in range(20):
        assert flow.send(1) == [packet(*flow.ends)]
    calls = [e["call"] for host in lab.hosts for e in host.trace()]
    assert calls.count("xdo_dev_state_advance_esn") >= 40
    assert "failed 0" in flow.stats() and "seq-hi 0x7" in flow.stats()


@pytest.mark.parametrize("card", ["tiny", "full:crypto=no"])
def test_a_card_without_crypto_leaves_it_to_software(pair, card):
    """STATE-24: `offload crypto` is a wish; the SA is a software SA, and nothing shows of it."""
    flow = Flow(pair(card))
    assert flow.send(5) == [packet(*flow.ends)] * 5
    for host in (flow.a, flow.b):
        assert not any(host.nic.census().values())
        assert host.nic.counters()["ipsec_tx_pkts"] == host.nic.counters()["ipsec_rx_pkts"] == 0
        assert "offload" not in host.ip("xfrm state list").stdout


def test_a_card_without_packet_offload_does_crypto(pair):
    flow = Flow(pair("crypto-only"), mode="tunnel")
    assert flow.send(5) == [packet(*flow.ends)] * 5
    assert flow.a.nic.census() == {"keys": 1, "sas": 1, "rules_sa": 0, "rules_policy": 0}
    assert flow.b.nic.census() == {"keys": 1, "sas": 1, "rules_sa": 1, "rules_policy": 0}
    assert flow.a.nic.counters()["ipsec_tx_pkts"] == 5


def test_what_is_too_long_for_the_card_goes_through_software(pair):
    """Longer than the SA's MTU and allowed to be cut: sealed by software, sent in pieces; the host
    puts them together."""
    flow = Flow(pair())
    long = SECRET * 60
    before = flow.a.nic.counters()["ipsec_tx_pkts"]
    assert flow.send(2, long) == [packet(*flow.ends, long)] * 2
    assert flow.send(2) == [packet(*flow.ends)] * 2
    assert flow.a.nic.counters()["ipsec_tx_pkts"] - before == 2


def test_software_esp_beside_a_policy_of_the_card(pair):
    """The card's policy covers all between the gates, software ESP too: it passes as it is."""
    lab = pair()
    flow = Flow(lab, mode="tunnel", out="software", into="software")
    flow.must(
        flow.a,
        "xfrm policy add src 10.1.0.1 dst 10.1.0.2 dir out tmpl src 10.1.0.1 dst 10.1.0.2 "
        "proto esp reqid 7 mode transport offload packet dev nic0",
    )
    assert flow.send(3) == [packet(*flow.ends)] * 3
