# SPDX-License-Identifier: Apache-2.0
"""Strategies for what SAs, policies and packets are made of.

Addresses come from two small subnets by default, so that what one draws meets what another draws;
`anywhere=True` takes any unicast address.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from host_driver.conformance import messages
from proto.xfrm_structs import XfrmSelector

HOME = {4: "10.1.0.0/24", 6: "fd00:1::/64"}
HOSTS = 8  # addresses of a home network that are drawn
PORTS_MAX = (1 << 16) - 1
SPI_LOW, SPI_HIGH = 0x100, (1 << 32) - 1  # what RFC 4303 2.1 reserves is left out
SALT_BYTES = 4  # RFC 4106 section 4
WITH_PORTS = (6, 17)


def families() -> st.SearchStrategy[int]:
    """4 or 6, the version of IP."""
    return st.sampled_from((4, 6))


def _unicast(value: int, family: int) -> str:
    return str(ipaddress.IPv4Address(value) if family == 4 else ipaddress.IPv6Address(value))


@st.composite
def addresses(draw: st.DrawFn, family: int | None = None, *, anywhere: bool = False) -> str:
    """An address as text: one of eight of 10.1.0.0/24 or fd00:1::/64, or `anywhere`."""
    version = draw(families()) if family is None else family
    if not anywhere:
        home = ipaddress.ip_network(HOME[version])
        return str(home[draw(st.integers(1, HOSTS))])
    if version == 4:
        return _unicast(draw(st.integers(1 << 24, (224 << 24) - 1)), 4)
    return _unicast(draw(st.integers(0x2000 << 112, (0xFE00 << 112) - 1)), 6)


@st.composite
def address_pairs(
    draw: st.DrawFn, family: int | None = None, *, anywhere: bool = False
) -> tuple[str, str]:
    """Two different addresses of one family."""
    version = draw(families()) if family is None else family
    pair = st.tuples(
        addresses(version, anywhere=anywhere), addresses(version, anywhere=anywhere)
    )  # fmt: skip
    return draw(pair.filter(lambda ends: ends[0] != ends[1]))


@st.composite
def networks(draw: st.DrawFn, family: int | None = None, *, anywhere: bool = False) -> str:
    """A network as text, "10.1.0.4/30": every prefix length, those of hosts and of all first."""
    version = draw(families()) if family is None else family
    most = 32 if version == 4 else 128
    length = draw(st.sampled_from((most, 0)) | st.integers(0, most))
    address = draw(addresses(version, anywhere=anywhere))
    return str(ipaddress.ip_network(f"{address}/{length}", strict=False))


def ports() -> st.SearchStrategy[int]:
    """1 to 65535, well-known ones and the ends more often."""
    return st.sampled_from((53, 443, 4500, 1, PORTS_MAX)) | st.integers(1, PORTS_MAX)


def spis() -> st.SearchStrategy[int]:
    """0x100 to 0xffffffff."""
    return st.integers(SPI_LOW, SPI_HIGH)


def keys(bits: Sequence[int] = (128, 192, 256)) -> st.SearchStrategy[bytes]:
    """Key material of rfc4106(gcm(aes)): an AES key of one of these sizes, and the salt."""
    return st.sampled_from(tuple(bits)).flatmap(
        lambda size: st.binary(min_size=size // 8 + SALT_BYTES, max_size=size // 8 + SALT_BYTES)
    )


@dataclass(frozen=True)
class TrafficSelector:
    """What a policy covers: networks as text, protocol 0 for any, port 0 for any."""

    src: str
    dst: str
    proto: int = 0
    sport: int = 0
    dport: int = 0

    @property
    def family(self) -> int:
        """4 or 6."""
        return ipaddress.ip_network(self.src).version

    def words(self) -> str:
        """The SELECTOR of `ip xfrm`."""
        words = [f"src {self.src} dst {self.dst}"]
        if self.proto:
            words.append(f"proto {self.proto}")
        if self.sport:
            words.append(f"sport {self.sport}")
        if self.dport:
            words.append(f"dport {self.dport}")
        return " ".join(words)

    def uapi(self) -> XfrmSelector:
        """struct xfrm_selector (UAPI-32)."""
        src, dst = ipaddress.ip_network(self.src), ipaddress.ip_network(self.dst)
        return XfrmSelector(
            daddr=messages.address(str(dst.network_address)),
            saddr=messages.address(str(src.network_address)),
            dport=self.dport, dport_mask=PORTS_MAX if self.dport else 0,
            sport=self.sport, sport_mask=PORTS_MAX if self.sport else 0,
            family=messages.family_of(str(dst.network_address)),
            prefixlen_d=dst.prefixlen, prefixlen_s=src.prefixlen, proto=self.proto,
        )  # fmt: skip


@st.composite
def selectors(
    draw: st.DrawFn, family: int | None = None, *, hosts: bool = False, upper: bool = True
) -> TrafficSelector:
    """A selector within one family; `hosts` has single addresses only, `upper` also protocols,
    and ports of those that have some."""
    version = draw(families()) if family is None else family
    if hosts:
        src, dst = draw(address_pairs(version))
        tail = "/32" if version == 4 else "/128"
        src, dst = src + tail, dst + tail
    else:
        src, dst = draw(networks(version)), draw(networks(version))
    proto = draw(st.sampled_from((0, *WITH_PORTS))) if upper else 0
    sport = dport = 0
    if proto in WITH_PORTS:
        sport, dport = draw(st.just(0) | ports()), draw(st.just(0) | ports())
    return TrafficSelector(src, dst, proto, sport, dport)
