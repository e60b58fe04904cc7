# SPDX-License-Identifier: Apache-2.0
"""Policy and SAs of an outgoing flow (xfrm_lookup; TX-01..16).

What was decided for a flow is kept, as the kernel keeps bundles, until an SA, a policy or a device
changes (TX-02, STATE-30, SPD-10).
"""

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from host_driver.xfrm.acquire import xfrm_state_find
from host_driver.xfrm.flow import Flow
from host_driver.xfrm.policy import XfrmPolicy
from host_driver.xfrm.sad import addr
from host_driver.xfrm.state import OFFLOAD_PACKET, KmState, XfrmState
from proto.xfrm import (
    MODE_TRANSPORT,
    POLICY_BLOCK,
    POLICY_OUT,
    SA_DIR_OUT,
    TUNNEL_MODES,
    USERPOLICY_BLOCK,
)

if TYPE_CHECKING:
    from host_driver.xfrm.net import XfrmNet

FLOW_CACHE = 4096

Generation = tuple[int, int, int]


class Decision(NamedTuple):
    """What becomes of the packets of a flow.

    `error` is a positive errno, or 0 with `states` for the SAs to apply, an empty one means clear;
    `pending` is the policy whose SAs are missing: key managers have been asked (section 6.4).
    `used` are the policies that each packet of the flow uses.
    """

    counters: tuple[str, ...] = ()
    error: int = 0
    states: tuple[XfrmState, ...] = ()
    pending: XfrmPolicy | None = None
    used: tuple[XfrmPolicy, ...] = ()


class FlowCache:
    """Decisions by flow, bounded: a full cache is emptied, and so is one of another generation, for
    what it holds can be true no more, and would keep dead SAs and policies. `emptied` counts."""

    def __init__(self) -> None:
        self._flows: dict[Flow, Decision] = {}
        self._generation = (0, 0, 0)
        self.emptied = 0

    def clear(self) -> None:
        """Forget everything: routes have changed."""
        self._flows.clear()
        self.emptied += 1

    def get(self, flow: Flow, generation: Generation) -> Decision | None:
        """The decision, if nothing that it rests on has changed."""
        if generation != self._generation:
            self.clear()
            self._generation = generation
        decision = self._flows.get(flow)
        valid = decision and all(x.km.state == KmState.VALID for x in decision.states)
        return decision if valid else None

    def put(self, flow: Flow, decision: Decision) -> None:
        """Remember a decision of the generation that `get` was asked about last."""
        if len(self._flows) >= FLOW_CACHE:
            self.clear()
        self._flows[flow] = decision


def generation(net: "XfrmNet") -> Generation:
    """Moves with every SA, policy or default that may change a decision."""
    return net.spd.generation, net.sad.generation, net.policy_default_generation


def xfrm_lookup(net: "XfrmNet", flow: Flow) -> Decision:
    """What becomes of a flow, from the cache or decided anew."""
    decision = net.flows.get(flow, generation(net))
    if decision is None:
        decision = _decide(net, flow)
        if not decision.counters:
            net.flows.put(flow, decision)
    for xp in decision.used:  # of a policy, use_time is the last use
        xp.curlft.use_time = net.seconds()
    return decision


def _decide(net: "XfrmNet", flow: Flow) -> Decision:
    policies = net.spd.lookup(flow, POLICY_OUT)
    if not policies:
        # A default block moves no counter: so 7.3.4 was seen to do, whatever TX-01 says.
        blocked = net.policy_default[POLICY_OUT] == USERPOLICY_BLOCK
        return Decision(error=errno.EPERM if blocked else 0)
    used = tuple(policies)
    if any(xp.action == POLICY_BLOCK for xp in policies):
        return Decision(("XfrmOutPolBlock",), errno.EPERM, used=used)
    decision = _by_policies(net, flow, policies)
    settled = not (decision.error or decision.pending)
    return decision._replace(used=used) if settled else decision  # not while an acquire is pending


def _by_policies(net: "XfrmNet", flow: Flow, policies: Sequence[XfrmPolicy]) -> Decision:
    """Resolve the templates of policies to SAs (TX-01..04)."""
    states: list[XfrmState] = []
    ends = flow.daddr, flow.saddr
    wanted = [(xp, tmpl) for xp in policies for tmpl in xp.xfrm_vec]
    for xp, tmpl in wanted:
        if tmpl.mode in TUNNEL_MODES:
            ends = tmpl.id.daddr, tmpl.saddr
        x, error = xfrm_state_find(net, flow, tmpl, xp, ends)
        if x is not None and x.dir not in (0, SA_DIR_OUT):
            return Decision(("XfrmOutStateDirError", "XfrmOutPolError"), errno.EINVAL)
        if x is not None:
            states.append(x)
        elif not tmpl.optional and error in (errno.EAGAIN, errno.ESRCH):
            return Decision(("XfrmOutNoStates",), pending=xp)
        elif not tmpl.optional:
            return Decision(("XfrmOutPolError",), error)
    if not all(_has_route(net, x) for x in states):
        return Decision(("XfrmOutBundleGenError",), errno.ENETUNREACH)
    return Decision(states=tuple(states))


def _has_route(net: "XfrmNet", x: XfrmState) -> bool:
    """Whether the far end of a tunnel can be reached; of packet offload the inner route counts."""
    if x.props.mode == MODE_TRANSPORT or x.xso.type == OFFLOAD_PACKET:
        return True
    return net.devices.route(addr(x.id.daddr, x.props.family)) is not None
