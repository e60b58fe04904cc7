# SPDX-License-Identifier: Apache-2.0
"""Every packet has one end: on the wire, with the stack, or in one counter that says why not."""

from collections import Counter

TX_ENDS = ("tx_lost", "driver_tx_drop_reset", "driver_tx_not_ip", "driver_tx_queue_full")
RX_ENDS = (
    "rx_lost", "driver_rx_lost", "driver_rx_drop_reset", "driver_rx_flushed",
    "driver_rx_not_written", "driver_rx_malformed", "driver_rx_length", "driver_rx_not_ip",
    "driver_rx_error_status", "driver_rx_device_down", "driver_rx_drop_sadb_miss",
    "driver_rx_drop_provenance", "driver_rx_drop_not_opened", "driver_rx_drop_policy_missing",
)  # fmt: skip


class Accounts:
    """What one host and its card have counted since this was made."""

    def __init__(self, host) -> None:
        self._host = host
        self._before = Counter(host.nic.counters())

    def moved(self) -> Counter[str]:
        """Counters that are not what they were."""
        return Counter(self._host.nic.counters()) - self._before

    def __getitem__(self, name: str) -> int:
        return self.moved()[name]

    def unsent(self) -> dict[str, int]:
        """Why packets that the stack sent did not leave."""
        return self._ends("tx_drop_", TX_ENDS)

    def undelivered(self) -> dict[str, int]:
        """Why frames that came did not reach the stack."""
        return self._ends("rx_drop_", RX_ENDS)

    def _ends(self, prefix: str, others: tuple[str, ...]) -> dict[str, int]:
        return {
            name: count
            for name, count in self.moved().items()
            if name.startswith(prefix) or name in others
        }
