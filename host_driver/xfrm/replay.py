# SPDX-License-Identifier: Apache-2.0
"""Replay windows: what a request may ask for, and what software counts and checks (section 9).

In packet mode the card keeps the live windows; the ones here stay as installed (REPLAY-06).
"""

import errno

from host_driver.xfrm.state import ReplayEsn, XfrmState
from proto.status import OffloadError
from proto.xfrm import (
    IPPROTO_AH,
    IPPROTO_ESP,
    SA_DIR_IN,
    SA_DIR_OUT,
    SA_XFLAG_OSEQ_MAY_WRAP,
    STATE_ESN,
)
from proto.xfrm_structs import ReplayStateEsn, UserSaInfo

BMP_LEN_MAX = 128  # words: 4096 bits (UAPI-27)
U32 = 0xFFFF_FFFF
U64 = (1 << 64) - 1


def _refuse(text: str) -> OffloadError:
    return OffloadError(errno.EINVAL, text)


def verify_replay(info: UserSaInfo, esn: bytes | None, sa_dir: int) -> None:
    """Check REPLAY_ESN_VAL against the request (STATE-06..08). Raises OffloadError."""
    esn_flag = bool(info.flags & STATE_ESN)
    if esn is None:
        if esn_flag:
            raise _refuse("Missing required attribute for ESN")
        return
    fixed = ReplayStateEsn.unpack(esn)
    if fixed.bmp_len > BMP_LEN_MAX:
        raise _refuse("ESN bitmap length must be <= 128")
    if len(esn) < 24 + 4 * fixed.bmp_len and len(esn) != 24:
        raise _refuse("ESN attribute is too short to fit the full bitmap length")
    if info.id.proto not in (IPPROTO_ESP, IPPROTO_AH):
        raise _refuse("ESN only supported for ESP and AH")
    if info.replay_window:
        raise _refuse("ESN not compatible with legacy replay_window")
    if sa_dir == SA_DIR_OUT:
        if fixed.replay_window:
            raise _refuse("Replay window should be 0 for output SA")
        if fixed.seq or fixed.seq_hi:
            raise _refuse("Replay seq and seq_hi should be 0 for output SA")
        if fixed.bmp_len:
            raise _refuse("Replay bmp_len should 0 for output SA")
    if sa_dir == SA_DIR_IN and (fixed.oseq or fixed.oseq_hi):
        raise _refuse("Replay oseq and oseq_hi should be 0 for input SA")


def verify_replay_counters(info: UserSaInfo, esn: bytes, sa_dir: int) -> None:
    """High words need ESN, and a counter at its end has nothing left (STATE-08)."""
    fixed, esn_flag = ReplayStateEsn.unpack(esn), bool(info.flags & STATE_ESN)
    if sa_dir == SA_DIR_OUT:
        _verify_counter("oseq", fixed.oseq, fixed.oseq_hi, esn_flag, "output")
    if sa_dir == SA_DIR_IN:
        _verify_counter("seq", fixed.seq, fixed.seq_hi, esn_flag, "input")


def _verify_counter(name: str, low: int, high: int, esn: bool, which: str) -> None:
    if esn:
        if (low, high) == (U32, U32):
            text = f"Replay {name} and {name}_hi should be less than 0xFFFFFFFF for {which} SA"
            raise _refuse(text)
        return
    if high:
        raise _refuse(f"Replay {name}_hi should be 0 in non-ESN mode for {which} SA")
    if low == U32:
        text = f"Replay {name} should be less than 0xFFFFFFFF in non-ESN mode for {which} SA"
        raise _refuse(text)


def parse_esn(esn: bytes) -> ReplayEsn:
    """REPLAY_ESN_VAL as the SA stores it; words that the request left out are 0."""
    fixed = ReplayStateEsn.unpack(esn)
    words = esn[24 : 24 + 4 * fixed.bmp_len].ljust(4 * fixed.bmp_len, b"\0")
    bmp = [int.from_bytes(words[i : i + 4], "little") for i in range(0, len(words), 4)]
    return ReplayEsn(fixed, bmp)


def xfrm_init_replay(x: XfrmState) -> None:
    """Whether window and bitmap fit each other (REPLAY-02). Raises OffloadError."""
    if x.replay_esn is None:
        return
    fixed = x.replay_esn.fixed
    if fixed.replay_window > fixed.bmp_len * 32:
        raise _refuse("ESN replay window is too large for the chosen bitmap size")
    if x.props.flags & STATE_ESN and not fixed.replay_window and x.dir != SA_DIR_OUT:
        raise _refuse("ESN replay window must be > 0")


