# SPDX-License-Identifier: Apache-2.0
"""The way in: from what a device hands up to what the stack gets (xfrm_input; RX-02..15).

packet offload:  the device's word counts
else, again and again until no ESP is left:  reassemble -> SA -> state, replay, limits -> open
(software, or the device did) -> advance, count -> mode;  then the policy check with all SAs used
"""

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from host_driver.netdev import (
    AUTH_FAILED,
    CRYPTO_DONE,
    CRYPTO_SUCCESS,
    INVALID_PROTOCOL,
    SecPath,
    Skb,
)
from host_driver.xfrm.aevent import xfrm_replay_notify
from host_driver.xfrm.device import xfrm_dev_state_advance_esn
from host_driver.xfrm.esp import ESP_HEADER, Failure, Opened, esp_input, esp_strip
from host_driver.xfrm.esp_crypto import sizes as esp_sizes
from host_driver.xfrm.flow import UDP, Flow, Upper, decode, family_of, find_upper
from host_driver.xfrm.headers import UDP_BYTES, Parts, checksum_good
from host_driver.xfrm.lifetime import xfrm_state_check_expire
from host_driver.xfrm.mode import mode_input
from host_driver.xfrm.policy_check import xfrm_policy_check
from host_driver.xfrm.replay import xfrm_replay_advance, xfrm_replay_check, xfrm_replay_seqhi
from host_driver.xfrm.snmp import IN_ADDR_ERRORS, IN_DISCARDS, IN_HDR_ERRORS, UDP_IN_DATAGRAMS
from host_driver.xfrm.state import (
    OFFLOAD_DIR_OUT,
    OFFLOAD_PACKET,
    KmState,
    XfrmState,
    xfrm_smark_get,
)
from proto.xfrm import IPPROTO_ESP, SA_DIR_IN, XFRM_MAX_DEPTH

if TYPE_CHECKING:
    from host_driver.xfrm.net import XfrmNet

ENCAP_PORT = 4500  # where IKE daemons take ESP in UDP (RFC 3948)
_DPORT = struct.Struct(">2xHH")


@dataclass(slots=True)
class _Packet:
    """A packet on its way in, and the SAs that were applied to it (its sec_path)."""

    data: bytes
    mark: int
    ifindex: int
    xvec: list[XfrmState] = field(default_factory=list)
    reassembled: bool = False

    def flow(self) -> Flow | None:
        flow = decode(self.data)
        return flow and flow._replace(mark=self.mark, oif=self.ifindex)


class _Esp(NamedTuple):
    """Where an ESP packet stands: behind a UDP header, if `encap`."""

    start: int
    end: int
    encap: bool


def xfrm_input(net: "XfrmNet", skb: Skb) -> bytes | None:
    """What is delivered to the stack, or None: dropped, and counted, here or below (snmp.py)."""
    sec_path = skb.sec_path
    if sec_path is not None and sec_path.x.xso.type == OFFLOAD_PACKET:
        # RX-02: the device is trusted; no policy is looked up, no XfrmIn* moves either way.
        if net.profile.sec_path_consumed:
            skb.sec_path = None
        good = sec_path.flags & CRYPTO_DONE and sec_path.status & CRYPTO_SUCCESS
        if not good:
            net.snmp.bump(family_of(skb.data), IN_DISCARDS)
        return skb.data if good else None
    packet = _Packet(skb.data, skb.mark, skb.in_dev.ifindex if skb.in_dev else 0)
    if sec_path is not None and not sec_path.flags & CRYPTO_DONE:
        sec_path = None  # an SA, but nothing that the device has done with it
    counter = _receive(net, packet, sec_path)
    if counter is None:
        return packet.data
    if counter:
        net.mib.bump(counter)
        net.run_timers()  # a limit was reached: the SA goes at once (LIFE-12)
    return None


def _receive(net: "XfrmNet", packet: _Packet, done: SecPath | None) -> str | None:
    """None for a packet to deliver; else the counter of its end, empty if it is one of snmp.py."""
    while True:
        upper = find_upper(packet.data)
        if upper is None:
            return "XfrmInHdrError"
        packet.data = packet.data[: upper.end]  # behind it there is TFC padding (RFC 4303 2.7)
        if upper.fragment and upper.proto == IPPROTO_ESP:
            whole = net.reassembly.add(net.now_ns, packet.data, upper)
            if whole is None:
                return ""
            packet.data, packet.reassembled = whole, True
            continue
        esp = _find_esp(net, packet, upper)
        if esp is None or (esp.encap and done is None):
            flow = packet.flow()
            counter = xfrm_policy_check(net, flow, packet.xvec) if flow else "XfrmInHdrError"
            if counter or esp is None:
                return counter or None
        if esp.encap and esp.end - esp.start <= ESP_HEADER.size:
            return _below(net, packet, UDP_IN_DATAGRAMS)  # a keepalive (RFC 3948 4)
        refused = _rcv(net, packet, upper, esp, done)
        if refused is not None:
            return refused
        done = None


def _below(net: "XfrmNet", packet: _Packet, name: str) -> str:
    net.snmp.bump(family_of(packet.data), name)
    return ""


