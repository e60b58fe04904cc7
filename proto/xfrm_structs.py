# SPDX-License-Identifier: Apache-2.0
"""The structures of include/uapi/linux/xfrm.h (UAPI-30..56) as dataclasses that pack and unpack.

Field names are the kernel's. Addresses stay 16 raw bytes; what the kernel keeps in network order
(spi, ports) is a plain integer here.
"""

from dataclasses import dataclass
from typing import Any

from proto.cstruct import Struct, nested, net, plain
from proto.xfrm import XFRM_INF


def _address() -> Any:
    return plain("16s", bytes(16))


@dataclass(slots=True)
class XfrmId(Struct):
    """xfrm_id (UAPI-31)."""

    daddr: bytes = _address()
    spi: int = net("I")
    proto: int = plain("B3x", 0)


@dataclass(slots=True)
class XfrmSelector(Struct):
    """xfrm_selector (UAPI-32)."""

    daddr: bytes = _address()
    saddr: bytes = _address()
    dport: int = net("H")
    dport_mask: int = net("H")
    sport: int = net("H")
    sport_mask: int = net("H")
    family: int = plain("H", 0)
    prefixlen_d: int = plain("B", 0)
    prefixlen_s: int = plain("B", 0)
    proto: int = plain("B3x", 0)
    ifindex: int = plain("i", 0)
    user: int = plain("I", 0)


@dataclass(slots=True)
class LifetimeCfg(Struct):
    """xfrm_lifetime_cfg (UAPI-33)."""

    soft_byte_limit: int = plain("Q", XFRM_INF)
    hard_byte_limit: int = plain("Q", XFRM_INF)
    soft_packet_limit: int = plain("Q", XFRM_INF)
    hard_packet_limit: int = plain("Q", XFRM_INF)
    soft_add_expires_seconds: int = plain("Q", 0)
    hard_add_expires_seconds: int = plain("Q", 0)
    soft_use_expires_seconds: int = plain("Q", 0)
    hard_use_expires_seconds: int = plain("Q", 0)


@dataclass(slots=True)
class LifetimeCur(Struct):
    """xfrm_lifetime_cur (UAPI-34)."""

    bytes: int = plain("Q", 0)
    packets: int = plain("Q", 0)
    add_time: int = plain("Q", 0)
    use_time: int = plain("Q", 0)


@dataclass(slots=True)
class XfrmStats(Struct):
    """xfrm_stats (UAPI-35)."""

    replay_window: int = plain("I", 0)
    replay: int = plain("I", 0)
    integrity_failed: int = plain("I", 0)


@dataclass(slots=True)
class UserSaInfo(Struct):
    """xfrm_usersa_info (UAPI-36)."""

    sel: XfrmSelector = nested(XfrmSelector)
    id: XfrmId = nested(XfrmId)
    saddr: bytes = _address()
    lft: LifetimeCfg = nested(LifetimeCfg)
    curlft: LifetimeCur = nested(LifetimeCur)
    stats: XfrmStats = nested(XfrmStats)
    seq: int = plain("I", 0)
    reqid: int = plain("I", 0)
    family: int = plain("H", 0)
    mode: int = plain("B", 0)
    replay_window: int = plain("B", 0)
    flags: int = plain("B7x", 0)


@dataclass(slots=True)
class UserSaId(Struct):
    """xfrm_usersa_id (UAPI-37)."""

    daddr: bytes = _address()
    spi: int = net("I")
    family: int = plain("H", 0)
    proto: int = plain("Bx", 0)


@dataclass(slots=True)
class UserSpiInfo(Struct):
    """xfrm_userspi_info (UAPI-38)."""

    info: UserSaInfo = nested(UserSaInfo)
    min: int = plain("I", 0)
    max: int = plain("I", 0)


@dataclass(slots=True)
class UserPolicyInfo(Struct):
    """xfrm_userpolicy_info (UAPI-39)."""

    sel: XfrmSelector = nested(XfrmSelector)
    lft: LifetimeCfg = nested(LifetimeCfg)
    curlft: LifetimeCur = nested(LifetimeCur)
    priority: int = plain("I", 0)
    index: int = plain("I", 0)
    dir: int = plain("B", 0)
    action: int = plain("B", 0)
    flags: int = plain("B", 0)
    share: int = plain("B4x", 0)


@dataclass(slots=True)
class UserPolicyId(Struct):
    """xfrm_userpolicy_id (UAPI-40)."""

    sel: XfrmSelector = nested(XfrmSelector)
    index: int = plain("I", 0)
    dir: int = plain("B3x", 0)


@dataclass(slots=True)
class UserTmpl(Struct):
    """xfrm_user_tmpl (UAPI-41)."""

    id: XfrmId = nested(XfrmId)
    family: int = plain("H2x", 0)
    saddr: bytes = _address()
    reqid: int = plain("I", 0)
    mode: int = plain("B", 0)
    share: int = plain("B", 0)
    optional: int = plain("Bx", 0)
    aalgos: int = plain("I", 0xFFFF_FFFF)
    ealgos: int = plain("I", 0xFFFF_FFFF)
    calgos: int = plain("I", 0xFFFF_FFFF)


@dataclass(slots=True)
class UserAcquire(Struct):
    """xfrm_user_acquire (UAPI-42)."""

    id: XfrmId = nested(XfrmId)
    saddr: bytes = _address()
    sel: XfrmSelector = nested(XfrmSelector)
    policy: UserPolicyInfo = nested(UserPolicyInfo)
    aalgos: int = plain("I", 0)
    ealgos: int = plain("I", 0)
    calgos: int = plain("I", 0)
    seq: int = plain("I", 0)


