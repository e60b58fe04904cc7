# SPDX-License-Identifier: Apache-2.0
"""Limits: the expiry check that drivers call, the timers of SAs and policies (LIFE-10..52).

Seconds are whole wall-clock seconds; timers are due at a moment in nanoseconds.
"""

import errno
from typing import TYPE_CHECKING

from host_driver.xfrm.device import xfrm_dev_state_update_stats
from host_driver.xfrm.encode import build_polexpire
from host_driver.xfrm.policy import XfrmPolicy
from host_driver.xfrm.state import OFFLOAD_PACKET, KmState, XfrmState
from proto.clock import NS
from proto.xfrm import Group

if TYPE_CHECKING:
    from host_driver.xfrm.net import XfrmNet

XFRM_KM_TIMEOUT_S = 30  # CONST-05


def xfrm_state_check_expire(net: "XfrmNet", x: XfrmState) -> int:
    """Compare the counters with the byte and packet limits (LIFE-10..18).

    Returns 0, or -EINVAL when a hard limit is reached: the SA is then EXPIRED and its timer, due
    at once, deletes it. A soft limit is reported once, and not at all when one look passes both.
    """
    if x.xso.type == OFFLOAD_PACKET:
        xfrm_dev_state_update_stats(net, x)
    if not x.curlft.use_time:
        x.curlft.use_time = net.seconds()
    cur, lft = x.curlft, x.lft
    if cur.bytes >= lft.hard_byte_limit or cur.packets >= lft.hard_packet_limit:
        xfrm_state_expire(net, x)
        return -errno.EINVAL
    soft = cur.bytes >= lft.soft_byte_limit or cur.packets >= lft.soft_packet_limit
    if soft and not x.km.dying and x.km.state != KmState.DEAD:
        x.km.dying = True
        net.km_state_expired(x, False)
    return 0


def xfrm_state_expire(net: "XfrmNet", x: XfrmState) -> None:
    """Hard expiry: its timer, due at once, deletes the SA and tells the user (LIFE-12, LIFE-24)."""
    if x.km.state != KmState.DEAD:
        x.km.state = KmState.EXPIRED
        net.arm(x, net.now_ns)


def xfrm_timer_handler(net: "XfrmNet", x: XfrmState) -> None:
    """One shot of an SA's timer (LIFE-20..24)."""
    xfrm_dev_state_update_stats(net, x)
    if x.km.state == KmState.DEAD:
        return
    following = None if x.km.state == KmState.EXPIRED else _hard_limits(net, x)
    if following is None:
        _expired(net, x)
        return
    if not x.km.dying:
        following, warn = _soft_limits(net, x, following)
        x.km.dying = warn
        if warn:
            net.km_state_expired(x, False)
    if following:  # LIFE-25: without a time limit there is no second shot
        net.arm(x, net.now_ns + following * NS)


def _nearer(following: int, remaining: int) -> int:
    """The nearest of two times in seconds, where 0 is never."""
    return min(following, remaining) if following else remaining


def _hard_limits(net: "XfrmNet", x: XfrmState) -> int | None:
    """Seconds until the nearest hard limit, 0 for none; None when one is reached (LIFE-21)."""
    now, following = net.seconds(), 0
    if x.lft.hard_add_expires_seconds:
        remaining = x.lft.hard_add_expires_seconds + x.curlft.add_time - now
        if remaining <= 0:
            if not x.soft_expire:
                return None
            # The clock was set forward while the soft alarm ran: the SA lives on.
            x.curlft.add_time = now - x.saved_tmo - 1
            remaining = x.lft.hard_add_expires_seconds - x.saved_tmo
        following = max(remaining, 1)
    if x.lft.hard_use_expires_seconds:
        remaining = x.lft.hard_use_expires_seconds + (x.curlft.use_time or now) - now
        if remaining <= 0:
            return None
        following = _nearer(following, remaining)
    return following


def _soft_limits(net: "XfrmNet", x: XfrmState, following: int) -> tuple[int, bool]:
    """Seconds until the nearest limit, and whether a soft one has been reached (LIFE-22)."""
    now, warn = net.seconds(), False
    if x.lft.soft_add_expires_seconds:
        remaining = x.lft.soft_add_expires_seconds + x.curlft.add_time - now
        if remaining <= 0:
            warn, x.soft_expire = True, False
        elif not following or remaining < following:
            following, x.soft_expire, x.saved_tmo = remaining, True, remaining
    if x.lft.soft_use_expires_seconds:
        remaining = x.lft.soft_use_expires_seconds + (x.curlft.use_time or now) - now
        if remaining <= 0:
            warn = True
        elif not following or remaining < following:
            following, x.soft_expire = remaining, False
    return following, warn


def _expired(net: "XfrmNet", x: XfrmState) -> None:
    """The SA goes, and the user hears of it once (LIFE-24, LIFE-27)."""
    if x.km.state == KmState.ACQ and not x.id.spi:
        x.km.state = KmState.EXPIRED
    if net.xfrm_state_delete(x):
        net.km_state_expired(x, True)


def xfrm_policy_timer(net: "XfrmNet", xp: XfrmPolicy) -> None:
    """One shot of a policy's timer; a soft limit is repeated every 30 s (LIFE-50, LIFE-51)."""
    if xp.dead:
        return
    now, following, warn = net.seconds(), 0, False
    used = xp.curlft.use_time or xp.curlft.add_time
    for limit, base, hard in (
        (xp.lft.hard_add_expires_seconds, xp.curlft.add_time, True),
        (xp.lft.hard_use_expires_seconds, used, True),
        (xp.lft.soft_add_expires_seconds, xp.curlft.add_time, False),
        (xp.lft.soft_use_expires_seconds, used, False),
    ):
        if not limit:
            continue
        remaining = limit + base - now
        if remaining <= 0 and hard:
            expired = build_polexpire(xp, True, 0)  # names the device, which the delete takes away
            if net.xfrm_policy_delete(xp):
                net.multicast(Group.EXPIRE, expired)
            return
        if remaining <= 0:
            warn, remaining = True, XFRM_KM_TIMEOUT_S
        following = _nearer(following, remaining)
    if warn:
        net.multicast(Group.EXPIRE, build_polexpire(xp, False, 0))
    if following:
        net.arm(xp, net.now_ns + following * NS)
