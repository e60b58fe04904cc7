# SPDX-License-Identifier: Apache-2.0
"""Crypto offload, the host's half: it lays ESP out for the device, and takes apart what was opened.

The device is played with `cryptography`. Calls of advance_esn are those recorded of 7.3.4.
"""

import errno
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from scapy.layers.inet import IP, UDP

from host_driver.netdev import CRYPTO_DONE, SecPath
from host_driver.xfrm.profile import LATEST, V6_2
from support.core import Core, state_after
from support.esp import GCM, SPI, A, B, datagram, parsed, policy, state, template

KEY, SALT = bytes(range(1, 17)), bytes(range(17, 21))
OUT, IN = "offload crypto dev nic0 dir out", "offload crypto dev nic0 dir in"
AUTH_FAILED = [4, 8, 16, 32]


class Device:
    """A driver for crypto offload; `add` is what state_add answers, `seen` the ESN at each call."""

    def __init__(self, add: int = 0) -> None:
        self.add = add
        self.ok = True
        self.seen: list[tuple[int, int]] = []

    def xdo_dev_state_add(self, dev: Any, x: Any, extack: Any) -> int:
        return self.add

    def xdo_dev_state_delete(self, dev: Any, x: Any) -> None: ...

    def xdo_dev_offload_ok(self, skb: Any, x: Any) -> bool:
        return self.ok

    def xdo_dev_state_advance_esn(self, x: Any) -> None:
        fixed = x.replay_esn.fixed
        self.seen.append((fixed.oseq_hi, fixed.oseq) if x.dir == 2 else (fixed.seq_hi, fixed.seq))


def split(packet: bytes) -> tuple[bytes, bytes]:
    """Headers in front of ESP, and ESP."""
    layer = parsed(packet)
    at = (20 if layer.version == 4 else 40) + (8 if UDP in layer else 0)
    return packet[:at], packet[at:]


def sealed(packet: bytes, high: bytes = b"") -> bytes:
    """What the device makes of a packet that the host laid out."""
    head, esp = split(packet)
    assert esp[-16:] == bytes(16)
    aad = esp[:4] + high + esp[4:8]
    text = AESGCM(KEY).encrypt(SALT + esp[8:16], esp[16:-16], aad)
    return head + esp[:16] + text


def opened(packet: bytes) -> bytes:
    """What the device hands up: clear text where the ciphertext stood, the ICV still behind it."""
    head, esp = split(packet)
    clear = AESGCM(KEY).decrypt(SALT + esp[8:16], esp[16:], esp[:8])
    return head + esp[:16] + clear + esp[-16:]


@pytest.mark.parametrize("mode", ["transport", "tunnel"])
@pytest.mark.parametrize("ends", [(A, B), ("fd00:1::1", "fd00:1::2")])
@pytest.mark.parametrize("encap", [False, True], ids=["native", "udp"])
def test_out(mode, ends, encap):
    """The device gets ESP without its cryptography, and the SA; a software receiver takes it."""
    any_end = "::" if ":" in ends[0] else "0.0.0.0"
    udp = f"encap espinudp 4500 4500 {any_end}" if encap else ""
    core, peer = Core(Device()), Core()
    ours = template(mode=mode, ends=ends)
    core.add(state(GCM, mode, f"{udp} {OUT}", ends), policy("out", ours, ends=ends))
    bypass = f"xfrm policy add src {ends[0]} dst {ends[1]} proto udp dport 4500 dir in"
    peer.add(bypass, state(GCM, mode, f"replay-window 32 {udp}", ends))
    peer.add(policy("in", ours, ends=ends))
    salts = set()
    for number, size in enumerate((0, 1, 2, 3, 1300), 1):
        packet = datagram(size, ends)
        assert core.net.output(packet) == 0
        skb = core.sent.pop()
        assert skb.sec_path == SecPath(core.state(SPI), flags=0, status=0) and not skb.protect
        _, esp = split(skb.data)
        assert esp[:8] == SPI.to_bytes(4, "big") + number.to_bytes(4, "big")
        salts.add(int.from_bytes(esp[8:16], "big") ^ number)
        protected = packet if mode == "tunnel" else packet[20 if "." in ends[0] else 40 :]
        assert esp[16 : 16 + len(protected)] == protected
        assert peer.receive(sealed(skb.data)) == packet
    assert len(salts) == 1 and salts != {0}  # one random value for the whole SA
    assert core.state(SPI).curlft.packets == core.state(SPI).replay.oseq == 5
    assert core.moved() == peer.moved() == {}


@pytest.mark.parametrize("mode", ["transport", "tunnel"])
def test_in(mode):
    """Window, limits, counters and policy are the host's."""
    peer, core = Core(), Core(Device())
    ours = template(mode=mode, ends=(A, B))
    peer.add(state(GCM, mode), policy("out", ours))
    core.add(state(GCM, mode, f"replay-window 32 limit packet-hard 3 {IN}"), policy("in", ours))
    x = core.state(SPI)
    packets = []
    for size in (0, 1, 2, 3, 4):
        assert peer.net.output(datagram(size)) == 0
        packets += peer.take()
    for packet, size in zip(packets[:3], (0, 1, 2), strict=True):
        assert core.receive(opened(packet), SecPath(x)) == datagram(size)
    assert core.receive(opened(packets[0]), SecPath(x)) is None
    assert core.moved() == {"XfrmInStateSeqError": 1} and x.stats.replay == 1
    assert core.receive(opened(packets[3]), SecPath(x)) is None
    assert core.moved() == {"XfrmInStateExpired": 1}
    assert core.receive(opened(packets[4]), SecPath(x)) is None
    assert core.moved() == {"XfrmInStateInvalid": 1}  # the device did not know yet


