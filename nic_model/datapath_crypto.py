# SPDX-License-Identifier: Apache-2.0
"""Crypto offload: ESP packets that the host builds or takes apart, and the card seals or opens.

Everything around the cipher is the host's: headers, IV, padding, sequence numbers, replay window,
limits, selectors, policies. Nothing in the packet but payload, ICV and a UDP checksum changes, and
nothing leaves that is not sealed.
"""

import numpy as np

from nic_model import account, aso, lookup
from nic_model.datapath_esp import ESP_BYTES, TRAILER_BYTES, open_payload, seal_payload
from nic_model.jit import inline
from nic_model.memory import copy, load16, load32, load64, store16
from nic_model.packet import ESP, UDP, UDP_BYTES, finish_udp6
from proto.limits import ETHERNET_BYTES, FRAME_MAX_BYTES
from proto.status import Drop
from proto.xfrm import AF_INET6

_CRYPTO, _TOO_LONG, _INTEGRITY = int(Drop.CRYPTO), int(Drop.TOO_LONG), int(Drop.INTEGRITY)


@inline
def _payload_bytes(buf, payload, size):
    """What the `size` clear bytes of ESP at buf[payload:] carry, without trailer; below 0: bad."""
    return size - TRAILER_BYTES - np.int64(buf[payload + size - TRAILER_BYTES])


@inline
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
@inline
def seal_crypto(t, p, handle, generation, mtu, out, at):
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
    if p.end - ETHERNET_BYTES > mtu or p.end > FRAME_MAX_BYTES:
        return -_TOO_LONG

    if not aso.follow_sequence(sa, load32(t.frame, esp + 4), load64(t.frame, esp + 8)):
        return -_CRYPTO
    account.count_sealed(t, row, _payload_bytes(t.frame, payload, size))

    copy(out, at, t.frame, 0, payload)
    seal_payload(t, sa, payload, size, out, at + esp)
    if sa.encap_dport:  # the host cannot sum what it does not see; over IPv4 it is 0 (RFC 3948 2.1)
        store16(out, at + p.upper + 6, 0)
        if p.family == AF_INET6:
            finish_udp6(out, at, at + p.upper, p.end - p.upper)
    return p.end


@inline
def open_crypto(t, p, frame, row, esp):
    """Write the ESP packet at frame[esp:p.end] to t.frame, its payload decrypted; returns the SA
    row.

    With a wrong ICV p.syndrome says so, and the host gets the frame as it came. One too short for
    the SA is the host's to judge: 0. What is left of the window may still be in the host's, which
    has not taken all that was authentic: it is tried with either high half, and the host hears
    which.
    """
    sa = t.sa[row]
    payload = esp + ESP_BYTES
    size = p.end - payload - sa.icv
    if size < TRAILER_BYTES:
        return 0
    account.touch(t, row)
    low = load32(frame, esp + 4)
    high = aso.infer_high(sa, low)
    opened = open_payload(t, sa, frame, esp, size, low, high, payload)
    if not opened and aso.lies_behind(sa, low):
        high = (high - 1) & 0xFFFF_FFFF
        opened = open_payload(t, sa, frame, esp, size, low, high, payload)
    if not opened:
        p.syndrome = _INTEGRITY
        return row
    copy(t.frame, 0, frame, 0, payload)
    copy(t.frame, payload + size, frame, payload + size, sa.icv)
    p.high = high
    if sa.esn:
        aso.raise_sequence(sa, low, high)
    account.count_opened(t, row, max(_payload_bytes(t.frame, payload, size), 0))
    return row
