# SPDX-License-Identifier: Apache-2.0
"""Policies whose selectors are no pair of hosts, in the kernel's trees of prefixes (SPD-08, 22).

    any     both ends are any address
    dst     one node for each destination prefix; in it the policies with any source, and a tree
            of source prefixes for those that have both
    src     one node for each source prefix, of policies with any destination

Prefixes of the nodes of a tree never overlap: a policy with a longer prefix joins the node that has
it already, and a shorter prefix takes the nodes within it together. So policies of different
prefixes can share a chain, and there the order is the chain's and not that of their making. Which
node takes the others in depends in the kernel on the shape of its tree; here it is the oldest.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import groupby

from host_driver.xfrm.chain import Chain
from host_driver.xfrm.policy import XfrmPolicy
from proto.xfrm import AF_INET
from proto.xfrm_structs import XfrmSelector


class _Node:
    """A prefix from address `first` to `last`, its chain, and within a destination the sources.
    `made` tells which of two nodes is older."""

    __slots__ = ("chain", "first", "last", "made", "sources")

    def __init__(self, first: int, last: int, made: int) -> None:
        self.first, self.last, self.made = first, last, made
        self.chain = Chain()
        self.sources: _Tree | None = None

    def __bool__(self) -> bool:
        return bool(self.chain) or bool(self.sources)

    def take(self, others: "Iterable[_Node]") -> None:
        """Take what other nodes have. The order of this chain stays."""
        nodes = list(others)
        sources = [src for node in (self, *nodes) if node.sources for src in node.sources]
        self.sources = _Tree(sources) if sources else None
        self.chain.take(xp for node in nodes for xp in node.chain)


def _together(nodes: Iterable[_Node]) -> _Node:
    """One node of several: the oldest takes the others in."""
    oldest, *others = sorted(nodes, key=lambda node: node.made)
    if others:
        first, last = (
            min(n.first for n in (oldest, *others)),
            max(n.last for n in (oldest, *others)),
        )
        oldest.take(others)
        oldest.first, oldest.last = first, last
    return oldest


def _outer_first(node: _Node) -> tuple[int, int]:
    return node.first, -node.last


class _Outermost:
    """Of nodes that come the outer ones first: the end of the outermost that each is in."""

    def __init__(self) -> None:
        self._last = -1

    def __call__(self, node: _Node) -> int:
        self._last = max(self._last, node.last)
        return self._last


class _Tree:
    """Nodes that do not overlap, by address."""

    __slots__ = ("_firsts", "_nodes")

    def __init__(self, nodes: Iterable[_Node] = ()) -> None:
        """Of nodes that may overlap: those within another one are put together with it."""
        self._nodes: list[_Node] = []
        for _, within in groupby(sorted(nodes, key=_outer_first), _Outermost()):
            self._nodes.append(_together(within))
        self._firsts = [node.first for node in self._nodes]

    def __iter__(self) -> Iterator[_Node]:
        return iter(self._nodes)

    def __bool__(self) -> bool:
        return bool(self._nodes)

    def find(self, address: int) -> _Node | None:
        """The node that an address is in."""
        at = bisect_right(self._firsts, address) - 1
        node = self._nodes[at] if at >= 0 else None
        return node if node is not None and address <= node.last else None

    def claim(self, first: int, last: int, made: int) -> _Node:
        """The node that has this prefix; made, or put together of those within it."""
        covering = self.find(first)
        if covering is not None and last <= covering.last:
            return covering
        start, end = bisect_left(self._firsts, first), bisect_right(self._firsts, last)
        within = self._nodes[start:end]
        node = _together(within) if within else _Node(first, last, made)
        node.first, node.last = first, last
        self._firsts[start:end], self._nodes[start:end] = [first], [node]
        return node

    def prune(self, node: _Node) -> None:
        """Drop a node that has become empty."""
        if not node:
            at = bisect_left(self._firsts, node.first)
            del self._firsts[at], self._nodes[at]


class Inexact:
    """The inexact policies of one direction, type, family and if_id."""

    def __init__(self, family: int) -> None:
        self._width = 32 if family == AF_INET else 128
        self._any = Chain()
        self._dst, self._src = _Tree(), _Tree()

    def __bool__(self) -> bool:
        return bool(self._any) or bool(self._dst) or bool(self._src)

    def insert(self, xp: XfrmPolicy, old: XfrmPolicy | None) -> None:
        """Put a policy into its chain; `old`, which it replaces, is still there."""
        self._claim(xp.selector, xp.pos).insert(xp, old)

    def remove(self, xp: XfrmPolicy) -> None:
        """Take a policy out, and the nodes that are empty without it."""
        sel = xp.selector
        dst = self._dst.find(self._number(sel.daddr)) if sel.prefixlen_d else None
        if dst is not None:
            src = None
            if sel.prefixlen_s and dst.sources is not None:
                src = dst.sources.find(self._number(sel.saddr))
                assert src is not None
            (src or dst).chain.remove(xp)
            if src is not None and dst.sources is not None:
                dst.sources.prune(src)
            self._dst.prune(dst)
        elif sel.prefixlen_s:
            src = self._src.find(self._number(sel.saddr))
            assert src is not None
            src.chain.remove(xp)
            self._src.prune(src)
        else:
            self._any.remove(xp)

    def candidates(self, daddr: bytes, saddr: bytes) -> Iterator[Chain]:
        """The chains that can have a policy for these ends, in the kernel's order."""
        target, source = self._number(daddr), self._number(saddr)
        dst, src = self._dst.find(target), self._src.find(source)
        both = dst.sources.find(source) if dst is not None and dst.sources is not None else None
        for node in (both, src, dst):
            if node is not None:
                yield node.chain
        yield self._any

    def _claim(self, sel: XfrmSelector, made: int) -> Chain:
        if sel.prefixlen_d:
            dst = self._dst.claim(*self._range(sel.daddr, sel.prefixlen_d), made)
            if not sel.prefixlen_s:
                return dst.chain
            dst.sources = dst.sources or _Tree()
            return dst.sources.claim(*self._range(sel.saddr, sel.prefixlen_s), made).chain
        if sel.prefixlen_s:
            return self._src.claim(*self._range(sel.saddr, sel.prefixlen_s), made).chain
        return self._any

    def _number(self, address: bytes) -> int:
        return int.from_bytes(address[: self._width // 8], "big")

    def _range(self, address: bytes, length: int) -> tuple[int, int]:
        """First and last address of a prefix."""
        rest = (1 << (self._width - length)) - 1
        first = self._number(address) & ~rest
        return first, first | rest
