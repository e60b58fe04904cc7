# SPDX-License-Identifier: Apache-2.0
"""From a verified request to a finished SA, in the kernel's order (STATE-13)."""

import errno
from typing import TYPE_CHECKING

from host_driver.xfrm import algo
from host_driver.xfrm.attributes import Attributes, mark_of, pcpu_of, refuse, sa_dir_of, u32
from host_driver.xfrm.replay import parse_esn, xfrm_init_replay
from host_driver.xfrm.state import Aead, Algorithm, XfrmState
from host_driver.xfrm.verify import key_bytes
from proto.xfrm import (
    AF_INET,
    AF_UNSPEC,
    ENCAP_ESPINUDP,
    IPPROTO_AH,
    IPPROTO_COMP,
    IPPROTO_DSTOPTS,
    IPPROTO_ESP,
    IPPROTO_ROUTING,
    MODE_IPTFS,
    MODE_ROUTEOPTIMIZATION,
    MODE_TRANSPORT,
    MODE_TUNNEL,
    SA_DIR_OUT,
    STATE_AF_UNSPEC,
    TUNNEL_MODES,
    Attr,
)
from proto.xfrm_structs import (
    Algo,
    AlgoAead,
    AlgoAuth,
    EncapTmpl,
    LifetimeCur,
    ReplayState,
    UserSaInfo,
)

if TYPE_CHECKING:
    from host_driver.xfrm.net import XfrmNet

CRYPTO_REFUSED = "Kernel was unable to initialize cryptographic operations"


def xfrm_state_construct(
    net: "XfrmNet", x: XfrmState, info: UserSaInfo, attributes: Attributes
) -> None:
    """Fill a fresh `x`; all but the offload step. Raises OffloadError (STATE-11, 14, 15)."""
    _copy_info(x, info)
    if Attr.ENCAP in attributes:
        x.encap = EncapTmpl.unpack(attributes[Attr.ENCAP])
    if Attr.COADDR in attributes:
        x.coaddr = attributes[Attr.COADDR][:16]
    x.props.extra_flags = u32(attributes, Attr.SA_EXTRA_FLAGS)
    _attach_algorithms(x, attributes)
    x.tfcpad = u32(attributes, Attr.TFCPAD)
    x.mark = mark_of(attributes)
    if Attr.SET_MARK in attributes:
        x.props.smark.v = u32(attributes, Attr.SET_MARK)
        masked = Attr.SET_MARK_MASK in attributes
        x.props.smark.m = u32(attributes, Attr.SET_MARK_MASK) if masked else 0xFFFF_FFFF
    x.if_id = u32(attributes, Attr.IF_ID)
    x.dir = sa_dir_of(attributes)
    x.nat_keepalive_interval = u32(attributes, Attr.NAT_KEEPALIVE_INTERVAL)
    x.pcpu_num = pcpu_of(attributes, errno.ERANGE)
    xfrm_init_state(x)
    if Attr.REPLAY_ESN_VAL in attributes:
        x.replay_esn = parse_esn(attributes[Attr.REPLAY_ESN_VAL])
    x.km.seq = info.seq
    x.replay_maxdiff, x.replay_maxage = net.aevent_rseqth, net.aevent_etime
    xfrm_init_replay(x)
    xfrm_update_ae_params(x, attributes)


def _copy_info(x: XfrmState, info: UserSaInfo) -> None:
    """OBJ-12: the request's curlft and stats are not taken."""
    x.id, x.sel, x.lft = info.id, info.sel, info.lft
    x.props.mode, x.props.reqid, x.props.family = info.mode, info.reqid, info.family
    x.props.saddr, x.props.flags = info.saddr, info.flags
    x.props.replay_window = min(info.replay_window, 32)  # REPLAY-01
    if not x.sel.family and not info.flags & STATE_AF_UNSPEC:
        x.sel.family = info.family


def xfrm_update_ae_params(x: XfrmState, attributes: Attributes) -> None:
    """REPLAY_VAL, LTIME_VAL and the thresholds, at creation or by NEWAE."""
    if Attr.REPLAY_VAL in attributes:
        x.replay = ReplayState.unpack(attributes[Attr.REPLAY_VAL])
    if Attr.LTIME_VAL in attributes:
        x.curlft = LifetimeCur.unpack(attributes[Attr.LTIME_VAL])
    if Attr.ETIMER_THRESH in attributes:
        x.replay_maxage = u32(attributes, Attr.ETIMER_THRESH)
    if Attr.REPLAY_THRESH in attributes:
        x.replay_maxdiff = u32(attributes, Attr.REPLAY_THRESH)
    if Attr.MTIMER_THRESH in attributes:
        x.mapping_maxage = u32(attributes, Attr.MTIMER_THRESH)


def _name(raw: bytes) -> str:
    """The algorithm's name; the last byte of the field is never part of it."""
    return algo.canonical(raw[:63].split(b"\0")[0].decode("latin-1"))


def _attach_algorithms(x: XfrmState, attributes: Attributes) -> None:
    """Look the names up; an unknown one is ENOSYS (STATE-11)."""
    if Attr.ALG_AEAD in attributes:
        x.aead = _attach_aead(attributes[Attr.ALG_AEAD])
    if Attr.ALG_AUTH_TRUNC in attributes:
        x.aalg = _attach_auth(attributes[Attr.ALG_AUTH_TRUNC], truncated=True)
    elif Attr.ALG_AUTH in attributes:
        x.aalg = _attach_auth(attributes[Attr.ALG_AUTH], truncated=False)
    if Attr.ALG_CRYPT in attributes:
        x.ealg = _attach(attributes[Attr.ALG_CRYPT])
        if x.ealg.name not in algo.CRYPT:
            raise refuse("Requested CRYPT algorithm not found", errno.ENOSYS)
    if Attr.ALG_COMP in attributes:
        x.calg = _attach(attributes[Attr.ALG_COMP])
        if x.calg.name not in algo.COMP:
            raise refuse("Requested COMP algorithm not found", errno.ENOSYS)