@pytest.mark.parametrize(
    ("status", "counter", "failed"),
    [(status, "XfrmInStateProtoError", 1) for status in AUTH_FAILED]
    + [
        (128, "XfrmInStateProtoError", 0),
        (2, "XfrmInBufferError", 0),
        (64, "XfrmInBufferError", 0),
    ],
)
def test_what_the_device_reports(status, counter, failed):
    """RX-14; nothing but the statistics moves."""
    peer, core = Core(), Core(Device())
    peer.add(state(GCM), policy("out", template()))
    core.add(state(GCM, extra=f"replay-window 32 {IN}"))
    x = core.state(SPI)
    assert peer.net.output(datagram()) == 0
    (packet,) = peer.take()
    assert core.receive(packet, SecPath(x, CRYPTO_DONE, status)) is None
    assert core.moved() == {counter: 1}
    assert x.stats.integrity_failed == failed and x.curlft.packets == 0 and x.replay.seq == 0
    assert core.receive(packet, SecPath(x, 0, 0)) == datagram()  # not done: done here


@pytest.mark.parametrize("profile", [LATEST, V6_2], ids=lambda profile: profile.name)
def test_a_tunnel_without_policy_passes_only_with_crypto_offload(profile):
    peer, core = Core(), Core(Device(), profile=profile)
    peer.add(state(GCM, "tunnel"), policy("out", template(mode="tunnel", ends=(A, B))))
    core.add(state(GCM, "tunnel", f"replay-window 32 {IN}"))
    assert peer.net.output(datagram()) == 0
    got = core.receive(opened(peer.take()[0]), SecPath(core.state(SPI)))
    assert got == (datagram() if profile is LATEST else None)
    assert core.moved() == ({} if profile is LATEST else {"XfrmInNoPols": 1})


def test_esn_is_told_with_every_packet():
    """OPS-23, REPLAY-15: as recorded over the wrap, after the number has moved."""
    device = Device()
    core = Core(device)
    core.add(state(GCM, extra=f"flag esn replay-oseq 0xfffffffd {OUT}"), policy("out", template()))
    peer = Core()
    peer.add(state(GCM, extra="flag esn replay-window 32 replay-seq 0xfffffffd"))
    for _ in range(5):
        assert core.net.output(datagram()) == 0
    assert device.seen == [(0, 2**32 - 2), (0, 2**32 - 1), (1, 0), (1, 1), (1, 2)]
    salts = set()
    for skb, (high, low) in zip(core.sent, device.seen, strict=True):
        _, esp = split(skb.data)
        assert esp[4:8] == low.to_bytes(4, "big")
        salts.add(int.from_bytes(esp[8:16], "big") ^ (high << 32 | low))
        assert peer.receive(sealed(skb.data, high.to_bytes(4, "big"))) == datagram()
    assert len(salts) == 1

    receiver = Device()
    core = Core(receiver)
    core.add(state(GCM, extra=f"flag esn replay-window 32 {IN}"))
    peer = Core()
    peer.add(state(GCM), policy("out", template()))
    assert peer.net.output(datagram()) == 0
    packet = opened(peer.take()[0])
    assert core.receive(packet, SecPath(core.state(SPI))) == datagram()
    assert core.receive(packet, SecPath(core.state(SPI))) is None
    assert receiver.seen == [(0, 1)]


def test_what_the_device_does_not_take_is_sealed_in_software():
    """TX-23: IP options, a packet that is too long, the driver's no; and no IV comes twice."""
    device = Device()
    core, peer = Core(device), Core()
    core.add(state(GCM, extra=OUT), policy("out", template()))
    peer.add(state(GCM, extra="replay-window 32"))
    options = bytes(IP(src=A, dst=B, options=b"\1\1\1\0") / UDP() / b"x")
    ivs = set()
    for packet, ok, by_device in (
        (datagram(), True, True),
        (options, True, False),
        (datagram(), False, False),
        (datagram(2000, flags=0, id=5), True, False),
        (datagram(), True, True),
    ):
        device.ok = ok
        assert core.net.output(packet) == 0
        got = []
        for skb in core.sent:
            assert (skb.sec_path is not None) == by_device
            got.append(peer.receive(sealed(skb.data) if by_device else skb.data))
        ivs.add(core.sent[0].data[32 if packet is options else 28 :][:8])
        core.take()
        assert [one for one in got if one] == [packet]
    assert len(ivs) == 5
    assert core.moved() == peer.moved() == {}


def test_a_device_without_crypto_offload_leaves_it_to_software():
    """STATE-24: EOPNOTSUPP is no failure."""
    core, peer = Core(Device(add=-errno.EOPNOTSUPP)), Core()
    core.add(state(GCM, extra=OUT), policy("out", template()))
    peer.add(state(GCM, extra="replay-window 32"))
    assert "offload" not in core.ip("xfrm state").stdout
    assert core.net.output(datagram()) == 0
    (skb,) = core.sent
    assert skb.sec_path is None and peer.receive(skb.data) == datagram()
    assert state_after(core.state(SPI))["cur_packets"] == 1


def test_a_second_sa_keeps_the_first_in_software():
    """TX-23: a device takes no packet that needs another transform."""
    core = Core(Device())
    core.add(
        state(GCM, extra=OUT, spi=1),
        state(GCM, "tunnel", OUT, ("10.9.0.1", "10.9.0.2"), 2),
        policy("out", template(1), template(2, "tunnel", ("10.9.0.1", "10.9.0.2"))),
    )
    assert core.net.output(datagram()) == 0
    (skb,) = core.sent
    assert skb.sec_path is None and core.state(1).curlft.packets == 1
