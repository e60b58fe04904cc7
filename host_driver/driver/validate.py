# SPDX-License-Identifier: Apache-2.0
"""What the reference driver refuses before it talks to the card, in the order in which the kernel's
own packet-offload driver asks (MLX-02..12).

Every refusal is an OffloadError whose text states the object, the offer and the limit. EOPNOTSUPP
means "use software" and is kept for crypto offload on a card that has none (STATE-24), and for a
card without any offload (MLX-02).
"""

import errno
from typing import TYPE_CHECKING, NoReturn

from host_driver.driver import strict
from host_driver.driver.sa import SALT_BYTES, replay_window
from host_driver.xfrm.flow import WITH_PORTS, WITH_TYPES
from host_driver.xfrm.state import OFFLOAD_PACKET
from proto.caps import Caps
from proto.commands import IN, OUT
from proto.status import OffloadError
from proto.xfrm import (
    AF_INET,
    AF_INET6,
    ANY_ADDRESS,
    ENCAP_ESPINUDP,
    IPPROTO_ESP,
    MODE_TRANSPORT,
    MODE_TUNNEL,
    POLICY_IN,
    POLICY_OUT,
    POLICY_TYPE_MAIN,
    STATE_ESN,
)
from proto.xfrm_structs import UserTmpl, XfrmSelector

if TYPE_CHECKING:
    from host_driver.xfrm.policy import XfrmPolicy
    from host_driver.xfrm.state import XfrmState

RFC4106 = "rfc4106(gcm(aes))"
PORT_PROTOCOLS = tuple(sorted(WITH_PORTS | WITH_TYPES))  # whose headers the card reads
MODES = ("transport", "tunnel", "ro", "in_trigger", "beet", "iptfs")


def _refuse(text: str, code: int = errno.EINVAL) -> NoReturn:
    raise OffloadError(code, text)


def _list(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))


def _mode(mode: int) -> str:
    return MODES[mode] if mode < len(MODES) else str(mode)


def check_state(x: "XfrmState", caps: Caps) -> None:
    """Refuse an SA that the card cannot take. Raises OffloadError(EINVAL or EOPNOTSUPP)."""
    what = f"SA {x.id.spi:#x}"
    packet = x.xso.type == OFFLOAD_PACKET
    if not caps.packet and not caps.crypto:
        _refuse(f"{what}: card {caps.name} has no IPsec offload", errno.EOPNOTSUPP)
    if not packet and not caps.crypto:
        # MLX-11 and STATE-24 differ: an error that the user sees, or software without a word.
        code = errno.EINVAL if caps.strict else errno.EOPNOTSUPP
        _refuse(f"{what}: card {caps.name} has no crypto offload", code)
    _check_algorithms(what, x)
    if x.props.flags & STATE_ESN and not caps.esn:
        _refuse(f"{what}: ESN is not offered by card {caps.name}")
    if x.props.family not in (AF_INET, AF_INET6):
        _refuse(f"{what}: family {x.props.family} is neither IPv4 nor IPv6")
    if x.id.proto != IPPROTO_ESP:
        _refuse(f"{what}: protocol {x.id.proto} is not offered, card takes ESP ({IPPROTO_ESP})")
    _check_encap(what, x, caps)
    _check_aead(what, x, caps)
    if x.tfcpad:
        _refuse(f"{what}: TFC padding to {x.tfcpad} bytes is not offered")
    _check_mode(what, "mode", x.props.mode, tunnel=caps.tunnel or not packet)
    if packet:
        _check_packet(what, x, caps)
    if caps.strict:
        strict.check_state(what, x)


def _check_packet(what: str, x: "XfrmState", caps: Caps) -> None:
    """What packet offload leaves to the card and crypto offload to the host."""
    if not caps.packet:
        _refuse(f"{what}: card {caps.name} has no packet offload")
    if x.props.mode == MODE_TUNNEL and x.xso.dir == OUT and x.props.saddr == ANY_ADDRESS:
        _refuse(f"{what}: source any of a tunnel out is not offered, card takes one address")
    if x.xso.dir == IN:
        _check_window(what, x, caps)
    if not x.lft.hard_packet_limit or not x.lft.hard_byte_limit:
        _refuse(f"{what}: a hard limit of 0 lets no packet pass, card takes 1 or more")
    _check_unmatched(what, x.mark.v or x.mark.m, x.if_id, x.sel)


def _check_mode(what: str, name: str, mode: int, *, tunnel: bool) -> None:
    modes = (MODE_TRANSPORT, MODE_TUNNEL) if tunnel else (MODE_TRANSPORT,)
    if mode not in modes:
        takes = ", ".join(map(_mode, modes))
        _refuse(f"{what}: {name} {_mode(mode)} is not offered, card takes {takes}")


def _check_algorithms(what: str, x: "XfrmState") -> None:
    for name in ("aalg", "ealg", "calg"):
        if (algorithm := getattr(x, name)) is not None:
            _refuse(f"{what}: algorithm {algorithm.name} is not offered, card takes {RFC4106}")
    if x.aead is not None and x.aead.name != RFC4106:
        _refuse(f"{what}: algorithm {x.aead.name} is not offered, card takes {RFC4106}")


