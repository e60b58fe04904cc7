# SPDX-License-Identifier: Apache-2.0
"""Attributes of a request against what their types demand, as lib/nlattr.c does (UAPI-06, UAPI-09).

Old types have a shortest length and are otherwise taken as they are. Those from SA_DIR on are
checked strictly: exact length, no NLA_F_NESTED, value within its range. A type that the kernel of
the profile does not know is not seen at all.
"""

import errno
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

from host_driver.ops import Extack
from host_driver.xfrm.profile import Profile
from proto.netlink import NLA, NLA_TYPE_MASK, NLMSGHDR, align, attribute
from proto.status import OffloadError
from proto.xfrm import ATTR_MIN, Attr, SpdAttr

NLA_F_NESTED = 0x8000
FAILED = "Attribute failed policy validation"

# NEWSPDINFO has attributes of its own: the hash thresholds (section 1.3).
SPD_ATTR_MIN: dict[int, int] = {SpdAttr.IPV4_HTHRESH: 2, SpdAttr.IPV6_HTHRESH: 2}


class _Kind(NamedTuple):
    """NL_ATTR_TYPE_*, length in bytes, least and greatest value."""

    type: int
    length: int
    low: int
    high: int


_FLAG = _Kind(1, 0, 0, 0)
_U8, _U16, _U32, _U64 = (_Kind(2 + n, 1 << n, 0, (1 << 8 * (1 << n)) - 1) for n in range(4))

_IPTFS: dict[int, _Kind] = {
    Attr.IPTFS_DROP_TIME: _U32, Attr.IPTFS_REORDER_WINDOW: _U16, Attr.IPTFS_DONT_FRAG: _FLAG,
    Attr.IPTFS_INIT_DELAY: _U32, Attr.IPTFS_MAX_QSIZE: _U32, Attr.IPTFS_PKT_SIZE: _U32,
}  # fmt: skip

# Attributes that are numbers or flags; all others are some bytes (ATTR_MIN).
KINDS: dict[int, _Kind] = {
    Attr.REPLAY_THRESH: _U32, Attr.ETIMER_THRESH: _U32, Attr.LASTUSED: _U64, Attr.TFCPAD: _U32,
    Attr.SA_EXTRA_FLAGS: _U32, Attr.PROTO: _U8, Attr.SET_MARK: _U32, Attr.SET_MARK_MASK: _U32,
    Attr.IF_ID: _U32, Attr.MTIMER_THRESH: _U32, Attr.SA_DIR: _U8._replace(low=1, high=2),
    Attr.NAT_KEEPALIVE_INTERVAL: _U32, Attr.SA_PCPU: _U32, **_IPTFS,
}  # fmt: skip
STRICT_START = Attr.SA_DIR


class Invalid(OffloadError):
    """An attribute was refused; `policy` is the value of NLMSGERR_ATTR_POLICY, or empty."""

    def __init__(self, error: int, policy: bytes) -> None:
        super().__init__(error, "")
        self.policy = policy


def nla_parse(
    payload: bytes, offset: int, profile: Profile, extack: Extack, *, spdinfo: bool = False
) -> dict[int, bytes]:
    """Values by type; of doubles the last wins, a tail that is no attribute is told of and ignored.

    Raises OffloadError, or Invalid, for the first attribute that its type does not allow; `extack`
    then has text and place. `spdinfo`: the attributes are those of NEWSPDINFO.
    """
    values: dict[int, bytes] = {}
    end = offset
    for flagged, at, value in _walk(payload, offset):
        end = at + align(NLA.size + len(value))
        type = flagged & NLA_TYPE_MASK
        if not spdinfo and not _known(type, profile):
            continue
        if not spdinfo and type >= STRICT_START and type in KINDS:
            _check_strictly(type, bool(flagged & NLA_F_NESTED), at, value, extack)
        elif len(value) < (SPD_ATTR_MIN if spdinfo else ATTR_MIN).get(type, 0):
            _refuse(errno.ERANGE, FAILED, at, -1 if spdinfo else type, extack)
        values[type] = value
    if end < len(payload):
        extack.set("bytes leftover after parsing attributes")
    return values


def _walk(payload: bytes, offset: int) -> Iterator[tuple[int, int, bytes]]:
    """Type with its flags, offset and value of each attribute."""
    while len(payload) - offset >= NLA.size:
        length, type = NLA.unpack_from(payload, offset)
        if length < NLA.size or offset + length > len(payload):
            return
        yield type, offset, payload[offset + NLA.size : offset + length]
        offset += align(length)


def _known(type: int, profile: Profile) -> bool:
    return {
        Attr.SA_DIR: profile.sa_dir_known,
        Attr.NAT_KEEPALIVE_INTERVAL: profile.nat_keepalive_known,
        Attr.SA_PCPU: profile.sa_pcpu_known,
        **dict.fromkeys(_IPTFS, profile.iptfs_known),
    }.get(type, True)


def _check_strictly(type: int, nested: bool, at: int, value: bytes, extack: Extack) -> None:
    kind = KINDS[type]
    if kind is not _FLAG and len(value) != kind.length:
        _refuse(errno.EINVAL, "invalid attribute length", at, type, extack)
    if nested:
        _refuse(errno.EINVAL, "NLA_F_NESTED not expected", at, type, extack)
    if kind is _FLAG and value:
        _refuse(errno.ERANGE, FAILED, at, type, extack)
    if kind is not _FLAG and not kind.low <= int.from_bytes(value, "little") <= kind.high:
        _refuse(errno.ERANGE, "integer out of range", at, type, extack)


def _refuse(error: int, text: str, at: int, type: int, extack: Extack) -> NoReturn:
    extack.set(text, NLMSGHDR.size + at)
    raise Invalid(error, _policy(type))


def _policy(type: int) -> bytes:
    """What would have been valid (NL_POLICY_TYPE_ATTR_*): least and greatest value, type."""
    kind = KINDS.get(type)
    if kind is None:
        return b""
    limits = b""
    if kind is not _FLAG:
        limits = attribute(4, kind.low.to_bytes(8, "little"))
        limits += attribute(5, kind.high.to_bytes(8, "little"))
    return limits + attribute(1, kind.type.to_bytes(4, "little"))
