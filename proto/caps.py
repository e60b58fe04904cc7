# SPDX-License-Identifier: Apache-2.0
"""What a card can do: capability page, card profiles and their overrides."""

import errno
from typing import Any

import msgspec

from proto.limits import COMMAND_REVISION, EVENT_QUEUE, REPLAY_WINDOW_MAX
from proto.status import OffloadError

AES_BITS = (128, 192, 256)
GCM_ICV_BYTES = (8, 12, 16)  # RFC 4106 section 6


OVERRUNS = ("mark", "fatal")


class Caps(msgspec.Struct, frozen=True, kw_only=True):
    """The capability page that QUERY_CAPS answers; a driver validates against it, the card again.

    Sizes count objects; `key_bits` are AES bits without salt; `icv_bytes` and `replay_windows`
    (packets) list what is accepted, and an empty `replay_windows` means any size up to
    `replay_window_max`. `event_queue` bounds the events that wait for the host; with `overrun` mark
    an event says that others were lost, with fatal the card gives up (health syndrome 0xc).
    `tunnel` and `espinudp` are of packet offload; in crypto offload the headers around ESP are the
    host's business, but for UDP. With `segmentation` it cuts large TCP and UDP packets. `revision`
    is that of the command interface: a driver of another one must not use the card. A driver of a
    `strict` card refuses all that the kernel's reference driver does (MLX-06..12).
    """

    name: str
    packet: bool = True
    crypto: bool = False
    tunnel: bool = False
    esn: bool = True
    espinudp: bool = False
    priority: bool = True
    strict: bool = False
    segmentation: bool = True
    key_bits: tuple[int, ...] = (128, 192, 256)
    icv_bytes: tuple[int, ...] = (8, 12, 16)
    replay_windows: tuple[int, ...] = ()
    replay_window_max: int = REPLAY_WINDOW_MAX
    counter_bits: int = 32
    key_max: int = 65_536
    sa_max: int = 65_536
    rule_max: int = 131_072
    event_queue: int = EVENT_QUEUE - 1
    overrun: str = OVERRUNS[0]
    revision: int = COMMAND_REVISION


PROFILES: dict[str, Caps] = {
    "full": Caps(name="full", crypto=True, tunnel=True, espinudp=True),
    # ConnectX-6 Dx, as the kernel's driver for it asks and refuses (MLX-02..12).
    "cx6dx": Caps(
        name="cx6dx",
        crypto=True,
        tunnel=True,
        key_bits=(128, 256),
        icv_bytes=(16,),
        replay_windows=(32, 64, 128, 256),
        replay_window_max=256,
    ),
    "tiny": Caps(name="tiny", key_max=4, sa_max=4, rule_max=12, event_queue=4),
    "crypto-only": Caps(name="crypto-only", packet=False, crypto=True),
}


def _override(caps: Caps, name: str, text: str) -> Any:
    current = getattr(caps, name, None)
    if name == "name" or name not in caps.__struct_fields__:
        known = ", ".join(field for field in caps.__struct_fields__ if field != "name")
        raise OffloadError(errno.EINVAL, f"card override {name!r} is unknown, known are {known}")
    try:
        if isinstance(current, bool):
            return {"0": False, "no": False, "false": False, "1": True, "yes": True, "true": True}[
                text.lower()
            ]
        if isinstance(current, str):
            return text
        if isinstance(current, tuple):
            return tuple(int(part) for part in text.split("/") if part)
        return int(text, 0)
    except (KeyError, ValueError):
        raise OffloadError(
            errno.EINVAL, f"card override {name}={text!r} does not fit a value like {current!r}"
        ) from None


def parse_card(text: str) -> Caps:
    """Read `PROFILE[:NAME=VALUE,...]`, for example `full:counter_bits=8,sa_max=16`.

    Lists are written with slashes (`icv_bytes=12/16`). Raises OffloadError(EINVAL).
    """
    profile, _, overrides = text.partition(":")
    if profile not in PROFILES:
        raise OffloadError(
            errno.EINVAL, f"card profile {profile!r} is unknown, known are {', '.join(PROFILES)}"
        )
    caps = PROFILES[profile]
    for item in filter(None, overrides.split(",")):
        name, _, value = item.partition("=")
        caps = msgspec.structs.replace(caps, **{name: _override(caps, name, value)})
    if not 4 <= caps.counter_bits <= 32:
        raise OffloadError(errno.EINVAL, f"counter_bits {caps.counter_bits} is outside 4..32")
    for name, possible in (("key_bits", AES_BITS), ("icv_bytes", GCM_ICV_BYTES)):
        if not getattr(caps, name) or not set(getattr(caps, name)) <= set(possible):
            raise OffloadError(
                errno.EINVAL, f"{name} {getattr(caps, name)} are not among {possible}"
            )
    if caps.overrun not in OVERRUNS:
        raise OffloadError(
            errno.EINVAL, f"overrun {caps.overrun!r} is not among {', '.join(OVERRUNS)}"
        )
    if not 1 <= caps.event_queue < EVENT_QUEUE:
        raise OffloadError(
            errno.EINVAL, f"event_queue {caps.event_queue} is outside 1..{EVENT_QUEUE - 1}"
        )
    for name in ("key_max", "sa_max", "rule_max"):
        if not 1 <= getattr(caps, name) < 1 << 24:
            raise OffloadError(errno.EINVAL, f"{name} {getattr(caps, name)} is outside 1..2^24-1")
    if not 0 <= caps.replay_window_max <= REPLAY_WINDOW_MAX:
        raise OffloadError(
            errno.EINVAL,
            f"replay_window_max {caps.replay_window_max} is outside 0..{REPLAY_WINDOW_MAX}",
        )
    return caps
