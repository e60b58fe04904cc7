# SPDX-License-Identifier: Apache-2.0
"""The card's memory: SA rows, policy rows, hash buckets, counters; how rows are written and read.

All of it is numpy, and one argument for the kernels. What a row holds says `rows`; row 0 of every
table stays unused: 0 means "none". An SA is written first (`write_sa`) and reached by packets only
after `Steering.add_sa`.
"""

import mmap
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from nic_model import aso
from nic_model.esp import KEY_BYTES
from nic_model.jit import inline
from nic_model.rows import PACKET_ROW, POLICY_ROW, SA, SA_ROW, TUPLE_ROW
from proto.caps import Caps
from proto.commands import CreateSa, SaState, Selector, SetLimits
from proto.limits import BUFFER_BYTES, TX_BUFFER_BYTES
from proto.status import Drop
from proto.xfrm import AF_INET, MODE_TUNNEL

MAX_U32, MAX_U64 = (1 << 32) - 1, (1 << 64) - 1
AHEAD_PACKETS = 16  # what they need stays in the nearest caches until it is used
EVENTS_MAX = 4096  # between two drains; more are counted as lost (events are hints)
STOPPED_FOR_GOOD = 2  # `stopped` of an SA; 1 ends when a limit is raised
HANDLE_ROW_BITS = 24  # of a handle; see handle_of
ROW_MASK = (1 << HANDLE_ROW_BITS) - 1

# What a row takes over from CREATE_SA under the same name.
SA_FIELDS = (
    "spi", "reqid", "family", "direction", "encap_sport", "encap_dport", "seq", "esn", "may_wrap",
    "noecn", "decap_dscp", "nopmtudisc", "dont_encap_dscp", "crypto",
)  # fmt: skip

# Indices of `Tables.totals`.
TOTALS = (
    "tx_packets", "tx_bytes", "rx_packets", "rx_bytes",
    "ipsec_tx_pkts", "ipsec_tx_bytes", "ipsec_rx_pkts", "ipsec_rx_bytes",
    "events_lost", "tx_segmented",
)  # fmt: skip
(
    TX_PACKETS, TX_BYTES, RX_PACKETS, RX_BYTES,
    IPSEC_TX_PACKETS, IPSEC_TX_BYTES, IPSEC_RX_PACKETS, IPSEC_RX_BYTES, EVENTS_LOST,
    TX_SEGMENTED,  # frames and drops beyond the first of each descriptor
) = range(len(TOTALS))  # fmt: skip
TX, RX = 0, 1


_Number = TypeVar("_Number", int, npt.NDArray[np.int64])


def handle_of(row: _Number, generation: _Number) -> _Number:
    """The handle of a row: the row with the low byte of its generation above it."""
    return row | (generation & 0xFF) << HANDLE_ROW_BITS


handle_in_kernel = inline(handle_of)  # the same for kernels, in int64


class Tables(NamedTuple):
    """Everything the kernels read and write. Rows are int64 numbers, 0 = none.

    `policy` has two halves: row r for whole packets, row r + rule_max for its entry in the fragment
    lists. `order[list, :order_count[list]]` are tuples by `best`; lists are numbered by
    `lookup.list_of`.
    """

    sa: npt.NDArray[np.void]  # SA[sa_max + 1]
    window: npt.NDArray[
        np.uint32
    ]  # [sa_max + 1, words]: replay bitmaps, bit numbering of the kernel
    keys: npt.NDArray[np.uint8]  # [key_max + 1, KEY_BYTES]: key schedules, never copied
    rx_bucket: npt.NDArray[np.int32]  # heads of the chains of inbound SAs
    tx_bucket: npt.NDArray[np.int32]  # heads of the chains of outbound SAs, newest first
    steered: npt.NDArray[np.int64]  # [1]: SAs that packets reach
    encap_port: npt.NDArray[np.int32]  # [65536]: inbound SAs that expect ESP in UDP on this port
    policy: npt.NDArray[np.void]  # POLICY[2 * rule_max + 1]
    tuples: npt.NDArray[np.void]  # TUPLE[2 * rule_max + 1]
    policy_bucket: npt.NDArray[np.int32]
    order: npt.NDArray[np.int32]  # [8, 2 * rule_max + 1]
    order_count: npt.NDArray[np.int64]  # [8]
    totals: npt.NDArray[np.int64]  # [len(TOTALS)]
    drops: npt.NDArray[np.int64]  # [2, len(Drop)]: by direction (TX, RX) and Drop
    events: npt.NDArray[np.int64]  # [EVENTS_MAX, 2]: SA row, EventType
    event_count: npt.NDArray[np.int64]  # [1]
    touched: npt.NDArray[np.uint8]  # [sa_max + 1]: 1 = row is in touched_list
    touched_list: npt.NDArray[np.int64]  # [sa_max + 1]
    touched_count: npt.NDArray[np.int64]  # [1]
    packet: npt.NDArray[np.void]  # PACKET[2], scratch: the one in work, the flow before it
    ahead: npt.NDArray[np.int64]  # scratch: buckets and rows of the packets that come next
    frame: npt.NDArray[np.uint8]  # scratch: the frame in work, private to the card
    large: npt.NDArray[np.uint8]  # scratch: one that is to be cut into several
    tag: npt.NDArray[np.uint8]  # [16], scratch
    # Address and lengths of each of them, for nic_model.handed; of no use to a copy of the others.
    where: npt.NDArray[np.int64]


