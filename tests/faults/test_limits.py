# SPDX-License-Identifier: Apache-2.0
"""Limits hold to the packet, whatever happens to the events that speak of them."""

import pytest
from scapy.layers.inet import IP, UDP

from host_driver.lab import Lab
from proto import netlink
from proto.xfrm import Msg

PACKET = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2) / b"limit")
ADD = (
    "xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x1000 reqid 1 mode transport "
    "aead 'rfc4106(gcm(aes))' 0x0102030405060708090a0b0c0d0e0f1011121314 128 {limits} "
    "offload packet dev nic0 dir out"
)
POLICY = (
    "xfrm policy add src 10.0.0.1 dst 10.0.0.2 dir out tmpl src 10.0.0.1 dst 10.0.0.2 "
    "proto esp reqid 1 mode transport offload packet dev nic0"
)
EVENT_FAULTS = {
    "events-kept": None,
    "events-dropped": {"site": "events", "kind": "drop"},
    "events-doubled": {"site": "events", "kind": "duplicate"},
}


def expires(host) -> list[int]:
    """The `hard` byte of every EXPIRE message since the last look."""
    return [
        message.payload[224]
        for raw in host.notifications()
        for message in netlink.messages(raw)
        if message.type == Msg.EXPIRE
    ]


def offloaded(lab, limits: str):
    (host,) = lab.hosts
    for command in (ADD.format(limits=limits), POLICY):
        assert host.ip(command).stderr == ""
    host.notifications()
    return host


@pytest.mark.parametrize("fault", EVENT_FAULTS.values(), ids=EVENT_FAULTS)
@pytest.mark.parametrize("bits", [8, 32])
@pytest.mark.parametrize("hard", [1, 2, 127, 128, 129, 255, 256, 257, 1000])
def test_exactly_n_frames_leave(hard, bits, fault):
    soft = max(1, hard * 3 // 4)
    with Lab(target="sim", hosts=1, card=f"full:counter_bits={bits}", seed=hard) as lab:
        host = offloaded(lab, f"limit packet-soft {soft} limit packet-hard {hard}")
        if fault:
            lab.faults.add(**fault)
        told = []
        for count in (soft, hard - soft, 40):
            host.send([PACKET] * count)
            lab.settle()
            told += expires(host)
        assert len(lab.wire.frames()) == hard
        assert all(frame.data[23] == 50 for frame in lab.wire.frames())
        assert told == ([1] if soft == hard else [0, 1])
        assert host.ip("xfrm state list").stdout.count("spi 0x00001000") == 0
        counters = host.nic.counters()
        assert counters["ipsec_tx_pkts"] == hard


@pytest.mark.parametrize("bits", [8, 32])
def test_a_hundred_thousand(bits):
    with Lab(target="sim", hosts=1, card=f"full:counter_bits={bits}", seed=1) as lab:
        host = offloaded(lab, "limit packet-soft 99000 limit packet-hard 100000")
        told = []
        for _ in range(101):
            host.send([PACKET] * 1000)
            told += expires(host)
        lab.settle()
        assert (told + expires(host)) == [0, 1]
        assert host.nic.counters()["ipsec_tx_pkts"] == 100_000
        assert len(lab.wire.frames()) == 100_000


@pytest.mark.parametrize("fault", EVENT_FAULTS.values(), ids=EVENT_FAULTS)
def test_the_same_among_processes(fault):
    with Lab(target="process", hosts=1, card="full:counter_bits=8", seed=1) as lab:
        host = offloaded(lab, "limit packet-soft 2000 limit packet-hard 3000")
        if fault:
            lab.faults.add(**fault)
        told = []
        for count in (2500, 2500):
            host.send([PACKET] * count)
            lab.settle()
            told += expires(host)
        assert told == [0, 1]
        assert len(lab.wire.frames()) == 3000
        assert "spi 0x00001000" not in host.ip("xfrm state list").stdout


def test_one_look_past_both_limits_tells_only_the_hard_one():
    """LIFE-14: hard is tested before soft."""
    with Lab(target="sim", hosts=1, card="full:counter_bits=8", seed=1) as lab:
        host = offloaded(lab, "limit packet-soft 10 limit packet-hard 20")
        host.send([PACKET] * 30)
        lab.settle()
        assert expires(host) == [1]
        assert len(lab.wire.frames()) == 20


def test_byte_limits_stop_the_card_too():
    payload = 8 + len(b"limit")
    with Lab(target="sim", hosts=1, card="full", seed=1) as lab:
        host = offloaded(lab, f"limit byte-soft {payload * 3} limit byte-hard {payload * 5}")
        told = []
        for _ in range(9):
            host.send([PACKET])
            lab.settle()
            told += expires(host)
        assert len(lab.wire.frames()) == 5
        assert told == [0, 1]


@pytest.mark.parametrize(
    ("limits", "at"),
    [
        ("limit time-soft 10 limit time-hard 20", {"soft": 10, "hard": 20}),
        ("limit time-use-soft 5 limit time-use-hard 9", {"soft": 5, "hard": 9}),
    ],
    ids=["add", "use"],
)
def test_time_limits(limits, at):
    with Lab(target="sim", hosts=1, card="full", seed=1) as lab:
        host = offloaded(lab, limits)
        host.send([PACKET])
        lab.settle()
        seen = {}
        for second in range(1, 25):
            lab.advance(1)
            lab.settle()
            for hard in expires(host):
                seen["hard" if hard else "soft"] = second
        assert set(seen) == {"soft", "hard"}
        for name, second in at.items():
            assert second <= seen[name] <= second + 1, seen
        host.send([PACKET])
        lab.settle()
        assert len(lab.wire.frames()) == 1


def test_inbound_limits_drop_after_n():
    """The card refuses what arrives past the hard limit as well."""
    with Lab(target="sim", hosts=2, card="full:counter_bits=8", seed=1) as lab:
        a, b = lab.hosts
        assert a.ip(ADD.format(limits="")).rc == 0
        assert a.ip(POLICY).rc == 0
        limited = ADD.format(limits="limit packet-soft 200 limit packet-hard 300")
        assert b.ip(limited.replace("dir out", "dir in")).rc == 0
        b.notifications()
        told = []
        for _ in range(35):
            a.send([PACKET] * 10)
            lab.settle()
            told += expires(b)
        assert len(b.receive()) == 300
        assert told == [0, 1]


@pytest.mark.parametrize("bits", [8, 32])
def test_an_update_gives_the_card_its_new_limits(bits):
    """STATE-31 copies the limits and tells no driver: ours looks at them again (LIFE-37)."""
    with Lab(target="sim", hosts=1, card=f"full:counter_bits={bits}", seed=1) as lab:
        host = offloaded(lab, "limit packet-soft 100 limit packet-hard 200")
        host.send([PACKET] * 150)
        lab.settle()
        assert expires(host) == [0]
        update = ADD.replace("state add", "state update")
        more = update.format(limits="limit packet-soft 300 limit packet-hard 400")
        assert host.ip(more).stderr == ""
        lab.settle()
        told = expires(host)
        for _ in range(4):
            host.send([PACKET] * 50)
            lab.settle()
            told += expires(host)
        assert told == [0]  # km.dying was cleared, so the new soft limit is told again
        assert len(lab.wire.frames()) == 350

        less = update.format(limits="limit packet-hard 360")
        assert host.ip(less).stderr == ""
        lab.settle()
        host.send([PACKET] * 50)
        lab.settle()
        assert expires(host) == [1]
        assert len(lab.wire.frames()) == 360
