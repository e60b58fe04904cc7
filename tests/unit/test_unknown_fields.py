# SPDX-License-Identifier: Apache-2.0
"""A message of another version: what it says beyond what we know is refused, never passed over."""

from typing import get_args

import msgspec
import pytest

from fuzz.examples import example, examples
from host_driver import control
from host_driver.lab import service
from proto import commands, management
from proto.codec import decode
from proto.events import Event
from proto.faults import FaultSpec
from proto.frame import FrameError

UNIONS = (commands.AnyCommand, management.AnyRequest, control.AnyQuery, service.AnyRequest)
PLAIN = (
    commands.Reply, commands.Request, commands.Selector, commands.SaState, commands.ObjectInfo,
    Event, FaultSpec, management.Ask, control.Ask, service.Asked,
)  # fmt: skip


def longer(tree):
    """The same with a field that nobody knows."""
    return [*tree, 1] if isinstance(tree, list) else {**tree, "from_the_future": 1}


@pytest.mark.parametrize("union", UNIONS, ids=["command", "management", "control", "service"])
def test_a_request_with_another_field_is_refused(union):
    for kind, tree in zip(get_args(union), examples(union), strict=True):
        assert isinstance(decode(msgspec.msgpack.encode(tree), union), kind)
        with pytest.raises(FrameError):
            decode(msgspec.msgpack.encode(longer(tree)), union)


@pytest.mark.parametrize("kind", PLAIN)
def test_a_part_with_another_field_is_refused(kind):
    tree = example(kind)
    decode(msgspec.msgpack.encode(tree), kind)
    with pytest.raises(FrameError):
        decode(msgspec.msgpack.encode(longer(tree)), kind)
