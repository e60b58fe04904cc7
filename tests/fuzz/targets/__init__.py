# SPDX-License-Identifier: Apache-2.0
"""Every reader of input that is fuzzed, by name."""

from collections.abc import Callable

from fuzz.target import Target
from fuzz.targets import card, host, language, netlink, server, texts

TARGETS: dict[str, Callable[[], Target]] = {
    "card-mailbox": lambda: card.CardTarget("mailbox"),
    "card-rings": lambda: card.CardTarget("rings"),
    "card-wire": lambda: card.CardTarget("wire"),
    "card-control": lambda: card.CardTarget("control"),
    "host-replies": lambda: host.HostTarget("replies"),
    "host-events": lambda: host.HostTarget("events"),
    "host-rings": lambda: host.HostTarget("rings"),
    "host-control": lambda: host.HostTarget("control"),
    "ip": language.IpTarget,
    "netlink": netlink.NetlinkTarget,
    "netlink-v6.2": lambda: netlink.NetlinkTarget("v6.2"),
    "pcap": texts.PcapTarget,
    "card-text": texts.CardTextTarget,
    "hello": texts.HelloTarget,
    "fault-plan": texts.FaultPlanTarget,
    "simulation": texts.SimulationTarget,
    "server": server.ServerTarget,
}
