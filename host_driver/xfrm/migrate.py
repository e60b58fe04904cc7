# SPDX-License-Identifier: Apache-2.0
"""MIGRATE inside the core: SAs and the templates of one policy get new ends (STATE-39, STATE-40).

    0 check the list    1 find the policy    2 clone the SAs    3 change the templates
    4 delete the old SAs

What fails before step 4 leaves the old SAs and the policy as they were.
"""

import copy
import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from host_driver.ops import Extack
from host_driver.sleep import Sleep
from host_driver.xfrm.attributes import refuse, verify_policy_dir
from host_driver.xfrm.construct import xfrm_init_state
from host_driver.xfrm.device import xfrm_dev_state_add, xfrm_dev_state_delete
from host_driver.xfrm.flow import GRE, MOBILITY, WITH_PORTS, WITH_TYPES, Flow
from host_driver.xfrm.lifecycle import xfrm_state_add, xfrm_state_insert
from host_driver.xfrm.policy import XfrmPolicy
from host_driver.xfrm.state import Aead, Algorithm, KmState, XfrmState
from proto.status import OffloadError
from proto.xfrm import (
    AF_INET,
    AF_INET6,
    IPSEC_PROTO_ANY,
    MODE_TRANSPORT,
    TUNNEL_MODES,
    XFRM_MAX_DEPTH,
)
from proto.xfrm_structs import (
    EncapTmpl,
    UserMigrate,
    UserOffload,
    UserTmpl,
    XfrmSelector,
)

if TYPE_CHECKING:
    from host_driver.xfrm.net import XfrmNet


@dataclass
class Migration:
    """What a MIGRATE asks for. `if_id` 0 takes any."""

    sel: XfrmSelector
    dir: int
    type: int
    moves: Sequence[UserMigrate]
    encap: EncapTmpl | None
    if_id: int
    offload: UserOffload | None


def xfrm_migrate(net: "XfrmNet", wanted: Migration, extack: Extack) -> Sleep[None]:
    """Do all of it, or raise OffloadError and leave everything as it was."""
    xfrm_migrate_check(wanted.moves)
    verify_policy_dir(wanted.dir)
    xp = _policy_find(net, wanted)
    old: list[XfrmState] = []
    new: list[XfrmState] = []
    try:
        for move in wanted.moves:
            x = _state_find(net, move, wanted.if_id)
            if x is not None:
                old.append(x)
                new.append((yield from xfrm_state_migrate(net, x, move, wanted, extack)))
        xfrm_policy_migrate(net, xp, wanted.moves)
    except OffloadError:
        for xc in new:
            net.xfrm_state_delete(xc)
        raise
    for x in old:
        net.xfrm_state_delete(x)


def xfrm_migrate_check(moves: Sequence[UserMigrate]) -> None:
    """Every end is given, and no entry stands twice. Raises EINVAL."""
    if not 0 < len(moves) <= XFRM_MAX_DEPTH:
        raise refuse("Invalid number of SAs to migrate, must be 0 < num <= XFRM_MAX_DEPTH (6)")
    seen = set()
    for move in moves:
        if _is_any(move.new_daddr, move.new_family) or _is_any(move.new_saddr, move.new_family):
            raise refuse("Addresses in the MIGRATE attribute's list cannot be null")
        old = (move.old_daddr, move.old_saddr, move.proto, move.mode, move.reqid, move.old_family)
        if old in seen:
            raise refuse("Entries in the MIGRATE attribute's list must be unique")
        seen.add(old)


def _is_any(address: bytes, family: int) -> bool:
    """Whether an address of a known family is all zero."""
    length = {AF_INET: 4, AF_INET6: 16}.get(family)
    return length is not None and not any(address[:length])


def _policy_find(net: "XfrmNet", wanted: Migration) -> XfrmPolicy:
    """The policy that a packet with the ends of the selector would meet. Raises."""
    sel = wanted.sel
    if sel.family not in (AF_INET, AF_INET6):
        raise refuse("Target policy not found", errno.EAFNOSUPPORT)
    flow = Flow(sel.family, sel.saddr, sel.daddr, sel.proto)
    if sel.proto != IPSEC_PROTO_ANY:
        sport, dport = _ports(sel)
        flow = flow._replace(sport=sport, dport=dport, oif=sel.ifindex)
    xp = net.spd.lookup_bytype(flow, wanted.dir, wanted.type, wanted.if_id)
    if xp is None:
        raise refuse("Target policy not found", errno.ENOENT)
    return xp


