# SPDX-License-Identifier: Apache-2.0
"""ESP packets (RFC 4303): header, IV, padding, trailer and ICV around what `mode.py` gives.

Both halves exist twice: `esp_output` and `esp_input` do it all in software; with crypto offload
`esp_encap` lays the packet out and the device seals it, or the device has opened a packet and
`esp_strip` takes the trailer off.
"""

import struct
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

from host_driver.xfrm.esp_crypto import Header, Sizes, make_iv, seal, unseal
from host_driver.xfrm.esp_crypto import sizes as esp_sizes
from host_driver.xfrm.state import KmState, XfrmState
from proto.xfrm import AF_INET, IPPROTO_ESP, MODE_BEET, MODE_TRANSPORT, MODE_TUNNEL, STATE_ESN

if TYPE_CHECKING:
    from host_driver.xfrm.net import XfrmNet

ESP_HEADER = struct.Struct(">II")  # SPI and sequence number
TRAILER_BYTES = 2
NO_NEXT_HEADER = 59
_PADDING = bytes(range(1, 256))


class Failure(Enum):
    """Why a packet does not open."""

    SYNTAX = auto()
    INTEGRITY = auto()


class Opened(NamedTuple):
    """What an ESP packet carried."""

    payload: bytes
    next_header: int


def _header(x: XfrmState, seq: int) -> Header:
    """`seq` has 64 bits with ESN, else 32."""
    high = struct.pack(">I", seq >> 32) if x.props.flags & STATE_ESN else b""
    return Header(struct.pack(">I", x.id.spi), high, struct.pack(">I", seq & 0xFFFF_FFFF))


def _clear_text(sizes: Sizes, payload: bytes, next_header: int, tfc: int) -> bytes:
    """Payload, TFC padding of zeros, padding 1, 2, 3.. (RFC 4303 2.4, 2.7), trailer."""
    padded = len(payload) + tfc
    pad = -(padded + TRAILER_BYTES) % sizes.block
    return payload + bytes(tfc) + _PADDING[:pad] + bytes((pad, next_header))


def esp_output(
    x: XfrmState, sizes: Sizes, seq: int, next_header: int, payload: bytes, tfc: int, counter: int
) -> bytes:
    """The sealed ESP packet, from its header to the ICV; `counter` makes the IV."""
    header, iv = _header(x, seq), make_iv(x, counter)
    sealed = seal(x, header, iv, _clear_text(sizes, payload, next_header, tfc))
    return header.spi + header.low + iv + sealed


def esp_encap(
    x: XfrmState, sizes: Sizes, seq: int, next_header: int, payload: bytes, counter: int
) -> bytes:
    """The same packet for a device to seal: clear text, and zeros where the ICV goes."""
    header, iv = _header(x, seq), make_iv(x, counter)
    clear = _clear_text(sizes, payload, next_header, 0)
    return header.spi + header.low + iv + clear + bytes(sizes.icv)


def esp_input(x: XfrmState, sizes: Sizes, esp: bytes, seq: int) -> Opened | Failure:
    """Check and decrypt; `seq` is the number with the high half that the window infers."""
    start, end = ESP_HEADER.size + sizes.iv, len(esp) - sizes.icv
    if end < start:
        return Failure.SYNTAX
    iv = esp[ESP_HEADER.size : start]
    clear = unseal(x, _header(x, seq), iv, esp[start:end], esp[end:])
    return Failure.INTEGRITY if clear is None else _without_trailer(clear)


def esp_strip(sizes: Sizes, esp: bytes) -> Opened | Failure:
    """Take apart a packet that the device has decrypted in place."""
    return _without_trailer(esp[ESP_HEADER.size + sizes.iv : len(esp) - sizes.icv])


def _without_trailer(clear: bytes) -> Opened | Failure:
    """The contents of the padding are not checked. No payload at all is an error, as in the kernel,
    and so is a dummy packet (RFC 4303 2.6), as recorded."""
    if len(clear) < TRAILER_BYTES:
        return Failure.SYNTAX
    pad, next_header = clear[-2], clear[-1]
    if pad + TRAILER_BYTES >= len(clear) or next_header == NO_NEXT_HEADER:
        return Failure.SYNTAX
    return Opened(clear[: len(clear) - TRAILER_BYTES - pad], next_header)


def xfrm_state_mtu(net: "XfrmNet", x: XfrmState, mtu: int) -> int:
    """Longest packet that still fits `mtu` bytes after protection (TX-30, TX-33)."""
    sizes = esp_sizes(x) or Sizes(4, 8, 0)
    header = 8 + sizes.iv + (8 if x.encap else 0)
    if x.props.mode == MODE_TUNNEL:
        header += 20 if x.props.family == AF_INET else 40
    if x.km.state != KmState.VALID or x.id.proto != IPPROTO_ESP:
        return mtu - header
    adjust = 0
    if x.props.mode in (MODE_TRANSPORT, MODE_BEET):
        adjust = 20 if x.props.family == AF_INET else 40
    payload = (mtu - header - sizes.icv - adjust) & -sizes.block
    if net.profile.mtu_guarded and payload <= 2:  # TX-33
        return 1
    return (payload + adjust - 2) & 0xFFFF_FFFF
