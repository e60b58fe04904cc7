# SPDX-License-Identifier: Apache-2.0
"""SELECTOR and UPSPEC: text -> xfrm_selector (CLI-30), and the match that list filters use."""

from dataclasses import dataclass, field

from host_driver.ip import names
from host_driver.ip.grammar import Ends
from host_driver.ip.words import IpError, Words, invalid, number, quad_or_number
from proto.xfrm_structs import XfrmSelector

_ALL_PORTS = 0xFFFF
_PORTS_OF = (0, names.TCP, names.UDP, names.SCTP, names.DCCP)
_TYPES_OF = (names.ICMP, names.ICMPV6, names.MOBILITY_HEADER)


@dataclass(slots=True)
class Selector:
    """A selector, and the set of words given (a filter compares only those)."""

    sel: XfrmSelector = field(default_factory=XfrmSelector)
    given: set[str] = field(default_factory=set)


def parse_selector(words: Words, sel: XfrmSelector) -> Selector:
    """Read a selector into `sel`; addresses and device in any order, the UPSPEC words together."""
    found, ends = Selector(sel), Ends(words)
    seen_upspec = False
    while words.more():
        word = words.take()
        if word in ("src", "dst"):
            end = ends.take(word)
            sel.family = end.family
            if word == "src":
                sel.saddr, sel.prefixlen_s = end.data, end.bits
            else:
                sel.daddr, sel.prefixlen_d = end.data, end.bits
        elif word == "dev":
            sel.ifindex = 0 if words.take_if("none") else words.device("DEV value is invalid")
            found.given.add("dev")
        else:
            words.back()
            if seen_upspec:
                break
            seen_upspec = True
            _parse_upspec(words, found)
    ends.check()
    return found


def _parse_upspec(words: Words, found: Selector) -> None:
    """PROTO with ports, type and code, or key."""
    sel, given = found.sel, set[str]()
    while words.more():
        word = words.take()
        if word == "proto":
            sel.proto = _protocol(words)
        elif word in ("sport", "dport"):
            _set_port(sel, word, words.number(16, f'value after "{word}" is invalid'))
        elif word in ("type", "code"):
            value = words.number(8, f'value after "{word}" is invalid')
            _set_half(sel, "sport" if word == "type" else "dport", value, _ALL_PORTS)
        elif word == "key":
            key = quad_or_number(words.take(), 'value after "key" is invalid\n')
            _set_half(sel, "sport", key >> 16, _ALL_PORTS)
            _set_half(sel, "dport", key & 0xFFFF, _ALL_PORTS)
        else:
            words.back()
            break
        given.add(word)
    _check_upspec(sel.proto, given)
    found.given |= given


def _protocol(words: Words) -> int:
    word = words.take()
    if word == "any":
        return 0
    value = names.PROTO.get(word, number(word, 8))
    if value is None:
        raise invalid("PROTO value is invalid", word)
    return value


def _set_port(sel: XfrmSelector, name: str, port: int) -> None:
    """Port 0 leaves the mask as it was, so that it matches any port."""
    mask = _ALL_PORTS if port else getattr(sel, f"{name}_mask")
    _set_half(sel, name, port, mask)


def _set_half(sel: XfrmSelector, name: str, value: int, mask: int) -> None:
    setattr(sel, name, value)
    setattr(sel, f"{name}_mask", mask)


def _check_upspec(proto: int, given: set[str]) -> None:
    """Ports, type and code, and key each belong to certain protocols only."""
    name = names.name(names.PROTO, proto)
    if given & {"sport", "dport"} and proto not in _PORTS_OF:
        raise IpError(1, f'"sport" and "dport" are invalid with PROTO value "{name}"\n')
    if given & {"type", "code"} and proto not in _TYPES_OF:
        raise IpError(1, f'"type" and "code" are invalid with PROTO value "{name}"\n')
    if "key" in given and proto != names.GRE:
        raise IpError(1, f'"key" is invalid with PROTO value "{name}"\n')


def address_matches(data: bytes, wanted: bytes, bits: int) -> bool:
    """Whether the first `bits` bits are equal; 0 bits match everything."""
    shift = 128 - bits
    return int.from_bytes(data, "big") >> shift == int.from_bytes(wanted, "big") >> shift


def selector_matches(sel: XfrmSelector, wanted: Selector) -> bool:
    """Whether `sel` has everything that the words of `wanted` asked for."""
    want, given = wanted.sel, wanted.given
    sport_given = bool(given & {"sport", "type", "key"})
    dport_given = bool(given & {"dport", "code", "key"})
    return (
        address_matches(sel.saddr, want.saddr, want.prefixlen_s)
        and address_matches(sel.daddr, want.daddr, want.prefixlen_d)
        and ("dev" not in given or sel.ifindex == want.ifindex)
        and ("proto" not in given or sel.proto == want.proto)
        and (not sport_given or sel.sport == want.sport)
        and (not dport_given or sel.dport == want.dport)
    )
