# SPDX-License-Identifier: Apache-2.0
"""The structures of include/uapi/linux/xfrm.h as the contract gives them: format and members.

Cases about layouts read and make bytes with these; they share nothing with `proto`'s structures,
which thereby are judged, too. Integers in network byte order stay bytes.
"""

import re
import struct
from types import SimpleNamespace
from typing import Any


class Layout:
    """One structure. `format` is for little-endian hosts, pad bytes included."""

    def __init__(self, format: str, members: str) -> None:
        self._struct = struct.Struct("<" + format)
        self._members = members.split()
        kinds = re.findall(r"(\d*)([sHBIQi])", re.sub(r"\d*x", "", format))
        # "16s" is one member, "4Q" are four.
        self._blank = [b"" if kind == "s" else 0 for n, kind in kinds for _ in _times(n, kind)]
        assert len(self._blank) == len(self._members), members
        self.size = self._struct.size

    def read(self, data: bytes, at: int = 0) -> Any:
        """The members of the structure at this offset, by name."""
        return SimpleNamespace(
            **dict(zip(self._members, self._struct.unpack_from(data, at), strict=True))
        )

    def make(self, **values: Any) -> bytes:
        """The structure with these members; the others are 0."""
        unknown = values.keys() - set(self._members)
        assert not unknown, unknown
        pairs = zip(self._members, self._blank, strict=True)
        return self._struct.pack(*(values.get(name, blank) for name, blank in pairs))


def _times(count: str, kind: str) -> range:
    return range(1 if kind == "s" or not count else int(count))


ID = Layout("16s4sB3x", "daddr spi proto")
SELECTOR = Layout(
    "16s16s2s2s2s2sHBBB3xiI",
    "daddr saddr dport dport_mask sport sport_mask family prefixlen_d prefixlen_s proto ifindex"
    " user",
)
LIFETIME_CFG = Layout(
    "8Q",
    "soft_byte hard_byte soft_packet hard_packet soft_add hard_add soft_use hard_use",
)
LIFETIME_CUR = Layout("4Q", "bytes packets add_time use_time")
STATS = Layout("3I", "replay_window replay integrity_failed")
USERSA_INFO = Layout(
    "56s24s16s64s32s12sIIHBBB7x",
    "sel id saddr lft curlft stats seq reqid family mode replay_window flags",
)
USERSA_ID = Layout("16s4sHBx", "daddr spi family proto")
USERSPI_INFO = Layout("224sII", "info min max")
USERPOLICY_INFO = Layout(
    "56s64s32sIIBBBB4x", "sel lft curlft priority index dir action flags share"
)
USERPOLICY_ID = Layout("56sIB3x", "sel index dir")
USER_TMPL = Layout(
    "24sH2x16sIBBBxIII", "id family saddr reqid mode share optional aalgos ealgos calgos"
)
USER_ACQUIRE = Layout("24s16s56s168sIIII", "id saddr sel policy aalgos ealgos calgos seq")
USER_EXPIRE = Layout("224sB7x", "state hard")
USER_POLEXPIRE = Layout("168sB7x", "pol hard")
AEVENT_ID = Layout("24s16sII", "sa_id saddr flags reqid")
REPLAY_STATE = Layout("3I", "oseq seq bitmap")
REPLAY_STATE_ESN = Layout("6I", "bmp_len oseq seq oseq_hi seq_hi replay_window")
ALGO = Layout("64sI", "name key_len")
ALGO_AUTH = Layout("64sII", "name key_len trunc_len")
ALGO_AEAD = Layout("64sII", "name key_len icv_len")
ENCAP_TMPL = Layout("H2s2s2x16s", "encap_type sport dport oa")
MARK = Layout("II", "v m")
USER_OFFLOAD = Layout("iB3x", "ifindex flags")
USERPOLICY_TYPE = Layout("BxHBx", "type reserved1 reserved2")
USERPOLICY_DEFAULT = Layout("3B", "in_ fwd out")
USER_SEC_CTX = Layout("HHBBH", "len exttype ctx_alg ctx_doi ctx_len")
ADDRESS_FILTER = Layout("16s16sHBB", "saddr daddr family splen dplen")
SADHINFO = Layout("II", "sadhcnt sadhmcnt")
SPDINFO = Layout("6I", "incnt outcnt fwdcnt inscnt outscnt fwdscnt")
SPDHINFO = Layout("II", "spdhcnt spdhmcnt")
SPDHTHRESH = Layout("2B", "lbits rbits")
