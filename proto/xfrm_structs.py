# SPDX-License-Identifier: Apache-2.0
"""The structures of include/uapi/linux/xfrm.h (UAPI-30..56) as dataclasses that pack and unpack.

Field names are the kernel's. Addresses stay 16 raw bytes; what the kernel keeps in network order
(spi, ports) is a plain integer here. One codec serves all; a field's metadata says how to pack it.
"""

import struct
from dataclasses import dataclass, field, fields
from typing import Any, Self, TypeGuard

from proto.xfrm import XFRM_INF


def _plain(format: str, default: Any) -> Any:
    """A field packed by `format`, pad bytes included (`B3x`)."""
    return field(default=default, metadata={"codec": struct.Struct("<" + format), "net": False})


def _net(format: str) -> Any:
    """An integer in network byte order (`H` or `I`, pad bytes may follow)."""
    return field(default=0, metadata={"codec": struct.Struct(">" + format), "net": True})


def _address() -> Any:
    return _plain("16s", bytes(16))


def _nested(cls: type["Struct"]) -> Any:
    return field(default_factory=cls, metadata={"codec": cls})


def _is_nested(codec: Any) -> TypeGuard[type["Struct"]]:
    return isinstance(codec, type)


class Struct:
    """Base: `pack` gives the kernel's bytes, `unpack` reads them from the start of a buffer."""

    @classmethod
    def size(cls) -> int:
        """Bytes of the packed structure."""
        total = 0
        for item in fields(cls):  # type: ignore[arg-type]
            codec = item.metadata["codec"]
            total += codec.size() if _is_nested(codec) else codec.size
        return total

    def pack(self) -> bytes:
        """The structure as the kernel lays it out; raises struct.error for a value out of range."""
        parts = []
        for item in fields(self):  # type: ignore[arg-type]
            codec, value = item.metadata["codec"], getattr(self, item.name)
            parts.append(value.pack() if _is_nested(codec) else codec.pack(value))
        return b"".join(parts)

    @classmethod
    def unpack(cls, data: bytes, offset: int = 0) -> Self:
        """Read the structure at `offset`; raises struct.error when `data` is too short."""
        values = []
        for item in fields(cls):  # type: ignore[arg-type]
            codec = item.metadata["codec"]
            if _is_nested(codec):
                values.append(codec.unpack(data, offset))
                offset += codec.size()
            else:
                values.append(codec.unpack_from(data, offset)[0])
                offset += codec.size
        return cls(*values)


@dataclass(slots=True)
class XfrmId(Struct):
    """xfrm_id (UAPI-31)."""

    daddr: bytes = _address()
    spi: int = _net("I")
    proto: int = _plain("B3x", 0)


@dataclass(slots=True)
class XfrmSelector(Struct):
    """xfrm_selector (UAPI-32)."""

    daddr: bytes = _address()
    saddr: bytes = _address()
    dport: int = _net("H")
    dport_mask: int = _net("H")
    sport: int = _net("H")
    sport_mask: int = _net("H")
    family: int = _plain("H", 0)
    prefixlen_d: int = _plain("B", 0)
    prefixlen_s: int = _plain("B", 0)
    proto: int = _plain("B3x", 0)
    ifindex: int = _plain("i", 0)
    user: int = _plain("I", 0)


@dataclass(slots=True)
class LifetimeCfg(Struct):
    """xfrm_lifetime_cfg (UAPI-33)."""

    soft_byte_limit: int = _plain("Q", XFRM_INF)
    hard_byte_limit: int = _plain("Q", XFRM_INF)
    soft_packet_limit: int = _plain("Q", XFRM_INF)
    hard_packet_limit: int = _plain("Q", XFRM_INF)
    soft_add_expires_seconds: int = _plain("Q", 0)
    hard_add_expires_seconds: int = _plain("Q", 0)
    soft_use_expires_seconds: int = _plain("Q", 0)
    hard_use_expires_seconds: int = _plain("Q", 0)


@dataclass(slots=True)
class LifetimeCur(Struct):
    """xfrm_lifetime_cur (UAPI-34)."""

    bytes: int = _plain("Q", 0)
    packets: int = _plain("Q", 0)
    add_time: int = _plain("Q", 0)
    use_time: int = _plain("Q", 0)


