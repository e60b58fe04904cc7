# SPDX-License-Identifier: Apache-2.0
"""What is written down of a step, while the lab goes on."""

from host_driver.lab.handles import NicHandle
from host_driver.simulate.actions import AddSa, Advance
from host_driver.simulate.judge import make_judge
from host_driver.simulate.ledger import Limits
from host_driver.simulate.plan import Plan
from host_driver.simulate.runner import Run


def test_answers_that_a_timer_ran_into_are_not_of_one_moment(monkeypatch) -> None:
    """An SA expires behind the last look at the notifications and in front of the census: the card
    lacks what nobody has been told is gone."""
    add = AddSa(id=0, flow=0, way=0, number=1, limits=Limits(hard_seconds=30))
    run = Run(Plan(seed=1, card="full", actions=(add, Advance(id=1, ms=1))), make_judge())
    run.start()
    try:
        assert run.act(run.plan.actions[0]) == []
        assert run.ledger.steps[0].settled
        census = NicHandle.census

        def late(nic: NicHandle) -> dict[str, int]:
            run.lab.advance(60)
            return census(nic)

        with monkeypatch.context() as patch:
            patch.setattr(NicHandle, "census", late)
            assert run.act(run.plan.actions[1]) == []
        step = run.ledger.steps[1]
        assert not step.settled and not step.snapshots
        assert [sa.expired_step for sa in run.ledger.sas] == [1, 1]
    finally:
        run.close()
