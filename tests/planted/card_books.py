# SPDX-License-Identifier: Apache-2.0
"""Bugs of a card: counters, and objects that are not what they should be."""

from typing import Any

import numpy as np
import pytest

from nic_model.commands import Commands
from nic_model.firmware import Firmware
from nic_model.tables import (
    IPSEC_RX_BYTES,
    IPSEC_RX_PACKETS,
    IPSEC_TX_BYTES,
    IPSEC_TX_PACKETS,
    RX,
    RX_PACKETS,
    TX,
    TX_BYTES,
    TX_PACKETS,
)
from planted.plant import around_rx, around_tx, bug, every, wrap
from proto import commands as c
from proto.status import Drop

# --- counters ---


@bug(32, seed=0, steps=36)
def counter_backwards(patch: pytest.MonkeyPatch) -> None:
    """A byte counter has 12 bits on its way out."""

    def counters(original: Any, self: Firmware) -> dict[str, int]:
        values = original(self)
        return {**values, "tx_bytes": values["tx_bytes"] & 0xFFF}

    wrap(patch, Firmware, "all_counters", counters)


@bug(31, 34, seed=0, steps=21)
def drops_counted_as_sent(patch: pytest.MonkeyPatch) -> None:
    """A dropped packet counts as sent, too."""

    def after(t: Any, _: Any, a: Any) -> None:
        t.totals[TX_PACKETS] += a["n"] - a["count"]

    around_tx(patch, after)


@bug(30, 34, seed=0, steps=50)
def drop_without_reason(patch: pytest.MonkeyPatch) -> None:
    """A replay is dropped without being counted."""

    def after(t: Any, _: Any, a: Any) -> None:
        t.drops[RX, Drop.REPLAY] = 0

    around_rx(patch, after)


@bug(31, 34, seed=0, steps=21)
def drop_counted_twice(patch: pytest.MonkeyPatch) -> None:
    """A drop outward has two reasons."""

    def after(t: Any, _: Any, a: Any) -> None:
        for verdict in a["verdict"][: a["n"]]:
            t.drops[TX, Drop.NO_SA] += int(verdict not in (0, Drop.NO_SA))

    around_tx(patch, after)


@bug(34, seed=0, steps=68)
def drop_for_another_reason(patch: pytest.MonkeyPatch) -> None:
    """A wrong ICV counts as a replay."""

    def after(t: Any, kept: Any, _: Any) -> None:
        t.drops[RX, Drop.REPLAY] += t.drops[RX, Drop.INTEGRITY] - kept
        t.drops[RX, Drop.INTEGRITY] = kept

    around_rx(patch, after, lambda t: int(t.drops[RX, Drop.INTEGRITY]))


@bug(36, seed=3, steps=265)
def drops_counted_as_sealed(patch: pytest.MonkeyPatch) -> None:
    """What is dropped at a limit counts as sealed."""

    def after(t: Any, _: Any, a: Any) -> None:
        t.totals[IPSEC_TX_PACKETS] += int((a["verdict"][: a["n"]] == Drop.HARD_LIMIT).sum())

    around_tx(patch, after)


@bug(35, seed=0, steps=21)
def sealed_not_counted(patch: pytest.MonkeyPatch) -> None:
    """Of a burst one sealed packet counts."""

    def after(t: Any, kept: Any, _: Any) -> None:
        t.totals[IPSEC_TX_PACKETS] = min(t.totals[IPSEC_TX_PACKETS], kept + 1)

    around_tx(patch, after, lambda t: int(t.totals[IPSEC_TX_PACKETS]))


@bug(30, 37, seed=0, steps=5)
def reading_counts(patch: pytest.MonkeyPatch) -> None:
    """Whoever reads the counters moves one."""

    def counters(original: Any, self: Firmware) -> dict[str, int]:
        self.objects.tables.totals[RX_PACKETS] += 1
        values: dict[str, int] = original(self)
        return values

    wrap(patch, Firmware, "all_counters", counters)


# --- objects ---


@bug(39, 40, 47, seed=0, steps=12)
def delete_without_effect(patch: pytest.MonkeyPatch) -> None:
    """The card says that an SA is gone, and keeps it."""
    for name in ("_destroy_rule", "_destroy_sa", "_destroy_key"):
        patch.setattr(Commands, name, lambda self, token, command: c.Reply(token))


@bug(39, seed=0, steps=12)
def key_left_behind(patch: pytest.MonkeyPatch) -> None:
    """The key of a deleted SA stays on the card."""
    patch.setattr(Commands, "_destroy_key", lambda self, token, command: c.Reply(token))


@bug(49, seed=0, steps=26)
def object_lost(patch: pytest.MonkeyPatch) -> None:
    """Every tenth rule that the card makes is not there."""
    tenth = every(10)

    def create(original: Any, self: Commands, token: int, command: Any) -> c.Reply:
        reply: c.Reply = original(self, token, command)
        if tenth():
            self._objects.destroy_rule(reply.handle)
        return reply

    wrap(patch, Commands, "_create_policy_rule", create)


@bug(31, seed=0, steps=21)
def frame_lost_in_the_card(patch: pytest.MonkeyPatch) -> None:
    """Of a burst of several the last frame counts as sent and is not."""

    def after(_: Any, kept: Any, a: Any) -> int:
        if a["count"] > 2:
            a["lengths"][np.flatnonzero(a["lengths"][: a["n"]])[-1]] = 0
            return int(a["count"] - 1)
        return int(a["count"])

    around_tx(patch, after)


@bug(36, seed=0, steps=20)
def sealed_bytes_not_counted(patch: pytest.MonkeyPatch) -> None:
    """What was sealed counts as packets alone."""

    def after(t: Any, kept: Any, _: Any) -> None:
        t.totals[IPSEC_TX_BYTES] = kept

    around_tx(patch, after, lambda t: int(t.totals[IPSEC_TX_BYTES]))


@bug(36, seed=0, steps=20)
def opened_bytes_with_the_trailer(patch: pytest.MonkeyPatch) -> None:
    """What was opened counts with two bytes of its trailer."""

    def after(t: Any, kept: Any, _: Any) -> None:
        t.totals[IPSEC_RX_BYTES] += 2 * (t.totals[IPSEC_RX_PACKETS] - kept)

    around_rx(patch, after, lambda t: int(t.totals[IPSEC_RX_PACKETS]))


@bug(31, seed=0, steps=7)
def frames_without_their_headers(patch: pytest.MonkeyPatch) -> None:
    """The Ethernet header is not counted among the bytes that left."""

    def after(t: Any, _: Any, a: Any) -> None:
        t.totals[TX_BYTES] -= 14 * a["count"]

    around_tx(patch, after)
