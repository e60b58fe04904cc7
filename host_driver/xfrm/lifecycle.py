# SPDX-License-Identifier: Apache-2.0
"""How SAs enter and leave the SAD, and the collector that frees them (STATE-21..38, DEL-01..09).

    VOID -> VALID        request accepted             VOID -> ACQ      acquire, ALLOCSPI
    VALID -> EXPIRED     hard limit reached           any  -> DEAD     deleted, or request failed
    ACQ -> EXPIRED       acquire timed out            prohibited: out of DEAD, VALID -> ACQ

An SA that is DEAD and unreferenced waits for the collector, which wipes its keys and then calls the
driver's free.
"""

import errno
from typing import TYPE_CHECKING

from host_driver.netdev import NetDevice
from host_driver.sleep import Completion, Sleep
from host_driver.xfrm.aevent import xfrm_replay_timer_start
from host_driver.xfrm.device import xfrm_dev_state_delete, xfrm_dev_state_free
from host_driver.xfrm.lifetime import xfrm_state_check_expire
from host_driver.xfrm.sad import addr, mark_match, proto_match
from host_driver.xfrm.state import KmState, XfrmState
from proto.clock import NS
from proto.status import OffloadError
from proto.xfrm import AF_INET, AF_INET6, IPSEC_PROTO_ANY
from proto.xfrm_structs import XfrmMark

if TYPE_CHECKING:
    from host_driver.xfrm.net import XfrmNet


def xfrm_state_insert(net: "XfrmNet", x: XfrmState) -> None:
    """Put a state on the lists, which hold a reference; first timer shot in 1 s (STATE-32)."""
    x.refcnt += 1
    net.sad.insert(x)
    net.arm(x, net.now_ns + NS)
    xfrm_replay_timer_start(net, x)


def sanitize_mark(net: "XfrmNet", mark: XfrmMark) -> None:
    """Before an SA or policy of a request is stored: only what the mask covers counts (UAPI-52)."""
    if net.profile.marks_sanitized:
        mark.v &= mark.m


def xfrm_state_put(net: "XfrmNet", x: XfrmState) -> None:
    """Drop a reference; the last one hands the state to the collector (DEL-04)."""
    x.refcnt -= 1
    if x.refcnt == 0:
        net.gc_list.append(x)
        if not net.gc_running:
            net.gc_running = True
            net.sched.spawn(_gc_task(net))


def _gc_task(net: "XfrmNet") -> Sleep[None]:
    """The collector: batches, the last deleted first (DEL-05)."""
    while net.gc_list:
        batch, net.gc_list = net.gc_list[::-1], []
        for x in batch:
            net.disarm(x)
            if x.rtimer is not None:
                net.disarm(x.rtimer)
            x.wipe_keys()
            x.encap = x.replay_esn = x.coaddr = None
            yield from xfrm_dev_state_free(net, x)
            x.freed = True
    net.gc_running = False


def xfrm_state_delete(net: "XfrmNet", x: XfrmState) -> bool:
    """Take a state out of the SAD and the data path (DEL-01). False when it was DEAD already."""
    if x.km.state == KmState.DEAD:
        return False
    x.km.state = KmState.DEAD
    net.disarm(x)
    listed = x in net.sad
    net.sad.remove(x)
    with net.running.within("lock"):
        xfrm_dev_state_delete(net, x)
    if listed:
        xfrm_state_put(net, x)
    return True


def xfrm_state_add(net: "XfrmNet", x: XfrmState) -> None:
    """Insert a new SA in the place of the larval one it answers. Raises EEXIST (STATE-28)."""
    if net.sad.locate(x) is not None:
        raise OffloadError(errno.EEXIST, "")
    larval = _resolved_by(net, x) if proto_match(x.id.proto, IPSEC_PROTO_ANY) else None
    sanitize_mark(net, x.mark)
    xfrm_state_insert(net, x)
    if larval is not None:
        xfrm_state_delete(net, larval)


def _resolved_by(net: "XfrmNet", x: XfrmState) -> XfrmState | None:
    """The larval SA that `x` answers: by sequence number, else by what it protects (STATE-29)."""
    mark = x.mark.v & x.mark.m
    if x.km.seq:
        larval = net.sad.find_acq_byseq(mark, x.km.seq)
        if larval is not None and _aims_like(larval, x):
            return larval
    return _find_acq(
        net, mark, x.props.mode, x.props.reqid, x.id.proto, x.id.daddr, x.props.saddr,
        x.props.family, x.pcpu_num,
    )  # fmt: skip


def _aims_like(larval: XfrmState, x: XfrmState) -> bool:
    ends = (addr(one.id.daddr, x.props.family) for one in (larval, x))
    return larval.id.proto == x.id.proto and next(ends) == next(ends)


def _find_acq(
    net: "XfrmNet", mark: int, mode: int, reqid: int, proto: int, daddr: bytes, saddr: bytes,
    family: int, pcpu: int | None,
) -> XfrmState | None:  # fmt: skip
    wanted = (0, mode, proto, pcpu)
    for x in net.sad.larval(daddr, saddr, reqid, family):
        same = (x.id.spi, x.props.mode, x.id.proto, x.pcpu_num) == wanted
        if same and mark_match(mark, x):
            return x
    return None


