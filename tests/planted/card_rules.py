# SPDX-License-Identifier: Apache-2.0
"""Bugs of a card: limits, policies, which SA is taken."""

from typing import Any

import msgspec
import pytest

from nic_model import aso
from nic_model.lookup import link_tx, unlink_tx
from nic_model.objects import Objects
from nic_model.steering import Steering
from nic_model.tables import TX, TX_PACKETS
from planted.plant import around_tx, bug, created, rows, wrap
from proto import commands as c
from proto.link.dma import tx_offset
from proto.status import Drop
from proto.wire import Frames

# --- limits ---


@bug(22, seed=7, steps=15)
def hard_limit_off_by_one(patch: pytest.MonkeyPatch) -> None:
    """One packet more than the hard limit."""
    created(patch, packets=lambda cmd: cmd.packets + (cmd.packets < c.INFINITE))


@bug(7, 16, 18, 26, 30, seed=0, steps=43)
def limit_round_lost(patch: pytest.MonkeyPatch) -> None:
    """A round of a limit is forgotten, so that the SA stops early."""

    def split(original: Any, packets: int, half: int) -> tuple[int, int]:
        rounds, count = original(packets, half)
        return (rounds - (0 < rounds < 1 << 20), count)

    wrap(patch, aso, "split", split)


# --- steering ---


@bug(1, 2, seed=8, steps=293)
def plaintext_on_table_miss(patch: pytest.MonkeyPatch) -> None:
    """A packet without a usable SA leaves as it came."""

    def after(t: Any, _: Any, a: Any) -> int:
        sent = iter(Frames(a["lengths"][: a["count"]], a["out"]).each())
        frames = []
        for i in range(a["taken"]):
            verdict = int(a["verdict"][i])
            if not verdict:
                frames.append(next(sent))
            elif verdict in (Drop.NO_SA, Drop.HARD_LIMIT):
                start = tx_offset(a["first"] + i)
                length = int(a["descriptors"][i]["length"])
                frames.append(a["memory"][start : start + length].tobytes())
                a["verdict"][i] = 0
                t.drops[TX, verdict] -= 1
                t.totals[TX_PACKETS] += 1
        leaves = Frames.of(frames)
        a["out"][: len(leaves.data)] = leaves.data
        a["lengths"][: len(leaves)] = leaves.lengths
        return len(leaves)

    around_tx(patch, after)


@bug(4, seed=0, steps=173)
def clear_packet_accepted(patch: pytest.MonkeyPatch) -> None:
    """A protect policy inward lets pass what comes in clear."""

    def create(original: Any, self: Objects, command: c.CreatePolicyRule) -> Any:
        if command.direction == c.IN and command.protect:
            command = msgspec.structs.replace(command, protect=False)
        return original(self, command)

    wrap(patch, Objects, "create_policy_rule", create)


@bug(45, seed=0, steps=34)
def oldest_sa_first(patch: pytest.MonkeyPatch) -> None:
    """After a rekey the card goes on with the old SA."""

    def add(original: Any, self: Steering, row: int) -> None:
        original(self, row)
        t = self._t
        for other in rows(t, c.OUT):
            if other != row and t.sa[other]["reqid"] == t.sa[row]["reqid"]:
                unlink_tx(t, other)
                link_tx(t, other)

    wrap(patch, Steering, "add_sa", add)
