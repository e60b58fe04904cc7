# SPDX-License-Identifier: Apache-2.0
"""What IP and UDP below XFRM count of packets that come in: /proc/net/snmp and snmp6.

Only what ends a packet here: the names are those that nstat prints, the meanings RFC 4293 and
RFC 4113. A packet that comes in is delivered, or has one of these, or one of XfrmIn*.
"""

from proto.xfrm import AF_INET, AF_INET6

IN_HDR_ERRORS = "InHdrErrors"  # an IPv4 header that is damaged
IN_ADDR_ERRORS = "InAddrErrors"  # it is for somebody else: the far end of an SA of this host
IN_DISCARDS = "InDiscards"  # the device says that what it decrypted is not good (RX-03)
REASM_REQDS = "ReasmReqds"  # pieces that came; each but the last of ReasmOKs ends as one
REASM_OKS = "ReasmOKs"  # packets that went on, whole
REASM_FAILS = "ReasmFails"  # packets given up, and pieces that belong to none
REASM_TIMEOUT = "ReasmTimeout"  # of these, given up for their age
UDP_IN_DATAGRAMS = "InDatagrams"  # a NAT keepalive, which the socket takes and nobody gets

_IP = (
    IN_HDR_ERRORS, IN_ADDR_ERRORS, IN_DISCARDS, REASM_TIMEOUT, REASM_REQDS, REASM_OKS, REASM_FAILS,
)  # fmt: skip
_PREFIXES = {AF_INET: ("Ip", "Udp"), AF_INET6: ("Ip6", "Udp6")}
NAMES = tuple(
    name
    for ip, udp in _PREFIXES.values()
    for name in (*(f"{ip}{one}" for one in _IP), f"{udp}{UDP_IN_DATAGRAMS}")
)


class Snmp:
    """One value per name and family; names never appear or vanish."""

    def __init__(self) -> None:
        self._values = dict.fromkeys(NAMES, 0)

    def bump(self, family: int, name: str) -> None:
        """Count one. Raises KeyError for a name that is not above."""
        ip, udp = _PREFIXES[family]
        self._values[f"{udp if name == UDP_IN_DATAGRAMS else ip}{name}"] += 1

    def values(self) -> dict[str, int]:
        """A copy, IPv4 first."""
        return dict(self._values)


def ended(values: dict[str, int]) -> int:
    """How many packets ended below XFRM, of such counters or of their growth."""
    ends = (IN_HDR_ERRORS, IN_ADDR_ERRORS, IN_DISCARDS, REASM_REQDS, UDP_IN_DATAGRAMS)
    came = sum(count for name, count in values.items() if name.endswith(ends))
    return came - sum(count for name, count in values.items() if name.endswith(REASM_OKS))
