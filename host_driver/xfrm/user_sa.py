# SPDX-License-Identifier: Apache-2.0
"""Requests about SAs: add, update, delete, get, dump, flush, ALLOCSPI, EXPIRE (xfrm_user.c)."""

import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING

from host_driver.sleep import Sleep
from host_driver.xfrm.attributes import mark_of, pcpu_of, refuse, sa_dir_of, u32
from host_driver.xfrm.construct import xfrm_state_construct
from host_driver.xfrm.device import (
    xfrm_dev_check_registered,
    xfrm_dev_state_add,
    xfrm_dev_state_delete,
)
from host_driver.xfrm.encode import build, build_delsa, build_expire, build_state
from host_driver.xfrm.flow import prefix
from host_driver.xfrm.lifecycle import (
    xfrm_alloc_spi,
    xfrm_find_acq,
    xfrm_state_add,
    xfrm_state_flush,
    xfrm_state_update,
)
from host_driver.xfrm.sad import addr, proto_match
from host_driver.xfrm.state import KmState, XfrmState
from host_driver.xfrm.verify import verify_newsa_info
from proto.netlink import NLM_F_MULTI
from proto.status import OffloadError
from proto.xfrm import (
    AF_INET,
    AF_INET6,
    IPPROTO_AH,
    IPPROTO_COMP,
    IPPROTO_ESP,
    IPSEC_PROTO_ANY,
    Attr,
    Group,
    Msg,
)
from proto.xfrm_structs import (
    AddressFilter,
    UserExpire,
    UserOffload,
    UserSaFlush,
    UserSaId,
    UserSaInfo,
    UserSpiInfo,
)

if TYPE_CHECKING:
    from host_driver.xfrm.net import XfrmNet
    from host_driver.xfrm.user import Request


def xfrm_add_sa(net: "XfrmNet", request: "Request") -> Sleep[None]:
    """NEWSA and UPDSA: verify, construct, offload, insert, notify (STATE-13, 21, 32)."""
    nlh = request.nlh
    info = UserSaInfo.unpack(nlh.payload)
    verify_newsa_info(net, info, request.attributes)
    x = net.new_state()
    offered = False
    try:
        xfrm_state_construct(net, x, info, request.attributes)
        if Attr.OFFLOAD_DEV in request.attributes:
            offload = UserOffload.unpack(request.attributes[Attr.OFFLOAD_DEV])
            yield from xfrm_dev_state_add(net, x, offload, request.extack)
        offered = True
        xfrm_dev_check_registered(net, x.xso)
        if nlh.type == Msg.NEWSA:
            xfrm_state_add(net, x)
        else:
            xfrm_state_update(net, x)
    except OffloadError:
        x.km.state = KmState.DEAD
        if offered:
            xfrm_dev_state_delete(net, x)  # STATE-21
        net.xfrm_state_put(x)
        raise
    if x.km.state == KmState.VOID:
        x.km.state = KmState.VALID
    net.multicast(Group.SA, build_state(net, x, nlh.type, nlh.seq, nlh.pid, 0))
    net.xfrm_state_put(x)


def _lookup(net: "XfrmNet", request: "Request") -> XfrmState:
    """The SA that DELSA or GETSA names (UAPI-70). Raises ESRCH, or EINVAL without an address."""
    id = UserSaId.unpack(request.nlh.payload)
    mark = mark_of(request.attributes)
    masked = mark.v & mark.m
    if proto_match(id.proto, IPSEC_PROTO_ANY):
        x = net.sad.lookup(masked, id.daddr, id.spi, id.proto, id.family)
    else:
        saddr = request.attributes.get(Attr.SRCADDR)
        if saddr is None:
            raise refuse("")
        x = net.sad.lookup_byaddr(masked, id.daddr, saddr[:16], id.proto, id.family)
    if x is None:
        raise refuse("", errno.ESRCH)
    return x


def xfrm_del_sa(net: "XfrmNet", request: "Request") -> None:
    """DELSA (DEL-03)."""
    x = _lookup(net, request)
    x.refcnt += 1
    deleted = net.xfrm_state_delete(x)
    if deleted:
        net.multicast(Group.SA, build_delsa(net, x, request.nlh.seq, request.nlh.pid))
    net.xfrm_state_put(x)
    if not deleted:
        raise refuse("", errno.ESRCH)


