# SPDX-License-Identifier: Apache-2.0
"""Binary layouts that host and card share: descriptors and counter records. Sizes are asserted."""

from enum import IntFlag

import numpy as np


class TxFlag(IntFlag):
    """Flags of a transmit descriptor."""

    PROTECT = 1  # the XFRM core chose a packet-offload SA: the card must never send this in clear
    CRYPTO = 2  # an ESP packet for the crypto SA in `handle` to seal: never sent otherwise
    SEALED = 4  # ESP that software has sealed: no policy is asked again
    SEGMENT = 8  # cut TCP or UDP into packets of at most `handle` bytes of payload (GSO)


class RxFlag(IntFlag):
    """Flags of a receive descriptor."""

    CRYPTO_DONE = 1  # by the SA in `handle`: decrypted, and its headers taken off
    CRYPTO = 2  # ESP, opened in place by the crypto SA in `handle` unless `syndrome` is set


# Above CRYPTO the flags hold the last bits of the high half that the sequence number was taken for:
# the host, whose window may be further on, must have taken it for the same (REPLAY-08).
RX_HIGH_SHIFT, RX_HIGH_MASK = 2, 63


# One packet of a ring. `offset` counts from the start of the DMA region; on an inline link the
# packets follow the descriptors in their order. `syndrome` is a status.Drop (0 = good). `handle`
# and `generation` name an SA where a flag says so; `handle` may be a size instead (SEGMENT).
DESCRIPTOR = np.dtype(
    [
        ("offset", "<u4"),
        ("length", "<u2"),
        ("flags", "u1"),
        ("syndrome", "u1"),
        ("handle", "<u4"),
        ("generation", "<u4"),
    ]
)

# Running totals of one SA; `packets` and `bytes` are absolute and monotonic (LIFE-36).
# `flags` bit 0: dying, bit 1: stopped. `spi` says once more whose totals these are (F-LIM-11).
SA_COUNTERS = np.dtype(
    [
        ("handle", "<u4"),
        ("generation", "<u4"),
        ("packets", "<u8"),
        ("bytes", "<u8"),
        ("seq", "<u8"),
        ("replay_window", "<u4"),
        ("replay", "<u4"),
        ("integrity_failed", "<u4"),
        ("flags", "<u4"),
        ("spi", "<u4"),
    ]
)
SA_SOFT, SA_STOPPED = 1, 2

# In a TX_DONE message: `count` descriptors from running position `index` on did not end well.
# `syndrome` is a queue.CompletionError, `drop` the status.Drop they are counted as.
COMPLETION_ERROR = np.dtype(
    [("index", "<u4"), ("count", "<u2"), ("syndrome", "u1"), ("drop", "u1")]
)

assert DESCRIPTOR.itemsize == 16
assert COMPLETION_ERROR.itemsize == 8
assert SA_COUNTERS.itemsize == 52
