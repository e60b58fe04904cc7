# SPDX-License-Identifier: Apache-2.0
"""Every reader of input that is fuzzed, by name."""

from collections.abc import Callable

from fuzz.target import Target
from fuzz.targets import card, language, netlink, texts

TARGETS: dict[str, Callable[[], Target]] = {
    "card-mailbox": lambda: card.CardTarget("mailbox"),
    "card-rings": lambda: card.CardTarget("rings"),
    "card-wire": lambda: card.CardTarget("wire"),
    "card-control": lambda: card.CardTarget("control"),
    "ip": language.IpTarget,
    "netlink": netlink.NetlinkTarget,
    "netlink-v6.2": lambda: netlink.NetlinkTarget("v6.2"),
    "pcap": texts.PcapTarget,
    "card-text": texts.CardTextTarget,
    "hello": texts.HelloTarget,
}
