# SPDX-License-Identifier: Apache-2.0
"""The packet path: one call takes a burst of frames through the card, one Drop for each.

Both bursts are numba kernels; arrays must be C-contiguous, writable and of the types given (another
type compiles another copy of the kernel). Neither looks at a clock or keeps anything outside the
tables. What they take and return says the kernel of each.
"""

from typing import Any

from nic_model import datapath_rx, datapath_tx
from nic_model.handed import handed
from nic_model.tables import Tables

KERNELS = datapath_tx.tx_burst, datapath_rx.rx_burst


def tx_burst(t: Tables, *burst: Any) -> tuple[int, int]:
    """Frames from DMA memory to the wire: `datapath_tx.tx_burst` on these tables."""
    taken, sent = datapath_tx.tx_burst(handed(t), *burst)
    return taken, sent


def rx_burst(t: Tables, *burst: Any) -> int:
    """Frames from the wire to DMA memory: `datapath_rx.rx_burst` on these tables."""
    delivered: int = datapath_rx.rx_burst(handed(t), *burst)
    return delivered
