# SPDX-License-Identifier: Apache-2.0
"""Devices: registration, events, routes, references, and the callbacks they must have (OPS-01)."""

import errno

import pytest

from host_driver.netdev import HW_ESP, HW_ESP_TX_CSUM, Devices, NetDevice, Skb
from proto.status import OffloadError


class Ops:
    def xdo_dev_state_add(self, dev, x, extack):
        return 0

    def xdo_dev_state_delete(self, dev, x):
        return None


class OnlyAdd:
    def xdo_dev_state_add(self, dev, x, extack):
        return 0


def device(name="nic0", **fields) -> NetDevice:
    return NetDevice(name, start_xmit=lambda skb: 0, **fields)


@pytest.fixture
def devices():
    devices = Devices()
    devices.seen = []
    devices.on_event = lambda dev, event: devices.seen.append((dev.name, event))
    devices.set_up(devices.register(device("lo")), True)
    devices.seen.clear()
    return devices


def test_lo_is_one_and_names_are_unique(devices) -> None:
    nic = devices.register(device())
    assert (devices.by_index(1).name, nic.ifindex) == ("lo", 2)
    assert devices.by_name("nic0") is nic
    assert devices.by_index(9) is devices.by_name("nic9") is None
    with pytest.raises(OffloadError, match="nic0 exists already") as caught:
        devices.register(device())
    assert caught.value.errno == errno.EEXIST


@pytest.mark.parametrize(
    ("features", "ops", "text"),
    [
        ({HW_ESP}, None, "needs the callbacks xdo_dev_state_add, xdo_dev_state_delete"),
        ({HW_ESP}, OnlyAdd(), "needs the callbacks xdo_dev_state_delete"),
        ({HW_ESP_TX_CSUM}, Ops(), "esp-tx-csum-hw-offload needs esp-hw-offload"),
    ],
)
def test_registration_and_feature_change_are_checked(devices, features, ops, text) -> None:
    with pytest.raises(OffloadError, match=text):
        devices.register(device(features=features, xfrmdev_ops=ops))
    assert devices.by_name("nic0") is None
    nic = devices.register(device(xfrmdev_ops=ops))
    with pytest.raises(OffloadError, match=text):
        devices.set_features(nic, features)
    assert nic.features == set()
    assert devices.seen == []


def test_events(devices) -> None:
    nic = devices.register(device(xfrmdev_ops=Ops()))
    devices.set_up(nic, True)
    devices.set_up(nic, True)
    devices.set_mtu(nic, 9000)
    devices.set_features(nic, {HW_ESP})
    devices.unregister(nic)
    events = ["up", "change_mtu", "feat_change", "down", "unregister"]
    assert devices.seen == [("nic0", event) for event in events]
    assert devices.by_index(2) is None


@pytest.mark.parametrize("mtu", [0, 575, 9001])
def test_mtu_bounds(devices, mtu) -> None:
    nic = devices.register(device())
    with pytest.raises(OffloadError, match=f"MTU {mtu} is outside 576..9000"):
        devices.set_mtu(nic, mtu)
    assert nic.mtu == 1500


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (bytes((127, 0, 0, 1)), "lo"),
        (bytes((127, 255, 1, 2)), "lo"),
        (bytes(15) + b"\x01", "lo"),
        (bytes((10, 0, 0, 1)), "nic0"),
        (b"\x7f" + bytes(15), "nic0"),
        (bytes(15) + b"\x02", "nic0"),
    ],
)
def test_routes(devices, address, name) -> None:
    nic = devices.register(device())
    assert devices.route(address) is (devices.by_index(1) if name == "lo" else None)
    devices.set_up(nic, True)
    assert devices.route(address).name == name


def test_xmit_and_references(devices) -> None:
    nic = devices.register(device(queue_space=lambda: 3))
    assert nic.xmit(Skb(b"x")) == errno.ENETDOWN
    devices.set_up(nic, True)
    assert nic.xmit(Skb(bytes(1500))) == 0
    assert nic.xmit(Skb(bytes(1501))) == errno.EMSGSIZE
    assert nic.tx_space() == 3
    nic.hold()
    nic.put()
    assert nic.refcnt == 0
