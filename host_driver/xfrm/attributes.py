# SPDX-License-Identifier: Apache-2.0
"""What requests of several kinds have in common: attributes as values, and how one is refused."""

import errno
from collections.abc import Mapping

from proto.status import OffloadError
from proto.xfrm import AF_INET, AF_INET6, POLICY_FWD, POLICY_TYPE_MAIN, POLICY_TYPE_SUB, Attr
from proto.xfrm_structs import UserPolicyType, XfrmMark, XfrmSelector

Attributes = Mapping[int, bytes]

POSSIBLE_CPUS = 1


def refuse(text: str, error: int = errno.EINVAL) -> OffloadError:
    """The refusal of a request."""
    return OffloadError(error, text)


def u32(attributes: Attributes, type: int) -> int:
    """A u32 attribute, 0 when it is absent."""
    return int.from_bytes(attributes.get(type, b"")[:4], "little")


def mark_of(attributes: Attributes) -> XfrmMark:
    """The request's mark, all zero when it has none."""
    return XfrmMark.unpack(attributes[Attr.MARK]) if Attr.MARK in attributes else XfrmMark()


def sa_dir_of(attributes: Attributes) -> int:
    """SA_DIR_IN or SA_DIR_OUT, 0 when the request has no direction."""
    return attributes[Attr.SA_DIR][0] if Attr.SA_DIR in attributes else 0


def pcpu_of(attributes: Attributes, too_big: int) -> int | None:
    """The CPU that an SA is for, None for all. Raises `too_big` for one that is not (UAPI-10)."""
    if Attr.SA_PCPU not in attributes:
        return None
    number = u32(attributes, Attr.SA_PCPU)
    if number >= POSSIBLE_CPUS:
        raise refuse("pCPU number too big", too_big)
    return number


def type_of(attributes: Attributes) -> int:
    """Main, unless the request says sub."""
    if Attr.POLICY_TYPE not in attributes:
        return POLICY_TYPE_MAIN
    type = UserPolicyType.unpack(attributes[Attr.POLICY_TYPE]).type
    if type not in (POLICY_TYPE_MAIN, POLICY_TYPE_SUB):
        raise refuse("Invalid policy type")
    return type


def verify_policy_dir(dir: int) -> None:
    """IN, OUT or FWD."""
    if dir > POLICY_FWD:
        raise refuse("Invalid policy direction")


def verify_prefix_lengths(sel: XfrmSelector, family: int) -> None:
    """No prefix of the selector, of an SA or policy, is longer than an address of `family`."""
    bits, name = {AF_INET: (32, "IPv4"), AF_INET6: (128, "IPv6")}.get(family, (255, ""))
    if max(sel.prefixlen_d, sel.prefixlen_s) > bits:
        raise refuse(f"Invalid prefix length in selector (must be <= {bits} for {name})")


def verify_sec_ctx(context: bytes) -> None:
    """STATE-05: the label is as long as it says."""
    length, inner = (int.from_bytes(context[i : i + 2], "little") for i in (0, 6))
    if length != 8 + inner or length > len(context):
        raise refuse("Invalid security context length")
