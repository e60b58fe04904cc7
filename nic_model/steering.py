# SPDX-License-Identifier: Apache-2.0
"""Steering: selector -> policy -> SA, flat from one entry to a million.

SAs      inbound by exact hash of (daddr, spi, family); outbound by exact hash of (reqid, family,
         saddr, daddr), newest first in its chain.
policies tuple-space search: all policies with the same masks form a tuple and are found by one
         exact hash of the masked packet. A list of tuples per direction and family is walked in
         order of the best priority in each, and the walk ends when no later tuple can win.

A fragment has no ports that one could trust. Fragments have lists of their own, where every policy
stands without its ports, but for bypass policies with ports, which promise nothing about a
fragment. So a fragment passes only if no policy that might protect or block its packet comes first.

This class changes the tables between bursts; what a burst calls is in `lookup`.
"""

from bisect import bisect_left, insort
from collections import Counter

from nic_model import lookup
from nic_model.tables import Tables, halves, selector_fields
from proto.commands import ALLOW, IN, CreatePolicyRule
from proto.xfrm import MODE_TUNNEL

_MASKS = (
    "src_mask_hi", "src_mask_lo", "dst_mask_hi", "dst_mask_lo", "sport_mask", "dport_mask",
)  # fmt: skip
_VALUES = (
    "sel_src_hi", "sel_src_lo", "sel_dst_hi", "sel_dst_lo", "sel_sport", "sel_dport", "sel_proto",
)  # fmt: skip


class Exists(Exception):
    """An inbound SA of the same (daddr, spi, proto, family) is there already."""


class _Tuple:
    """One mask tuple: its number in `t.tuples`, and how often each priority occurs in it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.count: Counter[int] = Counter()
        self.priorities: list[int] = []  # the distinct ones, in order

    def add(self, priority: int) -> None:
        if not self.count[priority]:
            insort(self.priorities, priority)
        self.count[priority] += 1

    def remove(self, priority: int) -> None:
        self.count[priority] -= 1
        if not self.count[priority]:
            del self.count[priority]
            del self.priorities[bisect_left(self.priorities, priority)]


class Steering:
    """The indices of one card. Nothing here is called while a burst runs."""

    def __init__(self, t: Tables) -> None:
        self._t = t
        self._rule_max = (len(t.policy) - 1) // 2
        self._free_policies = list(range(self._rule_max, 0, -1))
        self._free_tuples = list(range(len(t.tuples) - 1, 0, -1))
        self._tuples: dict[tuple[int, ...], _Tuple] = {}
        self._order: list[list[tuple[int, int]]] = [[] for _ in t.order]  # (best, number)
        self._age = 0

    def add_sa(self, row: int) -> None:
        """From now on packets reach the SA in `row`, filled by tables.write_sa.

        Raises Exists when an inbound SA of the same (daddr, spi, ESP, family) is there.
        """
        sa = self._t.sa[row]
        if sa["direction"] != IN:
            lookup.link_tx(self._t, row)
            self._t.steered[0] += 1
            return
        if lookup.find_rx(self._t, sa["dst_hi"], sa["dst_lo"], int(sa["spi"]), int(sa["family"])):
            raise Exists
        lookup.link_rx(self._t, row)
        self._t.steered[0] += 1
        if sa["encap_dport"]:
            self._t.encap_port[sa["encap_dport"]] += 1

    def remove_sa(self, row: int) -> None:
        """The SA gets no more packets. It must have been added."""
        self._t.steered[0] -= 1
        sa = self._t.sa[row]
        if sa["direction"] != IN:
            lookup.unlink_tx(self._t, row)
            return
        lookup.unlink_rx(self._t, row)
        if sa["encap_dport"]:
            self._t.encap_port[sa["encap_dport"]] -= 1

    def add_policy(self, cmd: CreatePolicyRule) -> int:
        """Enter a checked policy; returns its row. There are rule_max of them at most."""
        row = self._free_policies.pop()
        self._age += 1
        self._enter(row, cmd, fragment=False)
        if cmd.protect or cmd.action != ALLOW or not self._has_ports(cmd):
            self._enter(row + self._rule_max, cmd, fragment=True)
        return row

    def remove_policy(self, row: int) -> None:
        """Take a policy out of all lists and free its row."""
        for entry in (row, row + self._rule_max):
            if self._t.policy[entry]["tuple"]:
                self._leave(entry)
        self._free_policies.append(row)

    @staticmethod
    def _has_ports(cmd: CreatePolicyRule) -> bool:
        return bool(cmd.selector.sport_mask or cmd.selector.dport_mask)

    def _enter(self, row: int, cmd: CreatePolicyRule, *, fragment: bool) -> None:
        fields = selector_fields(cmd.selector, cmd.selector.family)
        if fragment:
            for name in ("sel_sport", "sport_mask", "sel_dport", "dport_mask"):
                fields[name] = 0
        which = lookup.list_of(cmd.direction, cmd.selector.family, fragment)
        pol = self._t.policy[row]
        for name in _VALUES:
            pol[name] = fields[name]
        for name in ("priority", "action", "protect", "reqid", "spi"):
            pol[name] = getattr(cmd, name)
        pol["tunnel"], pol["tmpl_family"] = cmd.mode == MODE_TUNNEL, cmd.tmpl_family
        pol["tmpl_src_hi"], pol["tmpl_src_lo"] = halves(cmd.tmpl_saddr, cmd.tmpl_family)
        pol["tmpl_dst_hi"], pol["tmpl_dst_lo"] = halves(cmd.tmpl_daddr, cmd.tmpl_family)
        pol["age"] = self._age
        pol["tuple"] = self._join(which, fields, cmd.priority)
        lookup.link_policy(self._t, row)

    def _leave(self, row: int) -> None:
        pol = self._t.policy[row]
        lookup.unlink_policy(self._t, row)
        tup = self._t.tuples[pol["tuple"]]
        key = tuple(int(tup[name]) for name in ("list", "proto_mask", *_MASKS))
        group = self._tuples[key]
        before = group.priorities[0]
        group.remove(int(pol["priority"]))
        self._reorder(int(tup["list"]), group, before)
        if not group.priorities:
            del self._tuples[key]
            self._free_tuples.append(group.number)
        for name in pol.dtype.names:
            pol[name] = 0

    def _join(self, which: int, fields: dict[str, int], priority: int) -> int:
        """Count a policy into the tuple of its masks, a new one if need be; returns its number."""
        proto_mask = 0xFF if fields["sel_proto"] else 0
        key = (which, proto_mask, *(fields[name] for name in _MASKS))
        group = self._tuples.get(key)
        if group is None:
            group = self._tuples[key] = _Tuple(self._free_tuples.pop())
            tup = self._t.tuples[group.number]
            for name, value in zip(("list", "proto_mask", *_MASKS), key, strict=True):
                tup[name] = value
        before = group.priorities[0] if group.priorities else None
        group.add(priority)
        self._reorder(which, group, before)
        return group.number

    def _reorder(self, which: int, group: _Tuple, before: int | None) -> None:
        """Put a tuple at its place in its list after its best priority changed from `before`."""
        best = group.priorities[0] if group.priorities else None
        if best == before:
            return
        order = self._order[which]
        if before is not None:
            del order[bisect_left(order, (before, group.number))]
        if best is not None:
            insort(order, (best, group.number))
            self._t.tuples[group.number]["best"] = best
        self._t.order[which, : len(order)] = [number for _, number in order]
        self._t.order_count[which] = len(order)
