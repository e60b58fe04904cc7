# SPDX-License-Identifier: Apache-2.0
"""TX: clear frames from DMA memory to frames on the wire. Internal results below 0 are -Drop."""

import numpy as np

from nic_model import account, aso, lookup
from nic_model.esp import seal
from nic_model.jit import njit
from nic_model.packet import (
    ESP,
    UDP,
    UDP_BYTES,
    UNKNOWN,
    copy,
    finish_ip,
    finish_udp6,
    parse,
    store32,
    write_udp,
)  # fmt: skip
from nic_model.tables import IPSEC_TX_BYTES, IPSEC_TX_PACKETS, TX, TX_BYTES, TX_PACKETS
from proto.commands import BLOCK, OUT
from proto.layouts import TxFlag
from proto.limits import BUFFER_BYTES, ETHERNET_BYTES, RING_SIZE
from proto.status import Drop
from proto.xfrm import AF_INET6

_PROTECT = int(TxFlag.PROTECT)
_TOO_LONG, _FRAGMENT, _BLOCKED = int(Drop.TOO_LONG), int(Drop.FRAGMENT), int(Drop.POLICY_BLOCK)
_NO_SA, _DESCRIPTOR = int(Drop.NO_SA), int(Drop.DESCRIPTOR)
_EXHAUSTED = int(Drop.SEQUENCE_EXHAUSTED)

ESP_BYTES = 16  # SPI, sequence number, IV (RFC 4303 2, RFC 4106 3.1)
TRAILER_BYTES = 2  # pad length, next header
_LOW, _SHIFT = np.uint64(0xFFFF_FFFF), np.uint64(32)


# One frame of the burst:
#  1. fetch it from its ring slot into the card's own memory   (DESCRIPTOR)
#  2. parse                                                    (MALFORMED)
#  3. policy, and with it clear or an SA            (FRAGMENT POLICY_BLOCK NO_SA HARD_LIMIT)
#  4. clear: as it is;  SA: seal                               (TOO_LONG SEQUENCE_EXHAUSTED)
#  5. count
@njit
def tx_burst(
    t, memory, first_index, offsets, lengths, flags, n, mtu, out, out_stride, out_length, verdict
):
    """Take `n` descriptors to the wire; returns the number of frames sent.

    memory: uint8[DMA_BYTES]. first_index: int, running ring index of the first descriptor; the
    others follow it, and each must lie within its slot. offsets, lengths: int64[n]; flags: uint8[n]
    of layouts.TxFlag. mtu: int, bytes of the IP packet on the wire.
    out: uint8[>= n * out_stride]; frame i begins at i * out_stride; a stride of BUFFER_BYTES always
    does. out_length: int64[n], 0 = nothing to send. verdict: uint8[n] of status.Drop.
    Afterwards totals and drops are counted; drain_events and drain_touched tell the rest.
    """
    sent = 0
    for i in range(n):
        slot = (first_index + i) % RING_SIZE * BUFFER_BYTES
        length = _fetch(t, memory, slot, offsets[i], lengths[i])
        if length >= 0:
            length = _send(t, length, flags[i], mtu, out, i * out_stride, out_stride)

        if length >= 0:
            verdict[i], out_length[i] = 0, length
            t.totals[TX_PACKETS] += 1
            t.totals[TX_BYTES] += length
            sent += 1
        else:
            verdict[i], out_length[i] = -length, 0
            t.drops[TX, -length] += 1
    return sent


@njit
def _fetch(t, memory, slot, offset, length):
    """Copy a frame to t.frame, so that the host cannot change it after the checks."""
    if offset < slot or length < 0 or offset + length > slot + BUFFER_BYTES:
        return -_DESCRIPTOR
    if offset + length > memory.shape[0]:
        return -_DESCRIPTOR
    copy(t.frame, 0, memory, offset, length)
    return length


