# SPDX-License-Identifier: Apache-2.0
"""TX: frames from DMA memory to frames on the wire. Internal results below 0 are -Drop."""

import numpy as np

from nic_model import account, ahead, aso, flow
from nic_model.datapath_crypto import seal_crypto
from nic_model.datapath_esp import ESP_BYTES, TRAILER_BYTES, seal_payload
from nic_model.handed import tables_at
from nic_model.jit import inline, njit
from nic_model.memory import copy, load32, store32
from nic_model.packet import (
    ESP,
    IP_AT,
    UDP,
    UDP_BYTES,
    UNKNOWN,
    finish_ip,
    finish_udp6,
    parse,
    write_udp,
)
from nic_model.segment import cut, pieces
from nic_model.tables import AHEAD_PACKETS, TX, TX_BYTES, TX_PACKETS, TX_SEGMENTED
from nic_model.tunnel import carried, outer_bytes, write_outer
from proto.commands import BLOCK, OUT
from proto.frame import INDEX_MASK
from proto.layouts import TxFlag
from proto.limits import ETHERNET_BYTES, FRAME_MAX_BYTES, MARK_BYTES, RING_SIZE, TX_BUFFER_BYTES
from proto.status import Drop
from proto.xfrm import AF_INET6

_PROTECT, _CRYPTO, _SEALED = int(TxFlag.PROTECT), int(TxFlag.CRYPTO), int(TxFlag.SEALED)
_SEGMENT = int(TxFlag.SEGMENT)
_FOREIGN = 0xFF & ~sum(TxFlag)  # of another version
_TOO_LONG, _FRAGMENT, _BLOCKED = int(Drop.TOO_LONG), int(Drop.FRAGMENT), int(Drop.POLICY_BLOCK)
_NO_SA, _DESCRIPTOR = int(Drop.NO_SA), int(Drop.DESCRIPTOR)
_EXHAUSTED, _FLUSHED = int(Drop.SEQUENCE_EXHAUSTED), int(Drop.FLUSHED)

_LOW, _SHIFT = np.uint64(0xFFFF_FFFF), np.uint64(32)


# One frame of the burst:
#  1. fetch it from its ring slot into the card's own memory   (DESCRIPTOR; FLUSHED behind it)
#  2. cut a large one; each piece is then a frame like others  (DESCRIPTOR MALFORMED TOO_LONG)
#  3. parse                                                    (MALFORMED)
#  4. ESP for crypto offload: seal its payload                 (CRYPTO TOO_LONG)
#  5. policy, and with it clear or an SA; not for ESP made by software
#                                                   (FRAGMENT POLICY_BLOCK NO_SA HARD_LIMIT)
#  6. clear: as it is;  SA: seal                               (TOO_LONG SEQUENCE_EXHAUSTED)
#  7. count
@njit
def tx_burst(where, memory, first_index, descriptors, n, mtu, out, out_length, verdict):
    """Take at most `n` descriptors to the wire; returns how many were taken, and how many frames
    were sent.

    memory: uint8[DMA_BYTES]. first_index: int, running ring index of the first descriptor; the
    others follow it, and each must lie within its slot, whose mark says that it is written. The
    first that does not ends the burst. descriptors: DESCRIPTOR[n], flags are layouts.TxFlag. mtu:
    int, bytes of the IP packet on the wire.
    out: uint8[>= room * FRAME_MAX_BYTES]: the frames, back to back. out_length: int64[room], their
    lengths: a descriptor that could become more frames than there is room for is not taken.
    verdict: uint8[n] of status.Drop, of a large frame that of the first piece that was refused.
    Afterwards totals and drops are counted; drain_events and account.drain_touched tell the rest.
    """
    t = tables_at(where)
    flow.forget(t)
    taken = sent = at = 0
    failed = False
    for i in range(n):
        if i % AHEAD_PACKETS == 0 and t.steered[0] >= ahead.MANY_SAS:
            ahead.tx_ahead(t, memory, descriptors, i, min(AHEAD_PACKETS, n - i))
        d = descriptors[i]
        large = d["flags"] & _SEGMENT != 0
        mss, payload, count = np.int64(d["handle"]), 0, 1
        whole = (0, 0, 0, 0, 0)
        length = -_FLUSHED
        if not failed:
            into = t.large if large else t.frame
            length = _fetch(memory, into, first_index + i, d)
            if large and length >= 0:
                count, payload = pieces(t, length, mss)
                if count < 0:
                    length, count = count, 1
                p = t.packet[0]
                whole = (p.family, p.proto, p.upper, p.upper_nh, p.end)
            failed = length == -_DESCRIPTOR
        if sent + count > out_length.shape[0]:
            break
        taken += 1
        t.totals[TX_SEGMENTED] += count - 1
        verdict[i] = 0
        for k in range(count):
            size = length
            if size >= 0:
                if large:
                    size = cut(t, whole, payload, mss, k, count)
                size = _send(t, d, size, mtu, out, at)
            if size >= 0:
                out_length[sent] = size
                t.totals[TX_PACKETS] += 1
                t.totals[TX_BYTES] += size
                sent += 1
                at += size
            else:
                t.drops[TX, -size] += 1
                if verdict[i] == 0:
                    verdict[i] = -size
    return taken, sent


