# SPDX-License-Identifier: Apache-2.0
"""The counters of /proc/net/xfrm_stat (MIB-01), in the kernel's order."""

NAMES = (
    "XfrmInError",
    "XfrmInBufferError",
    "XfrmInHdrError",
    "XfrmInNoStates",
    "XfrmInStateProtoError",
    "XfrmInStateModeError",
    "XfrmInStateSeqError",
    "XfrmInStateExpired",
    "XfrmInStateMismatch",
    "XfrmInStateInvalid",
    "XfrmInTmplMismatch",
    "XfrmInNoPols",
    "XfrmInPolBlock",
    "XfrmInPolError",
    "XfrmOutError",
    "XfrmOutBundleGenError",
    "XfrmOutBundleCheckError",
    "XfrmOutNoStates",
    "XfrmOutStateProtoError",
    "XfrmOutStateModeError",
    "XfrmOutStateSeqError",
    "XfrmOutStateExpired",
    "XfrmOutPolBlock",
    "XfrmOutPolDead",
    "XfrmOutPolError",
    "XfrmFwdHdrError",
    "XfrmOutStateInvalid",
    "XfrmAcquireError",
    "XfrmOutStateDirError",
    "XfrmInStateDirError",
    "XfrmInIptfsError",
    "XfrmOutNoQueueSpace",
)

# What only late kernels count: SA directions, IP-TFS and its queue (`mib_after_acquire_error`).
AFTER_ACQUIRE_ERROR = NAMES[NAMES.index("XfrmAcquireError") + 1 :]


class Mib:
    """One value per name; names never appear or vanish."""

    def __init__(self) -> None:
        self._values = dict.fromkeys(NAMES, 0)

    def bump(self, name: str, by: int = 1) -> None:
        """Count. Raises KeyError for a name that the kernel does not have."""
        self._values[name] += by

    def values(self) -> dict[str, int]:
        """A copy, in the kernel's order."""
        return dict(self._values)
