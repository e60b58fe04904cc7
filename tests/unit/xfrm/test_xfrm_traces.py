# SPDX-License-Identifier: Apache-2.0
"""TRACE-01..20 in both kernels: driver calls in order and number, errno, notifications.

A call is its letter and the number of its object: A add, D delete, F free, U update, pA, pD, pF for
policies. `at` gives what late kernels do and what v6.2 did.
"""

import errno
from collections.abc import Callable
from typing import Any

import pytest

from host_driver.xfrm.profile import LATEST, PROFILES
from proto.netlink import message as nl_message
from proto.xfrm_structs import UserPolicyId, UserSaId, XfrmSelector

LETTERS = {
    "xdo_dev_state_add": "A",
    "xdo_dev_state_delete": "D",
    "xdo_dev_state_free": "F",
    "xdo_dev_state_update_curlft": "U",
    "xdo_dev_policy_add": "pA",
    "xdo_dev_policy_delete": "pD",
    "xdo_dev_policy_free": "pF",
}
NEWSA, DELSA, GETSA, NEWPOLICY, DELPOLICY, ALLOCSPI, ACQUIRE = (
    0x10,
    0x11,
    0x12,
    0x13,
    0x14,
    0x16,
    0x17,
)
EXPIRE, UPDPOLICY, UPDSA, POLEXPIRE, FLUSHSA, FLUSHPOLICY = 0x18, 0x19, 0x1A, 0x1B, 0x1C, 0x1D
A, B = (bytes((10, 1, 0, last)) + bytes(12) for last in (1, 2))
HARD_AT = {EXPIRE: 16 + 224, POLEXPIRE: 16 + 168}


@pytest.fixture(params=PROFILES.values(), ids=lambda profile: profile.name)
def world(request, make_world, pktsim):
    return make_world(pktsim, profile=request.param)


@pytest.fixture
def at(world) -> Callable[[str, str], str]:
    """What the kernel at hand does."""
    return lambda late, v6_2: late if world.net.profile is LATEST else v6_2


def calls(world, since: int = 0) -> str:
    """The calls since the trace had so many."""
    entries = [entry for entry in world.trace.entries() if entry["seq"] > since]
    letters = [(LETTERS.get(entry["call"]), entry) for entry in entries]
    return " ".join(f"{letter}{entry['object']}" for letter, entry in letters if letter)


def told(world) -> list[Any]:
    """Types of the notifications since the last call; of expiries whether they are hard ones."""
    kinds: list[Any] = []
    for message in world.take():
        kind = int.from_bytes(message[4:6], "little")
        hard = HARD_AT.get(kind)
        kinds.append(kind if hard is None else (kind, message[hard]))
    return kinds


def delsa(spi: int = 0x1000) -> bytes:
    return nl_message(DELSA, UserSaId(B, spi, 2, 50).pack(), 5)


def delpolicy(saddr: bytes = A) -> bytes:
    sel = XfrmSelector(B, saddr, family=2, prefixlen_d=32, prefixlen_s=32)
    return nl_message(DELPOLICY, UserPolicyId(sel, 0, 1).pack(), 5)


def test_trace_01_newsa_accepted(world, at):
    assert world.add_sa() == 0
    assert (calls(world), told(world)) == (at("A1 U1", "A1"), [NEWSA])
    assert world.nic.refcnt == 1


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EOPNOTSUPP, errno.EBUSY])
def test_trace_02_newsa_refused(world, pktsim, error):
    pktsim.fail_state = error
    assert world.add_sa() == error
    assert (calls(world), told(world)) == ("A1", [])
    assert (len(world.net.sad), world.nic.refcnt) == (0, 0)


def test_trace_03_newsa_duplicate(world):
    world.add_sa()
    old, since = world.state(0x1000), world.trace.added
    told(world)
    assert world.add_sa() == errno.EEXIST
    assert (calls(world, since), told(world)) == ("A2 D2 F2", [])
    assert (list(world.net.sad), world.nic.refcnt) == ([old], 1)


def test_trace_04_delsa(world, at):
    world.add_sa()
    since = world.trace.added
    told(world)
    assert world.errno(delsa()) == 0
    assert (calls(world, since), told(world)) == (at("D1 U1 F1", "D1 F1"), [DELSA])
    assert world.nic.refcnt == 0


