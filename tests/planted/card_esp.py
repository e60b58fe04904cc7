# SPDX-License-Identifier: Apache-2.0
"""Bugs of a card: sequence numbers, IVs, replay windows."""

from typing import Any

import msgspec
import numpy as np
import pytest

from nic_model.objects import Objects
from planted.plant import around_tx, bug, every, rows, wrap
from proto import commands as c

LOW = np.uint64(0xFFFF_FFFF)


# --- numbers and IVs ---


@bug(11, seed=0, steps=21)
def iv_constant(patch: pytest.MonkeyPatch) -> None:
    """The first packet of every burst has the same IV."""

    def before(t: Any) -> None:
        t.sa["iv_mask"] = t.sa["seq"] + np.uint64(1)

    around_tx(patch, lambda t, kept, a: None, before)


@bug(10, 11, seed=0, steps=21)
def sequence_not_advanced(patch: pytest.MonkeyPatch) -> None:
    """The next burst begins at the number of the last one."""

    def after(t: Any, kept: Any, _: Any) -> None:
        out = rows(t, c.OUT)
        t.sa["seq"][out] = kept[out]

    around_tx(patch, after, lambda t: t.sa["seq"].copy())


@bug(10, 11, seed=1, steps=48)
def sequence_restored_backwards(patch: pytest.MonkeyPatch) -> None:
    """Now and then the card goes on from an older copy of its numbers."""
    fifth = every(5)

    def after(t: Any, kept: Any, _: Any) -> None:
        if fifth():
            out = rows(t, c.OUT)
            t.sa["seq"][out] = np.where(kept[out] < t.sa["seq"][out], kept[out], t.sa["seq"][out])

    around_tx(patch, after, lambda t: t.sa["seq"].copy())


@bug(13, 14, 29, seed=0, steps=34)
def esn_high_half_off_by_one(patch: pytest.MonkeyPatch) -> None:
    """An SA out with ESN begins a cycle late."""

    def create(original: Any, self: Objects, command: c.CreateSa, *rest: Any) -> Any:
        if command.esn and command.direction == c.OUT:
            command = msgspec.structs.replace(command, seq=command.seq + (1 << 32))
        return original(self, command, *rest)

    wrap(patch, Objects, "create_sa", create)


# --- replay windows ---
