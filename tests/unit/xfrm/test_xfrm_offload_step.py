# SPDX-License-Identifier: Apache-2.0
"""The decision tables of the offload step in both kernels: ADD-01..16 and PADD-01..08.

Each row: the errno, whether the SA is then offloaded, software or not there, and how many device
references the request has left behind.
"""

import errno
import struct
from typing import Any, NamedTuple

import pytest

from host_driver.xfrm.profile import LATEST, PROFILES
from host_driver.xfrm.state import OFFLOAD_CRYPTO, OFFLOAD_PACKET
from proto.netlink import attribute
from proto.netlink import message as nl_message
from proto.xfrm_structs import (
    EncapTmpl,
    LifetimeCfg,
    ReplayStateEsn,
    UserOffload,
    UserPolicyInfo,
    UserTmpl,
    XfrmId,
    XfrmSelector,
)

NIC, OTHER = 2, 3
IN, PACKET, UNKNOWN_BIT = 2, 4, 8
EINVAL = errno.EINVAL
ENCAP, TFCPAD, ESN, OFFLOAD_DEV, IF_ID, SA_DIR = 4, 22, 23, 28, 31, 33
MODE_TUNNEL = 1
A, B = (bytes((10, 1, 0, last)) + bytes(12) for last in (1, 2))


@pytest.fixture(params=PROFILES.values(), ids=lambda profile: profile.name)
def profile(request):
    return request.param


@pytest.fixture
def world(make_world, pktsim, profile):
    """Route and offload device nic0 of index 2, and a device of index 3 that has no callbacks."""
    world = make_world(pktsim, profile=profile)
    world.plain = world.add_device("plain0", OTHER)
    return world


class Row(NamedTuple):
    """A condition and what comes of it: (late crypto, late packet, v6.2 crypto, v6.2 packet).

    An errno, or SW for a software SA, or OK for an offloaded one.
    """

    id: str
    change: dict[str, Any]
    results: tuple[int, int, int, int]


OK, SW = 0, -1
UDP_4500 = EncapTmpl(2, 4500, 4500).pack()
ESN_32 = ReplayStateEsn(bmp_len=1, replay_window=32).pack()

ROWS = [
    Row("ADD-01", {"handlers": set()}, (EINVAL, EINVAL, EINVAL, EINVAL)),
    Row("ADD-02", {"attributes": {ENCAP: UDP_4500}}, (OK, OK, EINVAL, EINVAL)),
    Row(
        "ADD-03", {"attributes": {TFCPAD: struct.pack("<I", 64)}, "mode": MODE_TUNNEL},
        (EINVAL, EINVAL, EINVAL, EINVAL),
    ),
    Row("ADD-04", {"flags": UNKNOWN_BIT}, (EINVAL, EINVAL, EINVAL, EINVAL)),
    Row("ADD-05", {"ifindex": 99, "route": False}, (SW, EINVAL, SW, EINVAL)),
    Row("ADD-06", {"ifindex": 99}, (OK, OK, OK, OK)),
    Row("ADD-06-in", {"ifindex": 0, "flags": IN}, (OK, OK, OK, OK)),
    Row("ADD-07", {"ifindex": OTHER}, (SW, EINVAL, SW, EINVAL)),
    Row("ADD-08", {"attributes": {ESN: ESN_32}, "esn": True}, (EINVAL, OK, EINVAL, EINVAL)),
    Row("ADD-09", {}, (OK, OK, OK, OK)),
    Row("ADD-10", {"driver": errno.EOPNOTSUPP}, (SW, errno.EOPNOTSUPP) * 2),
    Row("ADD-11a", {"driver": EINVAL}, (EINVAL,) * 4),
    Row("ADD-11b", {"driver": errno.ENOSPC}, (errno.ENOSPC,) * 4),
    Row("ADD-11c", {"driver": errno.ENOMEM}, (errno.ENOMEM,) * 4),
    Row("ADD-11d", {"driver": errno.EBUSY}, (errno.EBUSY,) * 4),
    Row(
        "ADD-13", {"flags": IN, "attributes": {IF_ID: struct.pack("<I", 5)}},
        (EINVAL, EINVAL, OK, OK),
    ),
    # v6.2 does not know SA_DIR and ignores it, so there is nothing that could disagree.
    Row("ADD-14", {"flags": IN, "attributes": {SA_DIR: b"\2"}}, (EINVAL, EINVAL, OK, OK)),
    Row("ADD-14-agrees", {"flags": IN, "attributes": {SA_DIR: b"\1"}}, (OK, OK, OK, OK)),
    Row("ADD-15", {"flags": IN}, (OK, OK, OK, OK)),
]  # fmt: skip


