# SPDX-License-Identifier: Apache-2.0
"""The SPD: insertion, identity and lookup of policies in the kernel's order (SPD-01..10, 20..26).

Host-to-host selectors live in exact chains, the others in trees of prefixes (`inexact`). A
packet-offload policy stands at the head of its chain whatever its priority (SPD-06), and an exact
one ends the search (SPD-21).
"""

from collections import Counter
from collections.abc import Iterator

from host_driver.xfrm.chain import Chain
from host_driver.xfrm.flow import Flow, prefix, selector_match
from host_driver.xfrm.inexact import Inexact
from host_driver.xfrm.policy import XfrmPolicy
from host_driver.xfrm.state import OFFLOAD_PACKET
from host_driver.xfrm.walk import WalkList
from proto.xfrm import (
    AF_INET,
    AF_INET6,
    POLICY_BLOCK,
    POLICY_OUT,
    POLICY_TYPE_MAIN,
    POLICY_TYPE_SUB,
)
from proto.xfrm_structs import XfrmMark, XfrmSelector

# Of the kernel's hash tables.
BUCKETS_MIN, BUCKETS_MAX = 8, 1 << 20

Identity = tuple[int, int, int, bytes, int, int]
Chains = dict[tuple[bytes, bytes], Chain]


def identity(dir: int, type: int, if_id: int, sel: XfrmSelector, mark: XfrmMark) -> Identity:
    """What makes two policies the same one (SPD-01); priority and offload are not part of it."""
    return dir, type, if_id, sel.pack(), mark.v, mark.m


def _own_identity(xp: XfrmPolicy) -> Identity:
    return identity(xp.dir, xp.type, xp.if_id, xp.selector, xp.mark)


