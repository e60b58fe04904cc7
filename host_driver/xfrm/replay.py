# SPDX-License-Identifier: Apache-2.0
"""Replay windows: what a request may ask for, how an SA starts, and the software check (section 9).

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
    STATE_ESN,
)
from proto.xfrm_structs import ReplayStateEsn, UserSaInfo

BMP_LEN_MAX = 128  # words: 4096 bits (UAPI-27)
U32 = 0xFFFF_FFFF


def _refuse(text: str) -> OffloadError:
    return OffloadError(errno.EINVAL, text)


def verify_replay(info: UserSaInfo, esn: bytes | None, sa_dir: int) -> None:
    """Check REPLAY_ESN_VAL against the request (STATE-06..08). Raises OffloadError."""
    if esn is None:
        if info.flags & STATE_ESN:
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
    _verify_counters(info, fixed, sa_dir)


def _verify_counters(info: UserSaInfo, fixed: ReplayStateEsn, sa_dir: int) -> None:
    """High words need ESN, and a counter at its end has nothing left (STATE-08)."""
    if info.flags & STATE_ESN:
        if (fixed.oseq, fixed.oseq_hi) == (U32, U32):
            raise _refuse("Replay oseq and oseq_hi are already at the end")
        if (fixed.seq, fixed.seq_hi) == (U32, U32):
            raise _refuse("Replay seq and seq_hi are already at the end")
        return
    if fixed.oseq_hi:
        raise _refuse("Replay oseq_hi should be 0 in non-ESN mode")
    if fixed.seq_hi:
        raise _refuse("Replay seq_hi should be 0 in non-ESN mode")
    if fixed.oseq == U32:
        raise _refuse("Replay oseq is already at the end")
    if fixed.seq == U32:
        raise _refuse("Replay seq is already at the end")


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


def replay_check(x: XfrmState, seq: int) -> bool:
    """Whether a stray packet's 32-bit sequence number may be new (REPLAY-08, REPLAY-09)."""
    if x.replay_esn is None:
        window, top = x.props.replay_window, x.replay.seq
        bits = [x.replay.bitmap]
    else:
        window, top = x.replay_esn.fixed.replay_window, x.replay_esn.fixed.seq
        bits = x.replay_esn.bmp
    if not window:
        return True
    if x.replay_esn is not None and x.props.flags & STATE_ESN:
        return _esn_check(x.replay_esn, seq)
    if not seq:
        return False
    if seq > top:
        return True
    behind = top - seq
    if behind >= window:
        x.stats.replay_window += 1
        return False
    at = behind if x.replay_esn is None else _bit(top, seq, window)
    if bits[at // 32] >> at % 32 & 1:
        x.stats.replay += 1
        return False
    return True


def _esn_check(esn: ReplayEsn, seq: int) -> bool:
    """A number left of the window belongs to the next high half, so only duplicates are refused."""
    fixed = esn.fixed
    window, top = fixed.replay_window, fixed.seq
    if not seq and not fixed.seq_hi and (not top or top < window):
        return False
    bottom = (top - window + 1) & U32
    inside = bottom <= seq <= top if top >= window - 1 else seq >= bottom or seq <= top
    if not inside:
        return True
    at = _bit(top, seq, window)
    return not esn.bmp[at // 32] >> at % 32 & 1


def _bit(top: int, seq: int, window: int) -> int:
    """Which bit of the ring stands for `seq`, counted back from the one of `top`."""
    return (((top - 1) & U32) % window - ((top - seq) & U32)) % window