def newsa(requests, type_flag: int, row: Row) -> bytes:
    """The request of a row: crypto or packet offload."""
    flags = row.change.get("flags", 0) | type_flag
    request = bytearray(
        requests[0](flags=flags, ifindex=row.change.get("ifindex", NIC))
    )  # its family is 2, its SPI 0x1000
    request[16 + 214] = row.change.get("mode", 0)
    if row.change.get("esn"):
        request[16 + 216] = 128
    payload = bytes(request[16:])
    for type, value in row.change.get("attributes", {}).items():
        payload += attribute(type, value)
    return nl_message(0x10, payload, 5)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
@pytest.mark.parametrize("kind", [OFFLOAD_CRYPTO, OFFLOAD_PACKET], ids=["crypto", "packet"])
def test_the_offload_step_of_newsa(world, pktsim, requests, profile, row, kind):
    late_crypto, late_packet, old_crypto, old_packet = row.results
    crypto, packet = (late_crypto, late_packet) if profile is LATEST else (old_crypto, old_packet)
    wanted = packet if kind == OFFLOAD_PACKET else crypto
    pktsim.fail_state = row.change.get("driver", 0)
    world.net.type_offload = row.change.get("handlers", world.net.type_offload)
    if not row.change.get("route", True):
        world.nic.up = world.plain.up = False
    if row.change.get("esn"):
        del world.nic.xfrmdev_ops.xdo_dev_state_advance_esn

    error = world.errno(newsa(requests, PACKET if kind == OFFLOAD_PACKET else 0, row))
    assert error == max(wanted, 0)
    assert len(world.net.sad) == int(wanted <= 0)
    assert (world.nic.refcnt, world.plain.refcnt) == (int(wanted == OK), 0)
    if wanted <= 0:
        (x,) = world.net.sad
        assert x.xso.type == (kind if wanted == OK else 0)
        assert x.xso.dir == ((1 if row.change.get("flags", 0) & IN else 2) if wanted == OK else 0)


@pytest.mark.parametrize("flags", [0, PACKET])
def test_add_12_an_identity_that_exists(world, flags):
    assert world.add_sa(flags=flags) == 0
    assert world.add_sa(flags=flags) == errno.EEXIST
    assert world.nic.refcnt == 1


def test_add_16_no_offload_asked_for(world, pktsim):
    assert world.add_sa(flags=None) == 0
    assert (pktsim.log, world.nic.refcnt) == ([], 0)


def test_what_comes_first_decides_for_protocols_without_offload(world, requests, profile):
    """STATE-16, STATE-26: AH that asks a device without callbacks for crypto offload."""
    request = bytearray(requests[0](flags=0, ifindex=OTHER)[16 : 16 + 224])
    request[56 + 20] = 51
    auth = b"hmac(sha1)".ljust(64, b"\0") + struct.pack("<II", 160, 96) + bytes(20)
    payload = bytes(request) + attribute(20, auth)
    payload += attribute(OFFLOAD_DEV, UserOffload(OTHER, 0).pack())
    wanted = 0 if profile is LATEST else EINVAL
    assert world.errno(nl_message(0x10, payload, 5)) == wanted


def test_drivers_find_the_real_device_where_the_kernel_says_it(world, profile):
    world.add_sa()
    world.add_policy()
    (x,), (xp,) = world.net.sad, world.net.spd
    real_dev = None if profile is LATEST else world.nic
    assert x.xso.real_dev is xp.xdo.real_dev is real_dev


