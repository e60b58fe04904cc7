# SPDX-License-Identifier: Apache-2.0
"""MIGRATE: the request, and the notification that repeats it (xfrm_user.c)."""

from typing import TYPE_CHECKING

from host_driver.sleep import Sleep
from host_driver.xfrm.attributes import Attributes, refuse, type_of, u32
from host_driver.xfrm.encode import build
from host_driver.xfrm.migrate import Migration, xfrm_migrate
from proto.netlink import attribute
from proto.xfrm import Attr, Group, Msg
from proto.xfrm_structs import (
    EncapTmpl,
    UserKmaddress,
    UserMigrate,
    UserOffload,
    UserPolicyId,
    UserPolicyType,
)

if TYPE_CHECKING:
    from host_driver.xfrm.net import XfrmNet
    from host_driver.xfrm.user import Request


def xfrm_do_migrate(net: "XfrmNet", request: "Request") -> Sleep[None]:
    """MIGRATE: move, then tell all listeners."""
    given = request.attributes
    if Attr.MIGRATE not in given:
        raise refuse("Missing required MIGRATE attribute")
    id = UserPolicyId.unpack(request.nlh.payload)
    type = type_of(given)
    offload = given.get(Attr.OFFLOAD_DEV)
    wanted = Migration(
        sel=id.sel,
        dir=id.dir,
        type=type,
        moves=_moves(given[Attr.MIGRATE]),
        encap=EncapTmpl.unpack(given[Attr.ENCAP]) if Attr.ENCAP in given else None,
        if_id=u32(given, Attr.IF_ID),
        offload=None if offload is None else UserOffload.unpack(offload),
    )
    yield from xfrm_migrate(net, wanted, request.extack)
    net.multicast(Group.MIGRATE, build_migrate(wanted, given))


def _moves(data: bytes) -> list[UserMigrate]:
    """The entries; a piece of an entry is left out."""
    size = UserMigrate.size()
    return [UserMigrate.unpack(data, at * size) for at in range(len(data) // size)]


def build_migrate(wanted: Migration, given: Attributes) -> bytes:
    """The notification: the selector, new ends of key manager and encapsulation, every entry."""
    parts = [UserPolicyId(sel=wanted.sel, dir=wanted.dir).pack()]
    if Attr.KMADDRESS in given:
        where = UserKmaddress.unpack(given[Attr.KMADDRESS])
        parts.append(attribute(Attr.KMADDRESS, where.pack()))
    if wanted.encap is not None:
        parts.append(attribute(Attr.ENCAP, wanted.encap.pack()))
    parts.append(attribute(Attr.POLICY_TYPE, UserPolicyType(wanted.type).pack()))
    parts += [attribute(Attr.MIGRATE, move.pack()) for move in wanted.moves]
    return build(Msg.MIGRATE, b"".join(parts))
