# SPDX-License-Identifier: Apache-2.0
"""The way out: from a packet of the stack to what a device sends (xfrm_output; TX-05, TX-20..34).

packet -> bundle -> packet offload:  to the device in clear, marked `protect`
                 -> crypto offload:  ESP laid out, to the device with its sec_path
                 -> software:        SA after SA: mode, limits, sequence number, ESP -> pieces

A packet for a packet-offload SA is marked so that the device never lets it out unprotected.
Whatever a step refuses is dropped and counted, never sent in clear.
"""

import errno
from typing import TYPE_CHECKING, NamedTuple

from host_driver.gso import can_be_cut, segment
from host_driver.netdev import NetDevice, SecPath, Skb
from host_driver.xfrm.aevent import xfrm_replay_notify
from host_driver.xfrm.bundle import xfrm_lookup
from host_driver.xfrm.device import xfrm_dev_offload_ok, xfrm_dev_state_advance_esn
from host_driver.xfrm.esp import esp_encap, esp_output, xfrm_state_mtu
from host_driver.xfrm.esp_crypto import sizes as esp_sizes
from host_driver.xfrm.flow import UDP, decode, family_of
from host_driver.xfrm.headers import (
    dont_fragment,
    fragments,
    join,
    udp_encapsulate,
)
from host_driver.xfrm.hold import xdst_queue_output
from host_driver.xfrm.lifetime import xfrm_state_check_expire
from host_driver.xfrm.mode import mode_output
from host_driver.xfrm.replay import xfrm_replay_overflow
from host_driver.xfrm.sad import addr
from host_driver.xfrm.state import (
    OFFLOAD_CRYPTO,
    OFFLOAD_PACKET,
    KmState,
    XfrmState,
    xfrm_smark_get,
)
from proto.xfrm import AF_INET, IPPROTO_ESP

if TYPE_CHECKING:
    from host_driver.xfrm.net import XfrmNet

PACKET_MAX = 0xFFFF  # what the length field of an IP header can say


class Refused(NamedTuple):
    """Why a packet is dropped: a counter, and the positive errno that its sender hears."""

    counter: str
    error: int


def xfrm_output(net: "XfrmNet", packet: bytes, mark: int, may_hold: bool, gso_size: int = 0) -> int:
    """Send an IP packet. Returns 0 when it was accepted, else a negative errno.

    A large one goes to the device as it is, if that takes it in clear; else it is cut first.

    Without an SA it vanishes, and its sender hears of no error (ACQ-20); with sysctl
    xfrm_larval_drop 0 it is held instead where it `may_hold`, else refused (ACQ-21, ACQ-22).
    """
    flow = decode(packet)
    if flow is None or (gso_size and not can_be_cut(packet, gso_size)):
        return -errno.EINVAL
    dev = net.devices.route(flow.address(flow.daddr))
    if dev is None:
        return -errno.ENETUNREACH
    flow = flow._replace(oif=dev.ifindex, mark=mark)
    decision = xfrm_lookup(net, flow)
    software = decision.states and decision.states[0].xso.type != OFFLOAD_PACKET
    if gso_size and software:
        return _cut(net, packet, mark, may_hold, gso_size)
    if decision.pending is not None and may_hold and not net.larval_drop:
        return xdst_queue_output(net, decision.pending, flow, packet, gso_size)
    for counter in decision.counters:
        net.mib.bump(counter)
    if decision.error:
        return -decision.error
    if decision.pending is not None:
        return 0 if net.larval_drop else -errno.EAGAIN
    if not decision.states:
        return -abs(dev.xmit(Skb(packet, mark, gso_size=gso_size)))
    if not software:
        skb = Skb(packet, mark, protect=True, gso_size=gso_size)
        return _packet_offload(net, skb, decision.states, dev)
    return _protected(net, Skb(packet, mark), decision.states, dev)


def _cut(net: "XfrmNet", packet: bytes, mark: int, may_hold: bool, gso_size: int) -> int:
    """Send what a large packet becomes, as far as it is accepted."""
    error = 0
    for piece in segment(packet, gso_size):
        error = error or xfrm_output(net, piece, mark, may_hold)
    return error


def _packet_offload(net: "XfrmNet", skb: Skb, states: tuple[XfrmState, ...], dev: NetDevice) -> int:
    """Hand a clear packet to the device of its SA (TX-05, TX-23), or drop it."""
    uncut = family_of(skb.data) == AF_INET and dont_fragment(skb.data)
    if uncut and skb.longest > path_mtus(net, states, dev.mtu)[0]:
        return -errno.EMSGSIZE  # TX-31: IP itself refuses, before anything is counted
    # Nothing is done between two SAs: each asks its driver about the packet as it is.
    end = states[-1]
    if not all(xfrm_dev_offload_ok(net, skb, x, dev, nested=x is not end) for x in states):
        net.mib.bump("XfrmOutError")
        return -errno.EHOSTUNREACH
    return -abs(dev.xmit(skb))


