# SPDX-License-Identifier: Apache-2.0
"""Kernels of the steering: hash chains of SAs and policies, and how a packet finds its row.

Chains run through the rows (`rx_next`, `tx_next`, `next`); bucket tables are at least twice as
large as the row tables, so chains stay short however full the card is.
"""

import numpy as np

from nic_model.jit import inline, njit
from nic_model.tables import ROW_MASK, handle_in_kernel
from proto.commands import OUT
from proto.status import Drop
from proto.xfrm import AF_INET6

NO_SA, HARD_LIMIT = int(Drop.NO_SA), int(Drop.HARD_LIMIT)
ANY = np.uint64(0)
_LOW, _SHIFT = np.uint64(0xFFFF_FFFF), np.uint64(32)


# Hashes: 32-bit words times odd factors of 27 bits, summed; no word waits for another, and all
# stays in int64 below 2^63. The sum is stirred into the low bits, of which a mask takes some.
# Factors of a source, of a destination, and of what else there is.
_SRC = 0x4F1B_BCD, 0x6C8E_9CF, 0x5851_F43, 0x7F4A_7C1
_DST = 0x61C8_865, 0x45D9_F3B, 0x7654_EAD, 0x50F0_5AF
_MORE = 0x5BD1_E99, 0x6A09_E67


@inline
def _words(hi, lo, factors):
    """The part of an address in a hash."""
    upper = np.int64(hi >> _SHIFT) * factors[0] + np.int64(hi & _LOW) * factors[1]
    return upper + np.int64(lo >> _SHIFT) * factors[2] + np.int64(lo & _LOW) * factors[3]


@inline
def _stirred(total):
    h = ((total ^ total >> 32) & 0xFFFF_FFFF) * _MORE[1]
    return h ^ h >> 29


@inline
def rx_bucket(t, hi, lo, spi, family):
    """The chain of an inbound SA."""
    h = _words(hi, lo, _DST) + np.int64(spi) * _MORE[0] + np.int64(family)
    return _stirred(h) & (t.rx_bucket.shape[0] - 1)


@inline
def _tx_bucket(t, reqid, family, src_hi, src_lo, dst_hi, dst_lo):
    h = _words(src_hi, src_lo, _SRC) + _words(dst_hi, dst_lo, _DST)
    h += np.int64(reqid) * _MORE[0] + np.int64(family)
    return _stirred(h) & (t.tx_bucket.shape[0] - 1)


@inline
def _policy_bucket(t, number, src_hi, src_lo, dst_hi, dst_lo, sport, dport, proto):
    h = _words(src_hi, src_lo, _SRC) + _words(dst_hi, dst_lo, _DST)
    h += (np.int64(sport) << 16 | np.int64(dport)) * _MORE[0]
    h += (np.int64(number) << 8 | np.int64(proto)) * _MORE[1]
    return _stirred(h) & (t.policy_bucket.shape[0] - 1)


@inline
def find_rx(t, hi, lo, spi, family):
    """Row of the inbound SA of (daddr, spi, ESP, family), or 0."""
    row = t.rx_bucket[rx_bucket(t, hi, lo, spi, family)]
    while row:
        sa = t.sa[row]
        if sa.spi == spi and sa.family == family and sa.dst_hi == hi and sa.dst_lo == lo:
            break
        row = sa.rx_next
    return np.int64(row)


@inline
def find_crypto(t, handle, generation):
    """Row of the outbound crypto SA that a descriptor names, or 0."""
    row = handle & ROW_MASK
    if row == 0 or row >= t.sa.shape[0]:
        return 0
    sa = t.sa[row]
    same = sa.generation == generation and handle_in_kernel(row, generation) == handle
    return row if same and sa.crypto and sa.direction == OUT else 0


@inline
def selector_fits(sa, p):
    """Whether the SA's selector covers the packet (xfrm_selector_match); family 0 covers all."""
    if sa.sel_family == 0:
        return True
    return (
        sa.sel_family == p.family
        and p.dst_hi & sa.dst_mask_hi == sa.sel_dst_hi
        and p.dst_lo & sa.dst_mask_lo == sa.sel_dst_lo
        and p.src_hi & sa.src_mask_hi == sa.sel_src_hi
        and p.src_lo & sa.src_mask_lo == sa.sel_src_lo
        and p.sport & sa.sport_mask == sa.sel_sport
        and p.dport & sa.dport_mask == sa.sel_dport
        and (sa.sel_proto == 0 or sa.sel_proto == p.proto)
    )