def _ports(sel: XfrmSelector) -> tuple[int, int]:
    """Source and destination port of the flow. The kernel puts both into a union, and reads it as
    what the protocol has: ports, type and code, or a key."""
    union = sel.dport.to_bytes(2, "big") + sel.sport.to_bytes(2, "big")
    if sel.proto in WITH_PORTS:
        return sel.sport, sel.dport
    if sel.proto in WITH_TYPES:
        return union[0], union[1]
    if sel.proto == GRE:
        return sel.dport, sel.sport
    return (union[0], 0) if sel.proto == MOBILITY else (0, 0)


def _state_find(net: "XfrmNet", move: UserMigrate, if_id: int) -> XfrmState | None:
    """The SA that an entry means: the first with its ends, mode, protocol and reqid (0: any)."""
    for x in net.sad.between(move.old_daddr, move.old_saddr, move.old_family):
        if (
            (x.props.mode, x.id.proto) == (move.mode, move.proto)
            and move.reqid in (0, x.props.reqid)
            and if_id in (0, x.if_id)
        ):
            return x
    return None


def xfrm_state_migrate(
    net: "XfrmNet", x: XfrmState, move: UserMigrate, wanted: Migration, extack: Extack
) -> Sleep[XfrmState]:
    """A clone of `x` with new ends, in the SAD and offered to a device. Raises ENODATA."""
    xc = _clone(net, x, wanted.encap)
    xc.props.family = move.new_family
    offered = False
    try:
        xfrm_init_state(xc)
        xc.id.daddr, xc.props.saddr = move.new_daddr, move.new_saddr
        if wanted.offload is not None and net.profile.migrate_offloads:
            yield from xfrm_dev_state_add(net, xc, wanted.offload, extack)
            offered = True
        if x.id.daddr == move.new_daddr:  # SPI and destination stay: beside the old one
            xfrm_state_insert(net, xc)
        else:
            xfrm_state_add(net, xc)
    except OffloadError as refusal:
        xc.km.state = KmState.DEAD
        if offered:
            xfrm_dev_state_delete(net, xc)
        net.xfrm_state_put(xc)
        raise OffloadError(errno.ENODATA, refusal.text) from None
    net.xfrm_state_put(xc)
    return xc


def _clone(net: "XfrmNet", x: XfrmState, encap: EncapTmpl | None) -> XfrmState:
    """All that makes `x` what it is, its replay state too; not its counters and its device."""
    xc = net.new_state()
    for name in (
        "id", "sel", "lft", "mark", "props", "replay", "replay_esn", "encap", "coaddr", "if_id",
        "tfcpad", "dir", "pcpu_num", "replay_maxage", "replay_maxdiff", "mapping_maxage",
        "nat_keepalive_interval",
    ):  # fmt: skip
        setattr(xc, name, copy.deepcopy(getattr(x, name)))
    for name in ("aead", "aalg", "ealg", "calg"):
        setattr(xc, name, _clone_algorithm(getattr(x, name)))
    if encap is not None:
        xc.encap = encap
    xc.curlft.add_time = x.curlft.add_time
    xc.km.state, xc.km.seq = x.km.state, x.km.seq
    return xc


def _clone_algorithm(algorithm: Aead | Algorithm | None) -> Aead | Algorithm | None:
    """An algorithm with a key of its own, as the old one's is wiped."""
    if algorithm is None:
        return None
    twin = copy.copy(algorithm)
    twin.key = bytearray(algorithm.key)
    return twin


def xfrm_policy_migrate(net: "XfrmNet", xp: XfrmPolicy, moves: Sequence[UserMigrate]) -> None:
    """Give the templates of a tunnel their new ends. Raises ENODATA when none fits."""
    found = False
    for tmpl in xp.xfrm_vec:
        for move in moves:
            if not _template_match(move, tmpl):
                continue
            found = True
            if tmpl.mode in TUNNEL_MODES:
                tmpl.id.daddr, tmpl.saddr = move.new_daddr, move.new_saddr
                tmpl.family = move.new_family
                net.spd.generation += 1
    if not found:
        raise refuse("", errno.ENODATA)


def _template_match(move: UserMigrate, tmpl: UserTmpl) -> bool:
    if (tmpl.mode, tmpl.id.proto) != (move.mode, move.proto):
        return False
    if move.reqid not in (0, tmpl.reqid):
        return False
    if tmpl.mode in TUNNEL_MODES:
        return (tmpl.id.daddr, tmpl.saddr) == (move.old_daddr, move.old_saddr)
    return tmpl.mode == MODE_TRANSPORT
