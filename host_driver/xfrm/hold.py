# SPDX-License-Identifier: Apache-2.0
"""Packets that wait for an SA: the hold queue of a policy (xfrm_policy.c; ACQ-21).

Only where sysctl xfrm_larval_drop is 0. The first packet is tried again after a tenth of a second,
then after twice as long as before: all go out once it finds its SAs, and all are dropped when it is
refused, or when the wait has reached a minute.
"""

import errno
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from host_driver.xfrm.bundle import xfrm_lookup
from host_driver.xfrm.flow import Flow
from host_driver.xfrm.policy import XfrmPolicy

if TYPE_CHECKING:
    from host_driver.xfrm.net import XfrmNet

XFRM_MAX_QUEUE_LEN = 100  # CONST-07; one more than that is held
XFRM_QUEUE_TMO_MIN_NS = 100_000_000  # CONST-08
XFRM_QUEUE_TMO_MAX_NS = 60_000_000_000


@dataclass(slots=True, eq=False)
class PolicyQueue:
    """xfrm_policy_queue: packets in the order in which they came, each with its flow and the
    payload of the pieces that it is to be cut into, 0 for none."""

    held: deque[tuple[Flow, bytes, int]] = field(default_factory=deque)
    timeout_ns: int = 0
    timer_ns: int | None = None


def xdst_queue_output(
    net: "XfrmNet", xp: XfrmPolicy, flow: Flow, packet: bytes, gso_size: int
) -> int:
    """Hold a packet of a policy that has no SA yet. 0, or -EAGAIN when the queue is full."""
    if xp.polq is None:
        xp.polq = PolicyQueue()
    queue = xp.polq
    if len(queue.held) > XFRM_MAX_QUEUE_LEN:
        return -errno.EAGAIN
    queue.held.append((flow, packet, gso_size))
    queue.timeout_ns = queue.timeout_ns or XFRM_QUEUE_TMO_MIN_NS
    if queue.timer_ns is None:
        net.arm(queue, net.now_ns + queue.timeout_ns)
    return 0


def xfrm_policy_queue_process(net: "XfrmNet", queue: PolicyQueue) -> None:
    """The queue's timer: try the first packet, then all, or wait twice as long."""
    if not queue.held:
        return
    decision = xfrm_lookup(net, queue.held[0][0])
    if decision.pending is not None and queue.timeout_ns < XFRM_QUEUE_TMO_MAX_NS:
        queue.timeout_ns *= 2
        net.arm(queue, net.now_ns + queue.timeout_ns)
        return
    held, queue.held, queue.timeout_ns = queue.held, deque(), 0
    if decision.pending is not None or decision.error:
        return
    for flow, packet, gso_size in held:
        net.output(packet, flow.mark, may_hold=False, gso_size=gso_size)


def xfrm_policy_requeue(net: "XfrmNet", old: XfrmPolicy, new: XfrmPolicy) -> None:
    """What waited for a policy waits for the one in its place, and is tried at once (SPD-03)."""
    queue, old.polq = old.polq, None
    if queue is not None and queue.held:
        new.polq = queue
        queue.timeout_ns = XFRM_QUEUE_TMO_MIN_NS
        net.arm(queue, net.now_ns)
