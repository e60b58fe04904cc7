# SPDX-License-Identifier: Apache-2.0
"""NETLINK_XFRM: message types, attributes, constants and structures of include/uapi/linux/xfrm.h.

The structures themselves are in `proto.xfrm_structs`.
"""

from enum import IntEnum, unique

NETLINK_XFRM = 6


@unique
class Msg(IntEnum):
    """Message types (section 1.2)."""

    NEWSA = 0x10
    DELSA = 0x11
    GETSA = 0x12
    NEWPOLICY = 0x13
    DELPOLICY = 0x14
    GETPOLICY = 0x15
    ALLOCSPI = 0x16
    ACQUIRE = 0x17
    EXPIRE = 0x18
    UPDPOLICY = 0x19
    UPDSA = 0x1A
    POLEXPIRE = 0x1B
    FLUSHSA = 0x1C
    FLUSHPOLICY = 0x1D
    NEWAE = 0x1E
    GETAE = 0x1F
    REPORT = 0x20
    MIGRATE = 0x21
    NEWSADINFO = 0x22
    GETSADINFO = 0x23
    NEWSPDINFO = 0x24
    GETSPDINFO = 0x25
    MAPPING = 0x26
    SETDEFAULT = 0x27
    GETDEFAULT = 0x28
    MIGRATE_STATE = 0x29


MSG_MAX = Msg.MIGRATE_STATE

# Smallest fixed part of each type, in bytes (UAPI-05).
MSG_MIN: dict[int, int] = {
    Msg.NEWSA: 224, Msg.DELSA: 24, Msg.GETSA: 24, Msg.NEWPOLICY: 168, Msg.DELPOLICY: 64,
    Msg.GETPOLICY: 64, Msg.ALLOCSPI: 232, Msg.ACQUIRE: 280, Msg.EXPIRE: 232, Msg.UPDPOLICY: 168,
    Msg.UPDSA: 224, Msg.POLEXPIRE: 176, Msg.FLUSHSA: 1, Msg.FLUSHPOLICY: 0, Msg.NEWAE: 48,
    Msg.GETAE: 48, Msg.REPORT: 60, Msg.MIGRATE: 64, Msg.NEWSADINFO: 4, Msg.GETSADINFO: 4,
    Msg.NEWSPDINFO: 4, Msg.GETSPDINFO: 4, Msg.MAPPING: 64, Msg.SETDEFAULT: 3, Msg.GETDEFAULT: 3,
    Msg.MIGRATE_STATE: 132,
}  # fmt: skip


@unique
class Attr(IntEnum):
    """XFRMA_* (section 1.3)."""

    ALG_AUTH = 1
    ALG_CRYPT = 2
    ALG_COMP = 3
    ENCAP = 4
    TMPL = 5
    SA = 6
    POLICY = 7
    SEC_CTX = 8
    LTIME_VAL = 9
    REPLAY_VAL = 10
    REPLAY_THRESH = 11
    ETIMER_THRESH = 12
    SRCADDR = 13
    COADDR = 14
    LASTUSED = 15
    POLICY_TYPE = 16
    MIGRATE = 17
    ALG_AEAD = 18
    KMADDRESS = 19
    ALG_AUTH_TRUNC = 20
    MARK = 21
    TFCPAD = 22
    REPLAY_ESN_VAL = 23
    SA_EXTRA_FLAGS = 24
    PROTO = 25
    ADDRESS_FILTER = 26
    PAD = 27
    OFFLOAD_DEV = 28
    SET_MARK = 29
    SET_MARK_MASK = 30
    IF_ID = 31
    MTIMER_THRESH = 32
    SA_DIR = 33
    NAT_KEEPALIVE_INTERVAL = 34
    SA_PCPU = 35
    IPTFS_DROP_TIME = 36
    IPTFS_REORDER_WINDOW = 37
    IPTFS_DONT_FRAG = 38
    IPTFS_INIT_DELAY = 39
    IPTFS_MAX_QSIZE = 40
    IPTFS_PKT_SIZE = 41


@unique
class SadAttr(IntEnum):
    """XFRMA_SAD_*, the attributes of NEWSADINFO (section 1.3)."""

    CNT = 1
    HINFO = 2


@unique
class SpdAttr(IntEnum):
    """XFRMA_SPD_*, the attributes of NEWSPDINFO (section 1.3)."""

    INFO = 1
    HINFO = 2
    IPV4_HTHRESH = 3
    IPV6_HTHRESH = 4


IPTFS = tuple(type for type in Attr if type.name.startswith("IPTFS_"))