def _attach(data: bytes) -> Algorithm:
    fixed = Algo.unpack(data)
    key = bytearray(data[Algo.size() : Algo.size() + key_bytes(fixed.alg_key_len)])
    return Algorithm(_name(fixed.alg_name), key, fixed.alg_key_len)


def _attach_aead(data: bytes) -> Aead:
    fixed = AlgoAead.unpack(data)
    name = _name(fixed.alg_name)
    if name not in algo.AEAD or fixed.alg_icv_len not in algo.AEAD[name].icv_bits:  # ALG-01
        raise refuse("Requested AEAD algorithm not found", errno.ENOSYS)
    key = bytearray(data[AlgoAead.size() : AlgoAead.size() + key_bytes(fixed.alg_key_len)])
    return Aead(name, key, fixed.alg_icv_len, fixed.alg_key_len)


def _attach_auth(data: bytes, truncated: bool) -> Algorithm:
    fixed = AlgoAuth.unpack(data) if truncated else Algo.unpack(data)
    name, size = _name(fixed.alg_name), fixed.size()
    kind = "AUTH_TRUNC" if truncated else "AUTH"
    if name not in algo.AUTH:
        raise refuse(f"Requested {kind} algorithm not found", errno.ENOSYS)
    trunc_bits = algo.AUTH[name].trunc_bits
    if isinstance(fixed, AlgoAuth):
        if fixed.alg_trunc_len > algo.AUTH[name].full_bits:
            raise refuse("Invalid length requested for truncated ICV")
        trunc_bits = fixed.alg_trunc_len or trunc_bits
    key = bytearray(data[size : size + key_bytes(fixed.alg_key_len)])
    return Algorithm(name, key, fixed.alg_key_len, trunc_bits)


def xfrm_init_state(x: XfrmState) -> None:
    """Mode, protocol and keys must work together (STATE-15; __xfrm_init_state)."""
    for family in (x.sel.family, x.props.family):
        if x.props.mode == MODE_ROUTEOPTIMIZATION and family == AF_INET:
            raise refuse("Requested mode not found", errno.EPROTONOSUPPORT)
    tunnel = x.props.mode in TUNNEL_MODES
    if x.sel.family != AF_UNSPEC and not tunnel and x.props.family != x.sel.family:
        raise refuse("Only tunnel modes can accommodate a change of family", errno.EPROTONOSUPPORT)
    _INIT[x.id.proto](x)
    if x.props.mode == MODE_IPTFS:  # STATE-09: it needs its own support
        raise refuse("Requested mode not found")
    if x.nat_keepalive_interval:
        if x.dir != SA_DIR_OUT:
            raise refuse("NAT keepalive is only supported for outbound SAs")
        if x.encap is None or x.encap.encap_type != ENCAP_ESPINUDP:
            raise refuse("NAT keepalive is only supported for UDP encapsulation")


def _init_esp(x: XfrmState) -> None:
    if x.aead is not None:
        if len(x.aead.key) not in algo.AEAD[x.aead.name].key_bytes:
            raise refuse(CRYPTO_REFUSED)
    elif x.ealg is None:
        raise refuse("ESP: AEAD or CRYPT must be provided")
    elif len(x.ealg.key) not in algo.CRYPT[x.ealg.name]:
        raise refuse("")
    if x.aalg is not None and len(x.aalg.key) not in algo.AUTH[x.aalg.name].key_bytes:
        raise refuse("")
    if x.encap is not None and x.encap.encap_type != ENCAP_ESPINUDP:
        raise refuse("Unsupported encapsulation type for ESP")


def _init_ah(x: XfrmState) -> None:
    if x.encap is not None:
        raise refuse("AH is not compatible with encapsulation")
    if x.aalg is not None and len(x.aalg.key) not in algo.AUTH[x.aalg.name].key_bytes:
        raise refuse(CRYPTO_REFUSED)
    if x.props.mode == MODE_ROUTEOPTIMIZATION:
        raise refuse("Invalid mode requested for AH, must be one of TRANSPORT, TUNNEL, BEET")


def _init_ipcomp(x: XfrmState) -> None:
    if x.encap is not None:
        raise refuse("IPComp is not compatible with encapsulation")
    if x.props.mode not in (MODE_TRANSPORT, MODE_TUNNEL):
        raise refuse("Unsupported XFRM mode for IPcomp")


def _init_mip6(x: XfrmState) -> None:
    """Destination options and routing headers of mobile IPv6."""
    if x.props.family == AF_INET:
        raise refuse("Requested type not found", errno.EPROTONOSUPPORT)
    if x.id.spi:
        raise refuse("SPI must be 0")
    if x.props.mode != MODE_ROUTEOPTIMIZATION:
        raise refuse("XFRM mode must be XFRM_MODE_ROUTEOPTIMIZATION")


_INIT = {
    IPPROTO_ESP: _init_esp,
    IPPROTO_AH: _init_ah,
    IPPROTO_COMP: _init_ipcomp,
    IPPROTO_DSTOPTS: _init_mip6,
    IPPROTO_ROUTING: _init_mip6,
}
