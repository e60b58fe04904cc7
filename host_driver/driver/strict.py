# SPDX-License-Identifier: Apache-2.0
"""What the kernel's reference driver refuses beyond what a card cannot do (MLX-06..12); asked for
cards whose profile is strict, so that users meet here what they would meet there.

Every refusal is an OffloadError(EINVAL) whose text states the object, the offer and the limit.
"""

import errno
from typing import TYPE_CHECKING, NoReturn

from host_driver.xfrm.state import OFFLOAD_PACKET
from proto.commands import INFINITE
from proto.status import OffloadError
from proto.xfrm import ANY_ADDRESS, MODE_TRANSPORT
from proto.xfrm_structs import XfrmSelector

if TYPE_CHECKING:
    from host_driver.xfrm.policy import XfrmPolicy
    from host_driver.xfrm.state import XfrmState

ANY, TCP, UDP = 0, 6, 17
PRIORITY_MAX = (1 << 32) - 2


def _refuse(text: str) -> NoReturn:
    raise OffloadError(errno.EINVAL, text)


def check_state(what: str, x: "XfrmState") -> None:
    """Refuse an SA, named `what` in complaints, that the card itself could take."""
    packet = x.xso.type == OFFLOAD_PACKET
    if x.encap is not None and not packet:
        _refuse(f"{what}: UDP encapsulation is not offered in crypto offload, only in packet")
    if x.encap is not None and x.props.mode != MODE_TRANSPORT:
        _refuse(f"{what}: UDP encapsulation is not offered in tunnel mode, only in transport")
    _check_protocol(what, x.sel)
    if packet:
        _check_packet(what, x)


def _check_packet(what: str, x: "XfrmState") -> None:
    if not x.props.reqid:
        _refuse(f"{what}: reqid 0 is not offered, policies find their SA by it")
    lft = x.lft
    for unit, soft, hard in (
        ("bytes", lft.soft_byte_limit, lft.hard_byte_limit),
        ("packets", lft.soft_packet_limit, lft.hard_packet_limit),
    ):
        if hard != INFINITE and soft >= hard:
            _refuse(f"{what}: soft limit of {soft} {unit} is not below the hard one of {hard}")
        if not soft or not hard:
            _refuse(f"{what}: a limit of 0 {unit} is not offered, card takes 1 or more")


def _check_protocol(what: str, sel: XfrmSelector) -> None:
    if sel.proto not in (ANY, TCP, UDP):
        _refuse(f"{what}: selector protocol {sel.proto} is not offered, card takes any, TCP, UDP")


def check_policy(what: str, xp: "XfrmPolicy") -> None:
    """Refuse a policy, named `what` in complaints, that the card itself could keep."""
    sel = xp.selector
    wildcard = not sel.proto and sel.saddr == sel.daddr == ANY_ADDRESS
    if wildcard and any(not template.reqid for template in xp.xfrm_vec):
        _refuse(f"{what}: reqid 0 is not offered for a policy of all traffic")
    _check_protocol(what, sel)
    if xp.priority > PRIORITY_MAX:
        _refuse(f"{what}: priority {xp.priority} is not offered, card takes up to {PRIORITY_MAX}")