@inline
def _fetch(memory, into, index, d):
    """Copy a frame to the card's memory, so that the host cannot change it after the checks."""
    offset, length = np.int64(d["offset"]), np.int64(d["length"])
    slot = index % RING_SIZE * TX_BUFFER_BYTES
    if offset < slot + MARK_BYTES or offset + length > slot + TX_BUFFER_BYTES:
        return -_DESCRIPTOR
    if slot + TX_BUFFER_BYTES > memory.shape[0] or length > into.shape[0]:
        return -_DESCRIPTOR
    if load32(memory, slot) != (index + 1) & INDEX_MASK:
        return -_DESCRIPTOR  # the doorbell came before the packet (F-RNG-02)
    if d["flags"] & _FOREIGN or (d["flags"] & _CRYPTO and d["flags"] & _SEGMENT):
        return -_DESCRIPTOR  # what they ask for is not known (F-SEC-04)
    copy(into, 0, memory, offset, length)
    return length


@inline
def _send(t, d, length, mtu, out, at):
    """Judge the frame in t.frame and write what leaves to out[at:]; returns its length."""
    p = t.packet[0]
    malformed = parse(t.frame, length, p)
    if malformed:
        return -malformed

    if d["flags"] & _CRYPTO:
        handle, generation = np.int64(d["handle"]), np.int64(d["generation"])
        return seal_crypto(t, p, handle, generation, mtu, out, at)
    row = _decide(t, p, d["flags"])
    if row < 0:
        return row
    if row > 0:
        return _protect(t, p, row, mtu, out, at)
    if length - ETHERNET_BYTES > mtu or length > FRAME_MAX_BYTES:
        return -_TOO_LONG
    copy(out, at, t.frame, 0, length)
    return length


@inline
def _decide(t, p, flags):
    """The SA row that seals the packet, 0 to send it as it is, or -Drop."""
    must_protect = flags & _PROTECT
    clear = -_NO_SA if must_protect else 0  # the card is closed: never in clear what was promised
    if p.family == 0:
        return clear
    if flags & _SEALED and not must_protect and (p.proto == ESP or p.proto == UDP):
        return 0  # the host has done what its policies say; the card's are not for ESP around it
    if p.fragment == UNKNOWN:
        return -_FRAGMENT
    policy = flow.policy_of(t, p, OUT)
    protects = policy != 0 and (t.policy[policy].protect or t.policy[policy].action == BLOCK)
    if p.fragment and (protects or must_protect):
        return -_FRAGMENT
    if not protects:
        return clear
    if t.policy[policy].action == BLOCK:
        return -_BLOCKED
    return flow.sealer_of(t, p)


# RFC 4303 3.3 and RFC 4106 for the frame in t.frame, of which ESP takes in transport mode what is
# behind p.place, in tunnel mode the whole IP packet:
#  1. sizes; nothing is counted for a packet that does not fit
#  2. sequence number and IV; one count on the SA
#  3. Ethernet, IP and the extension headers in front of ESP, or the outer header; [UDP,] ESP header
#  4. behind the payload padding 1 2 3.. (2.4), pad length, next header
#  5. seal, ICV
#  6. lengths, next header and checksums
@inline
def _protect(t, p, row, mtu, out, at):
    """Write the ESP form of the parsed frame to out[at:]; returns its length or -Drop."""
    sa = t.sa[row]
    first = IP_AT if sa.tunnel else p.place
    size = p.end - first
    pad = -(size + TRAILER_BYTES) & 3
    clear = size + pad + TRAILER_BYTES
    udp = UDP_BYTES if sa.encap_dport else 0
    esp = at + first + udp + (outer_bytes(sa.family) if sa.tunnel else 0)
    end = esp + ESP_BYTES + clear + sa.icv
    if end - at - ETHERNET_BYTES > mtu or end - at > FRAME_MAX_BYTES:
        return -_TOO_LONG

    if not aso.take_sequence(sa):
        account.sequence_exhausted(t, row)
        return -_EXHAUSTED
    iv = sa.seq ^ sa.iv_mask
    account.count_sealed(t, row, size)

    nh_at, next_header = p.place_nh, np.int64(t.frame[p.place_nh])
    if sa.tunnel:
        nh_at = write_outer(out, at, t.frame, p.family, sa, np.int64(iv & _LOW))
        next_header = carried(p.family)
    else:
        copy(out, at, t.frame, 0, first)
    if udp:
        write_udp(out, esp - udp, sa.encap_sport, sa.encap_dport, end - esp + udp)
    store32(out, esp, np.int64(sa.spi))
    store32(out, esp + 4, np.int64(sa.seq & _LOW))
    store32(out, esp + 8, np.int64(iv >> _SHIFT))
    store32(out, esp + 12, np.int64(iv & _LOW))

    trailer = p.end + pad
    for i in range(pad):
        t.frame[p.end + i] = i + 1
    t.frame[trailer] = pad
    t.frame[trailer + 1] = next_header
    seal_payload(t, sa, first, clear, out, esp)

    finish_ip(out, at, sa.family, end, at + nh_at, UDP if udp else ESP)
    if udp and sa.family == AF_INET6:
        finish_udp6(out, at, esp - udp, end - esp + udp)
    return end - at
