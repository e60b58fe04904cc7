# SPDX-License-Identifier: Apache-2.0
"""Which flows both ends still protect when a run is over: those must work again (INV-50)."""

import ipaddress

from host_driver.simulate.actions import AddSa
from host_driver.simulate.flows import DPORT, FLOWS, UDP, Flow
from host_driver.simulate.ledger import Direction, Ledger, PolicyAsked
from host_driver.xfrm.profile import profile_by_name
from proto.caps import parse_card


def ways(ledger: Ledger, profile: str) -> list[tuple[int, int]]:
    """(flow, way) of all that must carry packets once they have SAs, as far as the card has room.

    Only where every policy that a packet meets is a protect policy of that flow, at either end:
    then no order of policies can make a difference.
    """
    caps = parse_card(ledger.card)
    found = [
        (flow.number, way)
        for flow in FLOWS
        for way in (0, 1)
        if _protected(ledger, flow, way, way, "out")
        and _protected(ledger, flow, way, 1 - way, "in")
        if not flow.encap or (caps.espinudp and profile_by_name(profile).encap_offloadable)
    ]
    return found[: min(caps.sa_max, caps.key_max)]


def fresh_sa(flow: int, way: int, number: int) -> AddSa:
    """An SA that every card takes."""
    return AddSa(flow=flow, way=way, number=number, window=32)


def _protected(ledger: Ledger, flow: Flow, way: int, host: int, direction: Direction) -> bool:
    met = [
        policy
        for policy in ledger.live_policies(host)
        if policy.direction == direction and _covers(policy, flow, way)
    ]
    kind = flow.offload == "packet"  # of the SAs that come
    return bool(met) and all(
        (policy.verdict, policy.reqid, policy.offload) == ("protect", flow.reqid(way), kind)
        for policy in met
    )


def _covers(policy: PolicyAsked, flow: Flow, way: int) -> bool:
    """Whether the flow's UDP packets between its first hosts meet the policy."""
    selector = policy.selector
    ends = zip((selector.src, selector.dst), flow.host(way, 0), strict=True)
    return (
        all(_inside(address, prefix) for prefix, address in ends)
        and selector.proto in (0, UDP)
        and selector.dport in (0, DPORT)
    )


def _inside(address: str, prefix: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(prefix)
