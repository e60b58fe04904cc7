# SPDX-License-Identifier: Apache-2.0
"""A list of live objects that can be walked while it changes, as the kernel's dumps walk theirs.

A walk leaves a mark in the list where it stands: what is taken out before the mark gets there is
not seen, and what comes in goes to the front, behind the mark, and is not seen either (DUMP-01,
DUMP-05).
"""

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class _Node(Generic[Item]):
    """A place in the list; without an item it is an end or the mark of a walk."""

    __slots__ = ("after", "before", "item")

    def __init__(self, item: Item | None = None) -> None:
        self.item = item
        self.before = self.after = self

    def link(self, before: "_Node[Item]") -> None:
        """Stand right behind `before`."""
        self.before, self.after = before, before.after
        self.before.after = self.after.before = self

    def unlink(self) -> None:
        """Leave; the neighbours stand side by side."""
        self.before.after, self.after.before = self.after, self.before


class WalkList(Generic[Item]):
    """Objects, the newest first. Adding, removing and membership take constant time."""

    def __init__(self) -> None:
        self._ring: _Node[Item] = _Node()
        self._nodes: dict[Item, _Node[Item]] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, item: Item) -> bool:
        return item in self._nodes

    def add(self, item: Item) -> None:
        """Put an object in front."""
        self._nodes[item] = node = _Node(item)
        node.link(self._ring)

    def remove(self, item: Item) -> None:
        """Take an object out. Raises KeyError when it is not there."""
        self._nodes.pop(item).unlink()

    def oldest_first(self) -> Iterator[Item]:
        """The other way round; the list must not change meanwhile."""
        return iter(self._nodes)

    def __iter__(self) -> Iterator[Item]:
        """Walk; between two objects the list may change."""
        mark: _Node[Item] = _Node()
        mark.link(self._ring)
        try:
            while (node := mark.after) is not self._ring:
                mark.unlink()
                mark.link(node)
                if node.item is not None:
                    yield node.item
        finally:
            mark.unlink()