@dataclass(slots=True)
class UserExpire(Struct):
    """xfrm_user_expire (UAPI-43)."""

    state: UserSaInfo = nested(UserSaInfo)
    hard: int = plain("B7x", 0)


@dataclass(slots=True)
class UserPolExpire(Struct):
    """xfrm_user_polexpire (UAPI-44)."""

    pol: UserPolicyInfo = nested(UserPolicyInfo)
    hard: int = plain("B7x", 0)


@dataclass(slots=True)
class AeventId(Struct):
    """xfrm_aevent_id (UAPI-45)."""

    sa_id: UserSaId = nested(UserSaId)
    saddr: bytes = _address()
    flags: int = plain("I", 0)
    reqid: int = plain("I", 0)


@dataclass(slots=True)
class ReplayState(Struct):
    """xfrm_replay_state (UAPI-46)."""

    oseq: int = plain("I", 0)
    seq: int = plain("I", 0)
    bitmap: int = plain("I", 0)


@dataclass(slots=True)
class ReplayStateEsn(Struct):
    """Fixed part of xfrm_replay_state_esn (UAPI-47); `bmp_len` 32-bit words follow it."""

    bmp_len: int = plain("I", 0)
    oseq: int = plain("I", 0)
    seq: int = plain("I", 0)
    oseq_hi: int = plain("I", 0)
    seq_hi: int = plain("I", 0)
    replay_window: int = plain("I", 0)


@dataclass(slots=True)
class Algo(Struct):
    """Fixed part of xfrm_algo (UAPI-48); (key_len + 7) / 8 key bytes follow it."""

    alg_name: bytes = plain("64s", bytes(64))
    alg_key_len: int = plain("I", 0)


@dataclass(slots=True)
class AlgoAuth(Struct):
    """Fixed part of xfrm_algo_auth (UAPI-49); key bytes follow it."""

    alg_name: bytes = plain("64s", bytes(64))
    alg_key_len: int = plain("I", 0)
    alg_trunc_len: int = plain("I", 0)


@dataclass(slots=True)
class AlgoAead(Struct):
    """Fixed part of xfrm_algo_aead (UAPI-50); key bytes follow it, salt included."""

    alg_name: bytes = plain("64s", bytes(64))
    alg_key_len: int = plain("I", 0)
    alg_icv_len: int = plain("I", 0)


@dataclass(slots=True)
class EncapTmpl(Struct):
    """xfrm_encap_tmpl (UAPI-51)."""

    encap_type: int = plain("H", 0)
    encap_sport: int = net("H")
    encap_dport: int = net("H2x")
    encap_oa: bytes = _address()


@dataclass(slots=True)
class XfrmMark(Struct):
    """xfrm_mark (UAPI-52)."""

    v: int = plain("I", 0)
    m: int = plain("I", 0)


@dataclass(slots=True)
class UserOffload(Struct):
    """xfrm_user_offload (UAPI-53)."""

    ifindex: int = plain("i", 0)
    flags: int = plain("B3x", 0)


@dataclass(slots=True)
class UserSaFlush(Struct):
    """xfrm_usersa_flush (UAPI-54)."""

    proto: int = plain("B", 0)


@dataclass(slots=True)
class UserPolicyType(Struct):
    """xfrm_userpolicy_type (UAPI-54)."""

    type: int = plain("Bx", 0)
    reserved1: int = plain("H", 0)
    reserved2: int = plain("Bx", 0)


@dataclass(slots=True)
class UserPolicyDefault(Struct):
    """xfrm_userpolicy_default (UAPI-54); note the kernel's order in, fwd, out."""

    in_: int = plain("B", 0)
    fwd: int = plain("B", 0)
    out: int = plain("B", 0)


@dataclass(slots=True)
class AddressFilter(Struct):
    """xfrm_address_filter (UAPI-55)."""

    saddr: bytes = _address()
    daddr: bytes = _address()
    family: int = plain("H", 0)
    splen: int = plain("B", 0)
    dplen: int = plain("B", 0)


@dataclass(slots=True)
class UserMigrate(Struct):
    """xfrm_user_migrate (UAPI-55): what of an SA and of templates changes to what."""

    old_daddr: bytes = _address()
    old_saddr: bytes = _address()
    new_daddr: bytes = _address()
    new_saddr: bytes = _address()
    proto: int = plain("B", 0)
    mode: int = plain("B2x", 0)
    reqid: int = plain("I", 0)
    old_family: int = plain("H", 0)
    new_family: int = plain("H", 0)


@dataclass(slots=True)
class UserKmaddress(Struct):
    """xfrm_user_kmaddress (UAPI-55): where a key manager is now."""

    local: bytes = _address()
    remote: bytes = _address()
    reserved: int = plain("I", 0)
    family: int = plain("H2x", 0)


_SIZES: dict[type[Struct], int] = {
    XfrmId: 24, XfrmSelector: 56, LifetimeCfg: 64, LifetimeCur: 32, XfrmStats: 12, UserSaInfo: 224,
    UserSaId: 24, UserSpiInfo: 232, UserPolicyInfo: 168, UserPolicyId: 64, UserTmpl: 64,
    UserAcquire: 280, UserExpire: 232, UserPolExpire: 176, AeventId: 48, ReplayState: 12,
    ReplayStateEsn: 24, Algo: 68, AlgoAuth: 72, AlgoAead: 72, EncapTmpl: 24, XfrmMark: 8,
    UserOffload: 8, UserSaFlush: 1, UserPolicyType: 6, UserPolicyDefault: 3, AddressFilter: 36,
    UserMigrate: 76, UserKmaddress: 40,
}  # fmt: skip
for _type, _size in _SIZES.items():
    assert _type.size() == _size, (_type, _type.size(), _size)
