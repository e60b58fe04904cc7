# SPDX-License-Identifier: Apache-2.0
"""What a target is: the options of a run, and the host that a case works with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from host_driver.ip import Result

TARGETS = ("sim", "process", "kernel")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a run was asked for. `dev` is the offload device of target `kernel`, or None."""

    target: str = "sim"
    profile: str = "latest"
    driver: str | None = None
    card: str = "full"
    seed: int = 0
    dev: str | None = None


class RawNic(Protocol):
    """The device under test."""

    name: str
    ifindex: int
    mac: bytes

    def counters(self) -> dict[str, int]: ...
    def census(self) -> dict[str, int]: ...


class RawHost(Protocol):
    """What every target offers; a target skips the case in a method that it cannot offer."""

    @property
    def nic(self) -> RawNic: ...
    def ip(self, text: str) -> Result: ...
    def netlink(self, request: bytes, privileged: bool = True) -> list[bytes]: ...
    def netlink_together(self, requests: Sequence[bytes]) -> list[list[bytes]]: ...
    def listen(self, *groups: int, room: int | None = None) -> None: ...
    def sysctl(self, name: str, value: int) -> None: ...
    def notifications(self) -> list[bytes]: ...
    def send(self, packets: Sequence[bytes]) -> list[int]: ...
    def receive(self) -> list[bytes]: ...
    def mib(self) -> dict[str, int]: ...
    def trace(self) -> list[dict[str, Any]]: ...
    def devices(self) -> list[dict[str, Any]]: ...
    def add_device(self, name: str) -> int: ...
    def set_link(
        self, dev: str, *, up: bool | None = None, mtu: int | None = None,
        esp_hw_offload: bool | None = None, esp_tx_csum_hw_offload: bool | None = None,
        unregister: bool = False,
    ) -> None: ...  # fmt: skip
