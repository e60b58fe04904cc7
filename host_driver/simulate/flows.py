# SPDX-License-Identifier: Apache-2.0
"""Who talks to whom: flows between two hosts, every combination of family, mode and offload.

A flow has two ways, 0 from host 0 to host 1 and 1 back. In transport mode the ends talk; in tunnel
mode networks behind them do. An address belongs to one flow, so packets say whose they are.
"""

import ipaddress
from dataclasses import dataclass

from host_driver.simulate.ledger import Mode, Offload, Selector

UDP, DPORT = 17, 5000
EVERYWHERE = {4: "10.0.0.0/8", 6: "fd00::/16"}


@dataclass(frozen=True)
class Flow:
    """`ends` are the addresses of SAs, `nets` the prefixes whose packets they protect; the first
    of each is host 0's. `offload` is that of policies; where it is "none", SAs may be "crypto".
    """

    number: int
    mode: Mode
    offload: Offload
    ends: tuple[str, str]
    nets: tuple[str, str]
    encap: bool = False

    @property
    def family(self) -> int:
        """Of the packets that are protected: 4 or 6."""
        return ipaddress.ip_network(self.nets[0]).version

    def outer(self, way: int) -> tuple[str, str]:
        """Source and destination of SAs."""
        return self.ends[way], self.ends[1 - way]

    def networks(self, way: int) -> tuple[str, str]:
        """Source and destination prefixes of policies."""
        return self.nets[way], self.nets[1 - way]

    def host(self, way: int, member: int) -> tuple[str, str]:
        """Addresses of one conversation: `member` counts the hosts of a network."""
        source, target = (ipaddress.ip_network(net) for net in self.networks(way))
        return _member(source, member), _member(target, member)

    def reqid(self, way: int) -> int:
        """What ties policies to SAs."""
        return 2 * self.number + way + 1

    def selector(self, way: int, shape: str) -> Selector:
        """What a policy is about. `shape`: whole, udp, port, one (of the hosts), wide."""
        source, target = self.networks(way)
        if shape == "udp":
            return Selector(source, target, UDP)
        if shape == "port":
            return Selector(source, target, UDP, 0, DPORT)
        if shape == "one":
            first, second = self.host(way, 0)
            return Selector(_single(first), _single(second))
        if shape == "wide":
            everywhere = EVERYWHERE[ipaddress.ip_network(source).version]
            return Selector(everywhere, everywhere)
        return Selector(source, target)


def _member(network: ipaddress.IPv4Network | ipaddress.IPv6Network, member: int) -> str:
    """One of four hosts of a network, or the only one."""
    return str(network[0] if network.num_addresses == 1 else network[1 + member % 4])


def _single(address: str) -> str:
    return str(ipaddress.ip_network(address))


def _v4(number: int) -> tuple[str, str]:
    return f"10.1.{number}.1", f"10.1.{number}.2"


def _v6(number: int) -> tuple[str, str]:
    return f"fd00:1:{number}::1", f"fd00:1:{number}::2"


def _singles(ends: tuple[str, str]) -> tuple[str, str]:
    return _single(ends[0]), _single(ends[1])


def _v4_nets(number: int) -> tuple[str, str]:
    return f"10.2.{number}.0/24", f"10.3.{number}.0/24"


def _v6_nets(number: int) -> tuple[str, str]:
    return f"fd00:2:{number}::/64", f"fd00:3:{number}::/64"


FLOWS = (
    Flow(0, "transport", "packet", _v4(0), _singles(_v4(0))),
    Flow(1, "transport", "packet", _v6(1), _singles(_v6(1))),
    Flow(2, "tunnel", "packet", _v4(2), _v4_nets(2)),
    Flow(3, "tunnel", "packet", _v6(3), _v4_nets(3)),
    Flow(4, "tunnel", "packet", _v4(4), _v6_nets(4)),
    Flow(5, "transport", "packet", _v4(5), _singles(_v4(5)), encap=True),
    Flow(6, "transport", "none", _v4(6), _singles(_v4(6))),
    Flow(7, "tunnel", "none", _v4(7), _v4_nets(7)),
    Flow(8, "transport", "packet", _v6(8), _singles(_v6(8)), encap=True),
)
DRAWN = range(8)  # of a seed; in half of all seeds an IPv6 flow stands for its IPv4 twin
TWINS = {5: 8}