def _zeros(shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Zeroes that take memory where they are written, and give it back in the end. malloc would
    clear a block that it has used before, and keep it."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(mapping, dtype).reshape(shape)


def _buckets(entries: int) -> npt.NDArray[np.int32]:
    """Chain heads for at most `entries` rows: a power of two, so that a mask picks one."""
    return _zeros(1 << max(4, (2 * entries - 1).bit_length()), np.int32)


def make_tables(caps: Caps) -> Tables:
    """Empty tables of the sizes in `caps`. Memory is touched only when used."""
    sas, rules = caps.sa_max + 1, 2 * caps.rule_max + 1
    t = Tables(
        sa=_zeros(sas, SA_ROW),
        window=_zeros((sas, max(1, -(-caps.replay_window_max // 32))), np.uint32),
        keys=_zeros((caps.key_max + 1, KEY_BYTES), np.uint8),
        rx_bucket=_buckets(sas),
        tx_bucket=_buckets(sas),
        steered=np.zeros(1, np.int64),
        encap_port=_zeros(1 << 16, np.int32),
        policy=_zeros(rules, POLICY_ROW),
        tuples=_zeros(rules, TUPLE_ROW),
        policy_bucket=_buckets(rules),
        order=_zeros((8, rules), np.int32),
        order_count=np.zeros(8, np.int64),
        totals=np.zeros(len(TOTALS), np.int64),
        drops=np.zeros((2, len(Drop)), np.int64),
        events=_zeros((EVENTS_MAX, 2), np.int64),
        event_count=np.zeros(1, np.int64),
        touched=_zeros(sas, np.uint8),
        touched_list=_zeros(sas, np.int64),
        touched_count=np.zeros(1, np.int64),
        packet=np.zeros(2, PACKET_ROW),
        ahead=np.zeros(AHEAD_PACKETS, np.int64),
        frame=np.zeros(BUFFER_BYTES, np.uint8),
        large=np.zeros(TX_BUFFER_BYTES if caps.segmentation else 0, np.uint8),
        tag=np.zeros(16, np.uint8),
        where=np.zeros(0, np.int64),
    )
    words = [word for table in t[:-1] for word in (table.ctypes.data, *table.shape)]
    return t._replace(where=np.array(words, np.int64))


def halves(address: bytes, family: int) -> tuple[int, int]:
    """A 16-byte address as two big-endian 64-bit numbers; of IPv4 only the first 4 bytes count."""
    address = address[:4] + bytes(12) if family == AF_INET else address
    return int.from_bytes(address[:8], "big"), int.from_bytes(address[8:16], "big")


def masks(prefix: int) -> tuple[int, int]:
    """The two 64-bit masks of a prefix length 0..128."""
    full = (MAX_U64 << 64 | MAX_U64) >> prefix ^ (MAX_U64 << 64 | MAX_U64)
    return full >> 64, full & MAX_U64


def selector_fields(selector: Selector, family: int) -> dict[str, int]:
    """The `_SELECTOR` fields for a selector (UAPI-32), values already masked."""
    src_mask, dst_mask = masks(selector.prefixlen_s), masks(selector.prefixlen_d)
    src, dst = halves(selector.saddr, family), halves(selector.daddr, family)
    return {
        "sel_src_hi": src[0] & src_mask[0], "sel_src_lo": src[1] & src_mask[1],
        "sel_dst_hi": dst[0] & dst_mask[0], "sel_dst_lo": dst[1] & dst_mask[1],
        "src_mask_hi": src_mask[0], "src_mask_lo": src_mask[1],
        "dst_mask_hi": dst_mask[0], "dst_mask_lo": dst_mask[1],
        "sel_sport": selector.sport & selector.sport_mask, "sport_mask": selector.sport_mask,
        "sel_dport": selector.dport & selector.dport_mask, "dport_mask": selector.dport_mask,
        "sel_family": selector.family, "sel_proto": selector.proto,
    }  # fmt: skip


def write_sa(
    t: Tables, row: int, cmd: CreateSa, key_row: int, generation: int, iv_mask: int, caps: Caps
) -> None:
    """Fill row `row` from a checked command; `key_row` is the row in `t.keys` it seals with.

    `iv_mask` is 64 random bits, fresh for each SA: IV = sequence number XOR mask, as the kernel's.
    In crypto offload the host has a mask of its own, which its first packet shows.
    Packet limits are split for the card's counter width here (aso.split). The caller has checked
    every field; the SA gets packets only after Steering.add_sa.
    """
    clear_sa(t, row)
    sa = t.sa[row]
    sa["src_hi"], sa["src_lo"] = halves(cmd.saddr, cmd.family)
    sa["dst_hi"], sa["dst_lo"] = halves(cmd.daddr, cmd.family)
    for name, value in selector_fields(cmd.selector, cmd.selector.family).items():
        sa[name] = value
    for name in SA_FIELDS:
        sa[name] = getattr(cmd, name)
    sa["tunnel"], sa["icv"] = cmd.mode == MODE_TUNNEL, cmd.icv_bytes
    sa["salt"] = int.from_bytes(cmd.salt, "big")
    sa["key"], sa["generation"], sa["iv_mask"] = key_row, generation, iv_mask

    sa["half"] = 1 << (caps.counter_bits - 1)
    sa["seq_arm"] = 1
    set_limits(t, row, cmd)

    sa["window"] = cmd.replay_window
    if cmd.replay_window:
        sa["head"] = ((cmd.seq & MAX_U32) - 1 & MAX_U32) % cmd.replay_window
    words = np.array(cmd.bitmap, np.uint32)[: -(-cmd.replay_window // 32)]
    t.window[row, : len(words)] = words


def set_limits(t: Tables, row: int, cmd: CreateSa | SetLimits) -> None:
    """Arm the limits of `cmd`, which count from the SA's creation, for what is left of them.

    A stop that the new limits do not ask for ends, but one by order (`stop_sa`) never does.
    """
    sa = t.sa[row]
    half, used = int(sa["half"]), int(sa["packets"])
    start = min(cmd.packets, aso.UNLIMITED)
    left = max(start - used, 0)
    soft = max(cmd.soft_packets, 1)  # a soft limit of 0 is passed by the first packet
    sa["rounds"], sa["count"] = aso.split(left, half)
    sa["soft_arm"] = used < soft <= start
    sa["soft_rounds"], sa["soft_count"] = aso.split(max(start - soft, 0), half)
    sa["byte_limit"] = min(cmd.bytes, aso.UNLIMITED)
    sa["hard_arm"] = 1
    sa["dying"] = isinstance(cmd, SetLimits) and cmd.dying
    if sa["stopped"] != STOPPED_FOR_GOOD:
        sa["stopped"] = left == 0 or sa["bytes"] >= sa["byte_limit"]


def read_sa(t: Tables, row: int) -> SaState:
    """The ASO block of a row, never keys. `window` has one 32-bit word per 32 packets of window."""
    sa = t.sa[row]
    half = int(sa["half"])
    remaining = int(sa["rounds"]) * half + int(sa["count"])
    soft_at = int(sa["soft_rounds"]) * half + int(sa["soft_count"])
    words = -(-int(sa["window"]) // 32)
    return SaState(
        generation=int(sa["generation"]),
        seq=wire_seq(t, row),
        window=tuple(int(word) for word in t.window[row, :words]),
        remaining=remaining,
        soft_remaining=max(remaining - soft_at, 0),
        soft_arm=bool(sa["soft_arm"]),
        hard_arm=bool(sa["hard_arm"]),
        stopped=bool(sa["stopped"]),
        packets=int(sa["packets"]),
        bytes=int(sa["bytes"]),
        replay=int(sa["replay"]),
        replay_window=int(sa["replay_window"]),
        integrity_failed=int(sa["integrity_failed"]),
        trailer=int(sa["trailer"]),
        selector=int(sa["selector_failed"]),
        handle=handle_of(row, int(sa["generation"])),
    )


def wire_seq(t: Tables, row: int) -> int:
    """The sequence number as the core counts it: 64 bits with ESN, else 32."""
    seq = int(t.sa[row]["seq"])
    return seq if t.sa[row]["esn"] else seq & MAX_U32


def advance_seq(t: Tables, row: int, seq: int) -> None:
    """Raise the highest sequence number seen, around which the high half is inferred."""
    t.sa[row]["seq"] = max(int(t.sa[row]["seq"]), seq)


def stop_sa(t: Tables, row: int) -> None:
    """From now on the SA drops every packet (HARD_LIMIT), whatever limits it is given."""
    t.sa[row]["stopped"] = STOPPED_FOR_GOOD


def clear_sa(t: Tables, row: int) -> None:
    """Zero the row and its window. The caller has taken it out of the steering first."""
    t.sa[row] = np.zeros((), SA)
    t.window[row] = 0


def wipe_key(t: Tables, key_row: int) -> None:
    """Zero key schedule and everything else that was derived from the key."""
    t.keys[key_row] = 0


def drain_events(t: Tables) -> list[tuple[int, int]]:
    """(SA row, EventType) of every event since the last call, in order. Lost ones are in totals."""
    count = int(t.event_count[0])
    t.event_count[0] = 0
    return [(int(row), int(kind)) for row, kind in t.events[:count]]


def forget_counters(t: Tables) -> None:
    """Port totals and drop counters begin at 0."""
    t.totals[:] = 0
    t.drops[:] = 0


def counters(t: Tables) -> dict[str, int]:
    """Port totals and every drop counter by name (`tx_drop_no_sa`); zeros included."""
    values = {name: int(value) for name, value in zip(TOTALS, t.totals, strict=True)}
    for direction, prefix in ((TX, "tx_drop_"), (RX, "rx_drop_")):
        for drop in Drop:
            if drop is not Drop.NONE:
                values[prefix + drop.name.lower()] = int(t.drops[direction, drop])
    return values
