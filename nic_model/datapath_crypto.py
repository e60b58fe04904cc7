# SPDX-License-Identifier: Apache-2.0
"""Crypto offload: ESP packets that the host builds or takes apart, and the card seals or opens.

Everything around the cipher is the host's: headers, IV, padding, sequence numbers, replay window,
limits, selectors, policies. Nothing in the packet but payload, ICV and a UDP checksum changes, and
nothing leaves that is not sealed.
"""

import numpy as np

from nic_model import account, aso, lookup
from nic_model.esp import seal, unseal
from nic_model.jit import njit
from nic_model.packet import (
    ESP,
    UDP,
    UDP_BYTES,
    copy,
    finish_udp6,
    load16,
    load32,
    load64,
    store16,
    store32,
)  # fmt: skip
from nic_model.tables import (
    IPSEC_RX_BYTES,
    IPSEC_RX_PACKETS,
    IPSEC_TX_BYTES,
    IPSEC_TX_PACKETS,
)  # fmt: skip
from proto.limits import ETHERNET_BYTES
from proto.status import Drop
from proto.xfrm import AF_INET6

_CRYPTO, _TOO_LONG, _INTEGRITY = int(Drop.CRYPTO), int(Drop.TOO_LONG), int(Drop.INTEGRITY)

ESP_BYTES = 16  # SPI, sequence number, IV (RFC 4303 2, RFC 4106 3.1)
TRAILER_BYTES = 2  # pad length, next header
_LOW, _SHIFT = np.uint64(0xFFFF_FFFF), np.uint64(32)


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


@njit
def _payload_bytes(buf, payload, size):
    """What the `size` clear bytes of ESP at buf[payload:] carry, without trailer; below 0: bad."""
    return size - TRAILER_BYTES - np.int64(buf[payload + size - TRAILER_BYTES])


@njit
def _is_next(t, p, sa, esp, size):
    """Whether the parsed packet in t.frame is a whole clear ESP packet of the SA."""
    if p.family != sa.family or p.fragment or size < TRAILER_BYTES or size & 3:
        return False
    if sa.encap_dport:
        if p.proto != UDP or p.sport != sa.encap_sport or p.dport != sa.encap_dport:
            return False
        if load16(t.frame, p.upper + 4) != p.end - p.upper:
            return False
    elif p.proto != ESP:
        return False
    if load32(t.frame, esp) != sa.spi:
        return False
    return _payload_bytes(t.frame, esp + ESP_BYTES, size) >= 0


# An ESP packet from the host, in t.frame:
#  1. the SA of the descriptor lives, the packet is an ESP packet of it    (CRYPTO)
#  2. it fits                                                              (TOO_LONG)
#  3. its sequence number is beyond the last, its IV made of it            (CRYPTO)
#  4. seal, ICV, UDP checksum
@njit
def seal_in_place(t, p, handle, generation, mtu, out, at, room):
    """Write the sealed form of the parsed frame to out[at:]; returns its length or -Drop."""
    row = lookup.find_crypto(t, handle, generation)
    if row == 0:
        return -_CRYPTO
    sa = t.sa[row]
    esp = p.upper + (UDP_BYTES if sa.encap_dport else 0)
    payload = esp + ESP_BYTES
    size = p.end - payload - sa.icv
    if not _is_next(t, p, sa, esp, size):
        return -_CRYPTO
    if p.end - ETHERNET_BYTES > mtu or p.end > room:
        return -_TOO_LONG

    iv = load64(t.frame, esp + 8)
    if not aso.follow_sequence(sa, load32(t.frame, esp + 4), iv):
        return -_CRYPTO
    carried = _payload_bytes(t.frame, payload, size)
    account.count_packet(t, row, carried)
    t.totals[IPSEC_TX_PACKETS] += 1
    t.totals[IPSEC_TX_BYTES] += carried

    copy(out, at, t.frame, 0, p.end)
    aad_bytes = write_aad(t, sa, np.int64(sa.seq & _LOW), np.int64(sa.seq >> _SHIFT))
    seal(t.keys[sa.key], sa.salt, iv, t.aad, aad_bytes, out, at + payload, size, t.tag)
    copy(out, at + payload + size, t.tag, 0, sa.icv)
    if sa.encap_dport:  # the host cannot sum what it does not see; over IPv4 it is 0 (RFC 3948 2.1)
        store16(out, at + p.upper + 6, 0)
        if p.family == AF_INET6:
            finish_udp6(out, at, at + p.upper, p.end - p.upper)
    return p.end


@njit
def open_in_place(t, p, row, esp):
    """Decrypt the ESP packet at t.frame[esp:p.end] where it stands; returns the SA row.

    With a wrong ICV it stays as it came and p.syndrome says so. One too short for the SA is the
    host's to judge: 0.
    """
    sa = t.sa[row]
    payload = esp + ESP_BYTES
    size = p.end - payload - sa.icv
    if size < TRAILER_BYTES:
        return 0
    account.touch(t, row)
    low = load32(t.frame, esp + 4)
    high = aso.infer_high(sa, low)
    aad_bytes = write_aad(t, sa, low, high)
    iv = load64(t.frame, esp + 8)
    icv = payload + size
    if not unseal(
        t.keys[sa.key], sa.salt, iv, t.aad, aad_bytes, t.frame, payload, size, icv, sa.icv
    ):
        sa.integrity_failed += 1
        p.syndrome = _INTEGRITY
        return row
    if sa.esn:
        aso.raise_sequence(sa, low, high)
    carried = max(_payload_bytes(t.frame, payload, size), 0)
    account.count_packet(t, row, carried)
    t.totals[IPSEC_RX_PACKETS] += 1
    t.totals[IPSEC_RX_BYTES] += carried
    return row
