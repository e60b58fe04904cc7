# SPDX-License-Identifier: Apache-2.0
"""Random sequences of requests, answered by Linux 6.18: same answers and notifications from us.

That kernel had two configurations of its own, which are left out of the comparison: no sub policies
(its messages carry no POLICY_TYPE) and no cipher (what would have made an SA is not in the record).
"""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from proto.netlink import align, attribute, attributes
from proto.xfrm import MSG_MIN, Attr, Msg

VECTORS = Path(__file__).parents[2] / "vectors" / "netlink" / "6.18" / "sequences.json"
CASES: list[dict[str, Any]] = json.loads(VECTORS.read_text())

POLICIES = (
    Msg.NEWPOLICY, Msg.UPDPOLICY, Msg.DELPOLICY, Msg.POLEXPIRE, Msg.ACQUIRE, Msg.MIGRATE,
    Msg.FLUSHPOLICY,
)  # fmt: skip
ACQUIRE_SEQ = 16 + 276  # drawn from a counter of the whole machine


def comparable(message: bytes, timeless: Any) -> bytes:
    type = message[4]
    if type in POLICIES:
        fixed, payload = align(MSG_MIN[type]), message[16:]
        found = attributes(payload, fixed)
        rest = sorted((at, kind) for kind, at in found.offsets.items() if kind != Attr.POLICY_TYPE)
        payload = payload[:fixed] + b"".join(
            attribute(kind, found.values[kind]) for _, kind in rest
        )
        message = struct.pack("<I", 16 + len(payload)) + message[4:16] + payload
    if type == Msg.ACQUIRE:
        message = message[:ACQUIRE_SEQ] + bytes(4) + message[ACQUIRE_SEQ + 4 :]
    return bytes(timeless(message))


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_sequence(case: dict[str, Any], make_world: Any) -> None:
    world = make_world()
    for number, step in enumerate(case["steps"]):
        world.take()
        ours = [
            comparable(m, world.timeless) for m in world.netlink(bytes.fromhex(step["request"]))
        ]
        theirs = [comparable(bytes.fromhex(m), world.timeless) for m in step["replies"]]
        assert ours == theirs, f"step {number}"
        said = [comparable(m, world.timeless) for m in world.take()]
        heard = [comparable(bytes.fromhex(m), world.timeless) for m in step["notifications"]]
        assert said == heard, f"step {number}"
