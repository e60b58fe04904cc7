# SPDX-License-Identifier: Apache-2.0
"""Sequence numbers and replay windows, as software counts and checks them (section 9).

In packet mode the card keeps the live windows; the ones here stay as installed (REPLAY-06).
"""

from host_driver.xfrm.attributes import refuse
from host_driver.xfrm.state import ReplayEsn, XfrmState
from proto.xfrm import (
    SA_DIR_OUT,
    SA_XFLAG_OSEQ_MAY_WRAP,
    STATE_ESN,
)
from proto.xfrm_structs import ReplayStateEsn

U32 = 0xFFFF_FFFF
U64 = (1 << 64) - 1


def parse_esn(esn: bytes) -> ReplayEsn:
    """REPLAY_ESN_VAL as the SA stores it; words that the request left out are 0."""
    fixed = ReplayStateEsn.unpack(esn)
    start, length = ReplayStateEsn.size(), 4 * fixed.bmp_len
    words = esn[start : start + length].ljust(length, b"\0")
    bmp = [int.from_bytes(words[i : i + 4], "little") for i in range(0, len(words), 4)]
    return ReplayEsn(fixed, bmp)


def xfrm_init_replay(x: XfrmState) -> None:
    """Whether window and bitmap fit each other (REPLAY-02). Raises OffloadError."""
    if x.replay_esn is None:
        return
    verify_window(x.replay_esn)
    if x.props.flags & STATE_ESN and not x.replay_esn.fixed.replay_window and x.dir != SA_DIR_OUT:
        raise refuse("ESN replay window must be > 0")


def verify_window(esn: ReplayEsn) -> None:
    """Raises EINVAL where the bitmap has no room for the window."""
    if esn.fixed.replay_window > esn.fixed.bmp_len * 32:
        raise refuse("ESN replay window is too large for the chosen bitmap size")


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
