# SPDX-License-Identifier: Apache-2.0
"""What every long run tells when it is over, a soak as well as chaos: what went, what broke, what
grew and what was lost in the end."""

from collections.abc import Iterable

import msgspec

from host_driver.simulate.ledger import Step, Violation
from host_driver.simulate.resources import Sample, lines


class LongRun(msgspec.Struct, kw_only=True):
    """`lost`: of the `last_bursts` packets that were sent when all was well again."""

    packets: int = 0
    frames: int = 0
    delivered: int = 0
    faults: int = 0
    last_bursts: int = 0
    lost: int = 0
    violations: list[Violation] = []
    leaks: list[str] = []
    samples: list[Sample] = []

    @property
    def failed(self) -> bool:
        """Whether something broke, grew or was lost."""
        return bool(self.violations or self.leaks or self.lost)

    def count(self, steps: Iterable[Step]) -> None:
        """Add what went in these steps."""
        for step in steps:
            self.packets += len(step.submitted)
            self.frames += len(step.frames)
            self.delivered += len(step.delivered)

    def traffic(self) -> str:
        """For people: what went."""
        return f"{self.packets} packets sent, {self.frames} frames, {self.delivered} delivered"

    def ending(self, where: str = "") -> list[str]:
        """For people: how it ended. `where` says of what the steps are."""
        return [
            f"in the end {self.last_bursts} packets sent, {self.lost} lost",
            *lines(self.samples),
            *(
                f"INV-{one.invariant:02} in step {one.step}{where}: {one.text}"
                for one in self.violations
            ),
            *(f"leak: {one}" for one in self.leaks),
        ]
