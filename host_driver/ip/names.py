# SPDX-License-Identifier: Apache-2.0
"""The words that stand for numbers, in both directions (CLI-10, CLI-12, CLI-18, CLI-30, CLI-31)."""

from collections.abc import Mapping

from proto import xfrm

XFRM_PROTO: dict[str, int] = {
    "esp": xfrm.IPPROTO_ESP,
    "ah": xfrm.IPPROTO_AH,
    "comp": xfrm.IPPROTO_COMP,
    "route2": xfrm.IPPROTO_ROUTING,
    "hao": xfrm.IPPROTO_DSTOPTS,
    "ipsec-any": xfrm.IPSEC_PROTO_ANY,
}
MODE: dict[str, int] = {
    "transport": xfrm.MODE_TRANSPORT,
    "tunnel": xfrm.MODE_TUNNEL,
    "ro": xfrm.MODE_ROUTEOPTIMIZATION,
    "in_trigger": xfrm.MODE_IN_TRIGGER,
    "beet": xfrm.MODE_BEET,
}
ENCAP: dict[str, int] = {
    "espinudp-nonike": xfrm.ENCAP_ESPINUDP_NON_IKE,
    "espinudp": xfrm.ENCAP_ESPINUDP,
    "espintcp": xfrm.ENCAP_ESPINTCP,
}
STATE_FLAG: dict[str, int] = {
    "noecn": xfrm.STATE_NOECN,
    "decap-dscp": xfrm.STATE_DECAP_DSCP,
    "nopmtudisc": xfrm.STATE_NOPMTUDISC,
    "wildrecv": xfrm.STATE_WILDRECV,
    "icmp": xfrm.STATE_ICMP,
    "af-unspec": xfrm.STATE_AF_UNSPEC,
    "align4": xfrm.STATE_ALIGN4,
    "esn": xfrm.STATE_ESN,
}
EXTRA_FLAG: dict[str, int] = {
    "dont-encap-dscp": xfrm.SA_XFLAG_DONT_ENCAP_DSCP,
    "oseq-may-wrap": xfrm.SA_XFLAG_OSEQ_MAY_WRAP,
}
POLICY_FLAG: dict[str, int] = {"localok": xfrm.POLICY_LOCALOK, "icmp": xfrm.POLICY_ICMP}
POLICY_DIR: dict[str, int] = {
    "in": xfrm.POLICY_IN,
    "out": xfrm.POLICY_OUT,
    "fwd": xfrm.POLICY_FWD,
}
SA_DIR: dict[str, int] = {"in": xfrm.SA_DIR_IN, "out": xfrm.SA_DIR_OUT}
ACTION: dict[str, int] = {"allow": xfrm.POLICY_ALLOW, "block": xfrm.POLICY_BLOCK}
PTYPE: dict[str, int] = {"main": xfrm.POLICY_TYPE_MAIN, "sub": xfrm.POLICY_TYPE_SUB}
SHARE: dict[str, int] = {
    "any": xfrm.SHARE_ANY,
    "session": xfrm.SHARE_SESSION,
    "user": xfrm.SHARE_USER,
    "unique": xfrm.SHARE_UNIQUE,
}
DEFAULT_ACTION: dict[str, int] = {
    "block": xfrm.USERPOLICY_BLOCK,
    "accept": xfrm.USERPOLICY_ACCEPT,
}

# Assigned protocol numbers with the names of /etc/protocols.
PROTO: dict[str, int] = {
    "ip": 0, "icmp": 1, "igmp": 2, "ggp": 3, "ipencap": 4, "st": 5, "tcp": 6, "egp": 8, "igp": 9,
    "pup": 12, "udp": 17, "hmp": 20, "xns-idp": 22, "rdp": 27, "iso-tp4": 29, "dccp": 33,
    "xtp": 36, "ddp": 37, "idpr-cmtp": 38, "ipv6": 41, "ipv6-route": 43, "ipv6-frag": 44,
    "idrp": 45, "rsvp": 46, "gre": 47, "esp": 50, "ah": 51, "skip": 57, "ipv6-icmp": 58,
    "ipv6-nonxt": 59, "ipv6-opts": 60, "rspf": 73, "vmtp": 81, "eigrp": 88, "ospf": 89,
    "ax.25": 93, "ipip": 94, "etherip": 97, "encap": 98, "pim": 103, "ipcomp": 108, "vrrp": 112,
    "l2tp": 115, "isis": 124, "sctp": 132, "fc": 133, "mobility-header": 135, "udplite": 136,
    "mpls-in-ip": 137, "manet": 138, "hip": 139, "shim6": 140, "wesp": 141, "rohc": 142,
}  # fmt: skip
TCP, UDP, SCTP, DCCP = 6, 17, 132, 33
ICMP, ICMPV6, MOBILITY_HEADER, GRE = 1, 58, 135, 47


def name(table: Mapping[str, int], value: int) -> str:
    """The word for `value`, or the number itself."""
    return next((word for word, number in table.items() if number == value), str(value))


def bit_names(table: Mapping[str, int], value: int) -> str:
    """The words of the bits set, then what is left over in hexadecimal."""
    words = [word for word, bit in table.items() if value & bit]
    left = value & ~sum(table.values())
    return " ".join([*words, f"{left:x}"] if left else words)


def is_prefix(word: str, of: str) -> bool:
    """Whether `word` abbreviates `of`."""
    return word != "" and of.startswith(word)
