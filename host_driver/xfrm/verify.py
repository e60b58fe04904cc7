# SPDX-License-Identifier: Apache-2.0
"""What NEWSA and UPDSA are refused for before anything is built (STATE-01..10)."""

from typing import TYPE_CHECKING

from host_driver.xfrm.attributes import (
    Attributes,
    refuse,
    sa_dir_of,
    u32,
    verify_prefix_lengths,
    verify_sec_ctx,
)
from proto.xfrm import (
    AF_INET,
    AF_INET6,
    AF_UNSPEC,
    IPPROTO_AH,
    IPPROTO_COMP,
    IPPROTO_DSTOPTS,
    IPPROTO_ESP,
    IPPROTO_ROUTING,
    IPTFS,
    MODE_BEET,
    MODE_IPTFS,
    MODE_ROUTEOPTIMIZATION,
    MODE_TRANSPORT,
    MODE_TUNNEL,
    SA_DIR_IN,
    SA_DIR_OUT,
    SA_XFLAG_DONT_ENCAP_DSCP,
    SA_XFLAG_OSEQ_MAY_WRAP,
    STATE_AF_UNSPEC,
    STATE_DECAP_DSCP,
    STATE_ESN,
    STATE_ICMP,
    STATE_NOPMTUDISC,
    STATE_WILDRECV,
    Attr,
)
from proto.xfrm_structs import (
    Algo,
    AlgoAead,
    AlgoAuth,
    ReplayState,
    ReplayStateEsn,
    UserSaInfo,
)

if TYPE_CHECKING:
    from host_driver.xfrm.net import XfrmNet

MODES = (MODE_TRANSPORT, MODE_TUNNEL, MODE_ROUTEOPTIMIZATION, MODE_BEET)
BMP_LEN_MAX = 128  # words of a replay bitmap: 4096 bits (UAPI-27)
COUNTER_END = 0xFFFF_FFFF
# IP-TFS options of the other direction.
IPTFS_IN_ONLY = (
    (Attr.IPTFS_DROP_TIME, "drop time"),
    (Attr.IPTFS_REORDER_WINDOW, "reorder window"),
)
IPTFS_OUT_ONLY = (
    (Attr.IPTFS_DONT_FRAG, "don't fragment"),
    (Attr.IPTFS_INIT_DELAY, "initial delay"),
    (Attr.IPTFS_MAX_QSIZE, "max queue size"),
    (Attr.IPTFS_PKT_SIZE, "packet size"),
)

FLAGS_OUT = (
    (STATE_DECAP_DSCP, "DECAP_DSCP"),
    (STATE_ICMP, "ICMP"),
    (STATE_WILDRECV, "WILDRECV"),
)
XFLAGS_IN = (
    (SA_XFLAG_DONT_ENCAP_DSCP, "DONT_ENCAP_DSCP"),
    (SA_XFLAG_OSEQ_MAY_WRAP, "OSEQ_MAY_WRAP"),
)
TFCPAD_MAX = 0xFFFF


def verify_newsa_info(net: "XfrmNet", info: UserSaInfo, attributes: Attributes) -> None:
    """All checks, in the kernel's order. Raises OffloadError."""
    sa_dir = sa_dir_of(attributes)
    if info.family not in (AF_INET, AF_INET6):
        raise refuse("Invalid address family")
    verify_selector_family(net, info)
    verify_proto(net, info, attributes)
    verify_algorithms(attributes)
    if Attr.SEC_CTX in attributes:
        verify_sec_ctx(attributes[Attr.SEC_CTX])
    esn = attributes.get(Attr.REPLAY_ESN_VAL)
    verify_replay(info, esn, sa_dir)
    if esn is not None and net.profile.replay_counters_verified:
        verify_replay_counters(info, esn, sa_dir)
    verify_mode(net, info, sa_dir)
    if Attr.MTIMER_THRESH in attributes:
        if Attr.ENCAP not in attributes:
            raise refuse("MTIMER_THRESH requires encapsulation")
        if sa_dir == SA_DIR_OUT:
            raise refuse("MTIMER_THRESH attribute should not be set on output SA")
    if sa_dir == SA_DIR_OUT:
        verify_out(info, attributes)
    if sa_dir == SA_DIR_IN:
        verify_in(info, attributes)
    if Attr.SA_PCPU in attributes and not sa_dir:
        raise refuse("SA_PCPU only supported with SA_DIR")


