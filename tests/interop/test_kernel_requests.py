# SPDX-License-Identifier: Apache-2.0
"""Requests that `ip` cannot send, as Linux 7.3.4 answered them, at a host of a lab.

The recording had the loopback device only, and so has the host here: its card is unregistered.
"""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from host_driver.lab import Lab
from proto.netlink import NLMSG_ERROR
from tests.support.tap import split

VECTORS = Path(__file__).parents[1] / "vectors" / "netlink" / "raw" / "cases.json"
CASES: list[dict[str, Any]] = json.loads(VECTORS.read_text())
STEPS = sum(len(case["steps"]) for case in CASES)


def errno(messages: list[bytes]) -> int | None:
    """Of the acknowledgement, which is the last of the answers; None for a dump or no answer."""
    if not messages or messages[-1][4] != NLMSG_ERROR:
        return None
    return -int(struct.unpack_from("<i", messages[-1], 16)[0])


def types(datagrams: list[str]) -> list[int]:
    return [m[4] for data in datagrams for m in split(bytes.fromhex(data))]


def test_there_are_records() -> None:
    assert STEPS > 300


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_request(case: dict[str, Any]) -> None:
    with Lab(target="sim", hosts=1, seed=7) as lab:
        host = lab.hosts[0]
        host.set_link(unregister=True)
        for step in case["steps"]:
            host.notifications()
            request = bytes.fromhex(step["request"])
            answers = host.netlink(request, privileged=not step.get("unprivileged"))
            recorded = [m for data in step["replies"] for m in split(bytes.fromhex(data))]
            assert errno(answers) == errno(recorded)
            assert [len(m) for m in answers] == [len(m) for m in recorded]
            assert [m[4] for m in answers] == [m[4] for m in recorded]
            told = [m[4] for raw in host.notifications() for m in split(raw)]
            assert told == types(step["notifications"])
