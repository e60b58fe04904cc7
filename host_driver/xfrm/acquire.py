# SPDX-License-Identifier: Apache-2.0
"""Choosing the SA of a template, and asking key managers for one (TX-10..16, ACQ-*)."""

import errno
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from host_driver.sleep import atomic
from host_driver.xfrm.device import (
    xfrm_dev_release,
    xfrm_dev_state_add_larval,
    xfrm_dev_state_delete,
    xfrm_dev_state_free,
)
from host_driver.xfrm.encode import build_acquire
from host_driver.xfrm.flow import Flow, flow_selector, selector_allows
from host_driver.xfrm.lifecycle import xfrm_state_insert
from host_driver.xfrm.policy import XfrmPolicy
from host_driver.xfrm.sad import mark_match
from host_driver.xfrm.state import OFFLOAD_PACKET, KmState, XfrmState
from proto.clock import NS
from proto.xfrm import ANY_ADDRESS, SA_DIR_OUT, STATE_WILDRECV, Group
from proto.xfrm_structs import UserTmpl

if TYPE_CHECKING:
    from host_driver.xfrm.net import XfrmNet


class Found(NamedTuple):
    """Either an SA, or why there is none (a positive errno)."""

    x: XfrmState | None
    error: int = 0


class _Search:
    """What a walk over candidates has come up with (TX-13)."""

    def __init__(self) -> None:
        self.best: XfrmState | None = None
        self.acquiring = False
        self.error = 0

    def look_at(self, x: XfrmState, flow: Flow) -> None:
        fits = selector_allows(x.sel, flow)
        if x.km.state == KmState.ACQ:
            self.acquiring = True
        elif x.km.state in (KmState.ERROR, KmState.EXPIRED) and fits:
            self.error = errno.ESRCH
        elif x.km.state == KmState.VALID and fits:
            best = self.best
            rank = (not x.km.dying, x.curlft.add_time)
            if best is None or rank > (not best.km.dying, best.curlft.add_time):
                self.best = x


def xfrm_state_find(
    net: "XfrmNet", flow: Flow, tmpl: UserTmpl, xp: XfrmPolicy, ends: tuple[bytes, bytes]
) -> Found:
    """The SA for one template of a policy; starts an acquire when there is none (TX-10..16).

    `ends` are destination and source of the packet that the SA makes.
    """
    daddr, saddr = ends
    search = _Search()
    _walk(net, search, flow, tmpl, xp, daddr, saddr, saddr)
    if search.best is None and not search.acquiring and saddr != ANY_ADDRESS:
        _walk(net, search, flow, tmpl, xp, daddr, ANY_ADDRESS, saddr)
    if search.best is not None:
        return Found(search.best)
    if search.acquiring:
        return Found(None, errno.EAGAIN)
    if search.error:
        return Found(None, search.error)
    mark = xp.mark.v & xp.mark.m
    namesakes = net.sad.with_spi(daddr, tmpl.id.spi, tmpl.id.proto, tmpl.family)
    if tmpl.id.spi and any(mark_match(mark, x) for x in _eligible(namesakes, xp)):
        return Found(None, errno.EEXIST)  # TX-15
    if not net.listening(Group.ACQUIRE):
        return Found(None, errno.ESRCH)  # TX-16
    return _acquire(net, flow, tmpl, xp, daddr, saddr)


def _walk(
    net: "XfrmNet", search: _Search, flow: Flow, tmpl: UserTmpl, xp: XfrmPolicy, daddr: bytes,
    key_saddr: bytes, saddr: bytes,
) -> None:  # fmt: skip
    """Look at the candidates of one bucket (TX-12)."""
    mark = xp.mark.v & xp.mark.m
    for x in _eligible(net.sad.bucket(daddr, key_saddr, tmpl.reqid, tmpl.family), xp):
        wild = ANY_ADDRESS in (x.props.saddr, saddr)
        suits = (
            (x.props.saddr == saddr or wild)
            and mark_match(mark, x)
            and x.if_id == xp.if_id
            and not x.props.flags & STATE_WILDRECV
            and (x.props.mode, x.id.proto) == (tmpl.mode, tmpl.id.proto)
            and tmpl.id.spi in (0, x.id.spi)
        )
        if suits:
            search.look_at(x, flow)


def _eligible(bucket: Iterable[XfrmState], xp: XfrmPolicy) -> Iterator[XfrmState]:
    """Packet policies use packet SAs of their device only, and stop at the first SA of another
    kind; no other policy uses a packet SA (TX-11)."""
    packet = xp.xdo.type == OFFLOAD_PACKET
    for x in bucket:
        if packet and x.xso.type != OFFLOAD_PACKET:
            return
        if x.xso.dev is xp.xdo.dev if packet else x.xso.type != OFFLOAD_PACKET:
            yield x


def _acquire(
    net: "XfrmNet", flow: Flow, tmpl: UserTmpl, xp: XfrmPolicy, daddr: bytes, saddr: bytes
) -> Found:
    """Make a larval SA, offer it to the policy's device, and ask the key managers (ACQ-01..08)."""
    x = net.new_state()
    x.sel = flow_selector(flow)
    x.id.spi, x.id.proto = tmpl.id.spi, tmpl.id.proto
    x.id.daddr = daddr if tmpl.id.daddr == ANY_ADDRESS else tmpl.id.daddr
    x.props.saddr = saddr if tmpl.saddr == ANY_ADDRESS else tmpl.saddr
    x.props.mode, x.props.reqid, x.props.family = tmpl.mode, tmpl.reqid, tmpl.family
    x.mark.v, x.mark.m, x.if_id = xp.mark.v, xp.mark.m, xp.if_id
    if xp.xdo.type == OFFLOAD_PACKET:
        error = xfrm_dev_state_add_larval(net, x, xp.xdo)
        if error:
            x.km.state = KmState.DEAD
            net.xfrm_state_put(x)
            return Found(None, error)

    x.km.seq = net.next_acqseq()
    if net.profile.sa_dir_known:
        x.dir = SA_DIR_OUT
    if not net.multicast(Group.ACQUIRE, build_acquire(x, tmpl, xp)):
        x.km.state = KmState.DEAD
        _forget_larval(net, x)
        net.xfrm_state_put(x)
        return Found(None, errno.ESRCH)
    x.km.state = KmState.ACQ
    x.lft.hard_add_expires_seconds = net.acq_expires
    xfrm_state_insert(net, x)
    net.arm(x, net.now_ns + net.acq_expires * NS)
    net.xfrm_state_put(x)
    return Found(None, errno.EAGAIN)


def _forget_larval(net: "XfrmNet", x: XfrmState) -> None:
    """No key manager wants it: the driver hears delete, and free at once (ACQ-08)."""
    xfrm_dev_state_delete(net, x)
    if net.profile.failed_acquire_frees:
        atomic(xfrm_dev_state_free(net, x, "data"), "xdo_dev_state_free", "OPS-17")
    elif x.xso.dev is not None:  # TRAP-10: forgotten before the collector could free it
        net.dev_gc_list.pop(x, None)
        xfrm_dev_release(x.xso)