def xfrm_get_sa(net: "XfrmNet", request: "Request") -> None:
    """GETSA of one SA (DUMP-01)."""
    nlh = request.nlh
    x = _lookup(net, request)
    request.replies.append(build_state(net, x, Msg.NEWSA, nlh.seq, nlh.pid, 0))


def xfrm_dump_sa(net: "XfrmNet", request: "Request") -> Iterator[bytes]:
    """GETSA dump: the newest first, filtered by protocol and addresses (DUMP-01)."""
    nlh, wanted = request.nlh, request.attributes
    proto = wanted[Attr.PROTO][0] if Attr.PROTO in wanted else 0
    filter = None
    if Attr.ADDRESS_FILTER in wanted:
        filter = AddressFilter.unpack(wanted[Attr.ADDRESS_FILTER])
        if filter.splen > 128 or filter.dplen > 128:
            raise refuse("")
    for x in net.sad:
        if proto_match(x.id.proto, proto) and (filter is None or _passes(x, filter)):
            with net.running.within("walk"):
                entry = build_state(net, x, Msg.NEWSA, nlh.seq, nlh.pid, NLM_F_MULTI)
            yield entry


def _passes(x: XfrmState, filter: AddressFilter) -> bool:
    if filter.family in (AF_INET, AF_INET6) and filter.family != x.props.family:
        return False
    return all(
        prefix(has, length) == prefix(wanted, length)
        for has, wanted, length in (
            (x.props.saddr, filter.saddr, filter.splen),
            (x.id.daddr, filter.daddr, filter.dplen),
        )
    )


def xfrm_flush_sa(net: "XfrmNet", request: "Request") -> None:
    """FLUSHSA; silent when there was nothing to delete (DEL-06, UAPI-08)."""
    nlh = request.nlh
    flush = UserSaFlush.unpack(nlh.payload)
    if xfrm_state_flush(net, flush.proto):
        net.multicast(Group.SA, build(Msg.FLUSHSA, flush.pack(), nlh.seq, nlh.pid))


def xfrm_alloc_userspi(net: "XfrmNet", request: "Request") -> None:
    """ALLOCSPI: a larval SA with an SPI of the range; the larval SA stays on failure (STATE-38)."""
    nlh = request.nlh
    spi_info = UserSpiInfo.unpack(nlh.payload)
    info, low, high = spi_info.info, spi_info.min, spi_info.max
    if info.id.proto not in (IPPROTO_AH, IPPROTO_ESP, IPPROTO_COMP):
        raise refuse("Invalid protocol, must be one of AH, ESP, IPCOMP")
    if info.id.proto == IPPROTO_COMP and high > 0xFFFF:
        raise refuse("IPCOMP SPI must be <= 65535")
    if low > high:
        raise refuse("Invalid SPI range: min > max")
    mark, if_id = mark_of(request.attributes), u32(request.attributes, Attr.IF_ID)
    pcpu = pcpu_of(request.attributes, errno.EINVAL)
    x = net.sad.find_acq_byseq(mark.v & mark.m, info.seq) if info.seq else None
    if x is None or addr(x.id.daddr, info.family) != addr(info.id.daddr, info.family):
        x = xfrm_find_acq(
            net, mark, info.mode, info.reqid, if_id, info.id.proto, info.id.daddr, info.saddr,
            info.family, pcpu,
        )  # fmt: skip
    xfrm_alloc_spi(net, x, low, high)
    x.dir = sa_dir_of(request.attributes) or x.dir
    request.replies.append(build_state(net, x, Msg.NEWSA, nlh.seq, nlh.pid, 0))


def xfrm_add_sa_expire(net: "XfrmNet", request: "Request") -> None:
    """A user's EXPIRE: notify, then delete if it is a hard one (UAPI-72)."""
    expire = UserExpire.unpack(request.nlh.payload)
    info, mark = expire.state, mark_of(request.attributes)
    x = net.sad.lookup(mark.v & mark.m, info.id.daddr, info.id.spi, info.id.proto, info.family)
    if x is None:
        raise refuse("", errno.ENOENT)
    if x.km.state != KmState.VALID:
        raise refuse("SA must be in VALID state")
    net.multicast(Group.EXPIRE, build_expire(net, x, bool(expire.hard), request.nlh.pid))
    if expire.hard:
        net.xfrm_state_delete(x)
