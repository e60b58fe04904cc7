# SPDX-License-Identifier: Apache-2.0
"""Adds that fail in every way leave no SA, no policy and no device reference (INV-04, INV-05)."""

import errno
from typing import Any

import pytest

from host_driver.sleep import Completion, wait

ENODEV_TEXT = b"Device nic0 was unregistered during the request"


def sleeps(*arguments: Any) -> Any:
    yield Completion()


def yields_none(*arguments: Any) -> Any:
    yield None


def leaves(*arguments: Any) -> Any:
    raise SystemExit


BAD_ADDS = [yields_none, leaves, lambda *arguments: "no", lambda *arguments: 1]


@pytest.mark.parametrize("add", BAD_ADDS)
def test_requests(world: Any, pktsim: Any, add: Any) -> None:
    pktsim.xdo_dev_state_add = pktsim.xdo_dev_policy_add = add
    for flags in (4, 0):
        assert world.add_sa(flags=flags) == errno.EIO
    assert world.add_policy() == errno.EIO
    assert (len(world.net.sad), len(world.net.spd), world.nic.refcnt) == (0, 0, 0)


@pytest.mark.parametrize("add", [sleeps, *BAD_ADDS])
def test_larval_states(world: Any, pktsim: Any, udp_packet: Any, add: Any) -> None:
    world.add_policy()
    pktsim.xdo_dev_state_add = add
    assert world.net.output(udp_packet()) == -errno.EIO
    world.advance(0)
    assert (len(world.net.sad), world.nic.refcnt) == (0, 1)


def test_a_larval_state_whose_add_returns_none(world: Any, pktsim: Any, udp_packet: Any) -> None:
    world.add_policy()
    pktsim.xdo_dev_state_add = lambda *arguments: None
    assert world.net.output(udp_packet()) == 0
    assert (len(world.net.sad), world.nic.refcnt) == (1, 2)


@pytest.mark.parametrize("kind", ["state", "policy"])
@pytest.mark.parametrize("update", [False, True])
def test_the_device_goes_while_the_driver_adds(
    world: Any, pktsim: Any, requests: Any, kind: str, update: bool
) -> None:
    gate, answers = Completion(), []

    def slow(*arguments: Any) -> Any:
        yield from wait(gate)
        return 0

    def task(request: bytes) -> Any:
        answers.extend((yield from world.net.netlink(request)))

    setattr(pktsim, f"xdo_dev_{kind}_add", slow)
    type = {"state": (0x10, 0x1A), "policy": (0x13, 0x19)}[kind][update]
    world.sched.spawn(task(requests[kind == "policy"](type=type)))
    world.sched.run(0)
    world.devices.unregister(world.nic)
    gate.complete()
    world.sched.run(0)
    assert -int.from_bytes(answers[0][16:20], "little", signed=True) == errno.ENODEV
    assert ENODEV_TEXT in answers[0]
    assert [line.split()[0] for line in pktsim.log] == [f"{kind}_delete", f"{kind}_free"]
    assert (len(world.net.sad), len(world.net.spd), world.nic.refcnt) == (0, 0, 0)