# Minimum payload of each attribute, in bytes (UAPI-06).
ATTR_MIN: dict[int, int] = {
    Attr.ALG_AUTH: 68, Attr.ALG_CRYPT: 68, Attr.ALG_COMP: 68, Attr.ENCAP: 24, Attr.TMPL: 64,
    Attr.SA: 224, Attr.POLICY: 168, Attr.SEC_CTX: 8, Attr.LTIME_VAL: 32, Attr.REPLAY_VAL: 12,
    Attr.REPLAY_THRESH: 4, Attr.ETIMER_THRESH: 4, Attr.SRCADDR: 16, Attr.COADDR: 16,
    Attr.LASTUSED: 8, Attr.POLICY_TYPE: 6, Attr.MIGRATE: 76, Attr.ALG_AEAD: 72,
    Attr.KMADDRESS: 40, Attr.ALG_AUTH_TRUNC: 72, Attr.MARK: 8, Attr.TFCPAD: 4,
    Attr.REPLAY_ESN_VAL: 24, Attr.SA_EXTRA_FLAGS: 4, Attr.PROTO: 1, Attr.ADDRESS_FILTER: 36,
    Attr.PAD: 0, Attr.OFFLOAD_DEV: 8, Attr.SET_MARK: 4, Attr.SET_MARK_MASK: 4, Attr.IF_ID: 4,
    Attr.MTIMER_THRESH: 4, Attr.SA_DIR: 1, Attr.NAT_KEEPALIVE_INTERVAL: 4, Attr.SA_PCPU: 4,
    Attr.IPTFS_DROP_TIME: 4, Attr.IPTFS_REORDER_WINDOW: 2, Attr.IPTFS_DONT_FRAG: 0,
    Attr.IPTFS_INIT_DELAY: 4, Attr.IPTFS_MAX_QSIZE: 4, Attr.IPTFS_PKT_SIZE: 4,
}  # fmt: skip


@unique
class Group(IntEnum):
    """Multicast groups (UAPI-12)."""

    ACQUIRE = 1
    EXPIRE = 2
    SA = 3
    POLICY = 4
    AEVENTS = 5
    REPORT = 6
    MIGRATE = 7
    MAPPING = 8


AF_UNSPEC, AF_INET, AF_INET6 = 0, 2, 10
ANY_ADDRESS = bytes(16)
IPPROTO_ESP, IPPROTO_AH, IPPROTO_COMP, IPPROTO_ROUTING, IPPROTO_DSTOPTS = 50, 51, 108, 43, 60
IPSEC_PROTO_ANY = 255
XFRM_INF = (1 << 64) - 1
XFRM_MAX_DEPTH = 6

MODE_TRANSPORT, MODE_TUNNEL, MODE_ROUTEOPTIMIZATION, MODE_IN_TRIGGER, MODE_BEET = range(5)
MODE_IPTFS = 5
# XFRM_MODE_FLAG_TUNNEL: their packets go between the SA's addresses, those of others keep theirs.
TUNNEL_MODES = (MODE_TUNNEL, MODE_BEET, MODE_IPTFS)
POLICY_IN, POLICY_OUT, POLICY_FWD = range(3)
SA_DIR_IN, SA_DIR_OUT = 1, 2
POLICY_ALLOW, POLICY_BLOCK = 0, 1
POLICY_LOCALOK, POLICY_ICMP = 1, 2
POLICY_TYPE_MAIN, POLICY_TYPE_SUB = 0, 1
SHARE_ANY, SHARE_SESSION, SHARE_USER, SHARE_UNIQUE = range(4)
USERPOLICY_BLOCK, USERPOLICY_ACCEPT = 1, 2

OFFLOAD_IPV6, OFFLOAD_INBOUND, OFFLOAD_PACKET = 1, 2, 4

STATE_NOECN, STATE_DECAP_DSCP, STATE_NOPMTUDISC, STATE_WILDRECV = 1, 2, 4, 8
STATE_ICMP, STATE_AF_UNSPEC, STATE_ALIGN4, STATE_ESN = 16, 32, 64, 128
SA_XFLAG_DONT_ENCAP_DSCP, SA_XFLAG_OSEQ_MAY_WRAP = 1, 2

AE_RTHR, AE_ETHR, AE_CR, AE_CE, AE_CU = 1, 8, 16, 32, 64
ENCAP_ESPINUDP_NON_IKE, ENCAP_ESPINUDP, ENCAP_ESPINTCP = 1, 2, 7