class Spd:
    """All policies of a host. Iteration gives the newest first, as the kernel's dump does."""

    def __init__(self) -> None:
        self._all: WalkList[XfrmPolicy] = WalkList()
        self._count: Counter[int] = Counter()
        self._by_identity: dict[Identity, XfrmPolicy] = {}
        self._by_index: dict[int, XfrmPolicy] = {}
        # (dir, type, family) -> prefixes of destination and source -> chain
        self._exact: dict[tuple[int, int, int], Chains] = {}
        # (dir, type, family, if_id)
        self._inexact: dict[tuple[int, int, int, int], Inexact] = {}
        self._next_index = 0
        self._next_pos = 1
        # Local and remote prefix length from which a selector is exact (CONST-09).
        self.thresholds = {AF_INET: (32, 32), AF_INET6: (128, 128)}
        # How large the kernel's hash tables would be by now: of exact chains, one a direction, and
        # of indexes (UAPI-75). They never shrink.
        self._buckets: Counter[int] = Counter()
        self.index_buckets = BUCKETS_MIN
        # Moves with every change, so that cached decisions are taken anew (SPD-10).
        self.generation = 0

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[XfrmPolicy]:
        return iter(self._all)

    def count(self, dir: int) -> int:
        """Policies of one direction."""
        return self._count[dir]

    def find(self, key: Identity) -> XfrmPolicy | None:
        """The policy of this identity, or None."""
        return self._by_identity.get(key)

    def byid(
        self, index: int, dir: int, type: int, if_id: int, mark: XfrmMark
    ) -> XfrmPolicy | None:
        """By index, whose low three bits are the direction (UAPI-71)."""
        xp = self._by_index.get(index)
        if xp is None or index & 7 != dir or (xp.type, xp.if_id) != (type, if_id):
            return None
        return xp if (xp.mark.v, xp.mark.m) == (mark.v, mark.m) else None

    def existing(self, xp: XfrmPolicy) -> XfrmPolicy | None:
        """The policy that `xp` collides with (SPD-02) or replaces (SPD-03)."""
        return self._by_identity.get(_own_identity(xp))

    def insert(self, xp: XfrmPolicy) -> XfrmPolicy | None:
        """Link `xp`, in the place of a policy with its identity, which is unlinked and returned."""
        old = self.existing(xp)
        if old is None:
            xp.index = self._free_index(xp.dir, xp.index)
        else:
            xp.index = old.index
        xp.pos, self._next_pos = self._next_pos, self._next_pos + 1
        self._link(xp, old)
        if old is not None:
            self._unlink(old)
        self._all.add(xp)
        self._count[xp.dir] += 1
        self._by_identity[_own_identity(xp)] = xp
        self._by_index[xp.index] = xp
        self.generation += 1
        if old is None:
            self._grow(xp.dir)
        return old

    def remove(self, xp: XfrmPolicy) -> bool:
        """Unlink; False when it was unlinked before."""
        if xp not in self._all:
            return False
        self._unlink(xp)
        del self._by_identity[_own_identity(xp)]
        del self._by_index[xp.index]
        self.generation += 1
        return True

    def _grow(self, dir: int) -> None:
        """More policies than buckets: larger tables, and exact chains in a new order (SPD-09)."""
        buckets = self._buckets[dir] or BUCKETS_MIN
        if not buckets <= self._count[dir] < BUCKETS_MAX:
            return
        self._buckets[dir] = 2 * buckets
        if len(self._all) >= self.index_buckets:
            self.index_buckets *= 2
        for (of, _, _), chains in self._exact.items():
            for chain in chains.values() if of == dir else ():
                chain.rehash()

    def set_thresholds(self, family: int, local: int, remote: int) -> None:
        """NEWSPDINFO: all policies are linked again, oldest first (SPD-08)."""
        self.thresholds[family] = (local, remote)
        self._exact.clear()
        self._inexact.clear()
        for xp in self._all.oldest_first():
            self._link(xp)
        self.generation += 1

    def lookup(self, flow: Flow, dir: int, if_id: int = 0) -> list[XfrmPolicy]:
        """What holds for a flow: the sub policy, and unless that one blocks, the main one, too
        (SPD-20..25). Empty when there is neither."""
        found: list[XfrmPolicy] = []
        for type in (POLICY_TYPE_SUB, POLICY_TYPE_MAIN):
            xp = self.lookup_bytype(flow, dir, type, if_id)
            if xp is not None:
                found.append(xp)
            if xp is not None and xp.action == POLICY_BLOCK:
                break
        return found

    def lookup_bytype(self, flow: Flow, dir: int, type: int, if_id: int) -> XfrmPolicy | None:
        """The policy of one type (SPD-20..25)."""
        key = (dir, type, flow.family)
        bits_d, bits_s = self._bits(dir, flow.family)
        chain = self._exact.get(key, {}).get(
            (prefix(flow.daddr, bits_d), prefix(flow.saddr, bits_s)), ()
        )
        best = next((xp for xp in chain if _match(xp, flow, if_id)), None)
        if best is not None and best.xdo.type == OFFLOAD_PACKET:
            return best
        inexact = self._inexact.get((*key, if_id))
        for candidates in inexact.candidates(flow.daddr, flow.saddr) if inexact else ():
            for xp in candidates:
                if best is not None and xp.priority > best.priority:
                    break
                if _match(xp, flow, if_id):
                    if best is None or (xp.priority, xp.pos) < (best.priority, best.pos):
                        best = xp
                    break
        return best

    def _bits(self, dir: int, family: int) -> tuple[int, int]:
        """Prefix lengths of destination and source from which a selector is exact."""
        local, remote = self.thresholds.get(family, (128, 128))
        return (remote, local) if dir == POLICY_OUT else (local, remote)

    def _home(self, xp: XfrmPolicy) -> tuple[Chains, tuple[bytes, bytes]] | None:
        """Where the exact chain of a policy hangs, and under which key; None for an inexact one."""
        sel = xp.selector
        bits_d, bits_s = self._bits(xp.dir, xp.family)
        if sel.prefixlen_d < bits_d or sel.prefixlen_s < bits_s:
            return None
        chains = self._exact.setdefault((xp.dir, xp.type, xp.family), {})
        return chains, (prefix(sel.daddr, bits_d), prefix(sel.saddr, bits_s))

    def _bin(self, xp: XfrmPolicy) -> Inexact:
        key = (xp.dir, xp.type, xp.family, xp.if_id)
        if key not in self._inexact:
            self._inexact[key] = Inexact(xp.family)
        return self._inexact[key]

    def _link(self, xp: XfrmPolicy, old: XfrmPolicy | None = None) -> None:
        home = self._home(xp)
        if home is None:
            self._bin(xp).insert(xp, old)
            return
        chains, where = home
        if where not in chains:
            chains[where] = Chain()
        chains[where].insert(xp, old)

    def _unlink(self, xp: XfrmPolicy) -> None:
        home = self._home(xp)
        if home is None:
            inexact = self._bin(xp)
            inexact.remove(xp)
            if not inexact:
                del self._inexact[xp.dir, xp.type, xp.family, xp.if_id]
        else:
            chains, where = home
            chains[where].remove(xp)
            if not chains[where]:
                del chains[where]
        self._all.remove(xp)
        self._count[xp.dir] -= 1

    def _free_index(self, dir: int, wanted: int) -> int:
        """The requested index if it is free, else the next generated one (SPD-04)."""
        while not wanted or wanted in self._by_index:
            wanted = (self._next_index | dir) & 0xFFFF_FFFF or 8
            self._next_index = (self._next_index + 8) & 0xFFFF_FFFF
        return wanted


def _match(xp: XfrmPolicy, flow: Flow, if_id: int) -> bool:
    return (
        xp.if_id == if_id
        and flow.mark & xp.mark.m == xp.mark.v
        and selector_match(xp.selector, flow, flow.family)
    )