@inline
def _scan_tx(t, p, pol, family, src_hi, src_lo, dst_hi, dst_lo):
    """The best SA of one chain (TX-13: not dying before dying, then newest), or -Drop."""
    dying, verdict = 0, -NO_SA
    row = t.tx_bucket[_tx_bucket(t, pol.reqid, family, src_hi, src_lo, dst_hi, dst_lo)]
    while row:
        sa = t.sa[row]
        if (
            sa.reqid == pol.reqid
            and sa.tunnel == pol.tunnel
            and sa.family == family
            and sa.dst_hi == dst_hi
            and sa.dst_lo == dst_lo
            and sa.src_hi == src_hi
            and sa.src_lo == src_lo
            and (pol.spi == 0 or sa.spi == pol.spi)
            and selector_fits(sa, p)
        ):
            if sa.stopped:
                verdict = -HARD_LIMIT
            elif not sa.dying:
                return np.int64(row)
            elif dying == 0:
                dying = row
        row = sa.tx_next
    return np.int64(dying) if dying else np.int64(verdict)


@inline
def find_tx(t, p, policy):
    """The SA that a protect policy asks for: its row, -NO_SA, or -HARD_LIMIT if all have stopped.

    In tunnel mode the template's addresses choose, in transport mode the packet's (TX-10); there
    SAs with a wildcard source come second (TX-12).
    """
    pol = t.policy[policy]
    if pol.tunnel:
        return _scan_tx(
            t, p, pol, np.int64(pol.tmpl_family),
            pol.tmpl_src_hi, pol.tmpl_src_lo, pol.tmpl_dst_hi, pol.tmpl_dst_lo,
        )  # fmt: skip
    row = _scan_tx(t, p, pol, p.family, p.src_hi, p.src_lo, p.dst_hi, p.dst_lo)
    if row == -NO_SA:
        row = _scan_tx(t, p, pol, p.family, ANY, ANY, p.dst_hi, p.dst_lo)
    return row


@inline
def bucket_of_template(t, p, policy):
    """The chain of the SAs that a protect policy asks for."""
    pol = t.policy[policy]
    if pol.tunnel:
        return _tx_bucket(
            t, pol.reqid, np.int64(pol.tmpl_family),
            pol.tmpl_src_hi, pol.tmpl_src_lo, pol.tmpl_dst_hi, pol.tmpl_dst_lo,
        )  # fmt: skip
    return _tx_bucket(t, pol.reqid, p.family, p.src_hi, p.src_lo, p.dst_hi, p.dst_lo)


@inline
def template_fits(pol, sa):
    """Whether the SA is one that the policy's template names; what is 0 there names all."""
    if pol.tunnel and not (
        pol.tmpl_family == sa.family
        and _names(pol.tmpl_src_hi, pol.tmpl_src_lo, sa.src_hi, sa.src_lo)
        and _names(pol.tmpl_dst_hi, pol.tmpl_dst_lo, sa.dst_hi, sa.dst_lo)
    ):
        return False
    return (
        pol.tunnel == sa.tunnel
        and (pol.reqid == 0 or pol.reqid == sa.reqid)
        and (pol.spi == 0 or pol.spi == sa.spi)
    )


@inline
def _names(hi, lo, sa_hi, sa_lo):
    """Whether a template's address is any or the SA's."""
    return (hi == ANY and lo == ANY) or (hi == sa_hi and lo == sa_lo)


@inline
def _masked(t, p, number):
    """What one tuple looks at: source, destination, ports, protocol."""
    tup = t.tuples[number]
    return (
        p.src_hi & tup.src_mask_hi, p.src_lo & tup.src_mask_lo,
        p.dst_hi & tup.dst_mask_hi, p.dst_lo & tup.dst_mask_lo,
        p.sport & tup.sport_mask, p.dport & tup.dport_mask, p.proto & tup.proto_mask,
    )  # fmt: skip


@inline
def bucket_in_tuple(t, p, number):
    """The chain of the policies of one tuple that could cover the packet."""
    src_hi, src_lo, dst_hi, dst_lo, sport, dport, proto = _masked(t, p, number)
    return _policy_bucket(t, number, src_hi, src_lo, dst_hi, dst_lo, sport, dport, proto)


