# SPDX-License-Identifier: Apache-2.0
"""Looking ahead: what the packets of a group will need of the tables is fetched into the caches.

With many SAs and policies each packet waits for memory a dozen times, one after the other: bucket,
policy, bucket, SA, key. A group of packets takes these steps together, so that their waits overlap.
Of headers nothing but the bounds is checked, for nothing rests on what is found: a wrong guess
costs time. Few SAs are in the caches anyway; then nothing is done.
"""

from typing import Any

import numpy as np
from llvmlite import ir

from nic_model import lookup
from nic_model.esp.keys import END, POWERS_AT
from nic_model.esp.simd import I8, I32, I64, call
from nic_model.jit import config, inline, intrinsic, njit, types
from nic_model.memory import load16, load32, load64
from nic_model.packet import ETHERTYPE_IPV4, ETHERTYPE_IPV6, IP_AT, UDP
from nic_model.rows import POLICY, SA
from proto.commands import IN, OUT
from proto.xfrm import AF_INET, AF_INET6

MANY_SAS = 1 << 62 if config.DISABLE_JIT else 256  # SAs in the data path
LINE_BYTES = 64
ESP_MORE_BYTES = 40  # what ESP adds to most packets
SA_BYTES, POLICY_BYTES = SA.itemsize, POLICY.itemsize
READ_BYTES = IP_AT + 48  # bytes of a frame that are looked at: IPv6, ports or SPI
_SHIFT, _ZERO = np.uint64(32), np.uint64(0)


@intrinsic
def _prefetch(_typing: Any, array: Any, _index: Any, _offset: Any) -> Any:
    """Fetch the cache line at `offset` bytes behind array[index]."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        packed = context.make_array(signature.args[0])(context, builder, args[0])
        stride = builder.extract_value(packed.strides, 0)
        at = builder.add(builder.mul(args[1], stride), args[2])
        at = builder.add(builder.ptrtoint(packed.data, I64), at)
        where = builder.inttoptr(at, I8.as_pointer())
        hints = [ir.Constant(I32, value) for value in (0, 3, 1)]  # to read, and near; data
        call(builder, "llvm.prefetch.p0", ir.VoidType(), [where, *hints])
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), build


@inline
def _fetch_row(array, row, size):
    """All lines of one row of `size` bytes."""
    for offset in range(0, size, LINE_BYTES):
        _prefetch(array, row, offset)


@inline
def _fetch_sas(t, heads, found, n):
    """From buckets to rows of SAs; -1 and 0 are none."""
    for j in range(n):
        if found[j] >= 0:
            found[j] = heads[found[j]]
            _fetch_row(t.sa, found[j], SA_BYTES)
            _prefetch(t.touched, found[j], 0)
            _prefetch(t.window, found[j], 0)


@inline
def _header(frames, at, p):
    """Addresses, protocol and ports, as far as they stand where they mostly do; else no family."""
    p.family = 0
    if at < 0 or at + READ_BYTES > frames.shape[0]:
        return
    ethertype = load16(frames, at + 12)
    ip = at + IP_AT
    if ethertype == ETHERTYPE_IPV4:
        p.family, p.proto, upper = AF_INET, frames[ip + 9], ip + 20
        p.src_hi = np.uint64(load32(frames, ip + 12)) << _SHIFT
        p.dst_hi = np.uint64(load32(frames, ip + 16)) << _SHIFT
        p.src_lo = p.dst_lo = _ZERO
    elif ethertype == ETHERTYPE_IPV6:
        p.family, p.proto, upper = AF_INET6, frames[ip + 6], ip + 40
        p.src_hi, p.src_lo = load64(frames, ip + 8), load64(frames, ip + 16)
        p.dst_hi, p.dst_lo = load64(frames, ip + 24), load64(frames, ip + 32)
    else:
        return
    p.sport, p.dport = load16(frames, upper), load16(frames, upper + 2)
    p.upper = upper


@inline
def _policy_bucket(t, p, direction):
    """Where the first mask tuple has its policy for the packet, or -1."""
    which = lookup.list_of(direction, p.family, 0)
    if p.family == 0 or t.order_count[which] == 0:
        return -1
    return lookup.bucket_in_tuple(t, p, t.order[which, 0])


@inline
def _fetch_policies(t, found, n):
    """From buckets to rows of policies; -1 and 0 are none."""
    for j in range(n):
        if found[j] >= 0:
            found[j] = t.policy_bucket[found[j]]
            _fetch_row(t.policy, found[j], POLICY_BYTES)


@njit
def tx_ahead(t, memory, descriptors, first, n):
    """Frames of descriptors[first:first + n] in `memory`, which are to be sent."""
    p, found = t.packet[0], t.ahead
    for j in range(n):
        _prefetch(memory, np.int64(descriptors[first + j]["offset"]), 0)
    for j in range(n):
        _header(memory, np.int64(descriptors[first + j]["offset"]), p)
        found[j] = _policy_bucket(t, p, OUT)
        if found[j] >= 0:
            _prefetch(t.policy_bucket, found[j], 0)
    _fetch_policies(t, found, n)
    for j in range(n):
        if found[j] > 0:
            _header(memory, np.int64(descriptors[first + j]["offset"]), p)
            found[j] = lookup.bucket_of_template(t, p, found[j])
            _prefetch(t.tx_bucket, found[j], 0)
        else:
            found[j] = -1
    _fetch_sas(t, t.tx_bucket, found, n)
    for j in range(n):
        if found[j] > 0:
            _fetch_key(t, found[j], np.int64(descriptors[first + j]["length"]))


@njit
def rx_ahead(t, frames, offsets, lengths, first, n):
    """Frames that came, at offsets[first:first + n]."""
    p, found = t.packet[0], t.ahead
    for j in range(n):
        _header(frames, offsets[first + j], p)
        found[j] = -1
        if p.family:
            spi_at = p.upper + (8 if p.proto == UDP else 0)
            spi = load32(frames, spi_at) if spi_at + 4 <= frames.shape[0] else 0
            found[j] = lookup.rx_bucket(t, p.dst_hi, p.dst_lo, spi, p.family)
            _prefetch(t.rx_bucket, found[j], 0)
    _fetch_sas(t, t.rx_bucket, found, n)
    for j in range(n):
        if found[j] > 0:
            _fetch_key(t, found[j], lengths[first + j])
    for j in range(n):
        _header(frames, offsets[first + j], p)
        found[j] = _policy_bucket(t, p, IN)
        if found[j] >= 0:
            _prefetch(t.policy_bucket, found[j], 0)
    _fetch_policies(t, found, n)


@inline
def _fetch_key(t, row, size):
    """Of the key of an SA what a packet of `size` bytes takes: round keys, and a power a block."""
    key = np.int64(t.sa[row].key)
    _fetch_row(t.keys, key, POWERS_AT)
    for offset in range(
        END - LINE_BYTES, max(END - size - ESP_MORE_BYTES, POWERS_AT) - 1, -LINE_BYTES
    ):
        _prefetch(t.keys, key, offset)
