# SPDX-License-Identifier: Apache-2.0
"""Packets out and in: policy, SA, device, counters (TX-*, ACQ-*, RX-*, SPD-*, MATCH-*)."""

import gc
import struct
import weakref
from typing import Any

import pytest
from scapy.layers.inet import IP

from host_driver.netdev import SecPath, Skb
from host_driver.xfrm.mib import NAMES
from support.core import Core
from support.esp import GCM, datagram, policy, state, template

ESP = struct.Struct(">II")
A, B = (bytes((10, 1, 0, last)) + bytes(12) for last in (1, 2))


def moved(world: Any) -> dict[str, int]:
    return {name: value for name, value in world.net.mib.values().items() if value}


def esp(spi: int, seq: int = 1, size: int = 40) -> bytes:
    """An ESP packet for the first host."""
    packet = IP(src="10.1.0.2", dst="10.1.0.1", proto=50)
    return bytes(packet / (ESP.pack(spi, seq)[:size] + bytes(max(0, size - 8))))


def test_protected_packet_goes_to_the_device(world: Any, udp_packet: Any) -> None:
    world.add_policy()
    world.add_sa()
    assert world.net.output(udp_packet()) == 0
    assert [(skb.data, skb.protect) for skb in world.sent] == [(udp_packet(), True)]
    assert world.net.output(udp_packet(saddr=B, daddr=A)) == 0  # no policy
    assert not world.sent[-1].protect
    assert moved(world) == {}


def test_block(world: Any, udp_packet: Any) -> None:
    world.add_policy(action=1, templates=0)
    assert world.net.output(udp_packet()) == -1
    assert world.sent == [] and moved(world) == {"XfrmOutPolBlock": 1}


# IPv4 transport, GCM with 16-byte ICV: 1466 bytes fit a link of 1500 (TX-32).
@pytest.mark.parametrize(("length", "error"), [(1466, 0), (1467, -113)])
def test_mtu(world: Any, udp_packet: Any, length: int, error: int) -> None:
    world.add_policy()
    world.add_sa()
    assert world.net.output(udp_packet(length - 28)) == error
    assert moved(world) == ({"XfrmOutError": 1} if error else {})


def test_ip_options_are_refused(world: Any, udp_packet: Any) -> None:
    world.add_policy()
    world.add_sa()
    plain = udp_packet()
    options = b"\x46\0" + (len(plain) + 4).to_bytes(2, "big") + plain[4:20] + b"\1\1\1\0"
    assert world.net.output(options + plain[20:]) == -113
    assert moved(world) == {"XfrmOutError": 1}


def test_driver_says_no(world: Any, udp_packet: Any, pktsim: Any) -> None:
    world.add_policy()
    world.add_sa()
    pktsim.offload_ok = False
    assert world.net.output(udp_packet()) == -113
    assert world.sent == []


# MATCH-03..06, 09, 10: (policy offloaded, SAs in order of their addition) -> SPI used, 0 acquire.
@pytest.mark.parametrize(
    ("offload", "states", "used"),
    [
        (True, ["packet"], 1),
        (True, ["crypto"], 0),
        (True, ["software"], 0),
        (False, ["packet"], 0),
        (False, ["packet", "software"], -2),
        (True, ["packet", "software"], 0),
        (True, ["software", "packet"], 2),
    ],
)
def test_matching(
    world: Any, udp_packet: Any, pktsim: Any, offload: bool, states: list[str], used: int
) -> None:
    world.add_policy(offload=offload)
    for spi, kind in enumerate(states, 1):
        assert world.add_sa(spi, flags={"packet": 4, "crypto": 0, "software": None}[kind]) == 0
    pktsim.log.clear()
    error = world.net.output(udp_packet())
    if used > 0:
        assert error == 0 and f"offload_ok spi={used:#010x}" in pktsim.log
    elif used < 0:  # the software SA
        assert error == 0 and world.state(-used).curlft.packets == 1
        assert world.sent[0].data[20:24] == (-used).to_bytes(4, "big")
    else:
        assert error == 0 and moved(world) == {"XfrmOutNoStates": 1}
    assert len(world.sent) == bool(used)


def test_rekey_takes_the_fresh_one(world: Any, udp_packet: Any, pktsim: Any) -> None:
    world.add_policy()
    world.add_sa(1, soft_packet_limit=0)
    world.net.output(udp_packet())
    world.net.xfrm_state_check_expire(world.state(1))
    world.net.output(udp_packet())  # dying, but there is no better one (LIFE-44)
    world.add_sa(2)
    world.net.output(udp_packet())
    used = [line for line in pktsim.log if line.startswith("offload_ok")]
    assert used == [f"offload_ok spi={spi:#010x}" for spi in (1, 1, 2)]


def test_acquire_and_its_answer(world: Any, udp_packet: Any, requests: Any, pktsim: Any) -> None:
    world.add_policy()
    assert world.net.output(udp_packet()) == 0
    assert world.net.output(udp_packet()) == 0
    acquires = world.take(0x17)
    assert len(acquires) == 1 and world.sent == []
    assert moved(world) == {"XfrmOutNoStates": 2}
    seq = int.from_bytes(acquires[0][292:296], "little")
    pktsim.log.clear()
    assert world.errno(requests[0](0x1000, seq=seq)) == 0
    assert [line.split()[0] for line in pktsim.log] == [
        "state_add", "state_delete", "update_stats", "state_free",
    ]  # fmt: skip
    assert world.net.output(udp_packet()) == 0
    assert len(world.sent) == 1 and len(world.net.sad) == 1


