# SPDX-License-Identifier: Apache-2.0
"""Dumps read: which SAs and policies a core says that it has, and how much each SA has moved."""

import ipaddress
from collections.abc import Iterator
from typing import NamedTuple

from host_driver.simulate.ledger import PolicyAsked, Snapshot
from proto.xfrm import POLICY_IN, POLICY_OUT
from proto.xfrm_structs import UserPolicyInfo, UserSaInfo, XfrmSelector

DIRECTIONS = {"in": POLICY_IN, "out": POLICY_OUT}


class ListedSa(NamedTuple):
    """One SA of a dump; `target` has 16 bytes. `failed` counts wrong ICVs."""

    spi: int
    target: bytes
    reqid: int
    packets: int
    octets: int
    replays: int
    failed: int


class PolicyId(NamedTuple):
    """What keeps policies of one direction apart (SPD-01)."""

    direction: int
    saddr: bytes
    daddr: bytes
    prefixes: tuple[int, int]
    proto: int
    ports: tuple[int, int]


def sas(snapshot: Snapshot) -> Iterator[ListedSa]:
    """The SAs of a host's dump; nothing where there is none."""
    for raw in snapshot.sas or ():
        info = UserSaInfo.unpack(raw)
        cur, stats = info.curlft, info.stats
        yield ListedSa(
            info.id.spi, info.id.daddr, info.reqid, cur.packets, cur.bytes,
            stats.replay_window + stats.replay, stats.integrity_failed,
        )  # fmt: skip


def policies(snapshot: Snapshot) -> set[PolicyId]:
    """The policies of a host's dump."""
    found = set()
    for raw in snapshot.policies or ():
        info = UserPolicyInfo.unpack(raw)
        found.add(_id(info.dir, info.sel))
    return found


def _id(direction: int, sel: XfrmSelector) -> PolicyId:
    prefixes, ports = (sel.prefixlen_s, sel.prefixlen_d), (sel.sport, sel.dport)
    return PolicyId(direction, sel.saddr, sel.daddr, prefixes, sel.proto, ports)


def id_of(policy: PolicyAsked) -> PolicyId:
    """How a dump would show a policy that was asked for."""
    source, target = (
        ipaddress.ip_network(prefix) for prefix in (policy.selector.src, policy.selector.dst)
    )
    return PolicyId(
        DIRECTIONS[policy.direction],
        source.network_address.packed.ljust(16, b"\0"),
        target.network_address.packed.ljust(16, b"\0"),
        (source.prefixlen, target.prefixlen),
        policy.selector.proto,
        (policy.selector.sport, policy.selector.dport),
    )
