# SPDX-License-Identifier: Apache-2.0
"""Into a simulated lab: its parties, and messages to them that nobody of the lab has sent."""

from typing import Any

from host_driver.lab import Lab
from proto.frame import Channel


def _node(lab: Lab, name: str) -> Any:
    world: Any = lab._world
    return next(node for node in world._simulator.nodes if node.name == name)


def party(lab: Lab, name: str) -> Any:
    """`host0`, `card1`: the object itself."""
    return _node(lab, name).party


def say(lab: Lab, name: str, channel: Channel, *messages: bytes) -> None:
    """Messages arrive at a party, and what follows from them happens."""
    _node(lab, name).ends[channel]._queue.extend(messages)
    lab._world.run_idle()  # type: ignore[union-attr]
