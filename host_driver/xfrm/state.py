# SPDX-License-Identifier: Apache-2.0
"""`struct xfrm_state`: one SA, as the core, the driver and the dump see it (section 2).

Only shapes live here; the database of states is `sad.py`. Field names are the kernel's. A key
exists once, in `XfrmState.aead.key` (or `.aalg`, `.ealg`), and is wiped before the driver's free
(DEL-05).
"""

from dataclasses import dataclass, field
from enum import IntEnum, unique
from typing import TYPE_CHECKING

from proto.xfrm_structs import (
    EncapTmpl,
    LifetimeCfg,
    LifetimeCur,
    ReplayState,
    ReplayStateEsn,
    XfrmId,
    XfrmMark,
    XfrmSelector,
    XfrmStats,
)

if TYPE_CHECKING:
    from host_driver.netdev import NetDevice

# xfrm_dev_offload.dir, .type and .flags (section 2.1).
OFFLOAD_DIR_IN, OFFLOAD_DIR_OUT, OFFLOAD_DIR_FWD = 1, 2, 3
OFFLOAD_UNSPECIFIED, OFFLOAD_CRYPTO, OFFLOAD_PACKET = 0, 1, 2
OFFLOAD_FLAG_ACQ = 1


@unique
class KmState(IntEnum):
    """Life of a state (OBJ-10). VOID -> ACQ or VALID -> (EXPIRED ->) DEAD; nothing leaves DEAD."""

    VOID = 0
    ACQ = 1
    VALID = 2
    ERROR = 3
    EXPIRED = 4
    DEAD = 5


def _wipe(key: bytearray) -> None:
    """Zero a key in place and forget it."""
    key[:] = bytes(len(key))
    key.clear()


@dataclass(slots=True, eq=False)
class Aead:
    """xfrm_algo_aead. `key` is the cipher key followed by its salt (ALG-02)."""

    name: str
    key: bytearray = field(repr=False)
    icv_bits: int
    key_bits: int = 0


@dataclass(slots=True, eq=False)
class Algorithm:
    """xfrm_algo or xfrm_algo_auth; `trunc_bits` is the ICV's size."""

    name: str
    key: bytearray = field(repr=False)
    key_bits: int = 0
    trunc_bits: int = 0


@dataclass(slots=True, eq=False)
class DevOffload:
    """xfrm_dev_offload: `dev` is None if and only if `type` is UNSPECIFIED (OBJ-01).

    `real_dev` is for drivers of kernels that set it (`Profile.real_dev_left_alone`), to `dev`.
    """

    dev: "NetDevice | None" = None
    offload_handle: int = 0
    dir: int = 0
    type: int = OFFLOAD_UNSPECIFIED
    flags: int = 0
    real_dev: "NetDevice | None" = None
    # The driver's free has been called: it is not called again while it sleeps.
    released: bool = False

    def clear(self) -> None:
        """Forget the device; the caller drops its reference."""
        self.dev = self.real_dev = None
        self.dir, self.type, self.flags = 0, OFFLOAD_UNSPECIFIED, 0


@dataclass(slots=True, eq=False)
class ReplayEsn:
    """xfrm_replay_state_esn: `bmp` has `fixed.bmp_len` 32-bit words."""

    fixed: ReplayStateEsn
    bmp: list[int]


@dataclass(slots=True, eq=False)
class SeqIv:
    """geniv "seqiv": numbers for IVs, never the same twice (ALG-04).

    A number is the sequence number XOR a random `salt`. Where the sequence goes back (it may wrap,
    NEWAE may set it), the counter behind it goes on from the highest.
    """

    salt: int | None = None
    last: int = -1

    def next(self, seq: int) -> int | None:
        """The number of a packet, or None when all 2^64 are used. The salt must be there."""
        assert self.salt is not None
        counter = max(self.last + 1, seq)
        if counter >> 64:
            return None
        self.last = counter
        return counter ^ self.salt


@dataclass(slots=True, eq=False)
class Props:
    """xfrm_state.props. `smark` is the output mark."""

    reqid: int = 0
    mode: int = 0
    replay_window: int = 0
    flags: int = 0
    family: int = 0
    saddr: bytes = bytes(16)
    extra_flags: int = 0
    smark: XfrmMark = field(default_factory=XfrmMark)


@dataclass(slots=True, eq=False)
class KeyManagement:
    """xfrm_state.km. `seq` answers an ACQUIRE."""

    state: KmState = KmState.VOID
    dying: bool = False
    seq: int = 0


@dataclass(slots=True, eq=False, weakref_slot=True)
class XfrmState:
    """One SA. `dir` is 0, SA_DIR_IN or SA_DIR_OUT; times in `curlft` are wall-clock seconds."""

    id: XfrmId = field(default_factory=XfrmId)
    sel: XfrmSelector = field(default_factory=XfrmSelector)
    mark: XfrmMark = field(default_factory=XfrmMark)
    if_id: int = 0
    tfcpad: int = 0
    props: Props = field(default_factory=Props)
    lft: LifetimeCfg = field(default_factory=LifetimeCfg)
    curlft: LifetimeCur = field(default_factory=LifetimeCur)
    lastused: int = 0
    stats: XfrmStats = field(default_factory=XfrmStats)
    aead: Aead | None = None
    aalg: Algorithm | None = None
    ealg: Algorithm | None = None
    calg: Algorithm | None = None
    encap: EncapTmpl | None = None
    coaddr: bytes | None = None
    replay: ReplayState = field(default_factory=ReplayState)
    replay_esn: ReplayEsn | None = None
    seqiv: SeqIv = field(default_factory=SeqIv)
    replay_maxage: int = 0
    replay_maxdiff: int = 0
    mapping_maxage: int = 0
    nat_keepalive_interval: int = 0
    sec_ctx: bytes | None = None
    pcpu_num: int | None = None
    km: KeyManagement = field(default_factory=KeyManagement)
    dir: int = 0
    xso: DevOffload = field(default_factory=DevOffload)
    refcnt: int = 1
    # Of the timer: xflags SOFT_EXPIRE, the remaining time when it was armed, and the shot due.
    soft_expire: bool = False
    saved_tmo: int = 0
    timer_ns: int | None = None
    rtimer: "ReplayTimer | None" = None
    # The collector has run: nothing may touch the state any more.
    freed: bool = False

    def key_bytes(self) -> int:
        """How many bytes of key material are there."""
        return sum(len(one.key) for one in (self.aead, self.aalg, self.ealg) if one is not None)

    def wipe_keys(self) -> None:
        """Free all algorithms; the bytes of their keys are zeroed first (DEL-05)."""
        for algorithm in (self.aead, self.aalg, self.ealg, self.calg):
            if algorithm is not None:
                _wipe(algorithm.key)
        self.aead = self.aalg = self.ealg = self.calg = None


def xfrm_smark_get(mark: int, x: XfrmState) -> int:
    """The mark of a packet once `x` was applied to it."""
    return mark & ~x.props.smark.m | x.props.smark.v & x.props.smark.m


@dataclass(slots=True, eq=False)
class ReplayTimer:
    """x->rtimer (`aevent.py`): the replay counters that users know of, and the shot due.

    `deferred` is XFRM_TIME_DEFER: the shot came to nothing, the next packet stands in for it.
    """

    x: XfrmState
    told: tuple[int, ...]
    deferred: bool = False
    timer_ns: int | None = None