def test_acquire_without_listener(make_world: Any, pktsim: Any, udp_packet: Any) -> None:
    world = make_world(pktsim, listeners=0)
    world.add_policy()
    assert world.net.output(udp_packet()) == 0
    assert moved(world) == {"XfrmOutNoStates": 1} and len(world.net.sad) == 0
    world.sched.run(world.net.now_ns)
    assert [line.split()[0] for line in pktsim.log] == [
        "policy_add", "state_add", "state_delete", "state_free",
    ]  # fmt: skip
    world.net.listening = lambda group: False  # TX-16: then the driver is not even asked
    assert world.net.output(udp_packet()) == 0
    assert len(pktsim.log) == 4 and world.nic.refcnt == 1


def test_wrong_direction(world: Any, udp_packet: Any) -> None:
    world.add_policy()
    world.add_sa(flags=6, sa_dir=1)
    assert world.net.output(udp_packet()) == -22
    assert moved(world) == {"XfrmOutPolError": 1, "XfrmOutStateDirError": 1}


def test_policy_order(world: Any, udp_packet: Any) -> None:
    """SPD-05, 06, 20..22: a packet policy ends the exact search; inexact ones go by priority."""
    world.add_policy(offload=False, action=1, templates=0, prefixlen=24, priority=5)
    world.add_policy(offload=False, templates=0, prefixlen=24, proto=17, priority=4)
    assert world.net.output(udp_packet()) == 0
    world.add_policy(offload=False, action=1, templates=0, proto=17, dport=9, priority=3)
    assert world.net.output(udp_packet()) == -1
    world.add_policy(templates=0, priority=1000)
    assert world.net.output(udp_packet()) == 0


@pytest.mark.parametrize(
    ("status", "delivered"), [(1, True), (2, False)], ids=["decrypted", "failed"]
)
def test_packet_mode_shortcut(world: Any, udp_packet: Any, status: int, delivered: bool) -> None:
    world.add_policy(dir=0, saddr=B, daddr=A, action=1, templates=0)
    world.add_sa(flags=6, saddr=B, daddr=A)
    packet = udp_packet(saddr=B, daddr=A)
    skb = Skb(packet, sec_path=SecPath(world.state(0x1000), status=status))
    assert world.net.input(skb) == (packet if delivered else None)
    assert moved(world) == {} and skb.sec_path is None


@pytest.mark.parametrize(
    ("policy", "counter"),
    [
        ({"offload": False}, "XfrmInTmplMismatch"),
        ({"offload": True}, ""),  # RX-08
        ({"offload": False, "action": 1}, "XfrmInPolBlock"),
        ({"offload": False, "templates": 0}, ""),
    ],
)
def test_clear_packet(world: Any, udp_packet: Any, policy: dict[str, Any], counter: str) -> None:
    world.add_policy(dir=0, saddr=B, daddr=A, **policy)
    packet = udp_packet(saddr=B, daddr=A)
    assert world.net.input(Skb(packet)) == (None if counter else packet)
    assert moved(world) == ({counter: 1} if counter else {})


def test_stray_esp(world: Any) -> None:
    world.add_sa(1, saddr=B, daddr=A, flags=6, sa_dir=1, window=32)
    world.add_sa(2, saddr=B, daddr=A, flags=None, sa_dir=2)
    world.add_sa(3, saddr=B, daddr=A, flags=6, hard_packet_limit=0)
    for packet, counter in (
        (esp(9), "XfrmInNoStates"),
        (esp(1), "XfrmInStateProtoError"),
        (esp(1, seq=0), "XfrmInStateSeqError"),
        (esp(2), "XfrmInStateDirError"),
        (esp(3), "XfrmInStateExpired"),
        (esp(3), "XfrmInNoStates"),
        (esp(1, size=7), "XfrmInHdrError"),
        (b"\x45", "XfrmInHdrError"),
    ):
        before = world.net.mib.values()
        assert world.net.input(Skb(packet)) is None
        before[counter] += 1
        assert world.net.mib.values() == before


@pytest.mark.parametrize(
    "packet", [b"", b"\x45", b"\x60" * 39, b"\x45" + b"\xff" * 40, b"\x00" * 60]
)
def test_malformed_is_never_sent(world: Any, packet: bytes) -> None:
    assert world.net.output(packet) == -22
    assert world.sent == []


def test_mib_names(world: Any) -> None:
    values = world.net.mib.values()
    assert (*values,) == NAMES and len(NAMES) == 32 and set(values.values()) == {0}


def test_what_was_decided_for_flows_keeps_no_dead_sa() -> None:
    """Decisions go with what they rest on, and the SAs with them, whoever still sends (TX-02)."""
    core = Core()
    core.add(state(GCM), policy("out", template()))
    other = datagram(ends=("10.9.0.1", "10.9.0.2"))
    core.net.output(datagram()), core.net.output(other)
    (dead,) = [weakref.ref(x) for x in core.net.sad]
    core.add("xfrm state flush", "xfrm policy flush")
    core.take()
    core.advance(2)  # so long a timer holds it
    core.net.output(other)
    gc.collect()
    assert dead() is None


def test_timers_keep_few_dead_sas() -> None:
    """Whose limits are a day away: key managers replace SAs long before."""
    core, refs = Core(), []
    for number in range(400):
        core.add(state(GCM, extra="limit time-hard 86400", spi=0x2000 + number))
        (x,) = core.net.sad
        refs.append(weakref.ref(x))
        core.add("xfrm state flush")
        del x
    gc.collect()
    assert sum(ref() is not None for ref in refs) < 200
    core.add(state(GCM, extra="limit time-hard 5"))
    core.advance(6)
    assert not list(core.net.sad)