def test_trace_05_flushsa(world):
    for spi in (0x1000, 0x1001, 0x1002):
        world.add_sa(spi)
    since = world.trace.added
    told(world)
    assert world.errno(nl_message(FLUSHSA, b"\0", 5)) == 0
    # The newest is deleted first, and the one deleted last is freed first (DEL-05).
    assert (calls(world, since), told(world)) == ("D3 D2 D1 F1 F2 F3", [FLUSHSA])


def test_trace_06_hard_limit(world, pktsim, at):
    world.add_sa(hard_byte_limit=1000)
    since = world.trace.added
    told(world)
    pktsim.totals[0x1000] = (10, 1000)
    assert world.net.xfrm_state_check_expire(world.state(0x1000)) == -errno.EINVAL
    world.advance(0)
    assert (calls(world, since), told(world)) == (
        at("U1 U1 D1 U1 F1", "U1 U1 D1 F1"),
        [(EXPIRE, 1)],
    )


def test_trace_07_soft_limit(world, pktsim, at):
    world.add_sa(soft_packet_limit=10)
    since = world.trace.added
    told(world)
    pktsim.totals[0x1000] = (10, 1000)
    assert world.net.xfrm_state_check_expire(world.state(0x1000)) == 0
    world.advance(0)
    assert (calls(world, since), told(world)) == (at("U1 U1", "U1"), [(EXPIRE, 0)])


def test_trace_08_updsa_of_a_valid_sa(world, requests, at):
    """What is offered is deleted since 6.12 at the latest (recorded); v6.2 only freed it."""
    world.add_sa()
    since = world.trace.added
    told(world)
    assert world.errno(requests[0](type=UPDSA, hard_packet_limit=7)) == 0
    assert (calls(world, since), told(world)) == (at("A2 D2 U2 F2", "A2 F2"), [UPDSA])
    assert world.state(0x1000).lft.hard_packet_limit == 7
    assert world.nic.refcnt == 1


def test_trace_09_updsa_of_no_sa(world, requests):
    assert world.errno(requests[0](type=UPDSA)) == errno.ESRCH
    assert (calls(world), told(world)) == ("A1 D1 F1", [])
    assert world.nic.refcnt == 0


def larval(world, udp_packet) -> int:
    """An offloaded policy and a packet for it: policy is object 1, the larval SA 2."""
    world.add_policy()
    told(world)
    since = world.trace.added
    assert world.net.output(udp_packet()) == 0
    return since


@pytest.mark.parametrize("type", [NEWSA, UPDSA])
def test_trace_10_a_larval_sa_is_resolved(world, requests, udp_packet, at, type):
    larval(world, udp_packet)
    (placeholder,) = world.net.sad
    if type == UPDSA:  # which wants the identity: SPI 0 is none
        world.net.sad.remove(placeholder)
        placeholder.id.spi = 0x1000
        world.net.sad.insert(placeholder)
    since = world.trace.added
    told(world)
    assert world.errno(requests[0](type=type)) == 0
    assert (calls(world, since), told(world)) == (at("A3 D2 U3 F2", "A3 D2 F2"), [type])
    # The policy and the SA; v6.2 gives back for the larval SA what it never took (TRAP-11).
    assert world.nic.refcnt == int(at("2", "1"))


def test_trace_11_acquire_accepted(world, udp_packet):
    since = larval(world, udp_packet)
    assert (calls(world, since), told(world)) == ("A2", [ACQUIRE])


def test_trace_12_acquire_times_out(world, udp_packet, at):
    since = larval(world, udp_packet)
    told(world)
    world.advance(29)
    assert calls(world, since) == "A2"
    world.advance(2)
    assert (calls(world, since), told(world)) == (
        at("A2 U2 D2 U2 F2", "A2 U2 D2 F2"),
        [(EXPIRE, 1)],
    )


def test_trace_13_the_key_manager_refuses(world, udp_packet, at):
    world.listeners = 0
    since = larval(world, udp_packet)
    assert calls(world, since) == at("A2 D2 F2", "A2 D2")
    assert (len(world.net.sad), world.net.mib.values()["XfrmOutNoStates"]) == (0, 1)
    assert world.nic.refcnt == int(at("1", "0"))


