# SPDX-License-Identifier: Apache-2.0
"""What all paths share of an ESP packet: the sizes around its payload, and the cipher on it on its
way into t.frame or out of it (RFC 4303 2, RFC 4106). `esp` is where its header begins, `size`
counts the clear bytes between IV and ICV: payload, padding, trailer.
"""

import numpy as np

from nic_model.esp import seal, unseal
from nic_model.jit import inline
from nic_model.memory import copy, load64

ESP_BYTES = 16  # SPI, sequence number, IV
TRAILER_BYTES = 2  # pad length, next header
_IV_AT = 8
_NOTHING, _LOW, _SHIFT = np.uint64(0), np.uint64(0xFFFF_FFFF), np.uint64(32)


@inline
def _aad(sa, low, high):
    """SPI and sequence number, 64 bits of it with ESN (RFC 4106 5): two words, and their bytes."""
    spi = np.uint64(sa.spi) << _SHIFT
    if sa.esn:
        return spi | np.uint64(high), np.uint64(low) << _SHIFT, 12
    return spi | np.uint64(low), _NOTHING, 8


@inline
def seal_payload(t, sa, first, size, out, esp):
    """Encrypt t.frame[first:first+size] behind the ESP header at out[esp:], whose number is the
    SA's last, and put the ICV behind it."""
    payload = esp + ESP_BYTES
    iv = load64(out, esp + _IV_AT)
    aad_high, aad_low, aad_len = _aad(sa, np.int64(sa.seq & _LOW), np.int64(sa.seq >> _SHIFT))
    seal(
        t.keys[sa.key], sa.salt, iv, aad_high, aad_low, aad_len,
        t.frame, first, out, payload, size, t.tag,
    )  # fmt: skip
    copy(out, payload + size, t.tag, 0, sa.icv)


@inline
def open_payload(t, sa, frame, esp, size, low, high, to):
    """Decrypt the payload of the ESP packet in `frame` to t.frame[to:], `low` and `high` being the
    halves of its number. A wrong ICV is counted: False, and what stands there is of no use."""
    payload = esp + ESP_BYTES
    iv = load64(frame, esp + _IV_AT)
    aad_high, aad_low, aad_len = _aad(sa, low, high)
    good = unseal(
        t.keys[sa.key], sa.salt, iv, aad_high, aad_low, aad_len,
        frame, payload, t.frame, to, size, payload + size, sa.icv,
    )  # fmt: skip
    if not good:
        sa.integrity_failed += 1
    return good