@dataclass(slots=True)
class XfrmStats(Struct):
    """xfrm_stats (UAPI-35)."""

    replay_window: int = _plain("I", 0)
    replay: int = _plain("I", 0)
    integrity_failed: int = _plain("I", 0)


@dataclass(slots=True)
class UserSaInfo(Struct):
    """xfrm_usersa_info (UAPI-36)."""

    sel: XfrmSelector = _nested(XfrmSelector)
    id: XfrmId = _nested(XfrmId)
    saddr: bytes = _address()
    lft: LifetimeCfg = _nested(LifetimeCfg)
    curlft: LifetimeCur = _nested(LifetimeCur)
    stats: XfrmStats = _nested(XfrmStats)
    seq: int = _plain("I", 0)
    reqid: int = _plain("I", 0)
    family: int = _plain("H", 0)
    mode: int = _plain("B", 0)
    replay_window: int = _plain("B", 0)
    flags: int = _plain("B7x", 0)


@dataclass(slots=True)
class UserSaId(Struct):
    """xfrm_usersa_id (UAPI-37)."""

    daddr: bytes = _address()
    spi: int = _net("I")
    family: int = _plain("H", 0)
    proto: int = _plain("Bx", 0)


@dataclass(slots=True)
class UserSpiInfo(Struct):
    """xfrm_userspi_info (UAPI-38)."""

    info: UserSaInfo = _nested(UserSaInfo)
    min: int = _plain("I", 0)
    max: int = _plain("I", 0)


@dataclass(slots=True)
class UserPolicyInfo(Struct):
    """xfrm_userpolicy_info (UAPI-39)."""

    sel: XfrmSelector = _nested(XfrmSelector)
    lft: LifetimeCfg = _nested(LifetimeCfg)
    curlft: LifetimeCur = _nested(LifetimeCur)
    priority: int = _plain("I", 0)
    index: int = _plain("I", 0)
    dir: int = _plain("B", 0)
    action: int = _plain("B", 0)
    flags: int = _plain("B", 0)
    share: int = _plain("B4x", 0)


@dataclass(slots=True)
class UserPolicyId(Struct):
    """xfrm_userpolicy_id (UAPI-40)."""

    sel: XfrmSelector = _nested(XfrmSelector)
    index: int = _plain("I", 0)
    dir: int = _plain("B3x", 0)


@dataclass(slots=True)
class UserTmpl(Struct):
    """xfrm_user_tmpl (UAPI-41)."""

    id: XfrmId = _nested(XfrmId)
    family: int = _plain("H2x", 0)
    saddr: bytes = _address()
    reqid: int = _plain("I", 0)
    mode: int = _plain("B", 0)
    share: int = _plain("B", 0)
    optional: int = _plain("Bx", 0)
    aalgos: int = _plain("I", 0xFFFF_FFFF)
    ealgos: int = _plain("I", 0xFFFF_FFFF)
    calgos: int = _plain("I", 0xFFFF_FFFF)


@dataclass(slots=True)
class UserAcquire(Struct):
    """xfrm_user_acquire (UAPI-42)."""

    id: XfrmId = _nested(XfrmId)
    saddr: bytes = _address()
    sel: XfrmSelector = _nested(XfrmSelector)
    policy: UserPolicyInfo = _nested(UserPolicyInfo)
    aalgos: int = _plain("I", 0)
    ealgos: int = _plain("I", 0)
    calgos: int = _plain("I", 0)
    seq: int = _plain("I", 0)


@dataclass(slots=True)
class UserExpire(Struct):
    """xfrm_user_expire (UAPI-43)."""

    state: UserSaInfo = _nested(UserSaInfo)
    hard: int = _plain("B7x", 0)


@dataclass(slots=True)
class UserPolExpire(Struct):
    """xfrm_user_polexpire (UAPI-44)."""

    pol: UserPolicyInfo = _nested(UserPolicyInfo)
    hard: int = _plain("B7x", 0)


@dataclass(slots=True)
class AeventId(Struct):
    """xfrm_aevent_id (UAPI-45)."""

    sa_id: UserSaId = _nested(UserSaId)
    saddr: bytes = _address()
    flags: int = _plain("I", 0)
    reqid: int = _plain("I", 0)