def verify_mode(net: "XfrmNet", info: UserSaInfo, sa_dir: int) -> None:
    """STATE-09: a known mode; IP-TFS wants ESP and a direction."""
    if info.mode == MODE_IPTFS and net.profile.iptfs_known:
        if info.id.proto != IPPROTO_ESP:
            raise refuse("IP-TFS mode only supported with ESP")
        if not sa_dir:
            raise refuse("IP-TFS mode requires in or out direction attribute")
    elif info.mode not in MODES:
        raise refuse("Unsupported mode")


def verify_selector_family(net: "XfrmNet", info: UserSaInfo) -> None:
    """STATE-02: the selector's family, or the SA's where that is what the selector will have."""
    family = info.sel.family
    if net.profile.selector_without_family_verified and not info.flags & STATE_AF_UNSPEC:
        family = family or info.family
    verify_prefix_lengths(info.sel, family)
    if family not in (AF_UNSPEC, AF_INET, AF_INET6):
        raise refuse("Invalid address family in selector")


def verify_proto(net: "XfrmNet", info: UserSaInfo, attributes: Attributes) -> None:
    """STATE-03: which algorithms go with the protocol."""
    given = {type for type in attributes if type in _ALGORITHMS}
    auth = given & {Attr.ALG_AUTH, Attr.ALG_AUTH_TRUNC}
    if info.id.proto == IPPROTO_AH:
        if not auth:
            raise refuse("Missing required attribute for AH: AUTH_TRUNC or AUTH")
        if given - auth:
            raise refuse("Invalid attributes for AH: AEAD, CRYPT, COMP, TFCPAD")
    elif info.id.proto == IPPROTO_ESP:
        if Attr.ALG_COMP in given:
            raise refuse("Invalid attribute for ESP: COMP")
        ciphers = given - {Attr.TFCPAD}
        if not ciphers:
            raise refuse(
                "Missing required attribute for ESP: at least one of AUTH, AUTH_TRUNC, CRYPT, AEAD"
            )
        if Attr.ALG_AEAD in ciphers and len(ciphers) > 1:
            raise refuse(
                "Invalid attribute combination for ESP: "
                "AEAD can't be used with AUTH, AUTH_TRUNC, CRYPT"
            )
        if Attr.TFCPAD in given and info.mode != MODE_TUNNEL:
            raise refuse("TFC padding can only be used in tunnel mode")
        if u32(attributes, Attr.TFCPAD) > TFCPAD_MAX and net.profile.tfcpad_limited:
            raise refuse("Excessive TFC padding")
        if info.mode != MODE_IPTFS and attributes.keys() & set(IPTFS):
            raise refuse("IP-TFS options can only be used in IP-TFS mode")
    elif info.id.proto == IPPROTO_COMP:
        if Attr.ALG_COMP not in given:
            raise refuse("Missing required attribute for COMP: COMP")
        if given != {Attr.ALG_COMP}:
            raise refuse("Invalid attributes for COMP: AEAD, AUTH, AUTH_TRUNC, CRYPT, TFCPAD")
        if info.id.spi >= 0x1_0000:
            raise refuse("SPI is too large for COMP (must be < 0x10000)")
    elif info.id.proto in (IPPROTO_DSTOPTS, IPPROTO_ROUTING):
        if given or attributes.keys() & {Attr.ENCAP, Attr.SEC_CTX}:
            raise refuse("Invalid attributes for DSTOPTS/ROUTING")
        if Attr.COADDR not in attributes:
            raise refuse("Missing required COADDR attribute for DSTOPTS/ROUTING")
    else:
        raise refuse("Unsupported protocol")


_ALGORITHMS = frozenset(
    (
        Attr.ALG_AUTH,
        Attr.ALG_AUTH_TRUNC,
        Attr.ALG_CRYPT,
        Attr.ALG_AEAD,
        Attr.ALG_COMP,
        Attr.TFCPAD,
    )
)


def verify_algorithms(attributes: Attributes) -> None:
    """STATE-04: the attribute holds as many key bytes as it says."""
    for type, fixed, text in (
        (Attr.ALG_AEAD, AlgoAead, "Invalid AEAD attribute length"),
        (Attr.ALG_AUTH_TRUNC, AlgoAuth, "Invalid AUTH_TRUNC attribute length"),
        (Attr.ALG_AUTH, Algo, "Invalid AUTH/CRYPT/COMP attribute length"),
        (Attr.ALG_CRYPT, Algo, "Invalid AUTH/CRYPT/COMP attribute length"),
        (Attr.ALG_COMP, Algo, "Invalid AUTH/CRYPT/COMP attribute length"),
    ):
        data = attributes.get(type)
        if data is None:
            continue
        bits = fixed.unpack(data).alg_key_len
        if len(data) < fixed.size() + key_bytes(bits):
            raise refuse(text)


