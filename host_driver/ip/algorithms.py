# SPDX-License-Identifier: Apache-2.0
"""ALGO-LIST of a state: key material into attributes, and which algorithms a protocol needs.

A key goes straight from its word into the attribute; it is kept nowhere else (CLI-11, CLI-19).
"""

import struct

from host_driver.ip import names
from host_driver.ip.words import IpError, Words, duplicate, key_bytes
from proto import netlink, xfrm
from proto.xfrm import Attr
from proto.xfrm_structs import UserSaInfo

_KIND: dict[str, Attr] = {
    "aead": Attr.ALG_AEAD,
    "enc": Attr.ALG_CRYPT,
    "auth": Attr.ALG_AUTH,
    "auth-trunc": Attr.ALG_AUTH_TRUNC,
    "comp": Attr.ALG_COMP,
}
# A kind excludes the kinds given before it that share a slot: one cipher, one hash, one compressor.
_SLOTS: dict[str, frozenset[str]] = {
    "aead": frozenset({"cipher", "hash"}),
    "enc": frozenset({"cipher"}),
    "auth": frozenset({"hash"}),
    "auth-trunc": frozenset({"hash"}),
    "comp": frozenset({"comp"}),
}
_NAME_BYTES = 64
_KEY_BYTES_MAX = 512
_LENGTH: dict[str, tuple[str, str]] = {
    "aead": ("ALGO-ICV-LEN", "ALGO-ICV-LEN value is invalid"),
    "auth-trunc": ("ALGO-TRUNC-LEN", "ALGO-TRUNC-LEN value is invalid"),
}
_IPSEC = (xfrm.IPPROTO_ESP, xfrm.IPPROTO_AH, xfrm.IPPROTO_COMP)
_IPSEC_MODES = (xfrm.MODE_TRANSPORT, xfrm.MODE_TUNNEL)
_ROUTING = (xfrm.IPPROTO_ROUTING, xfrm.IPPROTO_DSTOPTS)
_ROUTING_MODES = (xfrm.MODE_ROUTEOPTIMIZATION, xfrm.MODE_IN_TRIGGER)


class Algorithms:
    """Reads the algorithms of one state and remembers which kinds it has."""

    def __init__(self, words: Words) -> None:
        self._words = words
        self._kinds: set[str] = set()

    def attribute(self, kind: str) -> bytes:
        """Read `NAME [ KEY [ LENGTH ] ]` behind the keyword `kind`; gives the attribute."""
        words = self._words
        taken = frozenset[str]().union(*(_SLOTS[seen] for seen in self._kinds))
        if taken & _SLOTS[kind]:
            raise duplicate("ALGO-TYPE", kind)
        self._kinds.add(kind)
        words.need("ALGO-NAME")
        name = words.take().encode(errors="surrogateescape")[: _NAME_BYTES - 1]
        word = ""
        if kind != "comp":
            words.need("ALGO-KEYMAT")
            word = words.take()
        length = b""
        if kind in _LENGTH:
            what, complaint = _LENGTH[kind]
            words.need(what)
            length = struct.pack("<I", words.number(32, complaint))
        key = key_bytes(word, _KEY_BYTES_MAX)
        fixed = name.ljust(_NAME_BYTES, b"\0") + struct.pack("<I", 8 * len(key)) + length
        return netlink.attribute(_KIND[kind], fixed + key)

    def check(self, info: UserSaInfo, has_coa: bool) -> None:
        """Whether mode, algorithms and care-of address fit the protocol; raises IpError."""
        proto = info.id.proto
        of_proto = f'with XFRM-PROTO value "{names.name(names.XFRM_PROTO, proto)}"\n'
        if proto in _IPSEC:
            self._check_mode(info, of_proto)
            self._check_kinds(proto, of_proto)
        elif self._kinds:
            raise IpError(1, f"ALGO is invalid {of_proto}")
        if proto in _ROUTING:
            if info.mode == xfrm.MODE_TRANSPORT:
                raise IpError(1, f'"mode" is required {of_proto}')
            if info.mode not in _ROUTING_MODES:
                raise IpError(1, f"MODE value is invalid {of_proto}")
            if not has_coa:
                raise IpError(1, f'"coa" is required {of_proto}')
        elif has_coa:
            raise IpError(1, f'"coa" is invalid {of_proto}')

    def _check_mode(self, info: UserSaInfo, of_proto: str) -> None:
        beet = info.mode == xfrm.MODE_BEET and info.id.proto == xfrm.IPPROTO_ESP
        if info.mode not in _IPSEC_MODES and not beet:
            raise IpError(1, f"MODE value is invalid {of_proto}")

    def _check_kinds(self, proto: int, of_proto: str) -> None:
        kinds = self._kinds
        text = ""
        if proto == xfrm.IPPROTO_ESP:
            if "comp" in kinds:
                text = f'ALGO-TYPE value "comp" is invalid {of_proto}'
            elif not kinds & {"enc", "aead"}:
                text = f'ALGO-TYPE value "enc" or "aead" is required {of_proto}'
        elif proto == xfrm.IPPROTO_AH:
            if kinds & {"enc", "aead", "comp"}:
                text = f'ALGO-TYPE values "enc", "aead", and "comp" are invalid {of_proto}'
            elif not kinds & {"auth", "auth-trunc"}:
                text = f'ALGO-TYPE value "auth" or "auth-trunc" is required {of_proto}'
        elif kinds - {"comp"}:
            every = '"enc", "auth", "auth-trunc", and "aead"'
            text = f"ALGO-TYPE values {every} are invalid {of_proto}"
        elif not kinds:
            text = f'ALGO-TYPE value "comp" is required {of_proto}'
        if text:
            raise IpError(1, text)