def xfrm_replay_overflow(x: XfrmState) -> int | None:
    """The number of the next packet to send (64 bits with ESN), or None when none is left.

    REPLAY-03, 04; nothing moves at the end.
    """
    if x.replay_esn is None:
        x.replay.oseq = (x.replay.oseq + 1) & U32
        if not x.replay.oseq and not _may_wrap(x):
            x.replay.oseq = U32
            return None
        return x.replay.oseq
    fixed = x.replay_esn.fixed
    if x.props.flags & STATE_ESN:
        following = (fixed.oseq_hi << 32 | fixed.oseq) + 1
        if following > U64:
            return None
        fixed.oseq_hi, fixed.oseq = following >> 32, following & U32
        return following
    fixed.oseq = (fixed.oseq + 1) & U32
    if not fixed.oseq and not _may_wrap(x):
        fixed.oseq = U32
        return None
    return fixed.oseq


def _may_wrap(x: XfrmState) -> bool:
    return bool(x.props.extra_flags & SA_XFLAG_OSEQ_MAY_WRAP)


def xfrm_replay_check(x: XfrmState, seq: int) -> bool:
    """Whether a received 32-bit number may be new (REPLAY-08, 09); a refusal is counted."""
    if x.replay_esn is None:
        window, top = x.props.replay_window, x.replay.seq
    else:
        window, top = x.replay_esn.fixed.replay_window, x.replay_esn.fixed.seq
    if not window:
        return True
    if x.props.flags & STATE_ESN and x.replay_esn is not None:
        return _esn_check(x, x.replay_esn, seq)
    if not seq:
        return False
    if seq > top:
        return True
    behind = top - seq
    if behind >= window:
        x.stats.replay_window += 1
        return False
    if x.replay_esn is None:
        seen = x.replay.bitmap >> behind & 1
    else:
        seen = _seen(x.replay_esn, _bit(top, seq, window))
    x.stats.replay += seen
    return not seen


def _esn_check(x: XfrmState, esn: ReplayEsn, seq: int) -> bool:
    """A number left of the window belongs to the next high half, so only duplicates are refused."""
    fixed = esn.fixed
    window, top = fixed.replay_window, fixed.seq
    if not seq and not fixed.seq_hi and top < window - 1:
        return False
    bottom = (top - window + 1) & U32
    inside = bottom <= seq <= top if top >= window - 1 else seq >= bottom or seq <= top
    seen = _seen(esn, _bit(top, seq, window)) if inside else 0
    x.stats.replay += seen
    return not seen


def xfrm_replay_seqhi(x: XfrmState, seq: int) -> int:
    """The high half that a received number must have (REPLAY-08); 0 without ESN."""
    if x.replay_esn is None or not x.props.flags & STATE_ESN:
        return 0
    fixed = x.replay_esn.fixed
    bottom = (fixed.seq - fixed.replay_window + 1) & U32
    if fixed.seq >= fixed.replay_window - 1:
        return (fixed.seq_hi + (seq < bottom)) & U32
    return (fixed.seq_hi - (seq >= bottom)) & U32


def xfrm_replay_advance(x: XfrmState, seq: int) -> None:
    """Note a number whose packet was authentic (REPLAY-09)."""
    if x.replay_esn is not None:
        _advance_bitmap(x, x.replay_esn, seq)
        return
    window, ahead = x.props.replay_window, seq - x.replay.seq
    if not window:
        return
    if ahead > 0:
        kept = x.replay.bitmap << ahead if ahead < window else 0
        x.replay.bitmap, x.replay.seq = (kept | 1) & U32, seq
    else:
        x.replay.bitmap |= 1 << -ahead


def _advance_bitmap(x: XfrmState, esn: ReplayEsn, seq: int) -> None:
    """The window is a ring of bits: those between the old top and the new one become clear."""
    fixed = esn.fixed
    window, top = fixed.replay_window, fixed.seq
    if not window:
        return
    high = xfrm_replay_seqhi(x, seq)
    wraps = (high - fixed.seq_hi) & U32 if x.props.flags & STATE_ESN else 0
    place = ((top - 1) & U32) % window
    if wraps == 1 or (not wraps and seq > top):
        ahead = (seq - top) & U32
        if ahead >= window:
            esn.bmp[: (window + 31) // 32] = [0] * ((window + 31) // 32)
        for step in range(1, min(ahead, window)):
            at = (place + step) % window
            esn.bmp[at // 32] &= ~(1 << at % 32) & U32
        at = (place + ahead) % window
        fixed.seq = seq
        if wraps:
            fixed.seq_hi = high
    else:
        at = _bit(top, seq, window)
    esn.bmp[at // 32] |= 1 << at % 32


def _seen(esn: ReplayEsn, at: int) -> int:
    return esn.bmp[at // 32] >> at % 32 & 1


def _bit(top: int, seq: int, window: int) -> int:
    """Which bit of the ring stands for `seq`, counted back from the one of `top`."""
    return (((top - 1) & U32) % window - ((top - seq) & U32)) % window
