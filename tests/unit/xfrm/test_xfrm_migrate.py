# SPDX-License-Identifier: Apache-2.0
"""MIGRATE of SAs and policies, with and without a device (STATE-39, STATE-40)."""

import errno
from typing import Any

import pytest

from host_driver.xfrm.profile import V6_2
from host_driver.xfrm.state import OFFLOAD_PACKET
from proto.netlink import attribute, message
from proto.xfrm import Attr, Msg
from proto.xfrm_structs import (
    UserMigrate,
    UserOffload,
    UserPolicyId,
    UserPolicyInfo,
    UserTmpl,
    XfrmId,
    XfrmSelector,
)

A, B, C, D = (bytes((10, 1, 0, last)) + bytes(12) for last in (1, 2, 3, 4))
NIC, TRANSPORT, TUNNEL, ESP = 2, 0, 1, 50
SELECTOR = XfrmSelector(B, A, family=2, prefixlen_d=32, prefixlen_s=32)


def migrate(*moves: UserMigrate, offload: bool = False, dir: int = 1) -> bytes:
    payload = UserPolicyId(SELECTOR, dir=dir).pack()
    payload += attribute(Attr.MIGRATE, b"".join(move.pack() for move in moves))
    if offload:
        payload += attribute(Attr.OFFLOAD_DEV, UserOffload(NIC, 4).pack())
    return message(Msg.MIGRATE, payload, 5)


def move(mode: int = TRANSPORT, reqid: int = 1, **ends: bytes) -> UserMigrate:
    ends = {"old_daddr": B, "old_saddr": A, "new_daddr": D, "new_saddr": C, **ends}
    return UserMigrate(**ends, proto=ESP, mode=mode, reqid=reqid, old_family=2, new_family=2)


@pytest.fixture
def moved(world: Any) -> Any:
    """A world with one SA in software, which has sent, and its policy."""
    world.add_sa(0x1000, flags=None, hard_packet_limit=100)
    world.add_policy(offload=False)
    world.state(0x1000).replay.oseq = 7
    world.take()
    return world


def test_an_sa_moves_with_key_limits_and_replay_state(moved: Any) -> None:
    key = bytes(moved.state(0x1000).aead.key)
    assert moved.errno(migrate(move())) == 0
    (x,) = moved.net.sad
    assert (x.id.daddr, x.props.saddr, x.id.spi) == (D, C, 0x1000)
    assert (bytes(x.aead.key), x.replay.oseq, x.lft.hard_packet_limit) == (key, 7, 100)
    assert moved.net.sad.lookup(0, B, 0x1000, ESP, 2) is None


def test_listeners_hear_of_the_move_and_not_of_its_parts(moved: Any) -> None:
    moved.errno(migrate(move()))
    (told,) = moved.take()
    assert told[4] == Msg.MIGRATE
    assert told[16:80] == UserPolicyId(SELECTOR, dir=1).pack()
    assert told.endswith(attribute(Attr.MIGRATE, move().pack()))


def test_with_the_same_destination_the_new_sa_stands_beside_the_old_one(moved: Any) -> None:
    assert moved.errno(migrate(move(new_daddr=B))) == 0
    (x,) = moved.net.sad
    assert (x.id.daddr, x.props.saddr) == (B, C)


def test_what_is_in_the_way_stops_the_move(moved: Any) -> None:
    moved.add_sa(0x1000, flags=None, saddr=C, daddr=D)
    assert moved.errno(migrate(move())) == errno.ENODATA
    assert {x.id.daddr for x in moved.net.sad} == {B, D}
    assert moved.take(Msg.MIGRATE) == []


def test_no_template_that_fits_undoes_the_move(moved: Any) -> None:
    """Transport templates fit by mode, protocol and reqid."""
    assert moved.errno(migrate(move(reqid=2))) == errno.ENODATA
    (x,) = moved.net.sad
    assert x.id.daddr == B


def test_tunnel_templates_get_new_ends(world: Any) -> None:
    tmpl = UserTmpl(XfrmId(B, proto=ESP), 2, A, reqid=1, mode=TUNNEL)
    info = UserPolicyInfo(SELECTOR, dir=1)
    add = message(Msg.NEWPOLICY, info.pack() + attribute(Attr.TMPL, tmpl.pack()), 5)
    assert world.errno(add) == 0
    assert world.errno(migrate(move(TUNNEL))) == 0
    (xp,) = world.net.spd
    assert (xp.xfrm_vec[0].id.daddr, xp.xfrm_vec[0].saddr) == (D, C)


def test_the_clone_is_offered_to_the_device(moved: Any, pktsim: Any) -> None:
    """STATE-40."""
    assert moved.errno(migrate(move(), offload=True)) == 0
    assert moved.state(0x1000).xso.type == OFFLOAD_PACKET
    assert [line.split()[0] for line in pktsim.log] == ["state_add"]


def test_a_clone_that_cannot_be_inserted_leaves_the_device(moved: Any, pktsim: Any) -> None:
    """STATE-40: v6.16 missed the delete."""
    moved.add_sa(0x1000, flags=None, saddr=C, daddr=D)
    assert moved.errno(migrate(move(), offload=True)) == errno.ENODATA
    calls = [line.split()[0] for line in pktsim.log]
    assert calls == ["state_add", "state_delete", "state_free"]
    assert moved.nic.refcnt == 0


def test_a_driver_that_refuses_the_clone_stops_the_move(moved: Any, pktsim: Any) -> None:
    pktsim.fail_state = 1
    assert moved.errno(migrate(move(), offload=True)) == errno.ENODATA
    (x,) = moved.net.sad
    assert x.id.daddr == B and moved.nic.refcnt == 0


def test_v6_2_clones_carry_no_offload(moved: Any, pktsim: Any) -> None:
    """STATE-39."""
    moved.net.profile = V6_2
    assert moved.errno(migrate(move(), offload=True)) == 0
    assert moved.state(0x1000).xso.dev is None and pktsim.log == []
