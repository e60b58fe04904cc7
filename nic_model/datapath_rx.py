# SPDX-License-Identifier: Apache-2.0
"""RX: frames from the wire to frames in DMA memory. Internal results below 0 are -Drop."""

import numpy as np

from nic_model import account, ahead, aso, flow, lookup
from nic_model.datapath_crypto import open_crypto
from nic_model.datapath_esp import ESP_BYTES, TRAILER_BYTES, open_payload
from nic_model.handed import tables_at
from nic_model.jit import inline, njit
from nic_model.memory import copy, load16, load32, store16, store32
from nic_model.packet import (
    ESP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    IP_AT,
    IPV4_BYTES,
    IPV6_BYTES,
    NO_NEXT,
    UDP,
    UDP_BYTES,
    UNKNOWN,
    finish_ip,
    ipv4_checksum_good,
    parse,
    parse_inside,
)
from nic_model.tables import AHEAD_PACKETS, RX, RX_BYTES, RX_PACKETS, handle_in_kernel
from nic_model.tunnel import IPIP, IPV6, MAC_PAIR_BYTES, dsfield, learn
from proto.commands import BLOCK, IN
from proto.frame import INDEX_MASK
from proto.layouts import RX_HIGH_MASK, RX_HIGH_SHIFT, RxFlag
from proto.limits import BUFFER_BYTES, FRAME_MAX_BYTES, MARK_BYTES, RING_SIZE, RX_OFFSET
from proto.status import Drop
from proto.xfrm import AF_INET

_CRYPTO_DONE, _CRYPTO = int(RxFlag.CRYPTO_DONE), int(RxFlag.CRYPTO)
_MALFORMED, _TOO_LONG, _FRAGMENT = int(Drop.MALFORMED), int(Drop.TOO_LONG), int(Drop.FRAGMENT)
_BLOCKED, _CLEAR_TEXT, _TEMPLATE = int(Drop.POLICY_BLOCK), int(Drop.CLEAR_TEXT), int(Drop.TEMPLATE)
_HARD_LIMIT, _ESP_HEADER, _REPLAY = int(Drop.HARD_LIMIT), int(Drop.ESP_HEADER), int(Drop.REPLAY)
_INTEGRITY, _TRAILER, _DUMMY = int(Drop.INTEGRITY), int(Drop.TRAILER), int(Drop.DUMMY)
_MODE = int(Drop.MODE)
_SELECTOR, _NO_BUFFER, _MAC_FILTER = int(Drop.SELECTOR), int(Drop.NO_BUFFER), int(Drop.MAC_FILTER)

_MULTICAST = 1 << 40  # the group bit of a MAC address


# One frame of the burst, which stays where it came, in memory that nobody else changes:
#  1. its length and its target                                (TOO_LONG MAC_FILTER)
#  2. parse                                                    (MALFORMED)
#  3. ESP for an SA of ours: open it into t.frame (_open has its own reasons), then selector and IN
#     policy with the SA (SELECTOR POLICY_BLOCK TEMPLATE); of a crypto SA: open it; clear: IN policy
#     (CLEAR_TEXT POLICY_BLOCK FRAGMENT); native ESP without an SA, and everything that is not IP:
#     to the host as it is (RX-12)
#  4. into the next receive slot, with its descriptor          (NO_BUFFER)
@njit
def rx_burst(
    where, frames, offsets, lengths, n, memory, mac, first_index, credits, descriptors, verdict
):
    """Take `n` frames from the wire; returns how many were delivered.

    frames: uint8[], read-only; offsets, lengths: int64[n] within it.
    memory: uint8[DMA_BYTES]. mac: int, the 48-bit MAC to take frames for (group addresses pass as
    well), 0 = take all. first_index: int, running ring index of the next free receive slot;
    credits: int, slots that may be filled. descriptors: DESCRIPTOR[>= min(n, credits)]; as many as
    delivered are filled, with a layouts.RxFlag, handle and generation where an SA opened the packet
    or, in crypto offload, should have (its syndrome says so). verdict: uint8[n] of status.Drop.
    Afterwards totals and drops are counted; drain_events and account.drain_touched tell the rest.
    """
    t = tables_at(where)
    flow.forget(t)
    delivered = 0
    p = t.packet[0]
    for i in range(n):
        if i % AHEAD_PACKETS == 0 and t.steered[0] >= ahead.MANY_SAS:
            ahead.rx_ahead(t, frames, offsets, lengths, i, min(AHEAD_PACKETS, n - i))
        t.totals[RX_PACKETS] += 1
        t.totals[RX_BYTES] += lengths[i]
        frame = frames[offsets[i] :]
        length = _length(frames, offsets[i], lengths[i], mac)
        row = 0
        if length >= 0:
            row = _judge(t, p, frame, length)
            length = row if row < 0 else _final_length(p, length)
        if length >= 0 and delivered >= credits:
            length = -_NO_BUFFER

        if length < 0:
            verdict[i] = -length
            t.drops[RX, -length] += 1
            continue
        verdict[i] = 0
        index = first_index + delivered
        slot = RX_OFFSET + index % RING_SIZE * BUFFER_BYTES
        if row and p.syndrome == 0:  # nothing else in t.frame is authentic
            copy(memory, slot + MARK_BYTES, t.frame, 0, length)
        else:
            copy(memory, slot + MARK_BYTES, frame, 0, length)
        store32(memory, slot, (index + 1) & INDEX_MASK)
        _describe(t, p, descriptors[delivered], slot + MARK_BYTES, length, row)
        delivered += 1
    return delivered


