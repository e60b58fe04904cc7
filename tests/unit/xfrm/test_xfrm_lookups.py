# SPDX-License-Identifier: Apache-2.0
"""Which of many overlapping policies a flow meets, as Linux 6.18 chose it (SPD-05, SPD-08, SPD-22).

The kernel was asked by MIGRATE, which moves the templates of the policy that its look-up finds. The
policies came, went, were updated in place, and the thresholds of exact selectors moved.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from host_driver.xfrm.flow import Flow
from host_driver.xfrm.inexact import Inexact
from host_driver.xfrm.policy import XfrmPolicy
from proto.xfrm import AF_INET, POLICY_OUT, POLICY_TYPE_MAIN
from proto.xfrm_structs import XfrmSelector

VECTORS = Path(__file__).parents[2] / "vectors" / "netlink" / "6.18" / "lookups.json"
CASES: list[dict[str, Any]] = json.loads(VECTORS.read_text())


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_look_ups(case: dict[str, Any], make_world: Any) -> None:
    world = make_world()
    for number, step in enumerate(case["steps"]):
        if "request" in step:
            assert world.errno(bytes.fromhex(step["request"])) == step["errno"], number
            continue
        sel = XfrmSelector.unpack(bytes.fromhex(step["selector"]))
        ports = (sel.sport, sel.dport) if sel.proto else (0, 0)
        flow = Flow(AF_INET, sel.saddr, sel.daddr, sel.proto, *ports)
        xp = world.net.spd.lookup_bytype(flow, POLICY_OUT, POLICY_TYPE_MAIN, 0)
        assert (xp.index if xp else 0) == step["chosen"], number


def inexact(*prefixes: tuple[int, int]) -> tuple[Inexact, list[XfrmPolicy]]:
    """Policies for destinations 10.0.X.0/Y, in the order of their making."""
    tree, made = Inexact(AF_INET), []
    for pos, (octet, length) in enumerate(prefixes):
        sel = XfrmSelector(bytes((10, 0, octet, 0)) + bytes(12), prefixlen_d=length)
        made.append(XfrmPolicy(selector=sel, pos=pos))
        tree.insert(made[-1], None)
    return tree, made


def met(tree: Inexact, octet: int) -> list[XfrmPolicy]:
    address = bytes((10, 0, octet, 9)) + bytes(12)
    return [xp for chain in tree.candidates(address, bytes(16)) for xp in chain]


def test_prefixes_that_overlap_share_a_chain() -> None:
    tree, (one, two, all_, inner) = inexact((1, 24), (2, 24), (0, 16), (1, 25))
    assert met(tree, 1) == met(tree, 2) == [one, two, all_, inner]
    tree.remove(all_)
    assert met(tree, 1) == [one, two, inner]


def test_nodes_go_with_their_last_policy() -> None:
    tree, policies = inexact((1, 24), (2, 24), (0, 16))
    for xp in policies:
        assert tree
        tree.remove(xp)
    assert not tree and met(tree, 1) == []
