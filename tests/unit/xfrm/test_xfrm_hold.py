# SPDX-License-Identifier: Apache-2.0
"""Packets without an SA: dropped, refused or held until there is one (ACQ-20..23, SPD-03)."""

import errno

import pytest

from proto.netlink import message as nl_message

ACQUIRE, UPDPOLICY, FLUSHPOLICY = 0x17, 0x19, 0x1D


@pytest.fixture
def waiting(world):
    """A world whose policy has no SA, and whose packets are held."""
    world.net.larval_drop = 0
    world.add_policy()
    return world


def no_states(world) -> int:
    return world.net.mib.values()["XfrmOutNoStates"]


@pytest.mark.parametrize("listeners", [0, 1])
def test_acq_20_by_default_a_packet_vanishes(world, udp_packet, listeners):
    world.listeners = listeners
    world.add_policy()
    assert [world.net.output(udp_packet()) for _ in range(3)] == [0, 0, 0]
    assert (no_states(world), world.sent) == (3, [])


def test_acq_21_held_packets_go_out_in_order_once_there_is_an_sa(waiting, udp_packet):
    packets = [udp_packet(size) for size in (10, 20, 30)]
    assert [waiting.net.output(one) for one in packets] == [0, 0, 0]
    assert (no_states(waiting), len(waiting.take(ACQUIRE))) == (0, 1)
    waiting.advance(0.25)
    assert waiting.sent == []
    waiting.add_sa()
    assert waiting.sent == []  # nobody looks before the timer does
    waiting.advance(0.1)
    assert [skb.data for skb in waiting.sent] == packets
    assert all(skb.protect for skb in waiting.sent)
    assert waiting.net.output(udp_packet()) == 0 and len(waiting.sent) == 4


def test_const_07_no_packet_is_held_while_more_than_a_hundred_are(waiting, udp_packet):
    results = [waiting.net.output(udp_packet(n + 1)) for n in range(103)]
    assert results == [0] * 101 + [-errno.EAGAIN] * 2
    waiting.add_sa()
    waiting.advance(1)
    assert [len(skb.data) - 28 for skb in waiting.sent] == list(range(1, 102))


def test_const_08_the_wait_doubles_and_ends(waiting, udp_packet, monkeypatch):
    """0.1 s, 0.2 s, ... 51.2 s, 102.4 s: the last one has reached a minute, and all is dropped."""
    start = waiting.net.now_ns
    looked: list[float] = []
    process = "host_driver.xfrm.net.xfrm_policy_queue_process"

    def spy(net, queue):
        looked.append(round((net.now_ns - start) / 1e9, 1))
        original(net, queue)

    from host_driver.xfrm.hold import xfrm_policy_queue_process as original

    monkeypatch.setattr(process, spy)
    waiting.net.output(udp_packet())
    waiting.advance(300)
    assert looked == [round(0.1 * (2**n - 1), 1) for n in range(1, 12)]
    waiting.add_sa()
    waiting.advance(300)
    assert (waiting.sent, no_states(waiting)) == ([], 0)


def test_acq_22_where_nothing_may_wait_it_is_refused(waiting, udp_packet):
    assert waiting.net.output(udp_packet(), may_hold=False) == -errno.EAGAIN
    assert no_states(waiting) == 1


def test_acq_23_without_a_listener_packets_are_held_as_well(waiting, udp_packet):
    waiting.listeners = 0
    assert waiting.net.output(udp_packet()) == 0
    waiting.add_sa()
    waiting.advance(1)
    assert len(waiting.sent) == 1


def test_spd_03_the_replacing_policy_takes_over_what_waits(waiting, requests, udp_packet):
    waiting.net.output(udp_packet())
    assert waiting.errno(requests[1](type=UPDPOLICY, priority=5)) == 0
    waiting.add_sa()
    waiting.advance(0)
    assert len(waiting.sent) == 1


def test_a_policy_that_goes_takes_its_packets_with_it(waiting, udp_packet):
    waiting.net.output(udp_packet())
    waiting.netlink(nl_message(FLUSHPOLICY, b"", 5))
    waiting.add_sa()
    waiting.advance(300)
    assert waiting.sent == []


def test_an_error_meanwhile_drops_them(waiting, pktsim, udp_packet):
    """The acquire has timed out, and the driver refuses the next larval SA (ACQ-04)."""
    waiting.net.acq_expires = 1
    waiting.net.output(udp_packet())
    pktsim.fail_state = errno.ENOSPC
    waiting.advance(10)
    pktsim.fail_state = 0
    waiting.add_sa()
    waiting.advance(300)
    assert waiting.sent == []


def test_const_01_how_long_a_larval_sa_lives(world, udp_packet):
    world.net.acq_expires = 3
    world.add_policy()
    world.net.output(udp_packet())
    world.advance(2)
    assert len(world.net.sad) == 1
    world.advance(2)
    assert len(world.net.sad) == 0


def test_tx_31_a_packet_that_nobody_may_cut(world, udp_packet):
    """1466 bytes fit an Ethernet link in transport mode (TX-32)."""
    world.add_policy()
    world.add_sa()

    def send(size: int, flags: int) -> int:
        packet = bytearray(udp_packet(size - 28))
        packet[6] = flags
        return world.net.output(bytes(packet))

    assert [send(1466, 0x40), send(1467, 0x40)] == [0, -errno.EMSGSIZE]
    assert world.net.mib.values()["XfrmOutError"] == 0
    assert [send(1466, 0), send(1467, 0)] == [0, -errno.EHOSTUNREACH]
    assert world.net.mib.values()["XfrmOutError"] == 1