@inline
def _length(frames, offset, length, mac):
    """The length of a frame that is for this card."""
    if length > FRAME_MAX_BYTES:
        return -_TOO_LONG
    if length < 6 or offset < 0 or offset + length > frames.shape[0]:
        return -_MALFORMED
    target = load16(frames, offset) << 32 | load32(frames, offset + 2)
    if mac and target != mac and not target & _MULTICAST:
        return -_MAC_FILTER
    return length


@inline
def _final_length(p, length):
    """Of an IP packet the Ethernet padding is cut off; what opened got shorter anyway."""
    return p.end if p.family else length


@inline
def _describe(t, p, descriptor, slot, length, row):
    """Fill a receive descriptor; `row` is the SA of the packet, or 0."""
    descriptor["offset"] = slot
    descriptor["length"] = length
    descriptor["syndrome"] = p.syndrome
    descriptor["flags"] = 0
    descriptor["handle"] = 0
    descriptor["generation"] = 0
    if row:
        generation = np.int64(t.sa[row].generation)
        high = (p.high & RX_HIGH_MASK) << RX_HIGH_SHIFT
        descriptor["flags"] = _CRYPTO | high if t.sa[row].crypto else _CRYPTO_DONE
        descriptor["handle"] = handle_in_kernel(row, generation)
        descriptor["generation"] = generation


@inline
def _judge(t, p, frame, length):
    """Check a frame, and open it to t.frame; the SA row that opened it, 0 for none, or -Drop."""
    p.syndrome = 0
    p.high = 0
    malformed = parse(frame, length, p)
    if malformed:
        return -malformed
    if p.family == 0:
        return 0

    esp = _find_esp(t, p, frame)
    if esp < 0:
        return esp
    row = _find_sa(t, p, frame, esp) if esp else 0
    if row < 0:
        return row
    if row == 0:  # what no SA claims from a UDP port is a clear packet like any other
        return 0 if esp == p.upper else -_check_policy(t, p, 0)
    if t.sa[row].crypto:
        return open_crypto(t, p, frame, row, esp)

    refused = _open(t, p, frame, row, esp)
    if refused == 0 and not lookup.selector_fits(t.sa[row], p):
        t.sa[row].selector_failed += 1
        refused = _SELECTOR
    if refused == 0:
        refused = _check_policy(t, p, row)
    return -refused if refused else row


@inline
def _find_esp(t, p, frame):
    """Where the ESP header is, 0 if the packet is no ESP, or -Drop.

    In UDP it is told by the port of an SA and by the first four bytes, which are 0 for IKE; a
    keepalive is shorter than an ESP header (RFC 3948 2).
    """
    esp = p.upper
    if p.proto == UDP and t.encap_port[p.dport] and p.end - p.upper > 2 * UDP_BYTES:
        esp += UDP_BYTES
        if load32(frame, esp) == 0:
            return 0
    elif p.proto != ESP:
        return 0
    if p.fragment and esp != p.upper:
        return -_FRAGMENT  # the pieces behind the first do not look like ESP
    return esp


