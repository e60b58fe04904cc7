# SPDX-License-Identifier: Apache-2.0
"""Numbers to text: addresses, times, selectors, IDs and lifetimes as iproute2 prints them (11.5).

Times are seconds since 1970 and are printed in UTC, so that the text depends on the bytes alone.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from host_driver.ip import names
from proto.xfrm import AF_INET, AF_INET6, XFRM_INF
from proto.xfrm_structs import LifetimeCfg, LifetimeCur, XfrmId, XfrmSelector, XfrmStats


@dataclass(frozen=True, slots=True)
class Style:
    """How to print: the global options of the command, and the names of the devices."""

    stats: bool = False
    oneline: bool = False
    nokeys: bool = False
    family: int = 0
    devices: Mapping[int, str] = field(default_factory=dict)

    @property
    def nl(self) -> str:
        """What ends a line: a backslash with -o."""
        return "\\" if self.oneline else "\n"

    @property
    def end(self) -> str:
        """What ends an object: the one newline with -o."""
        return "\n" if self.oneline else ""

    def device(self, ifindex: int) -> str:
        """The name of a device; `if7` when nobody knows ifindex 7."""
        return self.devices.get(ifindex, f"if{ifindex}")


def address(family: int, data: bytes) -> str:
    """An address of 16 bytes as text."""
    if family == AF_INET:
        return str(ipaddress.IPv4Address(data[:4]))
    if family != AF_INET6:
        return "???"
    dotted = str(ipaddress.IPv4Address(data[12:]))
    if not any(data[:10]) and data[10:12] == b"\xff\xff":
        return f"::ffff:{dotted}"
    if not any(data[:12]) and any(data[12:14]):
        return f"::{dotted}"
    return str(ipaddress.IPv6Address(data))


def date(seconds: int) -> str:
    """A date and time, `-` for never."""
    if seconds == 0:
        return "-"
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return "(undefined)"


def limit(value: int) -> str:
    """A limit; infinite is (INF) (CLI-52)."""
    return "(INF)" if value == XFRM_INF else str(value)


def hash_hex(value: int) -> str:
    """C's %#x: zero has no 0x."""
    return f"{value:#x}" if value else "0"


def selector(sel: XfrmSelector, family: int, style: Style) -> str:
    """`src A/P dst B/P ` and what else the selector names, with the end of the line."""
    family = sel.family or family or style.family
    text = f"src {address(family, sel.saddr)}/{sel.prefixlen_s} "
    text += f"dst {address(family, sel.daddr)}/{sel.prefixlen_d} "
    if sel.proto:
        text += f"proto {names.name(names.PROTO, sel.proto)} "
    if sel.proto == names.GRE:
        if sel.sport_mask or sel.dport_mask:
            text += f"key {sel.sport << 16 | sel.dport} "
    else:
        typed = sel.proto in (names.ICMP, names.ICMPV6, names.MOBILITY_HEADER)
        source, target = ("type", "code") if typed else ("sport", "dport")
        if sel.sport_mask:
            text += f"{source} {sel.sport} "
        if sel.dport_mask and sel.proto != names.MOBILITY_HEADER:
            text += f"{target} {sel.dport} "
    if sel.ifindex > 0:
        text += f"dev {style.device(sel.ifindex)} "
    if style.stats:
        text += f"uid {sel.user}"
    return text + style.nl


def identity(
    saddr: bytes, id: XfrmId, mode: int, reqid: int, family: int, style: Style, *, spi: bool
) -> str:
    """The first two lines of a state or template; `spi` prints SPI 0 as well."""
    text = f"src {address(family, saddr)} dst {address(family, id.daddr)}{style.nl}"
    text += f"\tproto {names.name(names.XFRM_PROTO, id.proto)} "
    if style.stats or spi or id.spi:
        text += f"spi 0x{id.spi:08x}{f'({id.spi})' if style.stats else ''} "
    text += f"reqid {reqid}{f'(0x{reqid:08x})' if style.stats else ''} "
    return text + f"mode {names.name(names.MODE, mode)}{style.nl}"


def lifetimes(lft: LifetimeCfg, cur: LifetimeCur) -> list[str]:
    """The lines of the lifetime configuration and of the current values, without line ends."""
    hard_bytes, hard_packets = limit(lft.hard_byte_limit), limit(lft.hard_packet_limit)
    add = f"{lft.soft_add_expires_seconds}(sec), hard {lft.hard_add_expires_seconds}(sec)"
    use = f"{lft.soft_use_expires_seconds}(sec), hard {lft.hard_use_expires_seconds}(sec)"
    return [
        "\tlifetime config:",
        f"\t  limit: soft {limit(lft.soft_byte_limit)}(bytes), hard {hard_bytes}(bytes)",
        f"\t  limit: soft {limit(lft.soft_packet_limit)}(packets), hard {hard_packets}(packets)",
        f"\t  expire add: soft {add}",
        f"\t  expire use: soft {use}",
        "\tlifetime current:",
        f"\t  {cur.bytes}(bytes), {cur.packets}(packets)",
        f"\t  add {date(cur.add_time)} use {date(cur.use_time)}",
    ]


def stats(value: XfrmStats) -> list[str]:
    """The lines of a state's statistics, without line ends."""
    counted = f"replay {value.replay} failed {value.integrity_failed}"
    return ["\tstats:", f"\t  replay-window {value.replay_window} {counted}"]
