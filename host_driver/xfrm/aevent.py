# SPDX-License-Identifier: Apache-2.0
"""Async events: NEWAE when the replay counters of a software path have moved (REPLAY-12).

Told at once when a counter is `replay_maxdiff` packets further than at the last event; else when
`replay_maxage` has passed since, which a timer watches. A timer that finds nothing new is deferred:
the next packet then gives the event. Packet offload moves no counters, so it gives no events.
"""

from typing import TYPE_CHECKING

from host_driver.xfrm.state import KmState, ReplayTimer, XfrmState
from host_driver.xfrm.user_ae import build_aevent
from proto.xfrm import AE_CE, AE_CR, Group

if TYPE_CHECKING:
    from host_driver.xfrm.net import XfrmNet

UNIT_NS = 100_000_000  # of replay_maxage
U32 = 0xFFFF_FFFF

Counters = tuple[int, ...]


def _counters(x: XfrmState) -> Counters:
    """Both sequence numbers, then everything else that an event would show."""
    if x.replay_esn is None:
        return x.replay.oseq, x.replay.seq, x.replay.bitmap
    fixed = x.replay_esn.fixed
    return fixed.oseq, fixed.seq, fixed.oseq_hi, fixed.seq_hi, *x.replay_esn.bmp


def xfrm_replay_timer_start(net: "XfrmNet", x: XfrmState) -> None:
    """The state is on the lists: what it has now is known to everybody."""
    x.rtimer = ReplayTimer(x, _counters(x))
    if x.replay_maxage:
        net.arm(x.rtimer, net.now_ns + x.replay_maxage * UNIT_NS)


def xfrm_replay_timer_handler(net: "XfrmNet", timer: ReplayTimer) -> None:
    """The event that is due, if anything has moved and anybody listens."""
    if timer.x.km.state != KmState.VALID:
        return
    if net.listening(Group.AEVENTS):
        _notify(net, timer.x, timer, AE_CE)
    else:
        timer.deferred = True


def xfrm_replay_notify(net: "XfrmNet", x: XfrmState) -> None:
    """A packet has moved the counters of `x`."""
    timer = x.rtimer
    if timer is None or not net.listening(Group.AEVENTS):
        return
    pairs = zip(_counters(x)[:2], timer.told[:2], strict=True)
    furthest = max((now - then) & U32 for now, then in pairs)
    if x.replay_maxdiff and furthest >= x.replay_maxdiff:
        _notify(net, x, timer, AE_CR)
    elif timer.deferred:
        _notify(net, x, timer, AE_CE)


def _notify(net: "XfrmNet", x: XfrmState, timer: ReplayTimer, cause: int) -> None:
    now = _counters(x)
    if cause == AE_CE and now == timer.told:
        timer.deferred = True
        return
    timer.told = now
    net.multicast(Group.AEVENTS, build_aevent(x, cause, 0, 0))
    if x.replay_maxage:
        timer.deferred = timer.deferred and timer.timer_ns is not None
        net.arm(timer, net.now_ns + x.replay_maxage * UNIT_NS)
