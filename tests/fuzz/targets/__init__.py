# SPDX-License-Identifier: Apache-2.0
"""Every reader of input that is fuzzed, by name."""

from collections.abc import Callable

from fuzz.target import Target
from fuzz.targets import language, netlink, texts

TARGETS: dict[str, Callable[[], Target]] = {
    "ip": language.IpTarget,
    "netlink": netlink.NetlinkTarget,
    "netlink-v6.2": lambda: netlink.NetlinkTarget("v6.2"),
    "pcap": texts.PcapTarget,
    "card-text": texts.CardTextTarget,
    "hello": texts.HelloTarget,
}
