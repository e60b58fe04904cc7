# SPDX-License-Identifier: Apache-2.0
"""Each machine finds bugs of the kind that it is for: planted here, one after the other."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from host_driver.driver.reference import ReferenceDriver
from host_driver.xfrm import lifecycle, output
from host_driver.xfrm.chain import Chain
from nic_model import aso, handles, objects, tables
from nic_model.firmware import Firmware
from nic_model.queues import Queues
from nic_model.steering import Steering
from proto.wire import unpack_frames
from stateful.card_objects import CardObjects
from stateful.card_packets import CardPackets
from stateful.card_replay import CardReplay
from stateful.core import CoreMachine
from stateful.driver import DriverMachine

QUICK = settings(
    max_examples=400, stateful_step_count=50, deadline=None, derandomize=True, database=None,
    phases=[Phase.generate], report_multiple_bugs=False, suppress_health_check=list(HealthCheck),
)  # fmt: skip

Patch = pytest.MonkeyPatch


def wrapped(patch: Patch, owner: Any, name: str, change: Callable[..., Any]) -> None:
    """`change` in the place of a function of the product, which it gets as its first argument."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **named: change(original, *args, **named))


# --- the card's objects ---


def generation_stands_still(patch: Patch) -> None:
    def remove(original: Any, self: Any, row: int) -> None:
        original(self, row)
        self._generations[row] = 0

    wrapped(patch, handles.Rows, "remove", remove)


def key_stays_in_memory(patch: Patch) -> None:
    patch.setattr(tables, "wipe_key", lambda t, row: None)


def deleted_sa_keeps_its_key(patch: Patch) -> None:
    def drop(original: Any, self: Any, row: int) -> None:
        self.keys.live[self.sas.live[row].key].users += 1
        original(self, row)

    wrapped(patch, objects.Objects, "_drop_sa", drop)


def doubled_command_runs_twice(patch: Patch) -> None:
    def mailbox(original: Any, self: Any, message: Any) -> None:
        self._tokens.clear()
        original(self, message)

    wrapped(patch, Firmware, "_mailbox", mailbox)


def table_has_one_less(patch: Patch) -> None:
    def make(original: Any, self: Any, name: str, size: int) -> None:
        original(self, name, size - (name == "rule"))

    wrapped(patch, handles.Rows, "__init__", make)


# --- packets ---


def order_of_priorities_is_stale(patch: Patch) -> None:
    def reorder(original: Any, self: Any, which: int, group: Any, before: int | None) -> None:
        if before is None or not group.priorities:
            original(self, which, group, before)

    wrapped(patch, Steering, "_reorder", reorder)


def hard_limit_lets_one_more_pass(patch: Patch) -> None:
    wrapped(patch, aso, "split", lambda original, packets, half: original(packets + 1, half))


def selector_is_not_bound_to_the_sa(patch: Patch) -> None:
    def write(original: Any, t: Any, row: int, *rest: Any) -> None:
        original(t, row, *rest)
        t.sa[row]["sel_family"] = 0

    wrapped(patch, tables, "write_sa", write)


def bypass_of_a_port_takes_fragments(patch: Patch) -> None:
    patch.setattr(Steering, "_has_ports", staticmethod(lambda command: False))


def older_policy_wins(patch: Patch) -> None:
    def add(original: Any, self: Any, command: Any) -> int:
        self._age -= 2
        return original(self, command)

    wrapped(patch, Steering, "add_policy", add)


# --- the replay window ---


def window_is_one_wider(patch: Patch) -> None:
    def write(original: Any, t: Any, row: int, command: Any, *rest: Any) -> None:
        wider = msgspec.structs.replace(command, replay_window=command.replay_window + 1)
        original(t, row, wider, *rest)

    wrapped(patch, tables, "write_sa", write)


def window_moves_before_authentication(patch: Patch) -> None:
    def receive(original: Any, self: Any, message: Any) -> None:
        original(self, message)
        (one,) = unpack_frames(message.body, message.count)
        low = int.from_bytes(one[38:42])
        if low > self._t.sa[1]["seq"]:
            self._t.sa[1]["seq"] = low

    wrapped(patch, Queues, "receive", receive)


def seen_number_is_forgotten(patch: Patch) -> None:
    def receive(original: Any, self: Any, message: Any) -> None:
        original(self, message)
        self._t.window[1, 0] &= 0xFFFF_FFEF

    wrapped(patch, Queues, "receive", receive)


# --- the core ---


def packet_policy_keeps_its_place(patch: Patch) -> None:
    def insert(original: Any, self: Any, xp: Any, old: Any = None) -> None:
        type_, xp.xdo.type = xp.xdo.type, 0
        original(self, xp, old)
        xp.xdo.type = type_

    wrapped(patch, Chain, "insert", insert)


def soft_expiry_is_told_again(patch: Patch) -> None:
    def check(original: Any, net: Any, x: Any) -> int:
        x.km.dying = False
        return int(original(net, x))

    wrapped(patch, output, "xfrm_state_check_expire", check)


def hard_limit_is_one_late(patch: Patch) -> None:
    def check(original: Any, net: Any, x: Any) -> int:
        x.curlft.packets -= 1
        try:
            return int(original(net, x))
        finally:
            x.curlft.packets += 1

    wrapped(patch, output, "xfrm_state_check_expire", check)


def larval_sa_stays(patch: Patch) -> None:
    patch.setattr(lifecycle, "_resolved_by", lambda net, x: None)


def device_hears_of_no_delete(patch: Patch) -> None:
    patch.setattr(lifecycle, "xfrm_dev_state_delete", lambda net, x: None)


# --- the driver ---


def sa_outlives_the_firmware(patch: Patch) -> None:
    patch.setattr(ReferenceDriver, "firmware_lost", lambda self: self._objects.forget())


PLANTED: list[tuple[type[RuleBasedStateMachine], Callable[[Patch], None]]] = [
    (CardObjects, generation_stands_still),
    (CardObjects, key_stays_in_memory),
    (CardObjects, deleted_sa_keeps_its_key),
    (CardObjects, doubled_command_runs_twice),
    (CardObjects, table_has_one_less),
    (CardPackets, order_of_priorities_is_stale),
    (CardPackets, hard_limit_lets_one_more_pass),
    (CardPackets, selector_is_not_bound_to_the_sa),
    (CardPackets, bypass_of_a_port_takes_fragments),
    (CardPackets, older_policy_wins),
    (CardReplay, window_is_one_wider),
    (CardReplay, window_moves_before_authentication),
    (CardReplay, seen_number_is_forgotten),
    (CoreMachine, packet_policy_keeps_its_place),
    (CoreMachine, soft_expiry_is_told_again),
    (CoreMachine, hard_limit_is_one_late),
    (CoreMachine, larval_sa_stays),
    (CoreMachine, device_hears_of_no_delete),
    (DriverMachine, sa_outlives_the_firmware),
]


@pytest.mark.parametrize(
    ("machine", "bug"), PLANTED, ids=[f"{m.__name__}-{bug.__name__}" for m, bug in PLANTED]
)
def test_the_bug_is_found(
    machine: type[RuleBasedStateMachine], bug: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    bug(monkeypatch)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=QUICK)
