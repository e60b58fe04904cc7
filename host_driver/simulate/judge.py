# SPDX-License-Identifier: Apache-2.0
"""Who judges a run, made afresh for each."""

from host_driver.simulate.ledger import Ledger, Step, Violation
from host_driver.simulate.runner import Judge


class Jury:
    """Asks every invariant after every step."""

    def judge(self, ledger: Ledger, step: Step) -> list[Violation]:
        """What did not hold."""
        return [*_answers(step), *_arrivals(step)]


def _answers(step: Step) -> list[Violation]:
    """A living host answers within its bound."""
    return [Violation(46, step.number, text) for text in step.unanswered]


def _arrivals(step: Step) -> list[Violation]:
    """What must arrive once everything is healed has arrived."""
    return [
        Violation(50, step.number, f"a packet did not arrive at host{host}, although {why}")
        for _, host, packet, why in step.expected
        if not any(one.host == host and one.packet == packet for one in step.delivered)
    ]


def make_judge() -> Judge:
    """A judge that knows nothing yet."""
    return Jury()
