# SPDX-License-Identifier: Apache-2.0
"""Limits and timers under a virtual clock (LIFE-10..28, 50, 51; ACQ-09)."""

from typing import Any

import pytest

from proto.netlink import attributes

EXPIRE, POLEXPIRE, DELSA = 0x18, 0x1B, 0x11
OFFLOAD_DEV, NIC = 28, 2


def hard(world: Any) -> list[int]:
    """The `hard` byte of each EXPIRE since the last call."""
    return [message[16 + 224] for message in world.take(EXPIRE)]


def test_soft_then_hard_packets(world: Any, pktsim: Any) -> None:
    assert world.add_sa(soft_packet_limit=3, hard_packet_limit=5) == 0
    x = world.state(0x1000)
    world.take()
    for packets, result, told in ((2, 0, []), (3, 0, [0]), (4, 0, []), (5, -22, [1]), (6, -22, [])):
        pktsim.totals[0x1000] = (packets, 60 * packets)
        assert world.net.xfrm_state_check_expire(x) == result
        world.advance(0)
        assert hard(world) == told
    assert len(world.net.sad) == 0
    assert world.nic.refcnt == 0


def test_hard_hides_soft(world: Any, pktsim: Any) -> None:
    world.add_sa(soft_byte_limit=100, hard_byte_limit=200)
    pktsim.totals[0x1000] = (4, 240)
    world.take()
    assert world.net.xfrm_state_check_expire(world.state(0x1000)) == -22
    world.advance(0)
    assert hard(world) == [1]


def test_nothing_polls_the_driver(world: Any, pktsim: Any) -> None:
    world.add_sa(hard_packet_limit=1)
    pktsim.totals[0x1000] = (1000, 1000)
    world.take()
    world.advance(3600)  # LIFE-25, LIFE-31: one shot after 1 s, which compares times only
    assert pktsim.log.count("update_stats spi=0x00001000 km_state=2") == 2
    assert len(world.net.sad) == 1
    assert hard(world) == []


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"soft_add_expires_seconds": 5, "hard_add_expires_seconds": 9}, {5: [0], 9: [1]}),
        ({"hard_add_expires_seconds": 3}, {3: [1]}),
        ({"hard_use_expires_seconds": 3}, {}),  # never used: never expires
        ({"soft_add_expires_seconds": 1}, {1: [0]}),
    ],
)
def test_add_time(world: Any, limits: dict[str, int], told: dict[int, list[int]]) -> None:
    world.add_sa(**limits)
    world.take()
    for second in range(1, 40):
        world.advance(1)
        assert hard(world) == told.get(second, [])
    assert world.take(DELSA) == []  # LIFE-27


def test_use_time(world: Any) -> None:
    world.add_sa(soft_use_expires_seconds=4, hard_use_expires_seconds=8)
    world.advance(20)
    world.net.xfrm_state_check_expire(world.state(0x1000))  # sets use_time
    world.take()
    expiries = []
    for second in range(1, 20):
        world.advance(1)
        expiries += [(second, what) for what in hard(world)]
    assert [what for _, what in expiries] == [0, 1]
    assert 3 <= expiries[0][0] <= 5 and 7 <= expiries[1][0] <= 9


def test_update_clears_dying(world: Any, requests: Any) -> None:
    world.add_sa(soft_packet_limit=0)
    x = world.state(0x1000)
    world.net.xfrm_state_check_expire(x)
    assert x.km.dying
    assert world.errno(requests[0](type=0x1A, soft_packet_limit=10)) == 0
    assert not x.km.dying and x.lft.soft_packet_limit == 10


def test_policy_timers(world: Any) -> None:
    world.add_policy(soft_add_expires_seconds=2, hard_add_expires_seconds=70)
    world.take()
    expiries, devices = [], []
    for second in range(1, 100):
        world.advance(1)
        for message in world.take(POLEXPIRE):
            expiries.append((second, message[184]))
            found = attributes(message, 192).values.get(OFFLOAD_DEV, b"")
            devices.append(int.from_bytes(found[:4], "little"))
    assert expiries == [(2, 0), (32, 0), (62, 0), (70, 1)]
    assert devices == [NIC] * 4  # UAPI-62: the hard one, too, says on which device it was
    assert len(world.net.spd) == 0 and world.nic.refcnt == 0


def test_acquire_times_out(world: Any, udp_packet: Any, pktsim: Any) -> None:
    world.add_policy()
    world.take()
    assert world.net.output(udp_packet()) == 0
    assert [m[4] for m in world.take()] == [0x17]
    world.advance(29)
    assert hard(world) == [] and world.nic.refcnt == 2
    world.advance(1)
    assert hard(world) == [1]
    assert len(world.net.sad) == 0 and world.nic.refcnt == 1
    assert [line.split()[0] for line in pktsim.log] == [
        "policy_add", "state_add", "update_stats", "state_delete", "update_stats", "state_free",
    ]  # fmt: skip