def _check_encap(what: str, x: "XfrmState", caps: Caps) -> None:
    if x.encap is None:
        return
    if not caps.espinudp:
        _refuse(f"{what}: UDP encapsulation is not offered by card {caps.name}")
    if x.encap.encap_type != ENCAP_ESPINUDP:
        _refuse(
            f"{what}: encapsulation type {x.encap.encap_type} is not offered, "
            f"card takes ESP in UDP ({ENCAP_ESPINUDP})"
        )


def _check_aead(what: str, x: "XfrmState", caps: Caps) -> None:
    if x.aead is None:
        _refuse(f"{what}: no AEAD algorithm was given, card takes {RFC4106}")
    icv_bits = tuple(8 * octets for octets in caps.icv_bytes)
    if x.aead.icv_bits not in icv_bits:
        _refuse(
            f"{what}: ICV of {x.aead.icv_bits} bits is not offered, card takes {_list(icv_bits)}"
        )
    bits = 8 * (len(x.aead.key) - SALT_BYTES)
    if bits not in caps.key_bits:
        _refuse(
            f"{what}: AES key of {bits} bits (without salt) is not offered, "
            f"card takes {_list(caps.key_bits)}"
        )


def _check_window(what: str, x: "XfrmState", caps: Caps) -> None:
    window = replay_window(x)
    if x.props.flags & STATE_ESN and not window:  # REPLAY-02
        _refuse(f"{what}: ESN needs a replay window, 0 was given")
    if caps.replay_windows and window and window not in caps.replay_windows:
        _refuse(
            f"{what}: replay window {window} is not offered, "
            f"card takes {_list(caps.replay_windows)}"
        )
    if window > caps.replay_window_max:
        _refuse(
            f"{what}: replay window {window} is not offered, "
            f"card takes at most {caps.replay_window_max}"
        )


def _check_unmatched(what: str, mark: int, if_id: int, sel: XfrmSelector) -> None:
    """Things that the core may match by and the card cannot see."""
    for name, value in (("mark", mark), ("if_id", if_id), ("selector device", sel.ifindex)):
        if value:
            _refuse(f"{what}: {name} {value:#x} cannot be matched by the card")
    # A GRE key or a Mobility Header type stands for ports as well. The card would never match it
    # and let its packets pass in clear.
    if (sel.sport_mask or sel.dport_mask) and sel.proto not in PORT_PROTOCOLS:
        _refuse(
            f"{what}: selector ports of protocol {sel.proto or 'any'} cannot be matched by the "
            f"card, which reads those of protocols {_list(PORT_PROTOCOLS)}"
        )


def _check_template_ends(what: str, xp: "XfrmPolicy", template: UserTmpl) -> None:
    """In tunnel mode the template's addresses choose the SA (TX-10); inbound they may be any."""
    family = template.family or xp.family
    if template.mode == MODE_TRANSPORT:
        if family != xp.family:
            _refuse(f"{what}: template family {family} is not the policy's {xp.family}")
    elif family not in (AF_INET, AF_INET6):
        _refuse(f"{what}: template family {family} is neither IPv4 nor IPv6")
    elif xp.dir == POLICY_OUT and ANY_ADDRESS in (template.saddr, template.id.daddr):
        _refuse(f"{what}: any in a tunnel template out is not offered, card takes both addresses")


def check_policy(xp: "XfrmPolicy", caps: Caps) -> None:
    """Refuse a policy that the card cannot keep. Raises OffloadError(EINVAL)."""
    what = f"policy {('in', 'out', 'fwd')[xp.dir]} priority {xp.priority}"
    if not caps.packet and not caps.crypto:
        _refuse(f"{what}: card {caps.name} has no IPsec offload", errno.EOPNOTSUPP)
    if xp.type != POLICY_TYPE_MAIN:
        _refuse(f"{what}: type {xp.type} is not offered, card takes main ({POLICY_TYPE_MAIN})")
    if len(xp.xfrm_vec) > 1:
        _refuse(f"{what}: {len(xp.xfrm_vec)} templates are not offered, card takes at most 1")
    if xp.dir not in (POLICY_IN, POLICY_OUT):
        _refuse(f"{what}: forward policies are not offered, card takes in and out")
    if xp.xdo.type != OFFLOAD_PACKET or not caps.packet:
        _refuse(f"{what}: card {caps.name} has no packet offload")
    if xp.priority and not caps.priority:
        _refuse(f"{what}: priority {xp.priority} is not offered, card takes 0")
    for template in xp.xfrm_vec:
        if template.id.proto != IPPROTO_ESP:
            _refuse(f"{what}: template protocol {template.id.proto} is not offered, card takes ESP")
        _check_mode(what, "template mode", template.mode, tunnel=caps.tunnel)
        if template.optional:
            _refuse(f"{what}: level use is not offered, card takes level required")
        _check_template_ends(what, xp, template)
    _check_unmatched(what, xp.mark.v or xp.mark.m, xp.if_id, xp.selector)
    if caps.strict:
        strict.check_policy(what, xp)