def test_the_driver_sees_the_finished_sa(world, pktsim, profile):
    """OPS-10: keys, limits and replay state are there, km.state is VOID, no list has it."""
    seen = {}

    def add(dev, x, extack):
        seen.update(
            keys=x.key_bytes(), limit=x.lft.hard_packet_limit, window=x.props.replay_window,
            state=int(x.km.state), listed=x in world.net.sad, dev=x.xso.dev, type=x.xso.type,
        )  # fmt: skip
        return 0

    pktsim.xdo_dev_state_add = add
    assert world.add_sa(hard_packet_limit=9, window=32, flags=IN | PACKET) == 0
    assert seen == {
        "keys": 20, "limit": 9, "window": 32, "state": 0, "listed": False, "dev": world.nic,
        "type": OFFLOAD_PACKET,
    }  # fmt: skip


def newpolicy(
    flags: int | None = PACKET, ifindex: int = NIC, template: UserTmpl | None = None
) -> bytes:
    sel = XfrmSelector(B, A, family=2, prefixlen_d=32, prefixlen_s=32)
    tmpl = template or UserTmpl(XfrmId(proto=50), 2, reqid=1)
    payload = UserPolicyInfo(sel, LifetimeCfg(), dir=1).pack() + attribute(5, tmpl.pack())
    if flags is not None:
        payload += attribute(OFFLOAD_DEV, UserOffload(ifindex, flags).pack())
    return nl_message(0x13, payload, 5)


@pytest.mark.parametrize(
    ("request_bytes", "driver_error", "wanted", "calls"),
    [
        pytest.param(newpolicy(0), 0, EINVAL, 0, id="PADD-01"),
        pytest.param(newpolicy(IN), 0, EINVAL, 0, id="PADD-02-in"),
        pytest.param(newpolicy(IN | PACKET), 0, EINVAL, 0, id="PADD-02-in-packet"),
        pytest.param(newpolicy(1), 0, EINVAL, 0, id="PADD-02-ipv6"),
        pytest.param(newpolicy(1 | PACKET), 0, EINVAL, 0, id="PADD-02-ipv6-packet"),
        pytest.param(newpolicy(ifindex=99), 0, EINVAL, 0, id="PADD-03"),
        pytest.param(newpolicy(ifindex=OTHER), 0, EINVAL, 0, id="PADD-04"),
        pytest.param(newpolicy(), 0, 0, 1, id="PADD-05"),
        pytest.param(newpolicy(), errno.EOPNOTSUPP, errno.EOPNOTSUPP, 1, id="PADD-06-eopnotsupp"),
        pytest.param(newpolicy(), errno.ENOSPC, errno.ENOSPC, 1, id="PADD-06-enospc"),
        pytest.param(
            newpolicy(template=UserTmpl(XfrmId(proto=17), 2)), 0, EINVAL, 0, id="PADD-08"
        ),
    ],
)  # fmt: skip
def test_the_offload_step_of_newpolicy(world, pktsim, request_bytes, driver_error, wanted, calls):
    pktsim.fail_policy = driver_error
    assert world.errno(request_bytes) == wanted
    assert len(pktsim.log) == calls
    kept = int(not wanted)
    assert (len(world.net.spd), world.nic.refcnt, world.plain.refcnt) == (kept, kept, 0)


def test_padd_04_a_device_without_policy_add(world):
    del world.nic.xfrmdev_ops.xdo_dev_policy_add
    assert (world.errno(newpolicy()), world.nic.refcnt) == (EINVAL, 0)


def test_padd_07_an_identity_that_exists(world, profile):
    assert world.errno(newpolicy()) == 0
    assert world.errno(newpolicy()) == errno.EEXIST
    assert world.nic.refcnt == (1 if profile is LATEST else 2)


@pytest.mark.parametrize(("dir", "wanted"), [(0, 1), (1, 2), (2, 3)])
def test_each_direction_is_offered(world, dir, wanted):
    """POL-05, POL-07."""
    assert world.add_policy(dir=dir) == 0
    (xp,) = world.net.spd
    assert xp.xdo.dir == wanted


def test_ops_30_the_driver_sees_a_finished_policy_without_index(world, pktsim):
    seen = {}

    def add(xp, extack):
        seen.update(index=xp.index, priority=xp.priority, templates=len(xp.xfrm_vec))
        return 0

    pktsim.xdo_dev_policy_add = add
    world.add_policy(priority=7)
    assert seen == {"index": 0, "priority": 7, "templates": 1}
    (xp,) = world.net.spd
    assert xp.index & 7 == 1
