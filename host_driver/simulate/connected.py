# SPDX-License-Identifier: Apache-2.0
"""Two key managers that keep some flows connected, whatever happens, and stacks that use them."""

import random
from typing import Any

import msgspec

from host_driver.simulate import converge
from host_driver.simulate.actions import AddPolicy, AnyAction, End, Flush, Send
from host_driver.simulate.ledger import Violation
from host_driver.simulate.runner import Run

FLOWS = (0, 1, 2, 6)  # transport and tunnel, IPv4 and IPv6, the card's and software's
WAYS = (0, 1)
ENDS: tuple[End, End] = ("out", "in")
SIZES = (0, 20, 64, 300, 1300)
BURST_MAX = 40


class Broken(Exception):
    """An invariant did not hold; `violations` are what did not."""

    def __init__(self, violations: list[Violation]) -> None:
        super().__init__("; ".join(one.text for one in violations))
        self.violations = violations


def note(violations: list[Violation]) -> None:
    """Raises Broken where there are any."""
    if violations:
        raise Broken(violations)


class Connected:
    """What key managers and stacks do in a run that was started. Every method raises Broken.

    `first`: the number of its first SA, so that no key comes twice.
    """

    def __init__(self, run: Run, first: int = 1) -> None:
        self._run = run
        self._last = first - 1

    def number(self) -> int:
        """One that nobody had."""
        self._last += 1
        return self._last

    def act(self, action: AnyAction) -> None:
        """One step."""
        note(self._run.act(msgspec.structs.replace(action, id=self.number())))

    def policies(self) -> None:
        """All that should be protected; UPDPOLICY, so that it may be said again."""
        for host in WAYS:
            for flow in FLOWS:
                for way in WAYS:
                    end, priority = ENDS[way != host], 100 + flow
                    asked: Any = {"flow": flow, "way": way, "end": end, "priority": priority}
                    self.act(AddPolicy(**asked, update=True, settle=False))

    def reconnect(self) -> None:
        """All SAs anew, as after an IKE restart; each carries a packet, which must arrive."""
        for host in WAYS:
            self.act(Flush(host=host, what="state", settle=False))
        for flow in FLOWS:
            for way in WAYS:
                do = converge.reconnect(flow, way, self.number())
                note(self._run.step("run", f"flow {flow} way {way} is connected", do))

    def bursts(self, rng: random.Random, count: int) -> None:
        """Packets of any flow, both ways; nobody waits for them."""
        for _ in range(count):
            self.act(
                Send(
                    flow=rng.choice(FLOWS), way=rng.choice(WAYS), settle=False,
                    count=rng.randint(1, BURST_MAX), reply=rng.randint(0, BURST_MAX),
                    size=rng.choice(SIZES),
                )
            )  # fmt: skip

    def count_bursts(self) -> tuple[int, int]:
        """Bursts of every flow while all is well; -> packets sent, and how many did not arrive."""
        first = len(self._run.ledger.steps)
        for flow in FLOWS:
            for way in WAYS:
                self.act(Send(flow=flow, way=way, count=BURST_MAX, size=64, reply=0))
        steps = self._run.ledger.steps[first:]
        sent = sum(len(step.submitted) for step in steps)
        return sent, sent - sum(len(step.delivered) for step in steps)

    def finish(self) -> None:
        """Everything goes, and nothing is left on either card."""
        note(converge.finish(self._run.step))