def _find_esp(net: "XfrmNet", packet: _Packet, upper: Upper) -> _Esp | None:
    """The packet's ESP, native or in UDP; None when it has none.

    ESP in UDP comes to port 4500 or to that of an SA. Four zero bytes stand in front of IKE; a
    single byte is a keepalive, which is nobody's packet (RFC 3948 2).
    """
    if upper.proto == IPPROTO_ESP:
        return _Esp(upper.offset, upper.end, False)
    if upper.proto != UDP or upper.fragment or upper.offset + UDP_BYTES >= upper.end:
        return None
    dport, length = _DPORT.unpack_from(packet.data, upper.offset)
    start, end = upper.offset + UDP_BYTES, min(upper.offset + length, upper.end)
    spi = int.from_bytes(packet.data[start : start + 4], "big")
    if dport != ENCAP_PORT:
        x = net.sad.lookup(packet.mark, upper.daddr, spi, IPPROTO_ESP, family_of(packet.data))
        if x is None or x.encap is None or x.encap.encap_dport != dport:
            return None
    keepalive = end - start == 1 and packet.data[start] == 0xFF
    if not keepalive and (end - start <= ESP_HEADER.size or not spi):
        return None
    return _Esp(start, end, True)


# One SA on a packet, as xfrm_input does it:
#  1. the SA, by (destination, SPI, mark) or from the device  (XfrmInHdrError, XfrmInNoStates ...)
#  2. state, encapsulation, replay window, limits, in this order
#  3. ICV and decryption, trailer                           (XfrmInStateProtoError)
#  4. only now: window, counters
#  5. what was inside                                       (XfrmInStateModeError)
def _rcv(
    net: "XfrmNet", packet: _Packet, upper: Upper, esp: _Esp, done: SecPath | None
) -> str | None:
    """Open the packet's ESP; None when packet.data is what was inside, else as `_receive`."""
    if esp.end - esp.start < ESP_HEADER.size:
        return "XfrmInHdrError"
    if not checksum_good(packet.data):
        return _below(net, packet, IN_HDR_ERRORS)  # as ip_rcv; it is about to be written anew
    spi, seq = ESP_HEADER.unpack_from(packet.data, esp.start)
    x = _state_of(net, packet, upper, spi) if done is None else _state_of_device(done)
    if isinstance(x, str):
        return x
    with net.running.within("lock"):
        refused = _admit(net, x, esp.encap, seq)
    if refused:
        return refused

    opened = _open(x, packet.data[esp.start : esp.end], seq, done)
    if not isinstance(opened, Opened):
        x.stats.integrity_failed += opened is Failure.INTEGRITY
        return "XfrmInStateProtoError"

    with net.running.within("lock"):
        xfrm_replay_advance(x, seq)
        xfrm_dev_state_advance_esn(x)
        xfrm_replay_notify(net, x)
    x.curlft.bytes += len(opened.payload)
    x.curlft.packets += 1
    x.lastused = net.seconds()

    packet.xvec.append(x)
    parts = Parts(packet.data[: upper.offset], upper.next_at, upper.proto, opened.payload)
    inner = mode_input(x, parts, opened.next_header)
    if inner is None:
        return "XfrmInStateModeError"
    packet.data = inner
    return None


def _state_of(net: "XfrmNet", packet: _Packet, upper: Upper, spi: int) -> XfrmState | str:
    """The SA of the packet, or the counter that says why there is none."""
    if len(packet.xvec) >= XFRM_MAX_DEPTH:
        return "XfrmInBufferError"
    x = net.sad.lookup(packet.mark, upper.daddr, spi, IPPROTO_ESP, family_of(packet.data))
    if x is None:
        return "XfrmInNoStates"
    if x.dir not in (0, SA_DIR_IN):
        return "XfrmInStateDirError"
    if x.xso.dir == OFFLOAD_DIR_OUT:
        # A frame of this host that came back. Routing, which is not here, would not let it in.
        return _below(net, packet, IN_ADDR_ERRORS)
    if packet.reassembled and x.xso.type == OFFLOAD_PACKET:
        # The device keeps the window and opens no pieces: here a packet it has taken would be new.
        return "XfrmInStateProtoError"
    packet.mark = xfrm_smark_get(packet.mark, x)
    return x


def _state_of_device(done: SecPath) -> XfrmState | str:
    """The SA that the device applied, or the counter of what went wrong with it (RX-14)."""
    x = done.x
    if x.km.state != KmState.VALID or done.status & CRYPTO_SUCCESS:
        return x
    if done.status & AUTH_FAILED:
        x.stats.integrity_failed += 1
        return "XfrmInStateProtoError"
    return "XfrmInStateProtoError" if done.status & INVALID_PROTOCOL else "XfrmInBufferError"


def _admit(net: "XfrmNet", x: XfrmState, encap: bool, seq: int) -> str:
    """Why the SA takes no such packet now, or empty. The window comes before the ICV."""
    if x.km.state != KmState.VALID:
        return "XfrmAcquireError" if x.km.state == KmState.ACQ else "XfrmInStateInvalid"
    if (x.encap is not None) != encap:
        return "XfrmInStateMismatch"
    if not xfrm_replay_check(x, seq):
        return "XfrmInStateSeqError"
    return "XfrmInStateExpired" if xfrm_state_check_expire(net, x) else ""


def _open(x: XfrmState, esp: bytes, seq: int, done: SecPath | None) -> Opened | Failure:
    sizes = esp_sizes(x)
    if sizes is None:
        return Failure.SYNTAX
    if done is not None:
        return esp_strip(sizes, esp)
    return esp_input(x, sizes, esp, xfrm_replay_seqhi(x, seq) << 32 | seq)