def xfrm_find_acq(
    net: "XfrmNet", mark: XfrmMark, mode: int, reqid: int, if_id: int, proto: int, daddr: bytes,
    saddr: bytes, family: int, pcpu: int | None,
) -> XfrmState:  # fmt: skip
    """The larval SA of an ALLOCSPI, made if there is none; never offloaded (STATE-38)."""
    found = _find_acq(net, mark.v & mark.m, mode, reqid, proto, daddr, saddr, family, pcpu)
    if found is not None:
        return found
    x = net.new_state()
    x.id.proto = proto
    x.props.family, x.props.mode, x.props.reqid = family, mode, reqid
    x.mark, x.if_id, x.pcpu_num, x.km.state = mark, if_id, pcpu, KmState.ACQ
    if family in (AF_INET, AF_INET6):
        daddr, saddr = (addr(one, family).ljust(16, b"\0") for one in (daddr, saddr))
        x.sel.daddr, x.sel.saddr = daddr, saddr
        x.sel.prefixlen_d = x.sel.prefixlen_s = 32 if family == AF_INET else 128
        x.id.daddr, x.props.saddr = daddr, saddr
    x.lft.hard_add_expires_seconds = net.acq_expires
    xfrm_state_insert(net, x)
    net.arm(x, net.now_ns + net.acq_expires * NS)
    xfrm_state_put(net, x)
    return x


def xfrm_alloc_spi(net: "XfrmNet", x: XfrmState, low: int, high: int) -> None:
    """Give a larval SA an SPI of [low, high]. Raises ENOENT when none is free (STATE-38)."""
    if x.id.spi:
        return
    for attempt in range(high - low + 1):
        spi = low if low == high else net.rng.randint(low, high)
        if not spi and not net.profile.spi_clash_checked:
            break
        if spi and not _spi_clashes(net, x, spi):
            x.id.spi = spi
            net.sad.insert_spi(x)
            return
        if attempt >= 1 << 16:
            break
    raise OffloadError(errno.ENOENT, "No SPI available in the requested range")


def _spi_clashes(net: "XfrmNet", x: XfrmState, spi: int) -> bool:
    """Whether another SA has this SPI: whatever its family and mark, in late kernels (TRAP-31)."""
    if net.profile.spi_clash_checked:
        return net.sad.spi_taken(spi, x.id.proto)
    mark = x.mark.v & x.mark.m
    return net.sad.lookup(mark, x.id.daddr, spi, x.id.proto, x.props.family) is not None


def xfrm_state_update(net: "XfrmNet", x: XfrmState) -> None:
    """UPDSA: complete a larval SA, or take over limits into a VALID one. Raises (STATE-31..37)."""
    old = net.sad.locate(x)
    if old is None:
        raise OffloadError(errno.ESRCH, "")
    if old.km.state == KmState.ACQ:
        if x.dir and old.dir != x.dir:
            raise OffloadError(errno.ESRCH, "")
        sanitize_mark(net, x.mark)
        xfrm_state_insert(net, x)
        xfrm_state_delete(net, old)
        return
    if old.dir != x.dir:
        raise OffloadError(errno.ESRCH, "")
    if old.km.state != KmState.VALID:
        raise OffloadError(errno.EINVAL, "")
    if (x.encap is None) != (old.encap is None):
        raise OffloadError(errno.EINVAL, "")
    if x.encap and old.encap and x.encap.encap_type != old.encap.encap_type:
        raise OffloadError(errno.EINVAL, "")
    _take_over(net, old, x)
    x.km.state = KmState.DEAD
    if net.profile.update_deletes_offered:
        xfrm_dev_state_delete(net, x)


def _take_over(net: "XfrmNet", old: XfrmState, x: XfrmState) -> None:
    """What UPDSA changes in a VALID SA: not keys, replay state, reqid, offload (STATE-31)."""
    if x.encap:
        old.encap = x.encap
    if x.coaddr and old.coaddr:
        old.coaddr = x.coaddr
    if not proto_match(x.id.proto, IPSEC_PROTO_ANY):
        old.sel = x.sel
    old.lft = x.lft
    old.km.dying = False
    net.arm(old, net.now_ns + NS)
    if old.curlft.use_time:
        with net.running.within("lock"):
            xfrm_state_check_expire(net, old)
    if x.props.smark.v or x.props.smark.m or x.if_id:
        old.if_id = x.if_id
        old.props.smark = x.props.smark
        net.sad.generation += 1
    old.nat_keepalive_interval = x.nat_keepalive_interval


def xfrm_state_flush(net: "XfrmNet", proto: int) -> bool:
    """Delete every SA of a protocol (DEL-06). False when there was none."""
    found = [x for x in net.sad if proto_match(x.id.proto, proto)]
    for x in found:
        xfrm_state_delete(net, x)
    return bool(found)


def xfrm_dev_state_flush(net: "XfrmNet", dev: NetDevice) -> None:
    """Delete every SA of a device (NDEV-02), and free it at once in the driver, together with those
    that were deleted before and that something still refers to (DEL-08)."""
    for x in [x for x in net.sad if x.xso.dev is dev]:
        x.refcnt += 1
        if xfrm_state_delete(net, x) and net.profile.freed_at_device_flush:
            _run_now(net, _free_early(net, x))
        else:
            xfrm_state_put(net, x)
    if net.profile.freed_at_device_flush:
        for x in [x for x in net.dev_gc_list if x.xso.dev is dev]:
            x.refcnt += 1
            _run_now(net, _free_early(net, x))


def _free_early(net: "XfrmNet", x: XfrmState) -> Sleep[None]:
    yield from xfrm_dev_state_free(net, x, "netdev")
    xfrm_state_put(net, x)


def _run_now(net: "XfrmNet", task: Sleep[None]) -> None:
    """Start a task here; only if it sleeps does the scheduler carry on with it."""
    try:
        first = next(task)
    except StopIteration:
        return
    net.sched.spawn(_carry_on(first, task))


def _carry_on(first: Completion, task: Sleep[None]) -> Sleep[None]:
    yield first
    yield from task