@njit
def _send(t, length, flags, mtu, out, at, room):
    """Judge the frame in t.frame and write what leaves to out[at:]; returns its length."""
    p = t.packet[0]
    malformed = parse(t.frame, length, p)
    if malformed:
        return -malformed

    row = _decide(t, p, flags & _PROTECT)
    if row < 0:
        return row

    if row > 0:
        return _protect(t, p, row, mtu, out, at, room)
    if length - ETHERNET_BYTES > mtu or length > room:
        return -_TOO_LONG
    copy(out, at, t.frame, 0, length)
    return length


@njit
def _decide(t, p, must_protect):
    """The SA row that seals the packet, 0 to send it in clear, or -Drop."""
    clear = -_NO_SA if must_protect else 0  # the card is closed: never in clear what was promised
    if p.family == 0:
        return clear
    if p.fragment == UNKNOWN:
        return -_FRAGMENT
    policy = lookup.find_policy(t, p, OUT)
    protects = policy != 0 and (t.policy[policy].protect or t.policy[policy].action == BLOCK)
    if p.fragment and (protects or must_protect):
        return -_FRAGMENT
    if not protects:
        return clear
    if t.policy[policy].action == BLOCK:
        return -_BLOCKED
    return lookup.find_tx(t, p, policy)


# RFC 4303 3.3 and RFC 4106 for the frame in t.frame:
#  1. sizes; nothing is counted for a packet that does not fit
#  2. sequence number and IV; one count on the SA
#  3. Ethernet, IP and the extension headers in front of ESP, [UDP,] ESP header
#  4. payload, padding 1 2 3.. (2.4), pad length, next header
#  5. seal, ICV
#  6. lengths, next header and checksums
@njit
def _protect(t, p, row, mtu, out, at, room):
    """Write the ESP form of the parsed frame to out[at:]; returns its length or -Drop."""
    sa = t.sa[row]
    size = p.end - p.place
    pad = -(size + TRAILER_BYTES) & 3
    clear = size + pad + TRAILER_BYTES
    udp = UDP_BYTES if sa.encap_dport else 0
    esp = at + p.place + udp
    end = esp + ESP_BYTES + clear + sa.icv
    if end - at - ETHERNET_BYTES > mtu or end - at > room:
        return -_TOO_LONG

    if not aso.take_sequence(sa):
        account.sequence_exhausted(t, row)
        return -_EXHAUSTED
    iv = sa.seq ^ sa.iv_mask
    account.count_packet(t, row, size)
    t.totals[IPSEC_TX_PACKETS] += 1
    t.totals[IPSEC_TX_BYTES] += size

    copy(out, at, t.frame, 0, p.place)
    if udp:
        write_udp(out, esp - udp, sa.encap_sport, sa.encap_dport, end - esp + udp)
    store32(out, esp, np.int64(sa.spi))
    store32(out, esp + 4, np.int64(sa.seq & _LOW))
    store32(out, esp + 8, np.int64(iv >> _SHIFT))
    store32(out, esp + 12, np.int64(iv & _LOW))

    payload = esp + ESP_BYTES
    copy(out, payload, t.frame, p.place, size)
    for i in range(pad):
        out[payload + size + i] = i + 1
    out[payload + clear - 2] = pad
    out[payload + clear - 1] = t.frame[p.place_nh]

    aad_bytes = write_aad(t, sa, np.int64(sa.seq & _LOW), np.int64(sa.seq >> _SHIFT))
    seal(t.keys[sa.key], sa.salt, iv, t.aad, aad_bytes, out, payload, clear, t.tag)
    copy(out, payload + clear, t.tag, 0, sa.icv)

    finish_ip(out, at, p.family, end, at + p.place_nh, UDP if udp else ESP)
    if udp and p.family == AF_INET6:
        finish_udp6(out, at, esp - udp, end - esp + udp)
    return end - at


@njit
def write_aad(t, sa, low, high):
    """SPI and sequence number to t.aad, 64 bits of it with ESN (RFC 4106 5); returns the length."""
    store32(t.aad, 0, np.int64(sa.spi))
    if not sa.esn:
        store32(t.aad, 4, low)
        return 8
    store32(t.aad, 4, high)
    store32(t.aad, 8, low)
    return 12
