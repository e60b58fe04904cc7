# SPDX-License-Identifier: Apache-2.0
"""What all paths share of an ESP packet: the sizes around its payload, and the cipher on it where
it stands (RFC 4303 2, RFC 4106). `esp` is where its header begins, `size` counts the clear bytes
between IV and ICV: payload, padding, trailer.
"""

import numpy as np

from nic_model.esp import seal, unseal
from nic_model.jit import inline
from nic_model.memory import copy, load64, store32

ESP_BYTES = 16  # SPI, sequence number, IV
TRAILER_BYTES = 2  # pad length, next header
_IV_AT = 8
_LOW, _SHIFT = np.uint64(0xFFFF_FFFF), np.uint64(32)


@inline
def _write_aad(t, sa, low, high):
    """SPI and sequence number to t.aad, 64 bits of it with ESN (RFC 4106 5); returns the length."""
    store32(t.aad, 0, np.int64(sa.spi))
    if not sa.esn:
        store32(t.aad, 4, low)
        return 8
    store32(t.aad, 4, high)
    store32(t.aad, 8, low)
    return 12


@inline
def seal_payload(t, sa, out, esp, size):
    """Encrypt the packet in `out`, whose number is the SA's last, and put the ICV behind it."""
    payload = esp + ESP_BYTES
    iv = load64(out, esp + _IV_AT)
    aad_bytes = _write_aad(t, sa, np.int64(sa.seq & _LOW), np.int64(sa.seq >> _SHIFT))
    seal(t.keys[sa.key], sa.salt, iv, t.aad, aad_bytes, out, payload, size, t.tag)
    copy(out, payload + size, t.tag, 0, sa.icv)


@inline
def open_payload(t, sa, esp, size, low, high):
    """Decrypt the packet in t.frame, `low` and `high` being the halves of its number. With a wrong
    ICV it stays as it came and is counted: False."""
    payload = esp + ESP_BYTES
    iv = load64(t.frame, esp + _IV_AT)
    aad_bytes = _write_aad(t, sa, low, high)
    good = unseal(
        t.keys[sa.key], sa.salt, iv, t.aad, aad_bytes,
        t.frame, payload, size, payload + size, sa.icv,
    )  # fmt: skip
    if not good:
        sa.integrity_failed += 1
    return good
