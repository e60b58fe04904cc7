# SPDX-License-Identifier: Apache-2.0
"""What drivers meet at the edges: locks, order of events, devices that go (OPS, TRAP, NDEV rules).

Each test that breaks a rule sees it named in the trace, and the core goes on.
"""

import errno
from typing import Any

import pytest

from host_driver.netdev import HW_ESP, HW_ESP_TX_CSUM, NetDevice
from host_driver.sleep import Completion, wait
from proto.netlink import message as nl_message
from proto.status import OffloadError
from proto.xfrm_structs import UserSaId

A, B = (bytes((10, 1, 0, last)) + bytes(12) for last in (1, 2))
NEWSA, DELSA, GETSA, UPDSA, ACQUIRE, EXPIRE = 0x10, 0x11, 0x12, 0x1A, 0x17, 0x18


def delsa(spi: int = 0x1000) -> bytes:
    return nl_message(DELSA, UserSaId(B, spi, 2, 50).pack(), 5)


def rules(world) -> dict[str, str]:
    """Rules broken, by call."""
    return {e["call"]: e["rule"] for e in world.trace.entries() if "rule" in e}


def calls(world, name: str) -> list[dict[str, Any]]:
    return [e for e in world.trace.entries() if e["call"] == f"xdo_dev_{name}"]


# Locks.


def test_trap_42_delete_asks_the_core_to_check_limits(world, pktsim):
    pktsim.xdo_dev_state_delete = lambda dev, x: world.net.xfrm_state_check_expire(x)
    world.add_sa()
    assert world.errno(delsa()) == 0
    assert rules(world) == {"xdo_dev_state_delete": "TRAP-42"}
    assert world.counters["atomic_violations"] == 1
    assert (len(world.net.sad), world.nic.refcnt) == (0, 0)


def test_trap_42_update_asks_for_itself(world, pktsim):
    pktsim.xdo_dev_state_update_curlft = lambda x: world.net.xfrm_state_check_expire(x)
    world.add_sa(hard_packet_limit=5)
    world.net.xfrm_state_check_expire(world.state(0x1000))
    assert rules(world) == {"xdo_dev_state_update_curlft": "TRAP-42"}


def test_trap_43_free_may_take_the_lock(world, pktsim):
    pktsim.xdo_dev_state_free = lambda dev, x: world.net.xfrm_state_check_expire(x)
    world.add_sa()
    world.errno(delsa())
    assert rules(world) == {}


def test_uapi_07_a_driver_that_sends_a_request_of_its_own(world, pktsim, requests):
    def add(dev, x, extack):
        yield from world.net.netlink(requests[0](0x1001, flags=None))
        return 0

    pktsim.xdo_dev_state_add = add
    assert world.add_sa() == errno.EIO
    assert rules(world) == {"xdo_dev_state_add": "UAPI-07"}
    assert world.add_sa(0x1002, flags=None) == 0  # the mutex is free again


@pytest.mark.parametrize(
    ("callback", "rule"),
    [
        ("xdo_dev_state_delete", "OPS-16"),
        ("xdo_dev_state_update_curlft", "OPS-20"),
        ("xdo_dev_offload_ok", "OPS-24"),
        ("xdo_dev_policy_delete", "OPS-32"),
        ("xdo_dev_policy_free", "OPS-33"),
    ],
)
def test_callbacks_that_never_sleep(world, pktsim, udp_packet, callback, rule):
    def sleeping(*arguments):
        yield Completion()

    setattr(pktsim, callback, sleeping)
    world.add_sa()
    world.add_policy()
    world.net.output(udp_packet())
    world.netlink(nl_message(0x1C, b"\0", 5))
    world.netlink(nl_message(0x1D, b"", 5))
    assert rules(world) == {callback: rule}
    assert (len(world.net.sad), len(world.net.spd), world.nic.refcnt) == (0, 0, 0)


def test_ops_11_a_larval_add_that_sleeps(world, pktsim, udp_packet):
    def add(dev, x, extack):
        yield Completion()

    pktsim.xdo_dev_state_add = add
    world.add_policy()
    assert world.net.output(udp_packet()) == -errno.EIO  # ACQ-04
    assert rules(world) == {"xdo_dev_state_add": "OPS-11"}
    assert world.net.mib.values()["XfrmOutPolError"] == 1


