# SPDX-License-Identifier: Apache-2.0
"""Chains of policies and walked lists against the plain form of the rules (SPD-05, DUMP-01)."""

import random

import pytest

from host_driver.xfrm.chain import BLOCK, Chain
from host_driver.xfrm.policy import XfrmPolicy
from host_driver.xfrm.state import OFFLOAD_PACKET, DevOffload
from host_driver.xfrm.walk import WalkList


def plain_insert(chain: list[XfrmPolicy], xp: XfrmPolicy) -> None:
    """SPD-05 and SPD-06 to the letter."""
    at = 0
    if xp.xdo.type != OFFLOAD_PACKET:
        at = max((i + 1 for i, x in enumerate(chain) if x.priority <= xp.priority), default=0)
    chain.insert(at, xp)


@pytest.mark.parametrize("packet_share", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("priorities", [1, 3, 1000])
def test_chain_keeps_the_kernels_order(packet_share: float, priorities: int) -> None:
    rng = random.Random(f"{packet_share} {priorities}")
    chain, plain = Chain(), list[XfrmPolicy]()
    for _ in range(4 * BLOCK):
        xp = XfrmPolicy(priority=rng.randrange(priorities))
        if rng.random() < packet_share:
            xp.xdo = DevOffload(type=OFFLOAD_PACKET)
        chain.insert(xp)
        plain_insert(plain, xp)
        if rng.random() < 0.3:
            gone = plain.pop(rng.randrange(len(plain)))
            chain.remove(gone)
    assert list(chain) == plain
    for xp in rng.sample(plain, len(plain)):
        chain.remove(xp)
    assert not chain and list(chain) == []


def test_hardware_and_software_in_one_chain() -> None:
    """SPD-07: the three orders that the rule tells of."""

    def order(*offered: tuple[bool, int]) -> list[int]:
        chain = Chain()
        for packet, priority in offered:
            xdo = DevOffload(type=OFFLOAD_PACKET if packet else 0)
            chain.insert(XfrmPolicy(priority=priority, xdo=xdo))
        return [xp.priority for xp in chain]

    assert order((True, 100), (False, 50)) == [50, 100]
    assert order((False, 50), (True, 100)) == [100, 50]
    assert order((True, 100), (False, 101), (False, 100)) == [100, 100, 101]


def test_a_walk_goes_on_while_the_list_changes() -> None:
    walked: WalkList[int] = WalkList()
    for number in range(6):
        walked.add(number)
    walk, other = iter(walked), iter(walked)
    assert [next(walk), next(walk), next(other)] == [5, 4, 5]
    walked.remove(4)  # where the walk stands
    walked.remove(3)  # where it would go
    walked.add(9)  # in front, behind the walk
    assert list(walk) == [2, 1, 0]
    assert list(other) == [2, 1, 0]
    assert list(walked) == [9, 5, 2, 1, 0]
    assert list(walked.oldest_first()) == [0, 1, 2, 5, 9]
    next(given_up := iter(walked))
    del given_up
    assert len(walked) == 5 and 9 in walked and 4 not in walked