@inline
def _find_sa(t, p, frame, esp):
    """The inbound SA of the ESP header, 0 if the card has none for it, or -Drop.

    0 is also what it cannot take: the host's software judges and counts it.
    """
    if p.fragment or p.end - esp < 8:
        return 0  # ESP is never opened in pieces (RFC 4303 3.4.1); not even an SPI: XfrmInHdrError
    row = flow.opener_of(t, p, load32(frame, esp))
    in_udp = esp != p.upper
    if row == 0 or (t.sa[row].encap_dport != 0) != in_udp:
        return 0  # XfrmInNoStates, XfrmInStateMismatch
    if in_udp:
        udp_end = p.upper + load16(frame, p.upper + 4)
        if t.sa[row].crypto and udp_end != p.end:
            return 0
        if udp_end > p.end or udp_end < esp:
            return -_MALFORMED
        p.end = udp_end
    if p.family == AF_INET and not ipv4_checksum_good(frame):
        return -_MALFORMED  # the header is written anew: do not make damage look whole
    return row


# RFC 4303 3.4 for the ESP packet at frame[esp:p.end]:
#  1. the SA still runs, the packet is long enough             (HARD_LIMIT ESP_HEADER)
#  2. replay check, on the received half                       (REPLAY)
#  3. ICV and decryption, with the inferred high half          (INTEGRITY)
#  4. only now: window, counters, limits
#  5. trailer                                                  (TRAILER DUMMY)
#  6. the clear packet: the payload stands in the ESP header's place, that of a tunnel in the outer
#     header's; what comes before it                           (MALFORMED MODE)
@inline
def _open(t, p, frame, row, esp):
    """Make the clear frame in t.frame and parse it again; returns 0 or the Drop."""
    sa, bits = t.sa[row], t.window[row]
    size = p.end - esp - ESP_BYTES - sa.icv
    if sa.stopped:
        return _HARD_LIMIT
    if size < TRAILER_BYTES:
        return _ESP_HEADER

    low = load32(frame, esp + 4)
    account.touch(t, row)
    replayed = aso.replay_check(sa, bits, low)
    if replayed:
        sa.replay += replayed == aso.DUPLICATE
        sa.replay_window += replayed == aso.TOO_OLD
        return _REPLAY

    high = aso.infer_high(sa, low)
    payload = IP_AT if sa.tunnel else p.upper
    if not open_payload(t, sa, frame, esp, size, low, high, payload):
        return _INTEGRITY

    aso.replay_advance(sa, bits, low, high)
    trailer = payload + size - TRAILER_BYTES
    pad = np.int64(t.frame[trailer])
    next_header = np.int64(t.frame[trailer + 1])
    size = max(size - TRAILER_BYTES - pad, -1)
    account.count_opened(t, row, max(size, 0))

    if size < 0:  # pad contents are not checked, as the kernel does not
        sa.trailer += 1
        return _TRAILER
    if next_header == NO_NEXT:
        return _DUMMY  # RFC 4303 2.6

    if sa.tunnel:
        return _decapsulate(t, p, sa, frame, size, next_header)
    copy(t.frame, 0, frame, 0, payload)
    finish_ip(t.frame, 0, p.family, payload + size, p.upper_nh, next_header)
    return parse_inside(t.frame, payload + size, p, next_header)


@inline
def _decapsulate(t, p, sa, frame, size, next_header):
    """The frame around the packet that came in a tunnel; what follows that is TFC padding."""
    version = np.int64(t.frame[IP_AT] >> 4) if size else 0
    if next_header == IPIP:
        good = version == 4 and size >= IPV4_BYTES
    else:
        good = next_header == IPV6 and version == 6 and size >= IPV6_BYTES
    if not good:
        return _MODE
    outer = dsfield(frame, p.family)
    copy(t.frame, 0, frame, 0, MAC_PAIR_BYTES)
    store16(t.frame, MAC_PAIR_BYTES, ETHERTYPE_IPV4 if next_header == IPIP else ETHERTYPE_IPV6)
    malformed = parse(t.frame, IP_AT + size, p)
    if malformed == 0:
        learn(sa, t.frame, p.family, outer)
    return malformed


@inline
def _check_policy(t, p, row):
    """The IN policy for a packet that SA `row` opened or that came in clear (0): 0 or the Drop."""
    if p.fragment == UNKNOWN:
        return _FRAGMENT
    policy = flow.policy_of(t, p, IN)
    last = t.packet[1]
    if last.row != row:
        last.row, last.verdict = row, _verdict(t, p, policy, row)
    return last.verdict


@inline
def _verdict(t, p, policy, row):
    if policy == 0:
        return 0
    pol = t.policy[policy]
    if not pol.protect and pol.action != BLOCK:
        return 0
    if p.fragment:
        return _FRAGMENT
    if pol.action == BLOCK:
        return _BLOCKED
    if row == 0:
        return _CLEAR_TEXT
    return 0 if lookup.template_fits(pol, t.sa[row]) else _TEMPLATE