def test_ops_17_the_free_of_a_failed_acquire_that_sleeps(world, pktsim, udp_packet):
    def free(dev, x):
        yield Completion()

    pktsim.xdo_dev_state_free = free
    world.listeners = 0
    world.add_policy()
    world.net.output(udp_packet())
    assert rules(world) == {"xdo_dev_state_free": "OPS-17"}
    assert world.nic.refcnt == 1


# Ends of SAs.


def test_trap_45_keys_are_gone_at_free_and_only_there(world):
    world.add_sa()
    world.errno(delsa())
    seen = [(e["call"][8:], e["keys"]) for e in world.trace.entries()]
    assert seen == [
        ("state_add", 20), ("state_update_curlft", 20), ("state_delete", 20),
        ("state_update_curlft", 20), ("state_free", 0),
    ]  # fmt: skip


def test_a_device_that_goes_sees_keys_at_its_early_free(world):
    """DEL-08: the driver's free comes before the collector's wiping (recorded of 7.3)."""
    world.add_sa()
    x = world.state(0x1000)
    world.devices.unregister(world.nic)
    world.sched.run(world.net.now_ns)
    assert calls(world, "state_free")[0]["keys"] == 20
    assert x.key_bytes() == 0


def test_trap_46_soft_and_hard_in_one_look(world, pktsim):
    world.add_sa(soft_packet_limit=5, hard_packet_limit=10)
    world.take()
    pktsim.totals[0x1000] = (12, 1200)
    world.net.xfrm_state_check_expire(world.state(0x1000))
    world.advance(0)
    assert [m[16 + 224] for m in world.take(EXPIRE)] == [1]


def test_trap_48_the_same_spi_again_between_delete_and_free(world, pktsim):
    gate = Completion()

    def free(dev, x):
        yield from wait(gate)

    pktsim.xdo_dev_state_free = free
    world.add_sa()
    world.errno(delsa())
    assert world.add_sa() == 0
    objects = [(e["call"][8:], e["object"]) for e in world.trace.entries()]
    assert objects[-3:-1] == [("state_free", 1), ("state_add", 2)]
    assert calls(world, "state_free")[0]["result"] is None  # still asleep
    gate.complete()
    world.sched.run(world.net.now_ns)
    assert world.nic.refcnt == 1


def test_trap_29_a_refused_update_leaves_no_reference(world, requests):
    world.add_sa(sa_dir=2)
    before = world.state(0x1000).refcnt
    assert world.errno(requests[0](type=UPDSA, sa_dir=1, flags=None)) == errno.ESRCH
    assert world.state(0x1000).refcnt == before


def test_trap_36_a_second_delete_calls_nobody(world):
    """DEL-09, INV-02."""
    world.add_sa()
    x = world.state(0x1000)
    x.refcnt += 1
    assert world.net.xfrm_state_delete(x)
    assert not world.net.xfrm_state_delete(x)
    assert world.errno(delsa()) == errno.ESRCH
    assert len(calls(world, "state_delete")) == 1
    world.net.xfrm_state_put(x)
    world.sched.run(world.net.now_ns)
    assert (len(calls(world, "state_free")), world.nic.refcnt) == (1, 0)


def test_ops_22_update_after_delete_and_before_free(world):
    world.add_sa(hard_add_expires_seconds=5)
    world.advance(6)
    world.sched.run(world.net.now_ns)
    tail = [(e["call"][8:], e["state"]) for e in world.trace.entries()][-3:]
    assert tail == [
        ("state_delete", "dead"), ("state_update_curlft", "dead"), ("state_free", "dead"),
    ]  # fmt: skip


def test_ops_03_a_driver_with_the_required_callbacks_only(make_world, udp_packet):
    class Small:
        def xdo_dev_state_add(self, dev, x, extack):
            return 0

        def xdo_dev_state_delete(self, dev, x):
            return None

    world = make_world(Small())
    assert world.add_policy() == errno.EINVAL  # POL-04
    assert world.add_sa() == 0
    world.net.xfrm_state_check_expire(world.state(0x1000))
    assert world.errno(delsa()) == 0
    assert world.nic.refcnt == 0


