# SPDX-License-Identifier: Apache-2.0
"""The way out: policy, SA, device (xfrm_lookup, xfrm_output; TX-01..16, TX-23).

A packet for a packet-offload SA goes to the device in clear and is marked `protect`, so that the
device never lets it out unprotected. There is no software ESP here: an SA without packet offload is
stored and matched, but a packet that needs it is dropped as XfrmOutStateProtoError with
EPROTONOSUPPORT.

What was decided for a flow is kept, as the kernel keeps bundles, until an SA, a policy or a device
changes (TX-02, STATE-30, SPD-10).
"""

import errno
from typing import TYPE_CHECKING, NamedTuple

from host_driver.netdev import NetDevice, Skb
from host_driver.xfrm.acquire import xfrm_state_find
from host_driver.xfrm.device import xfrm_dev_offload_ok
from host_driver.xfrm.flow import Flow, decode
from host_driver.xfrm.policy import XfrmPolicy
from host_driver.xfrm.state import OFFLOAD_PACKET, KmState, XfrmState
from proto.xfrm import (
    POLICY_BLOCK,
    POLICY_OUT,
    SA_DIR_OUT,
    USERPOLICY_BLOCK,
)

if TYPE_CHECKING:
    from host_driver.xfrm.net import XfrmNet

FLOW_CACHE = 4096


class Decision(NamedTuple):
    """What becomes of the packets of a flow.

    `error` is a positive errno, or 0 with `states` for the SAs to apply, an empty one means clear;
    `drop` is a packet that vanishes although its sender hears of no error (ACQ-20).
    """

    counters: tuple[str, ...] = ()
    error: int = 0
    states: tuple[XfrmState, ...] = ()
    drop: bool = False


class _Cached(NamedTuple):
    generation: tuple[int, int, int]
    decision: Decision


class FlowCache:
    """Decisions by flow, bounded; a full cache is emptied."""

    def __init__(self) -> None:
        self._flows: dict[Flow, _Cached] = {}

    def get(self, flow: Flow, generation: tuple[int, int, int]) -> Decision | None:
        """The decision, if nothing that it rests on has changed."""
        cached = self._flows.get(flow)
        if cached is None or cached.generation != generation:
            return None
        valid = all(x.km.state == KmState.VALID for x in cached.decision.states)
        return cached.decision if valid else None

    def put(self, flow: Flow, generation: tuple[int, int, int], decision: Decision) -> None:
        """Remember a decision that stands until the generation moves."""
        if len(self._flows) >= FLOW_CACHE:
            self._flows.clear()
        self._flows[flow] = _Cached(generation, decision)


def xfrm_output(net: "XfrmNet", packet: bytes, mark: int) -> int:
    """Send an IP packet. Returns 0 when it was accepted, else a negative errno."""
    flow = decode(packet)
    if flow is None:
        return -errno.EINVAL
    dev = net.devices.route(flow.address(flow.daddr))
    if dev is None:
        return -errno.ENETUNREACH
    flow = flow._replace(oif=dev.ifindex, mark=mark)
    decision = _decide(net, flow)
    for counter in decision.counters:
        net.mib.bump(counter)
    if decision.error:
        return -decision.error
    if decision.drop:
        return 0
    if not decision.states:
        return -abs(dev.xmit(Skb(packet, mark)))
    return _protected(net, Skb(packet, mark, protect=True), decision.states, dev)


def _decide(net: "XfrmNet", flow: Flow) -> Decision:
    generation = (net.spd.generation, net.sad.generation, net.policy_default_generation)
    cached = net.flows.get(flow, generation)
    if cached is not None:
        return cached
    xp = net.spd.lookup(flow, POLICY_OUT)
    if xp is None:
        # A default block moves no counter: so 7.3.4 was seen to do, whatever TX-01 says.
        blocked = net.policy_default[POLICY_OUT] == USERPOLICY_BLOCK
        decision = Decision(error=errno.EPERM if blocked else 0)
    else:
        decision = _by_policy(net, flow, xp)
        settled = xp.action == POLICY_BLOCK or not (decision.error or decision.drop)
        if settled and not xp.curlft.use_time:  # not while an acquire is pending
            xp.curlft.use_time = net.seconds()
    if not decision.counters and not decision.drop:
        net.flows.put(flow, generation, decision)
    return decision


def _by_policy(net: "XfrmNet", flow: Flow, xp: XfrmPolicy) -> Decision:
    """Resolve the templates of a policy to SAs (TX-01..04)."""
    if xp.action == POLICY_BLOCK:
        return Decision(("XfrmOutPolBlock",), errno.EPERM)
    states = []
    for tmpl in xp.xfrm_vec:
        x, error = xfrm_state_find(net, flow, tmpl, xp)
        if x is not None and x.dir not in (0, SA_DIR_OUT):
            return Decision(("XfrmOutStateDirError", "XfrmOutPolError"), errno.EINVAL)
        if x is not None:
            states.append(x)
        elif not tmpl.optional and error in (errno.EAGAIN, errno.ESRCH):
            return Decision(("XfrmOutNoStates",), drop=True)  # ACQ-20
        elif not tmpl.optional:
            return Decision(("XfrmOutPolError",), error)
    return Decision(states=tuple(states))


def _protected(net: "XfrmNet", skb: Skb, states: tuple[XfrmState, ...], dev: NetDevice) -> int:
    """Hand a packet to the device of its SA (TX-05, TX-23), or drop it."""
    x = states[0]
    if x.xso.type != OFFLOAD_PACKET:
        net.mib.bump("XfrmOutStateProtoError")
        return -errno.EPROTONOSUPPORT
    # A device takes no packet that needs a second transform.
    if len(states) > 1 or not xfrm_dev_offload_ok(net, skb, x, dev):
        net.mib.bump("XfrmOutError")
        return -errno.EHOSTUNREACH
    return -abs(dev.xmit(skb))
