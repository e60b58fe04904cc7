# SPDX-License-Identifier: Apache-2.0
"""Steering against a model that scans a list, through any order of adding and deleting."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nic_model import lookup, tables
from nic_model.steering import Exists, Steering
from proto.caps import parse_card
from proto.commands import ALLOW, BLOCK, IN, OUT, CreatePolicyRule, CreateSa, Selector
from proto.xfrm import AF_INET, AF_INET6

CAPS = parse_card("full:sa_max=60,key_max=1,rule_max=60")
FAMILIES = (AF_INET, AF_INET6)
PROTOS, PORTS = (6, 17), (53, 500)


def address(last: int, family: int) -> bytes:
    """Addresses that differ in their first and in their last byte, so that prefixes matter."""
    size = 4 if family == AF_INET else 16
    return (bytes([last]) + bytes(size - 2) + bytes([last])).ljust(16, b"\0")


@dataclass(frozen=True)
class Flow:
    """One packet, as the selector sees it."""

    direction: int
    family: int
    saddr: bytes
    daddr: bytes
    proto: int
    sport: int
    dport: int
    fragment: int = 0

    def record(self) -> Any:
        p = np.zeros(1, tables.PACKET_ROW)[0]
        p.src_hi, p.src_lo = tables.halves(self.saddr, self.family)
        p.dst_hi, p.dst_lo = tables.halves(self.daddr, self.family)
        for name in ("family", "proto", "sport", "dport", "fragment"):
            p[name] = getattr(self, name)
        return p


def prefix_match(value: bytes, wanted: bytes, length: int) -> bool:
    bits = [int.from_bytes(one, "big") for one in (value, wanted)]
    return bits[0] >> (128 - length) == bits[1] >> (128 - length)


def covers(policy: CreatePolicyRule, flow: Flow, *, ports: bool = True) -> bool:
    """xfrm_selector_match, from the text of UAPI-32."""
    sel = policy.selector
    return (
        (policy.direction, sel.family) == (flow.direction, flow.family)
        and prefix_match(flow.saddr, sel.saddr, sel.prefixlen_s)
        and prefix_match(flow.daddr, sel.daddr, sel.prefixlen_d)
        and sel.proto in (0, flow.proto)
        and (not ports or not (flow.sport ^ sel.sport) & sel.sport_mask)
        and (not ports or not (flow.dport ^ sel.dport) & sel.dport_mask)
    )


def model_find(policies: dict[int, tuple[int, CreatePolicyRule]], flow: Flow) -> int:
    """The row of the winner: lowest priority, then newest; of a fragment see `Steering`."""
    best = (0, 0, 0)
    for row, (age, policy) in policies.items():
        if flow.fragment:
            sel = policy.selector
            bypass = policy.action == ALLOW and not policy.protect
            if bypass and (sel.sport_mask or sel.dport_mask):
                continue
        if covers(policy, flow, ports=not flow.fragment):
            rank = (policy.priority, -age, row)
            best = min(best, rank) if best[2] else rank
    return best[2]


addresses = st.integers(0, 2)
ports = st.sampled_from(PORTS)
flows = st.builds(
    lambda direction, family, s, d, proto, sport, dport, fragment: Flow(
        direction, family, address(s, family), address(d, family), proto, sport, dport, fragment
    ),
    st.sampled_from((IN, OUT)), st.sampled_from(FAMILIES), addresses, addresses,
    st.sampled_from(PROTOS), ports, ports, st.sampled_from((0, 2)),
)  # fmt: skip


@st.composite
def policies(draw: Callable[..., Any]) -> CreatePolicyRule:
    family = draw(st.sampled_from(FAMILIES))
    full = 32 if family == AF_INET else 128
    lengths = st.sampled_from((0, 7, 8, full))
    masks = st.sampled_from((0, 0, 0xFFFF, 0xFF00))
    action = draw(st.sampled_from((ALLOW, ALLOW, BLOCK)))
    return CreatePolicyRule(
        direction=draw(st.sampled_from((IN, OUT))),
        selector=Selector(
            family=family, saddr=address(draw(addresses), family),
            daddr=address(draw(addresses), family), prefixlen_s=draw(lengths),
            prefixlen_d=draw(lengths), proto=draw(st.sampled_from((0, *PROTOS))),
            sport=draw(st.sampled_from(PORTS)), sport_mask=draw(masks),
            dport=draw(st.sampled_from(PORTS)), dport_mask=draw(masks),
        ),
        priority=draw(st.integers(0, 4)), action=action,
        protect=action == ALLOW and draw(st.booleans()),
    )  # fmt: skip


def find(t: tables.Tables, flow: Flow) -> int:
    """The row that the card finds; what stands for a policy in a fragment list counts as it."""
    row = int(lookup.find_policy(t, flow.record(), flow.direction))
    return row - CAPS.rule_max if row and flow.fragment else row


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.one_of(policies(), st.integers(0, 1000)), max_size=45),
    st.lists(flows, min_size=1, max_size=25),
)
def test_policies_equal_a_linear_scan(steps: list[Any], asked: list[Flow]) -> None:
    t = tables.make_tables(CAPS)
    steering = Steering(t)
    model: dict[int, tuple[int, CreatePolicyRule]] = {}
    for age, step in enumerate(steps):
        if isinstance(step, CreatePolicyRule):
            model[steering.add_policy(step)] = (age, step)
        elif model:
            row = sorted(model)[step % len(model)]
            steering.remove_policy(row)
            del model[row]
        flow = asked[age % len(asked)]
        assert find(t, flow) == model_find(model, flow)
    for flow in asked:
        assert find(t, flow) == model_find(model, flow)
    for row in model:
        steering.remove_policy(row)
    assert not t.order_count.any() and not t.policy_bucket.any()
    assert not t.policy.view(np.uint8).any()


def write(t: tables.Tables, row: int, **fields: Any) -> None:
    values = {
        "key": 1, "salt": bytes(4), "icv_bytes": 16, "spi": 1, "family": AF_INET, "reqid": 1,
        "saddr": address(1, AF_INET), "daddr": address(2, AF_INET), "direction": IN,
        "selector": Selector(),
    }  # fmt: skip
    tables.write_sa(t, row, CreateSa(**(values | fields)), 1, 1, 0, CAPS)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 20), st.integers(1, 4), addresses, st.sampled_from(FAMILIES)),
        max_size=80,
    )
)
def test_inbound_sas_equal_a_dict(steps: list[tuple[int, int, int, int]]) -> None:
    """Each step puts an SA into a row, or takes out the one that is in it."""
    t = tables.make_tables(CAPS)
    steering = Steering(t)
    rows: dict[int, tuple[int, bytes, int]] = {}
    for row, spi, last, family in steps:
        identity = (spi, address(last, family), family)
        if row in rows:
            steering.remove_sa(row)
            tables.clear_sa(t, row)
            del rows[row]
        else:
            write(t, row, spi=spi, daddr=identity[1], family=family)
            if identity in rows.values():
                with pytest.raises(Exists):
                    steering.add_sa(row)
            else:
                steering.add_sa(row)
                rows[row] = identity
    assert t.steered[0] == len(rows)
    found = {
        (spi, daddr, family): lookup.find_rx(
            t, *map(np.uint64, tables.halves(daddr, family)), spi, family
        )
        for spi in range(1, 5)
        for family in FAMILIES
        for daddr in (address(last, family) for last in range(3))
    }
    assert {key: row for key, row in found.items() if row} == {
        key: row for row, key in rows.items()
    }


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 20), st.integers(1, 2), addresses, st.integers(0, 2)), max_size=80
    )
)
def test_outbound_sas_equal_a_list(steps: list[tuple[int, int, int, int]]) -> None:
    """`state` of a row: 0 fresh, 1 dying, 2 stopped. Source 0 is the wildcard."""
    t = tables.make_tables(CAPS)
    steering = Steering(t)
    order: list[tuple[int, int, int, int]] = []  # newest first: row, reqid, source, state
    for row, reqid, last, state in steps:
        known = [one for one in order if one[0] == row]
        if known:
            steering.remove_sa(row)
            order.remove(known[0])
            continue
        write(t, row, direction=OUT, reqid=reqid, saddr=address(last, AF_INET))
        t.sa[row].dying, t.sa[row].stopped = state == 1, state == 2
        steering.add_sa(row)
        order.insert(0, (row, reqid, last, state))
    assert t.steered[0] == len(order)
    for reqid in (1, 2):
        pol = steering.add_policy(
            CreatePolicyRule(
                direction=OUT, selector=Selector(family=AF_INET), priority=0, action=ALLOW,
                protect=True, reqid=reqid,
            )
        )  # fmt: skip
        for last in (1, 2):
            flow = Flow(OUT, AF_INET, address(last, AF_INET), address(2, AF_INET), 17, 1, 1)
            for source in (last, 0):
                found = [one for one in order if one[1:3] == (reqid, source)]
                if found:
                    break
            usable = sorted((one[3], order.index(one), one[0]) for one in found if one[3] < 2)
            expected = usable[0][2] if usable else -lookup.HARD_LIMIT if found else -lookup.NO_SA
            assert lookup.find_tx(t, flow.record(), pol) == expected


def chain_lengths(buckets: Any, following: Any) -> list[int]:
    lengths = []
    for head in buckets[buckets != 0]:
        row, length = int(head), 0
        while row:
            row, length = int(following[row]), length + 1
        lengths.append(length)
    return lengths


def test_cost_does_not_grow_with_entries() -> None:
    """The number of tuples to probe depends on the masks in use, chains stay short."""
    caps = parse_card("full:sa_max=20000,key_max=1,rule_max=20000")
    t = tables.make_tables(caps)
    steering, rng = Steering(t), random.Random(1)
    for n in range(1, 20_001):
        host = n.to_bytes(4, "big").ljust(16, b"\0")
        selector = Selector(family=AF_INET, daddr=host, prefixlen_d=32, proto=rng.choice((0, 17)))
        steering.add_policy(
            CreatePolicyRule(
                direction=OUT, selector=selector, priority=9, action=ALLOW, protect=True
            )
        )
        write(t, n, spi=n + 0x1000, daddr=host)
        steering.add_sa(n)
    assert t.order_count.sum() == 4  # with and without protocol, packets and fragments
    assert max(chain_lengths(t.policy_bucket, t.policy["next"])) <= 8
    assert max(chain_lengths(t.rx_bucket, t.sa["rx_next"])) <= 8