def key_bytes(bits: int) -> int:
    """Bytes of a key; the addition wraps at 32 bits as the kernel's does (newsa-aead-bitshuge)."""
    return ((bits + 7) & 0xFFFF_FFFF) // 8


def verify_replay(info: UserSaInfo, esn: bytes | None, sa_dir: int) -> None:
    """Check REPLAY_ESN_VAL against the request (STATE-06..08). Raises OffloadError."""
    esn_flag = bool(info.flags & STATE_ESN)
    if esn is None:
        if esn_flag:
            raise refuse("Missing required attribute for ESN")
        return
    fixed = ReplayStateEsn.unpack(esn)
    if fixed.bmp_len > BMP_LEN_MAX:
        raise refuse("ESN bitmap length must be <= 128")
    size = ReplayStateEsn.size()
    if len(esn) < size + 4 * fixed.bmp_len and len(esn) != size:
        raise refuse("ESN attribute is too short to fit the full bitmap length")
    if info.id.proto not in (IPPROTO_ESP, IPPROTO_AH):
        raise refuse("ESN only supported for ESP and AH")
    if info.replay_window:
        raise refuse("ESN not compatible with legacy replay_window")
    if sa_dir == SA_DIR_OUT:
        if fixed.replay_window:
            raise refuse("Replay window should be 0 for output SA")
        if fixed.seq or fixed.seq_hi:
            raise refuse("Replay seq and seq_hi should be 0 for output SA")
        if fixed.bmp_len:
            raise refuse("Replay bmp_len should 0 for output SA")
    if sa_dir == SA_DIR_IN and (fixed.oseq or fixed.oseq_hi):
        raise refuse("Replay oseq and oseq_hi should be 0 for input SA")


def verify_replay_counters(info: UserSaInfo, esn: bytes, sa_dir: int) -> None:
    """High words need ESN, and a counter at its end has nothing left (STATE-08)."""
    fixed, esn_flag = ReplayStateEsn.unpack(esn), bool(info.flags & STATE_ESN)
    if sa_dir == SA_DIR_OUT:
        _verify_counter("oseq", fixed.oseq, fixed.oseq_hi, esn_flag, "output")
    if sa_dir == SA_DIR_IN:
        _verify_counter("seq", fixed.seq, fixed.seq_hi, esn_flag, "input")


def _verify_counter(name: str, low: int, high: int, esn: bool, which: str) -> None:
    if esn:
        if (low, high) == (COUNTER_END, COUNTER_END):
            text = f"Replay {name} and {name}_hi should be less than 0xFFFFFFFF for {which} SA"
            raise refuse(text)
        return
    if high:
        raise refuse(f"Replay {name}_hi should be 0 in non-ESN mode for {which} SA")
    if low == COUNTER_END:
        text = f"Replay {name} should be less than 0xFFFFFFFF in non-ESN mode for {which} SA"
        raise refuse(text)


def verify_out(info: UserSaInfo, attributes: Attributes) -> None:
    """STATE-10, an SA that says it is for output."""
    for flag, name in FLAGS_OUT:
        if info.flags & flag:
            raise refuse(f"Flag {name} should not be set for output SA")
    if info.replay_window:
        raise refuse("Replay window should be 0 for output SA")
    if Attr.REPLAY_VAL in attributes:
        replay = ReplayState.unpack(attributes[Attr.REPLAY_VAL])
        if replay.seq or replay.bitmap:
            raise refuse("Replay seq and bitmap should be 0 for output SA")
    for type, name in IPTFS_IN_ONLY:
        if type in attributes:
            raise refuse(f"IP-TFS {name} should not be set for output SA")


def verify_in(info: UserSaInfo, attributes: Attributes) -> None:
    """STATE-10, an SA that says it is for input."""
    if info.flags & STATE_NOPMTUDISC:
        raise refuse("Flag NOPMTUDISC should not be set for input SA")
    for flag, name in XFLAGS_IN:
        if u32(attributes, Attr.SA_EXTRA_FLAGS) & flag:
            raise refuse(f"Flag {name} should not be set for input SA")
    for type, name in IPTFS_OUT_ONLY:
        if type in attributes:
            raise refuse(f"IP-TFS {name} should not be set for input SA")