@pytest.mark.parametrize("missing", ["xdo_dev_policy_delete", "xdo_dev_policy_free"])
def test_ops_03_absent_policy_callbacks(world, missing):
    delattr(world.nic.xfrmdev_ops, missing)
    world.add_policy()
    world.netlink(nl_message(0x1D, b"", 5))
    assert (len(world.net.spd), world.nic.refcnt) == (0, 0)


# Devices.


@pytest.mark.parametrize(
    ("features", "ops", "refused"),
    [
        ({HW_ESP_TX_CSUM}, True, True),
        ({HW_ESP}, False, True),
        ({HW_ESP, HW_ESP_TX_CSUM}, True, False),
        (set(), False, False),
    ],
)
def test_ops_01_is_checked_at_registration_and_at_feature_changes(world, features, ops, refused):
    table = world.nic.xfrmdev_ops if ops else None
    made = NetDevice("new0", features=features, xfrmdev_ops=table, start_xmit=world.xmit)
    plain = world.devices.register(NetDevice("old0", xfrmdev_ops=table, start_xmit=world.xmit))
    for attempt in (
        lambda: world.devices.register(made),
        lambda: world.devices.set_features(plain, features),
    ):
        if refused:
            with pytest.raises(OffloadError) as refusal:
                attempt()
            assert refusal.value.errno == errno.EINVAL
        else:
            attempt()
    assert (world.devices.by_name("new0") is None) == refused
    assert plain.features == (set() if refused else features)


def test_ops_02_the_feature_is_not_asked_at_add(world):
    world.devices.set_features(world.nic, set())
    assert (world.add_sa(), world.add_policy()) == (0, 0)


def test_ndev_05_up_restores_nothing(world):
    world.add_sa()
    world.add_policy()
    world.devices.set_up(world.nic, False)
    world.devices.set_up(world.nic, True)
    assert (len(world.net.sad), len(world.net.spd)) == (0, 0)


def test_ndev_02_only_what_is_on_the_device_goes(world, pktsim):
    other = world.add_device("nic1", 3, pktsim)
    world.add_sa(0x1000)
    world.add_sa(0x1001, ifindex=3)
    world.add_sa(0x1002, flags=0)
    world.add_sa(0x1003, flags=None)
    world.devices.set_up(world.nic, False)
    world.sched.run(world.net.now_ns)
    assert sorted(x.id.spi for x in world.net.sad) == [0x1001, 0x1003]
    assert (world.nic.refcnt, other.refcnt) == (0, 1)


def test_ndev_06_between_its_sas_and_its_policies_a_packet_asks_for_an_sa(
    world, pktsim, udp_packet
):
    sent = []

    def delete(dev, x):
        if not sent:
            sent.append(world.net.output(udp_packet()))

    world.add_policy()
    world.add_sa()
    world.take()
    pktsim.xdo_dev_state_delete = delete
    world.net.netdev_event(world.nic, "down")
    world.sched.run(world.net.now_ns)
    assert sent == [0]
    assert len(world.take(ACQUIRE)) == 1
    assert len(world.net.spd) == 0


@pytest.mark.parametrize("event", ["change_mtu", "feat_change", "change", "up"])
def test_ndev_09_other_events_change_nothing(world, event):
    world.add_sa()
    world.add_policy()
    world.net.netdev_event(world.nic, event)
    assert (len(world.net.sad), len(world.net.spd), world.nic.refcnt) == (1, 1, 2)


def test_inv_05_nothing_of_an_unregistered_device_can_be_reached(world, udp_packet):
    world.add_policy()
    world.net.output(udp_packet())
    world.add_sa(0x1001)
    world.devices.unregister(world.nic)
    world.sched.run(world.net.now_ns)
    assert not [x for x in world.net.sad if x.xso.dev is world.nic]
    assert not [xp for xp in world.net.spd if xp.xdo.dev is world.nic]
    assert world.nic.refcnt == 0
    world.add_sa(0x1002)  # its ifindex is unknown now, and no route is left (ADD-05)
    assert world.nic.refcnt == 0