def _protected(net: "XfrmNet", skb: Skb, states: tuple[XfrmState, ...], dev: NetDevice) -> int:
    """Apply the SAs in their order, the innermost first, and send what they make."""
    end = states[-1]
    dev = net.devices.route(addr(end.id.daddr, end.props.family)) or dev
    mtus = path_mtus(net, states, dev.mtu)
    longest = mtus if dont_fragment(skb.data) else path_mtus(net, states, PACKET_MAX)
    if len(skb.data) > longest[0]:
        return -errno.EMSGSIZE  # TX-31: the sender hears of it before anything is counted
    x = states[0]
    crypto = x.xso.type == OFFLOAD_CRYPTO and xfrm_dev_offload_ok(net, skb, x, dev, len(states) > 1)
    for x, mtu in zip(states, mtus, strict=True):
        made = xfrm_output_one(net, x, skb, mtu, crypto)
        if isinstance(made, Refused):
            net.mib.bump(made.counter)
            net.run_timers()  # a limit was reached: the SA goes at once (LIFE-12)
            return -made.error
        skb.data = made
    if crypto:
        skb.sec_path = SecPath(x, flags=0, status=0)
        return -abs(dev.xmit(skb))
    error = 0
    for piece in fragments(skb.data, dev.mtu, net.next_ip_id()):
        error = error or abs(dev.xmit(Skb(piece, skb.mark, sealed=True)))
    return -error


def path_mtus(net: "XfrmNet", states: tuple[XfrmState, ...], mtu: int) -> list[int]:
    """The longest packet that each SA may be given, so that the last one's fits (TX-31)."""
    mtus: list[int] = []
    for x in reversed(states):
        mtu = min(mtu, xfrm_state_mtu(net, x, mtu))
        mtus.insert(0, mtu)
    return mtus


# One SA on a packet, as xfrm_output_one does it:
#  1. algorithms and mode                   (XfrmOutStateProtoError, XfrmOutStateModeError)
#  2. state and limits: first the look, then the count (LIFE-16)
#                                           (XfrmOutStateInvalid, XfrmOutStateExpired)
#  3. sequence number                       (XfrmOutStateSeqError)
#  4. count, and ESP; for a device it is laid out only
#  5. headers around it
def xfrm_output_one(
    net: "XfrmNet", x: XfrmState, skb: Skb, mtu: int, crypto: bool
) -> bytes | Refused:
    """The packet that `x` makes of skb.data; TFC padding ends at `mtu` bytes."""
    sizes = esp_sizes(x) if x.id.proto == IPPROTO_ESP else None
    if sizes is None:
        return Refused("XfrmOutStateProtoError", errno.EPROTONOSUPPORT)
    parts = mode_output(x, skb.data, net.next_ip_id)
    if parts is None:
        return Refused("XfrmOutStateModeError", errno.EINVAL)

    if x.km.state != KmState.VALID:
        return Refused("XfrmOutStateInvalid", errno.EINVAL)
    with net.running.within("lock"):
        if xfrm_state_check_expire(net, x):
            return Refused("XfrmOutStateExpired", errno.EINVAL)
        seq = xfrm_replay_overflow(x)
        counter = None if seq is None else _iv_counter(net, x, seq)
        if seq is None or counter is None:
            return Refused("XfrmOutStateSeqError", errno.EOVERFLOW)
        if crypto and net.profile.output_advances_esn:
            xfrm_dev_state_advance_esn(x)
        xfrm_replay_notify(net, x)

    x.curlft.bytes += len(parts.payload)
    x.curlft.packets += 1
    x.lastused = net.seconds()
    skb.mark = xfrm_smark_get(skb.mark, x)
    if crypto:
        body = esp_encap(x, sizes, seq, parts.proto, parts.payload, counter)
    else:
        tfc = max(0, min(x.tfcpad, mtu) - len(parts.payload))
        body = esp_output(x, sizes, seq, parts.proto, parts.payload, tfc, counter)
    if x.encap is None:
        return join(parts.head, parts.next_at, IPPROTO_ESP, body)
    datagram = udp_encapsulate(parts.head, x.encap.encap_sport, x.encap.encap_dport, body)
    return join(parts.head, parts.next_at, UDP, datagram)


def _iv_counter(net: "XfrmNet", x: XfrmState, seq: int) -> int | None:
    """What makes the packet's IV, whoever seals it: one random salt for the whole SA, so that a key
    that comes again starts elsewhere."""
    if x.seqiv.salt is None:
        x.seqiv.salt = net.iv_rng.getrandbits(64)
    return x.seqiv.next(seq)