@inline
def _find_in_tuple(t, p, number):
    """The best policy of one tuple that covers the packet, or 0."""
    src_hi, src_lo, dst_hi, dst_lo, sport, dport, proto = _masked(t, p, number)
    bucket = _policy_bucket(t, number, src_hi, src_lo, dst_hi, dst_lo, sport, dport, proto)
    row = t.policy_bucket[bucket]
    while row:
        pol = t.policy[row]
        if (
            pol.tuple == number
            and pol.sel_dst_hi == dst_hi
            and pol.sel_dst_lo == dst_lo
            and pol.sel_src_hi == src_hi
            and pol.sel_src_lo == src_lo
            and pol.sel_sport == sport
            and pol.sel_dport == dport
            and pol.sel_proto == proto
        ):
            break
        row = pol.next
    return np.int64(row)


@inline
def list_of(direction, family, fragment):
    """Number of the tuple list of a direction (commands.IN, OUT) and family, or of fragments."""
    return (direction - 1) * 2 + (1 if family == AF_INET6 else 0) + (4 if fragment else 0)


@inline
def find_policy(t, p, direction):
    """The policy that covers the packet: lowest priority number, then newest; 0 = none."""
    which = list_of(direction, p.family, p.fragment)
    best = 0
    for k in range(t.order_count[which]):
        number = t.order[which, k]
        if best and t.tuples[number].best > t.policy[best].priority:
            break
        row = _find_in_tuple(t, p, number)
        if row and (best == 0 or _wins(t, row, best)):
            best = row
    return best


@inline
def _wins(t, row, other):
    """Whether policy `row` comes before policy `other`."""
    a, b = t.policy[row], t.policy[other]
    return a.priority < b.priority or (a.priority == b.priority and a.age > b.age)


@njit
def link_rx(t, row):
    """Put an inbound SA into its chain."""
    sa = t.sa[row]
    bucket = rx_bucket(t, sa.dst_hi, sa.dst_lo, sa.spi, sa.family)
    sa.rx_next = t.rx_bucket[bucket]
    t.rx_bucket[bucket] = row


@njit
def unlink_rx(t, row):
    """Take an inbound SA out of its chain."""
    sa = t.sa[row]
    bucket = rx_bucket(t, sa.dst_hi, sa.dst_lo, sa.spi, sa.family)
    at = t.rx_bucket[bucket]
    if at == row:
        t.rx_bucket[bucket] = sa.rx_next
    else:
        while t.sa[at].rx_next != row:
            at = t.sa[at].rx_next
        t.sa[at].rx_next = sa.rx_next


@njit
def link_tx(t, row):
    """Put an outbound SA at the head of its chain: the newest comes first."""
    sa = t.sa[row]
    bucket = _tx_bucket(t, sa.reqid, sa.family, sa.src_hi, sa.src_lo, sa.dst_hi, sa.dst_lo)
    sa.tx_next = t.tx_bucket[bucket]
    t.tx_bucket[bucket] = row


@njit
def unlink_tx(t, row):
    """Take an outbound SA out of its chain."""
    sa = t.sa[row]
    bucket = _tx_bucket(t, sa.reqid, sa.family, sa.src_hi, sa.src_lo, sa.dst_hi, sa.dst_lo)
    at = t.tx_bucket[bucket]
    if at == row:
        t.tx_bucket[bucket] = sa.tx_next
    else:
        while t.sa[at].tx_next != row:
            at = t.sa[at].tx_next
        t.sa[at].tx_next = sa.tx_next


@inline
def _bucket_of_policy(t, row):
    pol = t.policy[row]
    return _policy_bucket(
        t, pol.tuple, pol.sel_src_hi, pol.sel_src_lo, pol.sel_dst_hi, pol.sel_dst_lo,
        pol.sel_sport, pol.sel_dport, pol.sel_proto,
    )  # fmt: skip


@njit
def link_policy(t, row):
    """Put a policy into its chain, before all that it wins against."""
    bucket = _bucket_of_policy(t, row)
    before, at = 0, t.policy_bucket[bucket]
    while at and not _wins(t, row, at):
        before, at = at, t.policy[at].next
    t.policy[row].next = at
    if before:
        t.policy[before].next = row
    else:
        t.policy_bucket[bucket] = row


@njit
def unlink_policy(t, row):
    """Take a policy out of its chain."""
    bucket = _bucket_of_policy(t, row)
    at = t.policy_bucket[bucket]
    if at == row:
        t.policy_bucket[bucket] = t.policy[row].next
    else:
        while t.policy[at].next != row:
            at = t.policy[at].next
        t.policy[at].next = t.policy[row].next
