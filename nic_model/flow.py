# SPDX-License-Identifier: Apache-2.0
"""The flow before: what was found for a packet holds for those of its flow behind it.

Packets of a flow come one behind the other, and within a burst no rule changes. So t.packet[1]
keeps the flow of the last search and what it found, for one burst.
"""

from nic_model import lookup
from nic_model.jit import inline


@inline
def forget(t):
    """Rules may have changed."""
    t.packet[1].family = 0


@inline
def policy_of(t, p, direction):
    """`lookup.find_policy`, without a search for a packet of the flow before."""
    last = t.packet[1]
    if (
        last.family == p.family
        and last.src_hi == p.src_hi
        and last.src_lo == p.src_lo
        and last.dst_hi == p.dst_hi
        and last.dst_lo == p.dst_lo
        and last.sport == p.sport
        and last.dport == p.dport
        and last.proto == p.proto
        and last.fragment == p.fragment
    ):
        return last.policy
    last.family, last.fragment, last.proto = p.family, p.fragment, p.proto
    last.src_hi, last.src_lo, last.dst_hi, last.dst_lo = p.src_hi, p.src_lo, p.dst_hi, p.dst_lo
    last.sport, last.dport = p.sport, p.dport
    last.policy, last.row = lookup.find_policy(t, p, direction), 0
    return last.policy


@inline
def sa_of(t, p):
    """`lookup.find_tx` for the policy that `policy_of` gave. An SA that was the best one stays it
    until it stops or is dying: no other becomes better by a packet."""
    last = t.packet[1]
    if last.row > 0:
        sa = t.sa[last.row]
        if not (sa.stopped or sa.dying):
            return last.row
    last.row = lookup.find_tx(t, p, last.policy)
    return last.row
