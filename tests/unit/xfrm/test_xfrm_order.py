# SPDX-License-Identifier: Apache-2.0
"""Chains of policies and walked lists against the plain form of the rules (SPD-03..09, DUMP-01)."""

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


def plain_update(chain: list[XfrmPolicy], xp: XfrmPolicy, old: XfrmPolicy) -> None:
    """xfrm_policy_insert_list with a policy that is replaced: what stands behind it counts only for
    a higher number, and up to the first that is higher still."""
    at, met = 0, False
    for i, x in enumerate(chain):
        if x is old:
            met = True
            if xp.priority > old.priority:
                continue
        elif xp.priority >= x.priority:
            at = i + 1
            continue
        if met:
            break
    chain.insert(0 if xp.xdo.type == OFFLOAD_PACKET else at, xp)
    chain.remove(old)


def plain_rehash(chain: list[XfrmPolicy]) -> list[XfrmPolicy]:
    """SPD-09: the first and each packet policy to the head, others behind the one moved last."""
    moved: list[XfrmPolicy] = []
    anchor = 0
    for xp in chain:
        anchor = 0 if not moved or xp.xdo.type == OFFLOAD_PACKET else anchor + 1
        moved.insert(anchor, xp)
    return moved


@pytest.mark.parametrize("packet_share", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("priorities", [1, 3, 1000])
def test_chain_keeps_the_kernels_order(packet_share: float, priorities: int) -> None:
    rng = random.Random(f"{packet_share} {priorities}")
    chain, plain = Chain(), list[XfrmPolicy]()
    for _ in range(4 * BLOCK):
        xp = XfrmPolicy(priority=rng.randrange(priorities))
        if rng.random() < packet_share:
            xp.xdo = DevOffload(type=OFFLOAD_PACKET)
        if plain and rng.random() < 0.2:
            old = rng.choice(plain)
            chain.insert(xp, old)
            chain.remove(old)
            plain_update(plain, xp, old)
        else:
            chain.insert(xp)
            plain_insert(plain, xp)
        if rng.random() < 0.01:
            chain.rehash()
            plain = plain_rehash(plain)
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
