# SPDX-License-Identifier: Apache-2.0
"""A chain of policies in the kernel's order (SPD-05, SPD-06), without walking it to insert.

The chain is cut into blocks, each with its lowest priority number, so that the last policy with a
number up to a given one is found by looking at blocks first. Where all have one number, that is the
last block at once.
"""

from collections.abc import Iterator

from host_driver.xfrm.policy import XfrmPolicy
from host_driver.xfrm.state import OFFLOAD_PACKET

BLOCK = 256  # a block of twice that is cut in two


class _Block:
    """A stretch of the chain; never empty but while it is changed."""

    __slots__ = ("lowest", "policies")

    def __init__(self, policies: list[XfrmPolicy]) -> None:
        self.policies = policies
        self.lowest = min(xp.priority for xp in policies)

    def last_up_to(self, priority: int) -> int:
        """The index behind the last policy whose priority number is at most `priority`."""
        for at in range(len(self.policies), 0, -1):
            if self.policies[at - 1].priority <= priority:
                return at
        return 0


class Chain:
    """Policies in the order in which a look-up meets them."""

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._home: dict[XfrmPolicy, _Block] = {}

    def __iter__(self) -> Iterator[XfrmPolicy]:
        for block in self._blocks:
            yield from block.policies

    def __bool__(self) -> bool:
        return bool(self._home)

    def insert(self, xp: XfrmPolicy) -> None:
        """A packet-offload policy goes to the head; any other behind the last one whose number is
        not higher than its own, or to the head when there is none."""
        at, index = 0, 0
        if xp.xdo.type != OFFLOAD_PACKET:
            for at in range(len(self._blocks) - 1, -1, -1):
                if self._blocks[at].lowest <= xp.priority:
                    index = self._blocks[at].last_up_to(xp.priority)
                    break
        if not self._blocks:
            self._blocks.append(block := _Block([xp]))
        else:
            block = self._blocks[at]
            block.policies.insert(index, xp)
            block.lowest = min(block.lowest, xp.priority)
        self._home[xp] = block
        if len(block.policies) >= 2 * BLOCK:
            self._cut(at)

    def rehash(self) -> None:
        """Into a larger table: each packet-offload policy in turn goes to the head, and takes along
        those in software that stand behind it (SPD-09)."""
        groups: list[list[XfrmPolicy]] = []
        for xp in self:
            if not groups or xp.xdo.type == OFFLOAD_PACKET:
                groups.append([])
            groups[-1].append(xp)
        policies = [xp for group in reversed(groups) for xp in group]
        self._blocks = [_Block(policies[at : at + BLOCK]) for at in range(0, len(policies), BLOCK)]
        for block in self._blocks:
            self._home.update(dict.fromkeys(block.policies, block))

    def remove(self, xp: XfrmPolicy) -> None:
        """Take a policy out. Raises KeyError when it is not there."""
        block = self._home.pop(xp)
        block.policies.remove(xp)
        if not block.policies:
            self._blocks.remove(block)
        elif block.lowest == xp.priority:
            block.lowest = min(other.priority for other in block.policies)

    def _cut(self, at: int) -> None:
        """Two blocks where one was."""
        policies = self._blocks[at].policies
        halves = [_Block(policies[:BLOCK]), _Block(policies[BLOCK:])]
        self._blocks[at : at + 1] = halves
        for block in halves:
            self._home.update(dict.fromkeys(block.policies, block))
