# SPDX-License-Identifier: Apache-2.0
"""Rows and generations, and the whole object store against a model of plain dictionaries."""

import random

import numpy as np
import pytest

from nic_model.checks import Refused
from nic_model.objects import Objects, Rows
from nic_model.tables import handle_in_kernel, handle_of
from proto.caps import parse_card
from proto.status import Status


def test_rows_start_at_one_and_are_used_again():
    rows = Rows("thing", 2)
    first, second = rows.add("a"), rows.add("b")
    assert (first, second) == (1, 2)
    with pytest.raises(Refused) as refused:
        rows.add("c")
    assert refused.value.status is Status.NO_RESOURCES
    rows.remove(first)
    assert rows.add("c") == first
    assert rows.live == {1: "c", 2: "b"}


def test_the_same_handle_value_has_another_generation():
    rows = Rows("thing", 1)
    seen = set()
    for number in range(600):
        row = rows.add(number)
        new = rows.handle(row)
        assert new.handle == handle_of(row, new.generation)
        assert new not in seen
        seen.add(new)
        assert rows.find(new.handle) == row
        rows.remove(row)
    assert len({handle for handle, _ in seen}) == 256


@pytest.mark.parametrize("generation", [1, 0xFF, 0x1AB, 0xFFFF_FFFF])
def test_firmware_counters_and_kernels_build_one_handle(generation):
    expected = int.from_bytes([generation & 0xFF, 0x12, 0x34, 0x56], "big")
    row = 0x12_3456
    assert handle_of(row, generation) == handle_in_kernel(row, generation) == expected
    assert handle_of(np.array([row]), np.array([generation])) == expected


def test_generation_zero_never_names_an_object():
    rows = Rows("thing", 1)
    rows._generations[1] = 0xFFFF_FFFF
    row = rows.add("a")
    assert rows.handle(row) == (handle_of(1, 1), 1)


class Model:
    """What the object store should hold: handle -> what it refers to."""

    def __init__(self) -> None:
        self.keys: dict[int, None] = {}
        self.sas: dict[int, int] = {}
        self.rules: dict[int, int | None] = {}

    def census(self) -> dict[str, int]:
        by_sa = sum(1 for sa in self.rules.values() if sa is not None)
        return {
            "keys": len(self.keys),
            "sas": len(self.sas),
            "rules_sa": by_sa,
            "rules_policy": len(self.rules) - by_sa,
        }


def attempt(call):
    """(handle or None, refused status or 0)."""
    try:
        return call(), Status.OK
    except Refused as refused:
        return None, refused.status


@pytest.mark.parametrize("seed", range(4))
def test_random_lives_of_objects_match_the_model(seed, card):
    rng = random.Random(seed)
    objects, model = Objects(parse_card("tiny:rule_max=6")), Model()

    def pick(live):
        return rng.choice([*live, 0x0100_0009])  # the last one does not exist

    for number in range(1500):
        action = rng.randrange(7)
        if action == 0:
            made, status = attempt(lambda: objects.create_key(card.KEY))
            assert status == (Status.NO_RESOURCES if len(model.keys) == 4 else 0)
            if made:
                model.keys[made.handle] = None
        elif action == 1:
            key = pick(model.keys)
            command = card.sa(key, 1, spi=number + 1)
            made, status = attempt(lambda command=command: objects.create_sa(command, 0))
            known, full = key in model.keys, len(model.sas) == 4
            assert status == (
                Status.BAD_OBJECT if not known else Status.NO_RESOURCES if full else 0
            )
            if made:
                model.sas[made.handle] = key
        elif action == 2:
            sa = pick(model.sas)
            made, status = attempt(lambda sa=sa: objects.create_sa_rule(sa))
            assert (status == 0) == (
                sa in model.sas and sa not in model.rules.values() and len(model.rules) < 6
            )
            if made:
                model.rules[made.handle] = sa
        elif action == 3:
            made, status = attempt(lambda: objects.create_policy_rule(card.policy()))
            assert (status == 0) == (len(model.rules) < 6)
            if made:
                model.rules[made.handle] = None
        elif action == 4:
            handle = pick(model.keys)
            _, status = attempt(lambda handle=handle: objects.destroy_key(handle))
            assert (status == 0) == (handle in model.keys and handle not in model.sas.values())
            if status == 0:
                del model.keys[handle]
        elif action == 5:
            handle = pick(model.sas)
            _, status = attempt(lambda handle=handle: objects.destroy_sa(handle))
            assert (status == 0) == (handle in model.sas and handle not in model.rules.values())
            if status == 0:
                del model.sas[handle]
        else:
            handle = pick(model.rules)
            _, status = attempt(lambda handle=handle: objects.destroy_rule(handle))
            assert (status == 0) == (handle in model.rules)
            if status == 0:
                del model.rules[handle]
        assert objects.census() == model.census()

    objects.teardown()
    assert set(objects.census().values()) == {0}
    for table in ("sa", "keys", "window", "rx_bucket", "tx_bucket", "policy_bucket"):
        assert not getattr(objects.tables, table).view("u1").any(), table
