# SPDX-License-Identifier: Apache-2.0
"""A chain of policies in the kernel's order (SPD-05, SPD-06), without walking it to insert.

The chain is cut into blocks. For each block the lowest priority number in it and behind it is
known; these floors never fall from front to back, so that the last block with a number up to a
given one is found by bisection.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate

from host_driver.xfrm.policy import XfrmPolicy
from host_driver.xfrm.state import OFFLOAD_PACKET

BLOCK = 128  # a block of twice that is cut in two
NO_FLOOR = 1 << 32


class _Block:
    """A stretch of the chain; never empty but while it is changed."""

    __slots__ = ("policies",)

    def __init__(self, policies: list[XfrmPolicy]) -> None:
        self.policies = policies

    def lowest(self) -> int:
        """The lowest priority number in the block."""
        return min(xp.priority for xp in self.policies)

    def behind_up_to(self, priority: int) -> int:
        """The index behind the last policy whose priority number is at most `priority`."""
        for at in range(len(self.policies), 0, -1):
            if self.policies[at - 1].priority <= priority:
                return at
        return 0


class Chain:
    """Policies in the order in which a look-up meets them."""

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._floors: list[int] = []
        self._home: dict[XfrmPolicy, _Block] = {}
        self._packet = 0  # how many are packet-offload ones; the others alone are in order

    def take(self, policies: Iterable[XfrmPolicy]) -> None:
        """Take in policies of other chains, the oldest first: each goes before the first one of a
        higher priority number, or of the same and younger; packet-offload ones to the head."""
        chain = list(self)
        # The highest number, and age among equals, up to each place.
        highest = list(accumulate(((xp.priority, xp.pos) for xp in chain), max))
        for xp in sorted(policies, key=lambda xp: xp.pos):
            key = xp.priority, xp.pos
            if xp.xdo.type == OFFLOAD_PACKET:
                at, lower = 0, bisect_left(highest, key)
                highest[:lower] = [key] * lower
            else:
                at = bisect_right(highest, key)
            chain.insert(at, xp)
            highest.insert(at, key)
        self._fill(chain)

    def __iter__(self) -> Iterator[XfrmPolicy]:
        for block in self._blocks:
            yield from block.policies

    def __bool__(self) -> bool:
        return bool(self._home)

    def insert(self, xp: XfrmPolicy, old: XfrmPolicy | None = None) -> None:
        """A packet-offload policy goes to the head; any other behind the last one whose number is
        not higher than its own, or to the head when there is none. `old`, which it replaces, is
        still there."""
        if not self._blocks:
            self._blocks.append(_Block([]))
            self._floors.append(NO_FLOOR)
        at, index = 0, 0
        if xp.xdo.type != OFFLOAD_PACKET:
            at, index = self._place(xp) if old is None else self._place_of_update(xp, old)
        block = self._blocks[at]
        block.policies.insert(index, xp)
        self._home[xp] = block
        self._packet += xp.xdo.type == OFFLOAD_PACKET
        self._floors[at] = min(self._floors[at], xp.priority)  # nothing before it is higher
        if len(block.policies) >= 2 * BLOCK:
            self._cut(at)

    def _place(self, xp: XfrmPolicy) -> tuple[int, int]:
        """Block and index in it."""
        at = max(bisect_right(self._floors, xp.priority) - 1, 0)
        return at, self._blocks[at].behind_up_to(xp.priority)

    def _place_of_update(self, xp: XfrmPolicy, old: XfrmPolicy) -> tuple[int, int]:
        """The same, but what stands behind `old` counts only where the new number is higher, and
        up to the next one that is higher still: an update of the same number stays in its place."""
        if not self._packet:
            return self._place(xp) if xp.priority != old.priority else self._find(old)
        place, met = (0, 0), False
        for at, block in enumerate(self._blocks):
            for behind, other in enumerate(block.policies, 1):
                if other is old:
                    met = True
                    if xp.priority > old.priority:
                        continue
                elif xp.priority >= other.priority:
                    place = at, behind
                    continue
                if met:
                    return place
        return place

    def rehash(self) -> None:
        """Into a larger table: each packet-offload policy in turn goes to the head, and takes along
        those in software that stand behind it (SPD-09)."""
        groups: list[list[XfrmPolicy]] = []
        for xp in self:
            if not groups or xp.xdo.type == OFFLOAD_PACKET:
                groups.append([])
            groups[-1].append(xp)
        self._fill([xp for group in reversed(groups) for xp in group])

    def _find(self, xp: XfrmPolicy) -> tuple[int, int]:
        block = self._home[xp]
        return self._blocks.index(block), block.policies.index(xp)

    def _fill(self, policies: list[XfrmPolicy]) -> None:
        """These policies, in this order, and no others."""
        self._packet = sum(xp.xdo.type == OFFLOAD_PACKET for xp in policies)
        self._blocks = [_Block(policies[at : at + BLOCK]) for at in range(0, len(policies), BLOCK)]
        self._floors = [NO_FLOOR] * len(self._blocks)
        self._raise_floors(len(self._blocks) - 1)
        for block in self._blocks:
            self._home.update(dict.fromkeys(block.policies, block))

    def remove(self, xp: XfrmPolicy) -> None:
        """Take a policy out. Raises KeyError when it is not there."""
        block = self._home.pop(xp)
        self._packet -= xp.xdo.type == OFFLOAD_PACKET
        at = self._blocks.index(block)
        block.policies.remove(xp)
        if not block.policies:
            del self._blocks[at], self._floors[at]
            self._raise_floors(at - 1)
        elif self._floors[at] == xp.priority:
            self._raise_floors(at)

    def _raise_floors(self, at: int) -> None:
        """Find the floors anew from `at` to the front, as far as they change."""
        behind = self._floor_behind(at)
        while at >= 0:
            floor = min(behind, self._blocks[at].lowest())
            if floor == self._floors[at]:
                return
            self._floors[at] = behind = floor
            at -= 1

    def _floor_behind(self, at: int) -> int:
        """The lowest priority number behind a block."""
        return self._floors[at + 1] if at + 1 < len(self._floors) else NO_FLOOR

    def _cut(self, at: int) -> None:
        """Two blocks where one was."""
        policies = self._blocks[at].policies
        halves = [_Block(policies[:BLOCK]), _Block(policies[BLOCK:])]
        self._floors.insert(at + 1, min(self._floor_behind(at), halves[1].lowest()))
        self._blocks[at : at + 1] = halves
        for block in halves:
            self._home.update(dict.fromkeys(block.policies, block))