@dataclass(slots=True)
class ReplayState(Struct):
    """xfrm_replay_state (UAPI-46)."""

    oseq: int = _plain("I", 0)
    seq: int = _plain("I", 0)
    bitmap: int = _plain("I", 0)


@dataclass(slots=True)
class ReplayStateEsn(Struct):
    """Fixed part of xfrm_replay_state_esn (UAPI-47); `bmp_len` 32-bit words follow it."""

    bmp_len: int = _plain("I", 0)
    oseq: int = _plain("I", 0)
    seq: int = _plain("I", 0)
    oseq_hi: int = _plain("I", 0)
    seq_hi: int = _plain("I", 0)
    replay_window: int = _plain("I", 0)


@dataclass(slots=True)
class Algo(Struct):
    """Fixed part of xfrm_algo (UAPI-48); (key_len + 7) / 8 key bytes follow it."""

    alg_name: bytes = _plain("64s", bytes(64))
    alg_key_len: int = _plain("I", 0)


@dataclass(slots=True)
class AlgoAuth(Struct):
    """Fixed part of xfrm_algo_auth (UAPI-49); key bytes follow it."""

    alg_name: bytes = _plain("64s", bytes(64))
    alg_key_len: int = _plain("I", 0)
    alg_trunc_len: int = _plain("I", 0)


@dataclass(slots=True)
class AlgoAead(Struct):
    """Fixed part of xfrm_algo_aead (UAPI-50); key bytes follow it, salt included."""

    alg_name: bytes = _plain("64s", bytes(64))
    alg_key_len: int = _plain("I", 0)
    alg_icv_len: int = _plain("I", 0)


@dataclass(slots=True)
class EncapTmpl(Struct):
    """xfrm_encap_tmpl (UAPI-51)."""

    encap_type: int = _plain("H", 0)
    encap_sport: int = _net("H")
    encap_dport: int = _net("H2x")
    encap_oa: bytes = _address()


@dataclass(slots=True)
class XfrmMark(Struct):
    """xfrm_mark (UAPI-52)."""

    v: int = _plain("I", 0)
    m: int = _plain("I", 0)


@dataclass(slots=True)
class UserOffload(Struct):
    """xfrm_user_offload (UAPI-53)."""

    ifindex: int = _plain("i", 0)
    flags: int = _plain("B3x", 0)


@dataclass(slots=True)
class UserSaFlush(Struct):
    """xfrm_usersa_flush (UAPI-54)."""

    proto: int = _plain("B", 0)


@dataclass(slots=True)
class UserPolicyType(Struct):
    """xfrm_userpolicy_type (UAPI-54)."""

    type: int = _plain("Bx", 0)
    reserved1: int = _plain("H", 0)
    reserved2: int = _plain("Bx", 0)


@dataclass(slots=True)
class UserPolicyDefault(Struct):
    """xfrm_userpolicy_default (UAPI-54); note the kernel's order in, fwd, out."""

    in_: int = _plain("B", 0)
    fwd: int = _plain("B", 0)
    out: int = _plain("B", 0)


@dataclass(slots=True)
class AddressFilter(Struct):
    """xfrm_address_filter (UAPI-55)."""

    saddr: bytes = _address()
    daddr: bytes = _address()
    family: int = _plain("H", 0)
    splen: int = _plain("B", 0)
    dplen: int = _plain("B", 0)


_SIZES: dict[type[Struct], int] = {
    XfrmId: 24, XfrmSelector: 56, LifetimeCfg: 64, LifetimeCur: 32, XfrmStats: 12, UserSaInfo: 224,
    UserSaId: 24, UserSpiInfo: 232, UserPolicyInfo: 168, UserPolicyId: 64, UserTmpl: 64,
    UserAcquire: 280, UserExpire: 232, UserPolExpire: 176, AeventId: 48, ReplayState: 12,
    ReplayStateEsn: 24, Algo: 68, AlgoAuth: 72, AlgoAead: 72, EncapTmpl: 24, XfrmMark: 8,
    UserOffload: 8, UserSaFlush: 1, UserPolicyType: 6, UserPolicyDefault: 3, AddressFilter: 36,
}  # fmt: skip
for _type, _size in _SIZES.items():
    assert _type.size() == _size, (_type, _type.size(), _size)
