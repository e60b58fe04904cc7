# SPDX-License-Identifier: Apache-2.0
"""The packet path: one call takes a burst of frames through the card, one Drop for each.

Both bursts are numba kernels; arrays must be C-contiguous, writable and of the types given (another
type compiles another copy of the kernel). Neither looks at a clock or keeps anything outside `t`.
"""

from nic_model.datapath_rx import rx_burst
from nic_model.datapath_tx import tx_burst

__all__ = ["rx_burst", "tx_burst"]
