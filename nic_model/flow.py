# SPDX-License-Identifier: Apache-2.0
"""The flow before: what was found for a packet holds for those of its flow behind it.

Packets of a flow come one behind the other, and within a burst no rule changes. So t.packet[1]
keeps the flow of the last search and what it found, for one burst: the policy; the SA `row` that
seals it, or the one that opened it with the policy's `verdict` on that; the `opener` of the last
ESP packet.
"""

from nic_model import lookup
from nic_model.jit import inline

NONE = -1  # no SA; 0 is what a clear packet has


@inline
def forget(t):
    """Rules may have changed."""
    last = t.packet[1]
    last.family = last.opener = 0


@inline
def policy_of(t, p, direction):
    """`lookup.find_policy`, without a search for a packet of the flow before."""
    last = t.packet[1]
    if not (
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
        last.family, last.fragment, last.proto = p.family, p.fragment, p.proto
        last.src_hi, last.src_lo, last.dst_hi, last.dst_lo = p.src_hi, p.src_lo, p.dst_hi, p.dst_lo
        last.sport, last.dport = p.sport, p.dport
        last.policy, last.row = lookup.find_policy(t, p, direction), NONE
    return last.policy


@inline
def sealer_of(t, p):
    """`lookup.find_tx` for the policy that `policy_of` gave. An SA that was the best one stays it
    until it stops or is dying: no other becomes better by a packet."""
    last = t.packet[1]
    if last.row > 0:
        sa = t.sa[last.row]
        if not (sa.stopped or sa.dying):
            return last.row
    last.row = lookup.find_tx(t, p, last.policy)
    return last.row


@inline
def opener_of(t, p, spi):
    """`lookup.find_rx` for an ESP packet."""
    last = t.packet[1]
    sa = t.sa[last.opener]
    if not (
        last.opener
        and sa.spi == spi
        and sa.family == p.family
        and sa.dst_hi == p.dst_hi
        and sa.dst_lo == p.dst_lo
    ):
        last.opener = lookup.find_rx(t, p.dst_hi, p.dst_lo, spi, p.family)
    return last.opener
