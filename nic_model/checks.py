# SPDX-License-Identifier: Apache-2.0
"""What the firmware refuses: every field of a command against the card's capability page.

Each check raises Refused with status, syndrome and a text that states the offer, the limit and the
object. BAD_PARAMETER: no card could do it; NOT_SUPPORTED: this card cannot.
"""

from collections.abc import Iterable
from typing import NoReturn

from nic_model.packet import WITH_PORTS, WITH_TYPES
from proto.caps import Caps
from proto.commands import (
    ALLOW,
    BLOCK,
    IN,
    INFINITE,
    OUT,
    CreatePolicyRule,
    CreateSa,
    ListObjects,
    ObjectKind,
    Selector,
    SetLimits,
    SetPort,
)  # fmt: skip
from proto.limits import MTU_MAX, MTU_MIN, REPLAY_WINDOW_MAX, SPI_MIN
from proto.status import Delivery, Status, Syndrome
from proto.xfrm import AF_INET, AF_INET6, AF_UNSPEC, MODE_TRANSPORT, MODE_TUNNEL

ADDRESS_BYTES = 16
SALT_BYTES = 4  # RFC 4106 section 4
U8, U16, U32, U64 = (1 << 8) - 1, (1 << 16) - 1, (1 << 32) - 1, (1 << 64) - 1
PORT_PROTOCOLS = (*WITH_PORTS, *WITH_TYPES)
ADDRESS_BITS = {AF_UNSPEC: 0, AF_INET: 32, AF_INET6: 128}


class Refused(Exception):
    """The firmware says no. Nothing has changed when this is raised. With another `delivery` than
    OK the command did not even reach it."""

    def __init__(
        self, status: Status, syndrome: Syndrome, text: str, delivery: Delivery = Delivery.OK
    ) -> None:
        super().__init__(text)
        self.delivery = delivery
        self.status = status
        self.syndrome = syndrome
        self.text = text


def _bad(syndrome: Syndrome, text: str) -> NoReturn:
    raise Refused(Status.BAD_PARAMETER, syndrome, text)


def _unsupported(syndrome: Syndrome, text: str) -> NoReturn:
    raise Refused(Status.NOT_SUPPORTED, syndrome, text)


def _list(values: Iterable[int]) -> str:
    return ", ".join(map(str, values)) or "none"