@pytest.mark.parametrize("event", ["down", "unregister"])
def test_trace_14_the_device_goes(world, at, event):
    world.add_sa(0x1000)
    world.add_sa(0x1001)
    world.add_policy(dir=1)
    world.add_policy(dir=0, saddr=B, daddr=A)
    since = world.trace.added
    told(world)
    world.net.netdev_event(world.nic, event)
    world.sched.run(world.net.now_ns)
    assert (calls(world, since), told(world)) == (
        at("D2 F2 D1 F1 pD4 pF4 pD3 pF3", "D2 D1 pF4 pF3 F1 F2"),
        [],
    )
    assert (len(world.net.sad), len(world.net.spd), world.nic.refcnt) == (0, 0, 0)


def test_trace_15_newpolicy_accepted(world):
    assert world.add_policy() == 0
    assert (calls(world), told(world)) == ("pA1", [NEWPOLICY])
    assert world.nic.refcnt == 1


def test_trace_16_newpolicy_duplicate(world, at):
    world.add_policy()
    since = world.trace.added
    told(world)
    assert world.add_policy() == errno.EEXIST
    assert (calls(world, since), told(world)) == (at("pA2 pD2 pF2", "pA2 pD2"), [])
    assert world.nic.refcnt == int(at("1", "2"))  # TRAP-05: v6.2 leaks one


def test_trace_17_updpolicy_replaces(world, requests, at):
    world.add_policy()
    since = world.trace.added
    told(world)
    assert world.errno(requests[1](type=UPDPOLICY)) == 0
    assert (calls(world, since), told(world)) == (at("pA2 pD1 pF1", "pA2 pF1"), [UPDPOLICY])
    assert world.nic.refcnt == 1


def test_trace_18_delpolicy(world, at):
    world.add_policy()
    since = world.trace.added
    told(world)
    assert world.errno(delpolicy()) == 0
    assert (calls(world, since), told(world)) == (at("pD1 pF1", "pF1"), [DELPOLICY])
    assert world.nic.refcnt == 0


def test_trace_19_policy_expires(world):
    world.add_policy(hard_add_expires_seconds=5)
    since = world.trace.added
    told(world)
    world.advance(6)
    assert (calls(world, since), told(world)) == ("pD1 pF1", [(POLEXPIRE, 1)])


def test_trace_20_flushpolicy(world, at):
    world.add_policy(dir=1)
    world.add_policy(dir=0, saddr=B, daddr=A)
    since = world.trace.added
    told(world)
    assert world.errno(nl_message(FLUSHPOLICY, b"", 5)) == 0
    assert (calls(world, since), told(world)) == (
        at("pD2 pF2 pD1 pF1", "pF2 pF1"),
        [FLUSHPOLICY],
    )
    assert world.nic.refcnt == 0


def test_a_user_s_hard_polexpire_deletes_in_every_kernel(world, requests):
    """OPS-32: what v6.2 had instead of a delete at each kill."""
    world.add_policy()
    since = world.trace.added
    told(world)
    fixed = requests[1](offload=False)[16:184]
    assert world.errno(nl_message(POLEXPIRE, fixed + b"\1" + bytes(7), 5)) == 0
    assert (calls(world, since), told(world)) == ("pD1 pF1", [(POLEXPIRE, 1)])


def test_contexts_of_the_calls(world, pktsim, udp_packet, at):
    """Section 0.5, callback by callback."""
    larval(world, udp_packet)
    world.add_sa()
    pktsim.totals[0x1000] = (1, 1)
    world.net.xfrm_state_check_expire(world.state(0x1000))
    world.net.output(udp_packet())
    world.errno(delsa())
    world.add_sa(0x1001, hard_add_expires_seconds=3)
    world.advance(4)
    world.errno(delpolicy())
    world.add_sa(0x1002)
    world.netlink(nl_message(GETSA, bytes(24), 0x301))
    entries = [(LETTERS.get(e["call"], "ok"), e["context"]) for e in world.trace.entries()]
    wanted = [
        ("pA", "user"),
        ("A", "data"),
        ("A", "user"),
        ("D", "lock"),
        ("F", "gc"),
        ("U", "lock"),
        ("ok", "data"),
        ("D", "lock"),
        ("F", "gc"),
        ("A", "user"),
        ("U", "timer"),
        ("U", "timer"),
        ("D", "timer"),
        ("F", "gc"),
        ("pF", "user"),
    ]
    if at("late", "v6.2") == "late":
        wanted.append(("U", "walk"))  # fmt: skip
    remaining = iter(entries)
    assert all(one in remaining for one in wanted), entries
