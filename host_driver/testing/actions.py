# SPDX-License-Identifier: Apache-2.0
"""Sequences of lab actions for the simulator's player: what users, peers, links and faults do.

    @given(plans(steps=40))
    def test_nothing_leaks(plan):
        outcome = simulate(plan)
        assert outcome.violations == []

Actions are those of `host_driver.simulate.actions`; the simulator draws them from a seed, here
Hypothesis draws them, so that it can shrink and keep what failed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from hypothesis import strategies as st

from host_driver.simulate import actions as a
from host_driver.simulate.draw import SIZES, WINDOWS
from host_driver.simulate.flows import FLOWS
from host_driver.simulate.judge import make_judge
from host_driver.simulate.ledger import Limits
from host_driver.simulate.plan import Plan
from host_driver.simulate.play_life import QUESTIONS
from host_driver.simulate.play_policy import REFUSED
from host_driver.simulate.play_traffic import KINDS as ATTACKS
from host_driver.simulate.runner import Outcome, run_plan
from host_driver.simulate.traffic import KINDS as TRAFFIC
from host_driver.testing.faults import fault_specs

SMALL_CARD = "full:sa_max=12,key_max=12,rule_max=24,counter_bits=4,event_queue=4"
PRIORITIES = 10_000  # of one rank
_PICKS = st.integers(0, 99)
_HOSTS = st.sampled_from((0, 1))
_SETTLE = st.sampled_from((True, True, False))


def _limits() -> st.SearchStrategy[Limits]:
    hard = st.sampled_from((1, 2, 5, 15, 16, 17, 40))
    return st.one_of(
        st.just(Limits()),
        hard.map(lambda n: Limits(hard_packets=n)),
        hard.map(lambda n: Limits(soft_packets=max(1, n // 2), hard_packets=n)),
        hard.map(lambda n: Limits(soft_bytes=40 * n, hard_bytes=90 * n)),
    )


def action_strategies(flows: Sequence[int] = (0, 1)) -> Mapping[str, st.SearchStrategy[Any]]:
    """A strategy for each kind of action, by its name; `flows` are numbers of `simulate.flows`.

    What they draw is numbered by `Numbering` before it is played.
    """
    flow, way, end = st.sampled_from(tuple(flows)), st.sampled_from((0, 1)), st.sampled_from
    ends = end(("both", "both", "both", "out", "in"))
    whose = {"flow": flow, "way": way}
    return {
        "AddSa": st.builds(
            a.AddSa, **whose, number=st.just(0), ends=ends, settle=_SETTLE,
            key_bits=end((128, 256)), icv_bytes=end((16, 12, 8)), window=end(WINDOWS[1:]),
            esn=st.booleans(), crypto=st.booleans(), limits=_limits(),
        ),
        "UpdateSa": st.builds(a.UpdateSa, pick=_PICKS, limits=_limits()),
        "DeleteSa": st.builds(a.DeleteSa, pick=_PICKS, both=st.booleans(), settle=_SETTLE),
        "Rekey": st.builds(a.Rekey, pick=_PICKS, number=st.just(0), packets=st.integers(1, 3)),
        "AddPolicy": st.builds(
            a.AddPolicy, **whose, end=end(("out", "in")), priority=st.integers(1, 3),
            verdict=end(("protect", "protect", "block", "bypass")), settle=_SETTLE,
            shape=end(("whole", "udp", "port")), update=st.booleans(),
        ),
        "DeletePolicy": st.builds(a.DeletePolicy, pick=_PICKS, settle=_SETTLE),
        "Flush": st.builds(a.Flush, host=_HOSTS, what=end(("state", "policy"))),
        "Refused": st.builds(a.Refused, host=_HOSTS, which=st.integers(0, len(REFUSED) - 1)),
        "Send": st.builds(
            a.Send, **whose, count=st.integers(1, 8), size=end(SIZES), kind=end(tuple(TRAFFIC)),
            reply=st.integers(0, 2), settle=_SETTLE,
        ),
        "Attack": st.builds(
            a.Attack, kind=end(ATTACKS), host=_HOSTS, pick=_PICKS, flow=flow,
            number=st.integers(0, 1 << 14),
        ),
        "Link": st.builds(a.Link, host=_HOSTS, what=end(("down", "up", "feature-on"))),
        "Advance": st.builds(a.Advance, ms=end((1, 100, 1000, 5000))),
        "Ask": st.builds(a.Ask, host=_HOSTS, what=end(tuple(QUESTIONS))),
    }  # fmt: skip


def connect(flow: int) -> list[Any]:
    """Policies and SAs of both ways of a flow at both ends."""
    parts: list[Any] = []
    for way in (0, 1):
        parts += [
            a.AddPolicy(flow=flow, way=way, end="out", priority=1),
            a.AddPolicy(flow=flow, way=way, end="in", priority=1),
            a.AddSa(flow=flow, way=way, number=0),
        ]
    return parts


@st.composite
def arm_strategies(draw: st.DrawFn, sites: Sequence[str] | None = None) -> a.Arm:
    """A fault at one host or both, as an action."""
    spec = draw(fault_specs(sites))
    told = {
        field.name: value
        for field in msgspec.structs.fields(spec)
        if (value := getattr(spec, field.name)) != field.default
    }
    told.pop("match", None)
    return a.Arm(fault=f"{spec.site}-{spec.kind}", host=draw(st.none() | _HOSTS), fields=told)


class Numbering:
    """Gives every SA, policy and fault a number of its own: no key comes twice, and no two policies
    are equals (SPD-27)."""

    def __init__(self) -> None:
        self._last = 0

    def __call__(self, action: Any) -> Any:
        """The same action, numbered."""
        self._last += 1
        action = msgspec.structs.replace(action, id=self._last)
        if isinstance(action, a.AddSa | a.Rekey):
            return msgspec.structs.replace(action, number=self._last)
        if isinstance(action, a.AddPolicy):
            rank = action.priority * PRIORITIES
            return msgspec.structs.replace(action, priority=rank - self._last)
        if isinstance(action, a.Arm):
            return msgspec.structs.replace(action, fault=f"{action.fault}-{self._last}")
        return action


@st.composite
def plans(
    draw: st.DrawFn, steps: int = 40, *, card: str = SMALL_CARD, faults: bool = True,
    sites: Sequence[str] | None = None,
) -> Plan:  # fmt: skip
    """A run of at most so many actions over two flows that are up from the beginning, with at most
    three faults among them (of `sites`, if given)."""
    flows = draw(st.lists(st.integers(0, len(FLOWS) - 1), min_size=2, max_size=2, unique=True))
    kinds = action_strategies(flows)
    weighted = [kinds["Send"], kinds["Send"], kinds["Send"], *kinds.values()]
    drawn = draw(st.lists(st.one_of(weighted), min_size=1, max_size=steps))
    for fault in draw(st.lists(arm_strategies(sites), max_size=3)) if faults else ():
        drawn.insert(draw(st.integers(0, len(drawn))), fault)
    everything = [one for flow in flows for one in connect(flow)] + drawn
    return Plan(
        seed=draw(st.integers(0, 1 << 16)), card=card, actions=tuple(map(Numbering(), everything))
    )  # fmt: skip


def simulate(plan: Plan) -> Outcome:
    """Run a plan with every invariant judged after every step; `.violations` is what broke."""
    return run_plan(plan, make_judge())