def _within(what: str, name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        _bad(Syndrome.FIELD, f"{what}: {name} {value} is outside {low}..{high}")


def _packet_offload(what: str, caps: Caps) -> None:
    if not caps.packet:
        _unsupported(Syndrome.PACKET_UNSUPPORTED, f"{what}: card {caps.name} has no packet offload")


def _mode(what: str, mode: int, caps: Caps) -> None:
    if mode not in (MODE_TRANSPORT, MODE_TUNNEL):
        _bad(Syndrome.MODE, f"{what}: mode {mode} is neither transport nor tunnel")
    if mode == MODE_TUNNEL and not caps.tunnel:
        _unsupported(Syndrome.MODE, f"{what}: card {caps.name} has no tunnel mode")


def _direction(what: str, direction: int) -> None:
    if direction not in (IN, OUT):
        _bad(Syndrome.DIRECTION, f"{what}: direction {direction} is neither {IN} in nor {OUT} out")


def _address(what: str, name: str, address: bytes) -> None:
    if len(address) != ADDRESS_BYTES:
        _bad(Syndrome.FAMILY, f"{what}: {name} has {len(address)} bytes, not {ADDRESS_BYTES}")


def check_cookie(cookie: int) -> None:
    """The driver's mark on an object."""
    _within("object", "cookie", cookie, 0, U64)


def check_list(command: ListObjects) -> None:
    """What a page of objects is asked for."""
    if command.kind not in tuple(ObjectKind):
        _bad(Syndrome.FIELD, f"list: kind {command.kind} is not in {_list(ObjectKind)}")
    _within("list", "row", command.after, 0, U32)
    check_cookie(command.cookie)


def check_key(bits: int, caps: Caps) -> None:
    """AES key length in bits, without salt. What a profile lists beyond AES, no card can do."""
    if bits not in caps.key_bits:
        _unsupported(
            Syndrome.KEY_LENGTH,
            f"key of {bits} bits, card {caps.name} takes {_list(caps.key_bits)}",
        )


def check_selector(what: str, selector: Selector, families: tuple[int, ...]) -> None:
    """Family, prefix lengths, protocol and ports (UAPI-32)."""
    if selector.family not in families:
        _bad(
            Syndrome.SELECTOR,
            f"{what}: selector of family {selector.family}, possible here: {_list(families)}",
        )
    _address(what, "selector saddr", selector.saddr)
    _address(what, "selector daddr", selector.daddr)
    bits = ADDRESS_BITS[selector.family]
    for name in ("prefixlen_s", "prefixlen_d"):
        length = getattr(selector, name)
        if not 0 <= length <= bits:
            _bad(Syndrome.SELECTOR, f"{what}: selector {name} {length} is outside 0..{bits}")
    for name, high in (
        ("proto", U8), ("sport", U16), ("sport_mask", U16), ("dport", U16), ("dport_mask", U16),
    ):  # fmt: skip
        value = getattr(selector, name)
        if not 0 <= value <= high:
            _bad(Syndrome.SELECTOR, f"{what}: selector {name} {value} is outside 0..{high}")
    if (selector.sport_mask or selector.dport_mask) and selector.proto not in PORT_PROTOCOLS:
        _bad(  # it would never match, and its packets would pass in clear
            Syndrome.SELECTOR,
            f"{what}: selector ports of protocol {selector.proto or 'any'}, the card reads those "
            f"of protocols {_list(PORT_PROTOCOLS)}",
        )


def check_sa(command: CreateSa, caps: Caps) -> None:
    """Everything of CREATE_SA that does not depend on other objects."""
    what = f"SA spi {command.spi:#x}"
    _kind(what, command, caps)
    if not SPI_MIN <= command.spi <= U32:
        _bad(Syndrome.SPI, f"{what}: spi is outside {SPI_MIN}..{U32:#x}")
    if command.family not in (AF_INET, AF_INET6):
        _bad(Syndrome.FAMILY, f"{what}: family {command.family} is not {AF_INET} or {AF_INET6}")
    _address(what, "saddr", command.saddr)
    _address(what, "daddr", command.daddr)
    _direction(what, command.direction)
    _within(what, "reqid", command.reqid, 0, U32)
    if len(command.salt) != SALT_BYTES:
        _bad(Syndrome.KEY_LENGTH, f"{what}: salt of {len(command.salt)} bytes, not {SALT_BYTES}")
    if command.icv_bytes not in caps.icv_bytes:
        _unsupported(
            Syndrome.ICV_LENGTH,
            f"{what}: ICV of {command.icv_bytes} bytes, card {caps.name} takes "
            f"{_list(caps.icv_bytes)}",
        )
    tunnel = command.mode == MODE_TUNNEL
    families = (AF_UNSPEC, AF_INET, AF_INET6) if tunnel else (AF_UNSPEC, command.family)
    check_selector(what, command.selector, families)
    if tunnel and command.direction == OUT and not any(command.saddr):
        _bad(Syndrome.MODE, f"{what}: a tunnel out needs a source address, any was given")
    if command.esn and not caps.esn:
        _unsupported(Syndrome.ESN_UNSUPPORTED, f"{what}: card {caps.name} has no ESN")
    check_sequence(what, command.seq, esn=command.esn)
    _window(what, command, caps)
    check_limits(what, command)
    check_cookie(command.cookie)
    _encap(what, command, caps)


def _kind(what: str, command: CreateSa, caps: Caps) -> None:
    """Packet or crypto offload; the second has no mode and no limits."""
    if not command.crypto:
        _packet_offload(what, caps)
        _mode(what, command.mode, caps)
    elif not caps.crypto:
        _unsupported(Syndrome.CRYPTO_UNSUPPORTED, f"{what}: card {caps.name} has no crypto offload")
    elif command.mode != MODE_TRANSPORT:
        _bad(Syndrome.MODE, f"{what}: mode {command.mode} in crypto offload, it is the host's")
    elif {command.packets, command.soft_packets, command.bytes} != {INFINITE}:
        _bad(Syndrome.LIMIT, f"{what}: limits in crypto offload, they are the host's")


def check_sequence(what: str, seq: int, *, esn: bool) -> None:
    """A sequence number: 64 bits with ESN, else 32."""
    high = (1 << 64) - 1 if esn else U32
    if not 0 <= seq <= high:
        ending = "with ESN" if esn else "without ESN"
        _bad(Syndrome.SEQUENCE, f"{what}: sequence number {seq} is outside 0..{high} {ending}")


def _window(what: str, command: CreateSa, caps: Caps) -> None:
    window = command.replay_window
    words = len(command.bitmap)
    if not 0 <= window <= REPLAY_WINDOW_MAX or words > REPLAY_WINDOW_MAX // 32:
        _bad(
            Syndrome.WINDOW_SIZE,
            f"{what}: replay window {window} with {words} bitmap words is beyond "
            f"{REPLAY_WINDOW_MAX} packets",
        )
    if words and words * 32 < window:
        _bad(
            Syndrome.WINDOW_SIZE,
            f"{what}: {words} bitmap words do not hold replay window {window}",
        )
    if any(not 0 <= word <= U32 for word in command.bitmap):
        _bad(Syndrome.WINDOW_SIZE, f"{what}: a bitmap word has more than 32 bits")
    if command.direction == OUT:
        return  # REPLAY-10: the window of an outbound SA is ignored
    if command.esn and window == 0:  # REPLAY-02
        _bad(Syndrome.WINDOW_SIZE, f"{what}: ESN needs a replay window, 0 was given")
    if command.crypto:
        return  # the host's window
    if caps.replay_windows and window not in (0, *caps.replay_windows):
        _unsupported(
            Syndrome.WINDOW_SIZE,
            f"{what}: replay window {window}, card {caps.name} takes "
            f"0, {_list(caps.replay_windows)}",
        )
    if window > caps.replay_window_max:
        _unsupported(
            Syndrome.WINDOW_SIZE,
            f"{what}: replay window {window}, card {caps.name} takes at most "
            f"{caps.replay_window_max}",
        )


def check_limits(what: str, command: CreateSa | SetLimits) -> None:
    """The limits of an SA, in packets and bytes."""
    for name in ("packets", "soft_packets", "bytes"):  # soft above hard is allowed (LIFE-03)
        value = getattr(command, name)
        if not 1 <= value < 1 << 64:
            _bad(Syndrome.LIMIT, f"{what}: {name} limit {value} is outside 1..2^64-1")


def _encap(what: str, command: CreateSa, caps: Caps) -> None:
    sport, dport = command.encap_sport, command.encap_dport
    if not sport and not dport:
        return
    if not caps.espinudp:
        _unsupported(Syndrome.ENCAP_UNSUPPORTED, f"{what}: card {caps.name} has no ESP in UDP")
    if not (1 <= sport <= U16 and 1 <= dport <= U16):
        _bad(Syndrome.ENCAP_UNSUPPORTED, f"{what}: UDP ports {sport}, {dport} are outside 1..{U16}")


def check_policy(command: CreatePolicyRule, caps: Caps) -> None:
    """Everything of CREATE_POLICY_RULE; a policy depends on no other object."""
    what = f"policy rule of direction {command.direction}"
    _packet_offload(what, caps)
    _direction(what, command.direction)
    check_selector(what, command.selector, (AF_INET, AF_INET6))
    _within(what, "priority", command.priority, 0, U32)
    if command.priority and not caps.priority:
        _unsupported(
            Syndrome.PRIORITY_UNSUPPORTED,
            f"{what}: priority {command.priority}, card {caps.name} takes only 0",
        )
    if command.action not in (ALLOW, BLOCK):
        _bad(Syndrome.FIELD, f"{what}: action {command.action} is neither {ALLOW} nor {BLOCK}")
    _within(what, "reqid", command.reqid, 0, U32)
    _within(what, "spi", command.spi, 0, U32)
    check_cookie(command.cookie)
    _template(what, command, caps)


def _template(what: str, command: CreatePolicyRule, caps: Caps) -> None:
    """The addresses of a tunnel template; outbound they choose the SA, so none may be any."""
    _mode(what, command.mode, caps)
    _address(what, "template saddr", command.tmpl_saddr)
    _address(what, "template daddr", command.tmpl_daddr)
    transport = command.mode == MODE_TRANSPORT
    families = (AF_UNSPEC, AF_INET, AF_INET6) if transport else (AF_INET, AF_INET6)
    if command.tmpl_family not in families:
        _bad(
            Syndrome.FAMILY,
            f"{what}: template family {command.tmpl_family}, possible here: {_list(families)}",
        )
    if transport:
        return
    if command.direction == OUT and not (any(command.tmpl_saddr) and any(command.tmpl_daddr)):
        _bad(Syndrome.MODE, f"{what}: a tunnel out needs both template addresses, any was given")


def check_port(command: SetPort, mac: bytes) -> None:
    """MTU in bytes; a filter needs a MAC address to filter for."""
    if not MTU_MIN <= command.mtu <= MTU_MAX:
        _bad(Syndrome.PORT_SETTING, f"port: MTU {command.mtu} is outside {MTU_MIN}..{MTU_MAX}")
    if command.mac_filter and not any(mac):
        _bad(Syndrome.PORT_SETTING, "port: MAC filter asked for, the card has no MAC address")
