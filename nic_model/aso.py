# SPDX-License-Identifier: Apache-2.0
"""The ASO block of an SA: packet limits in rounds, byte limit, sequence numbers, replay window.

All kernels work on one SA row (a record of rows.SA) and, for the window, on its bitmap.

A limit of P packets is kept as `rounds` and `count` with P = rounds * half + count, half being
2^(counter_bits - 1), so that the counter proper never needs more than counter_bits bits:

    canonical: half <= count < 2 * half while rounds > 0, else 0 <= count < 2 * half
    every packet: count -= 1; below half with a round left: take it, count += half

The replay window is a circular bitmap: bit `head` stands for the highest sequence number seen.
Verdicts and bitmaps are the kernel's (net/xfrm/xfrm_replay.c). One thing differs on purpose: the
kernel finds the head anew as (seq - 1) % window, which jumps where 2^32 is no multiple of the
window, and can then take a packet twice; here the head moves with the sequence number.
"""

import numpy as np

from nic_model.jit import inline

UNLIMITED = 1 << 62

# What `count_packet` reports; values can be or-ed.
SOFT_REACHED, HARD_REACHED = 1, 2

# What `replay_check` says. A sequence number 0 counts in no statistics (kernel-observed, Counters).
FRESH, DUPLICATE, TOO_OLD, ZERO = 0, 1, 2, 3

_LOW = np.uint64(0xFFFF_FFFF)
_ONE, _SHIFT = np.uint64(1), np.uint64(32)
_SEQ32_LAST, _SEQ64_LAST = np.uint64(0xFFFF_FFFF), np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_SPACE = 1 << 32


def split(packets: int, half: int) -> tuple[int, int]:
    """(rounds, count) of a number of packets, canonical as described above."""
    rounds = max(0, packets // half - 1)
    return rounds, packets - rounds * half


@inline
def count_packet(sa, size):
    """Count a packet of `size` payload bytes; returns SOFT_REACHED | HARD_REACHED, each only once.

    At the hard limit in packets or bytes the SA stops: exactly that many packets have passed.
    """
    sa.packets += 1
    sa.bytes += size
    sa.count -= 1
    if sa.rounds > 0 and sa.count < sa.half:
        sa.rounds -= 1
        sa.count += sa.half

    reached = 0
    if sa.soft_arm and sa.rounds == sa.soft_rounds and sa.count == sa.soft_count:
        sa.soft_arm = 0
        sa.dying = 1
        reached |= SOFT_REACHED
    if (sa.rounds == 0 and sa.count == 0) or sa.bytes >= sa.byte_limit:
        sa.stopped = 1
        if sa.hard_arm:
            sa.hard_arm = 0
            reached |= HARD_REACHED
    return reached


@inline
def take_sequence(sa):
    """Advance the outbound sequence number; False when it is used up (RFC 4303 3.3.3).

    Kept in 64 bits also where 32 go onto the wire and may wrap: the IV is made of it and must never
    repeat (RFC 4106 3.1).
    """
    last = _SEQ64_LAST if sa.esn or sa.may_wrap else _SEQ32_LAST
    if sa.seq >= last:
        return False
    sa.seq = sa.seq + _ONE
    return True


@inline
def follow_sequence(sa, low, iv):
    """Take the sequence number that the host gave a packet for crypto offload; False: refused.

    It is the IV under the SA's mask, in 64 bits, and must lie beyond the last one: so no IV comes
    twice (RFC 4106 3.1), and the high half is the host's. The first packet shows the mask; its own
    high half is that of the next number with this low half.
    """
    mask = sa.iv_mask
    if sa.packets == 0:
        high = sa.seq >> _SHIFT
        if low <= np.int64(sa.seq & _LOW):
            high = high + _ONE
        mask = iv ^ (high << _SHIFT | np.uint64(low))
    seq = iv ^ mask
    if seq <= sa.seq or np.int64(seq & _LOW) != low:
        return False
    if seq > _SEQ32_LAST and not (sa.esn or sa.may_wrap):
        return False
    sa.iv_mask = mask
    sa.seq = seq
    return True


@inline
def raise_sequence(sa, low, high):
    """Note an authenticated number that lies beyond all others; the window is the host's."""
    seq = np.uint64(high) << _SHIFT | np.uint64(low)
    if seq > sa.seq:
        sa.seq = seq


@inline
def infer_high(sa, low):
    """The high half that goes with a received low half: RFC 4303 A2.2, REPLAY-08; 0 without ESN."""
    if not sa.esn:
        return 0
    high = np.int64(sa.seq >> _SHIFT)
    top = np.int64(sa.seq & _LOW)
    bottom = top - sa.window + 1
    if bottom >= 0:  # case A: the window lies in one subspace
        if low < bottom:
            high += 1
    elif low >= bottom + _SPACE:  # case B: it spans two
        high -= 1
    return high & 0xFFFF_FFFF


@inline
def lies_behind(sa, low):
    """Whether a received low half left of the window is nearer to the top from behind: then
    `infer_high` has taken it for one of the next subspace."""
    behind = (np.int64(sa.seq & _LOW) - low) & 0xFFFF_FFFF
    return sa.esn and sa.window <= behind < _SPACE >> 1


@inline
def _is_set(bits, place):
    return (np.int64(bits[place >> 5]) >> (place & 31)) & 1 != 0


@inline
def replay_check(sa, bits, low):
    """Judge a received low half against the window, before the ICV is looked at (RFC 4303 3.4.3).

    With ESN a packet left of the window is FRESH here: it is tried with the next high half and
    fails there as INTEGRITY, as in the kernel (REPLAY-09, kernel-observed "Anti-replay").
    """
    if sa.window == 0:
        return FRESH
    top = np.int64(sa.seq & _LOW)
    behind = (top - low) & 0xFFFF_FFFF
    if sa.esn:
        if low == 0 and sa.seq < np.uint64(sa.window - 1):
            return ZERO
        if behind >= sa.window:
            return FRESH
    else:
        if low == 0:
            return ZERO
        if low > top:
            return FRESH
        if behind >= sa.window:
            return TOO_OLD
    return DUPLICATE if _is_set(bits, (sa.head - behind) % sa.window) else FRESH


@inline
def replay_advance(sa, bits, low, high):
    """Mark an authenticated packet as seen; `high` is what `infer_high` said for it."""
    if sa.window == 0:
        return  # nothing is tracked, not even the sequence number
    top = np.int64(sa.seq & _LOW)
    if high == np.int64(sa.seq >> _SHIFT):
        ahead = low - top
    elif low < top:
        ahead = low - top + _SPACE  # next subspace; from 2^64-1 on it is subspace 0 again
    else:
        ahead = low - top - _SPACE  # previous subspace
    if ahead > 0:
        for step in range(1, min(ahead, sa.window + 1)):
            place = (sa.head + step) % sa.window
            bits[place >> 5] &= np.uint32(0xFFFF_FFFF ^ (1 << (place & 31)))
        sa.seq = (np.uint64(high) << _SHIFT) | np.uint64(low)
        sa.head = (sa.head + ahead) % sa.window
        place = sa.head
    else:
        place = (sa.head + ahead) % sa.window
    bits[place >> 5] |= np.uint32(1 << (place & 31))
