# SPDX-License-Identifier: Apache-2.0
"""Software, crypto offload and packet offload speak with each other, in every mode and family."""

import itertools

import pytest
from scapy.layers.inet import IP, fragment

from host_driver.lab import Lab
from support.esp import A6, B6, GCM, A, B, datagram, policy, state, template

KINDS = {
    "software": "",
    "crypto": "offload crypto dev nic0 dir {dir}",
    "packet": "offload packet dev nic0 dir {dir}",
}
SENT = 5


@pytest.fixture(scope="module")
def lab():
    with Lab(target="sim", hosts=2, card="full", seed=3) as lab:
        yield lab


@pytest.fixture
def hosts(lab):
    yield lab.hosts
    for host in lab.hosts:
        for table in ("state", "policy"):
            assert host.ip(f"xfrm {table} flush").rc == 0
        lab.settle()
        host.receive()
        assert not any(host.nic.census().values())


def install(host, kind: str, dir: str, mode: str, ends, *, esn: bool, encap: bool) -> None:
    """One end's SA and policy. An IKE daemon would keep its port 4500 open."""
    any_end = "::" if ":" in ends[0] else "0.0.0.0"
    extra = "replay-window 32 " if dir == "in" else ""
    if esn:
        extra = "flag esn " + ("replay-window 64 " if dir == "in" or kind == "software" else "")
    extra += f"encap espinudp 4500 4500 {any_end} " if encap else ""
    port = f"xfrm policy add src {ends[0]} dst {ends[1]} proto udp dport 4500 dir in"
    device = "offload packet dev nic0 " if kind == "packet" else ""
    for command in (
        *((port,) if encap and kind == "software" and dir == "in" else ()),
        state(GCM, mode, extra + KINDS[kind].format(dir=dir), ends),
        policy(dir, device + template(mode=mode, ends=ends), ends=ends),
    ):
        assert host.ip(command).stderr == "", command


@pytest.mark.parametrize("mode", ["transport", "tunnel"])
@pytest.mark.parametrize("receiver", KINDS)
@pytest.mark.parametrize("sender", KINDS)
def test_packets_arrive_whole(lab, hosts, sender, receiver, mode):
    a, b = hosts
    cases = itertools.product(((A, B), (A6, B6)), (False, True), (False, True))
    for ends, esn, encap in cases:
        before = a.mib(), b.mib(), len(lab.wire.frames())
        install(a, sender, "out", mode, ends, esn=esn, encap=encap)
        install(b, receiver, "in", mode, ends, esn=esn, encap=encap)
        packets = [datagram(size, ends) for size in (0, 1, 2, 400, 1200)]
        assert a.send(packets) == [0] * SENT
        lab.settle()
        assert b.receive() == packets
        assert (a.mib(), b.mib()) == before[:2]
        for frame in lab.wire.frames(before[2]):
            assert frame.data[23 if "." in ends[0] else 20] == (17 if encap else 50)
        counted = f"{SENT}(packets)"
        assert all(counted in host.ip("-s xfrm state").stdout for host in (a, b))
        for host in (a, b):
            for table in ("state", "policy"):
                assert host.ip(f"xfrm {table} flush").rc == 0
        lab.settle()


def test_a_packet_that_a_card_has_taken_does_not_come_back_in_pieces(lab, hosts):
    """The card opens no pieces, and its window is not the host's: they are refused."""
    a, b = hosts
    install(a, "software", "out", "transport", (A, B), esn=False, encap=False)
    install(b, "packet", "in", "transport", (A, B), esn=False, encap=False)
    first = len(lab.wire.frames())
    assert a.send([datagram(1000)]) == [0]
    lab.settle()
    assert b.receive() == [datagram(1000)]
    frame = lab.wire.frames(first)[0].data
    pieces = [frame[:14] + bytes(piece) for piece in fragment(IP(frame[14:]), 600)]
    assert len(pieces) == 2
    refused = b.mib()["XfrmInStateProtoError"]
    lab.wire.inject(host=1, frames=[frame, *pieces])
    lab.settle()
    assert b.receive() == []
    assert b.nic.counters()["rx_drop_replay"] == 1
    assert b.mib()["XfrmInStateProtoError"] == refused + 1
