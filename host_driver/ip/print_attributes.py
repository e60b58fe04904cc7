# SPDX-License-Identifier: Apache-2.0
"""The attributes of states and policies as text, in the tool's order (11.5, 11.6)."""

import struct
from collections.abc import Callable, Iterator

from host_driver.ip import names
from host_driver.ip.format import Style, address, date, hash_hex, identity
from host_driver.ip.words import HIDDEN
from proto import xfrm
from proto.xfrm import Attr
from proto.xfrm_structs import (
    Algo,
    AlgoAead,
    AlgoAuth,
    EncapTmpl,
    ReplayState,
    ReplayStateEsn,
    UserOffload,
    UserTmpl,
    XfrmMark,
)

Values = dict[int, bytes]
_WORDS_PER_LINE = 8
_U32 = struct.Struct("<I")


def u32(data: bytes) -> int:
    """An attribute of one 32-bit number."""
    value: int = _U32.unpack_from(data)[0]
    return value


def _name(data: bytes) -> str:
    return data.split(b"\0")[0].decode(errors="replace")


def _key(data: bytes, bits: int, style: Style) -> str:
    """The key in hexadecimal, its length in bits with -s; hidden with nokeys."""
    if style.nokeys:
        return HIDDEN  # also when there is none
    key = data[: (bits + 7) // 8]
    if not key:
        return ""
    return f"0x{key.hex()}" + (f" ({bits} bits)" if style.stats else "")


def mark_line(values: Values) -> str:
    """The line of the marks, without line end; empty when there are none."""
    text = ""
    if Attr.MARK in values:
        mark = XfrmMark.unpack(values[Attr.MARK])
        text = f"\tmark {hash_hex(mark.v)}/{hash_hex(mark.m)} "
    if Attr.SET_MARK in values:
        text += f"{'' if text else chr(9)}output-mark {u32(values[Attr.SET_MARK]):#x}"
        if Attr.SET_MARK_MASK in values:
            text += f"/{u32(values[Attr.SET_MARK_MASK]):#x}"
    return text


def _algorithms(values: Values, style: Style) -> Iterator[str]:
    if Attr.ALG_AUTH in values and Attr.ALG_AUTH_TRUNC not in values:
        yield _algo("auth", values[Attr.ALG_AUTH], style)
    if Attr.ALG_AUTH_TRUNC in values:
        data = values[Attr.ALG_AUTH_TRUNC]
        auth = AlgoAuth.unpack(data)
        key = _key(data[AlgoAuth.size() :], auth.alg_key_len, style)
        yield f"\tauth-trunc {_name(auth.alg_name)} {key} {auth.alg_trunc_len}"
    if Attr.ALG_AEAD in values:
        data = values[Attr.ALG_AEAD]
        aead = AlgoAead.unpack(data)
        key = _key(data[AlgoAead.size() :], aead.alg_key_len, style)
        yield f"\taead {_name(aead.alg_name)} {key} {aead.alg_icv_len}"
    if Attr.ALG_CRYPT in values:
        yield _algo("enc", values[Attr.ALG_CRYPT], style)
    if Attr.ALG_COMP in values:
        yield _algo("comp", values[Attr.ALG_COMP], style)


def _algo(kind: str, data: bytes, style: Style) -> str:
    algo = Algo.unpack(data)
    return f"\t{kind} {_name(algo.alg_name)} {_key(data[Algo.size() :], algo.alg_key_len, style)}"


def _encap(values: Values, family: int) -> Iterator[str]:
    if Attr.ENCAP in values:
        encap = EncapTmpl.unpack(values[Attr.ENCAP])
        kind = names.name(names.ENCAP, encap.encap_type)
        ports = f"sport {encap.encap_sport} dport {encap.encap_dport}"
        yield f"\tencap type {kind} {ports} addr {address(family, encap.encap_oa)}"


def _templates(values: Values, style: Style) -> Iterator[str]:
    data = values.get(Attr.TMPL, b"")
    for offset in range(0, len(data) - UserTmpl.size() + 1, UserTmpl.size()):
        tmpl = UserTmpl.unpack(data, offset)
        first, second, _ = identity(
            tmpl.saddr, tmpl.id, tmpl.mode, tmpl.reqid, tmpl.family, Style(style.stats), spi=False
        ).split("\n")
        yield f"\ttmpl {first}"
        yield f"\t{second}"
        level = {0: "required", 1: "use"}.get(tmpl.optional, str(tmpl.optional))
        if style.stats:
            yield f"\t\tlevel {level} share {names.name(names.SHARE, tmpl.share)} "
            masks = f"auth-mask {tmpl.aalgos:08x} comp-mask {tmpl.calgos:08x}"
            yield f"\t\tenc-mask {tmpl.ealgos:08x} {masks}"
        elif tmpl.optional:
            yield f"\t\tlevel {level} "


def _replay(values: Values) -> Iterator[str]:
    if Attr.REPLAY_VAL in values:
        state = ReplayState.unpack(values[Attr.REPLAY_VAL])
        bitmap = f"bitmap 0x{state.bitmap:08x}"
        yield f"\tanti-replay context: seq {state.seq:#x}, oseq {state.oseq:#x}, {bitmap}"
    if Attr.REPLAY_ESN_VAL in values:
        data = values[Attr.REPLAY_ESN_VAL]
        esn = ReplayStateEsn.unpack(data)
        yield "\tanti-replay esn context:"
        received = f"seq-hi {esn.seq_hi:#x}, seq {esn.seq:#x}"
        yield f"\t {received}, oseq-hi {esn.oseq_hi:#x}, oseq {esn.oseq:#x}"
        yield f"\t replay_window {esn.replay_window}, bitmap-length {esn.bmp_len}"
        tail = data[ReplayStateEsn.size() :]
        words = [word for (word,) in _U32.iter_unpack(tail[: len(tail) & ~3])]
        words = words[: esn.bmp_len][::-1]
        for start in range(0, len(words), _WORDS_PER_LINE):
            line = words[start : start + _WORDS_PER_LINE]
            yield "\t " + "".join(f"{word:08x} " for word in line)


def _offload(values: Values, style: Style, with_dir: bool) -> Iterator[str]:
    """CLI-50: the line says crypto in both modes, its last word tells which it is."""
    if Attr.OFFLOAD_DEV in values:
        offload = UserOffload.unpack(values[Attr.OFFLOAD_DEV])
        direction = " dir in" if offload.flags & xfrm.OFFLOAD_INBOUND else " dir out"
        mode = "packet" if offload.flags & xfrm.OFFLOAD_PACKET else "crypto"
        device = style.device(offload.ifindex) + (direction if with_dir else "")
        yield f"\tcrypto offload parameters: dev {device} mode {mode}"


def attribute_lines(values: Values, family: int, style: Style, *, with_dir: bool) -> list[str]:
    """The lines of the attributes behind the marks, without line ends.

    Raises struct.error when an attribute is too short.

    `with_dir` tells the direction of the offload (states have it there, policies do not).
    """
    simple: list[tuple[Attr, Callable[[bytes], str]]] = [
        (Attr.IF_ID, lambda data: f"if_id {hash_hex(u32(data))}"),
        (Attr.TFCPAD, lambda data: f"tfcpad {u32(data)}"),
        (Attr.SA_DIR, lambda data: f"dir {_direction(data)}"),
    ]
    lines = [*_algorithms(values, style), *_encap(values, family)]
    lines += _templates(values, style)
    if Attr.COADDR in values:
        lines.append(f"\tcoa {address(family, values[Attr.COADDR][:16])}")
    if Attr.LASTUSED in values:
        lines.append(f"\tlastused {date(struct.unpack_from('<Q', values[Attr.LASTUSED])[0])}")
    lines += [*_replay(values), *_offload(values, style, with_dir)]
    lines += [f"\t{text(values[type])}" for type, text in simple if type in values]
    return lines


def _direction(data: bytes) -> str:
    (value,) = struct.unpack_from("B", data)
    return {1: "in", 2: "out"}.get(value, f"other ({value})")
