# SPDX-License-Identifier: Apache-2.0
"""Crypto offload: the card seals what the host built and opens what it takes apart, in place."""

import struct
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrHopByHop
from scapy.packet import Raw

from nic_model import tables
from proto.commands import IN
from proto.layouts import RX_HIGH_SHIFT, RxFlag, TxFlag
from proto.limits import ETHERNET_BYTES
from proto.status import Drop

SPI = 0x1000
MASK = 0x1122_3344_5566_7788
HEADS = {
    "v4": IP(src="10.1.0.1", dst="10.1.0.2", id=9, proto=50),
    "v4-options": IP(src="10.1.0.1", dst="10.1.0.2", options=b"\x94\4\0\0", proto=50),
    "v6": IPv6(src="fd00::1", dst="fd00::2", nh=50),
    "v6-hop": IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrHopByHop(nh=50),
}


def built(payload: bytes, seq: int, *, spi: int = SPI, iv: int | None = None, icv_bytes: int = 16,
          pad: int | None = None, next_header: int = 17) -> bytes:  # fmt: skip
    """Clear ESP as the host lays it out, the ICV's room zero (RFC 4303 2, RFC 4106 3)."""
    fill = -(len(payload) + 2) % 4
    trailer = bytes(range(1, fill + 1)) + bytes([fill if pad is None else pad, next_header])
    iv = seq ^ MASK if iv is None else iv
    header = struct.pack(">IIQ", spi, seq & 0xFFFF_FFFF, iv)
    return header + payload + trailer + bytes(icv_bytes)


def frame(bench: Any, esp: bytes, head: str = "v4", port: int = 0) -> bytes:
    around = HEADS[head]
    if port:
        udp = bytearray(bytes(UDP(sport=port, dport=port, chksum=0, len=len(esp) + 8)))
        around = around.copy()
        around.lastlayer().setfieldval("nh" if head.startswith("v6") else "proto", 17)
        esp = bytes(udp) + esp
    return bench.frame(bytes(around / Raw(esp)))


def crypto(bench: Any, head: str = "v4", **fields: Any) -> int:
    ends = {"src": "fd00::1", "dst": "fd00::2"} if head.startswith("v6") else {}
    return bench.sa(crypto=True, reqid=0, **(ends | fields))


def send(bench: Any, row: int, frames: list[bytes], **fields: Any) -> list[Any]:
    return bench.tx(frames, flags=TxFlag.CRYPTO, row=row, **fields)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("icv_bytes", [8, 12, 16])
@pytest.mark.parametrize("port", [0, 4500])
def test_only_payload_and_icv_change(bench: Any, head: str, icv_bytes: int, port: int) -> None:
    row = crypto(bench, head, icv_bytes=icv_bytes, encap_sport=port, encap_dport=port)
    for seq, size in enumerate((1, 2, 3, 4, 999), 1):
        data = frame(bench, built(bytes(size), seq, icv_bytes=icv_bytes), head, port)
        (sent,) = send(bench, row, [data])
        at = len(data) - len(built(bytes(size), seq, icv_bytes=icv_bytes))
        before = at - 2 if port and head.startswith("v6") else at
        assert len(sent) == len(data) and sent[:before] == data[:before]
        assert sent[at : at + 16] == data[at : at + 16]
        assert (
            bench.open_esp(bench.KEY, sent[at:], icv_bytes=icv_bytes) == data[at + 16 : -icv_bytes]
        )
        if before != at:  # over IPv6 the checksum of UDP must be there (RFC 8200 8.1)
            again = IPv6(sent[14:])
            del again[UDP].chksum
            assert IPv6(bytes(again))[UDP].chksum == IPv6(sent[14:])[UDP].chksum != 0
    assert bench.state(row).packets == 5


def test_policies_do_not_see_it(bench: Any) -> None:
    row = crypto(bench)
    bench.policy()
    bench.policy(direction=IN)
    esp = bytes(built(b"abc", 1))
    (sent,) = send(bench, row, [frame(bench, esp)])
    assert bench.open_esp(bench.KEY, sent[34:])[:3] == b"abc"
    assert bench.tx([frame(bench, esp)]) == [Drop.NO_SA]  # without the flag it is like any packet


def test_esn_follows_the_host(bench: Any) -> None:
    row = crypto(bench, esn=True, seq=(7 << 32) - 2)
    for seq in ((7 << 32) - 1, 7 << 32, (7 << 32) + 1, (7 << 32) + 500, (9 << 32) + 3):
        (sent,) = send(bench, row, [frame(bench, built(b"abc", seq))])
        assert bench.open_esp(bench.KEY, sent[34:], high=seq >> 32)[:3] == b"abc"
        assert bench.state(row).seq == seq


WRONG = {
    "spi": lambda b: frame(b, built(b"abc", 2, spi=SPI + 1)),
    "family": lambda b: frame(b, built(b"abc", 2), "v6"),
    "clear": lambda b: b.frame(bytes(IP(src="10.1.0.1", dst="10.1.0.2") / UDP() / bytes(40))),
    "udp": lambda b: frame(b, built(b"abc", 2), port=4500),
    "arp": lambda b: bytes(12) + b"\x08\x06" + bytes(60),
    "pad": lambda b: frame(b, built(b"abc", 2, pad=7)),
    "short": lambda b: frame(b, built(b"", 2)[:-4]),
    "unaligned": lambda b: frame(b, built(b"abc", 2) + b"\0"),
    "fragment": lambda b: b.frame(
        bytes(IP(src="10.1.0.1", dst="10.1.0.2", proto=50, flags="MF") / Raw(built(b"abc", 2)))
    ),
    "same sequence": lambda b: frame(b, built(b"abc", 1)),
    "sequence 0": lambda b: frame(b, built(b"abc", 0)),
    "same iv": lambda b: frame(b, built(b"abc", 2, iv=1 ^ MASK)),
    "other iv": lambda b: frame(b, built(b"abc", 2, iv=5)),
    "next iv": lambda b: frame(b, built(b"abc", 2, iv=3 ^ MASK)),
    "iv of the next subspace": lambda b: frame(b, built(b"abc", 2, iv=(1 << 32 | 2) ^ MASK)),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_the_next_packet_of_the_sa_never_leaves(bench: Any, name: str) -> None:
    row = crypto(bench)
    assert isinstance(send(bench, row, [frame(bench, built(b"abc", 1))])[0], bytes)
    assert send(bench, row, [WRONG[name](bench)]) == [Drop.CRYPTO]
    assert bench.state(row).seq == 1
    assert isinstance(send(bench, row, [frame(bench, built(b"abc", 2))])[0], bytes)


def test_the_descriptor_must_name_a_living_crypto_sa(bench: Any) -> None:
    packet_sa = bench.sa()
    inbound = bench.sa(direction=IN, crypto=True)
    row = crypto(bench)
    data = frame(bench, built(b"abc", 1))
    for wrong in (packet_sa, inbound, row + 1, 64, 65, (1 << 24) - 1):
        assert send(bench, wrong, [data]) == [Drop.CRYPTO]
    assert send(bench, row, [data], generation=8) == [Drop.CRYPTO]
    assert bench.tx([data], flags=TxFlag.CRYPTO) == [Drop.CRYPTO]
    tables.clear_sa(bench.t, row)
    assert send(bench, row, [data]) == [Drop.CRYPTO]


def test_a_sequence_that_wraps_repeats_no_iv(bench: Any) -> None:
    """With oseq-may-wrap the host's IV must go on counting; without ESN the number may not wrap."""
    data = [frame(bench, built(b"abc", seq)) for seq in ((1 << 32) - 1, 1 << 32, (1 << 32) + 1)]
    row = crypto(bench, seq=(1 << 32) - 2)
    assert [type(one) for one in send(bench, row, data)] == [bytes, Drop, Drop]
    row = crypto(bench, seq=(1 << 32) - 2, may_wrap=True)
    assert all(isinstance(one, bytes) for one in send(bench, row, data))
    restarted = frame(bench, built(b"abc", 2, iv=2 ^ MASK))
    assert send(bench, row, [restarted]) == [Drop.CRYPTO]


def test_mtu(bench: Any) -> None:
    row = crypto(bench)
    fits, large = (frame(bench, built(bytes(size), 1)) for size in (1446, 1447))
    assert len(fits) - ETHERNET_BYTES == 1500
    assert send(bench, row, [large]) == [Drop.TOO_LONG]
    assert isinstance(send(bench, row, [fits])[0], bytes)  # it used no number up


def sealed(bench: Any, seq: int, head: str = "v4", port: int = 0, **fields: Any) -> bytes:
    return frame(bench, bench.esp(bench.KEY, SPI, seq, b"payload", 17, **fields), head, port)


def opened(bench: Any, data: bytes) -> tuple[bytes, Any]:
    (got,) = bench.rx([data])
    return got, bench.descriptors[0]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("icv_bytes", [8, 12, 16])
@pytest.mark.parametrize("port", [0, 4500])
def test_a_packet_is_opened_where_it_stands(
    bench: Any, head: str, icv_bytes: int, port: int
) -> None:
    row = crypto(bench, head, direction=IN, icv_bytes=icv_bytes, encap_sport=port, encap_dport=port)
    data = sealed(bench, 1, head, port, icv_bytes=icv_bytes)
    got, descriptor = opened(bench, data)
    clear = b"payload" + b"\1\2\3" + b"\3\x11"
    at = len(data) - icv_bytes - len(clear)
    assert got == data[:at] + clear + data[-icv_bytes:]
    assert (descriptor["flags"], descriptor["syndrome"]) == (RxFlag.CRYPTO, 0)
    assert (descriptor["handle"], descriptor["generation"]) == (row | 7 << 24, 7)
    assert bench.rx([data]) == [got]  # replay is the host's to see
    assert bench.state(row).replay == 0


def test_a_wrong_icv_is_the_hosts_to_count(bench: Any) -> None:
    row = crypto(bench, direction=IN)
    data = bytearray(sealed(bench, 1))
    data[-20] ^= 1
    got, descriptor = opened(bench, bytes(data))
    assert got == bytes(data)  # nothing of it was decrypted
    assert (descriptor["flags"], descriptor["syndrome"]) == (RxFlag.CRYPTO, Drop.INTEGRITY)
    assert descriptor["handle"] == row | 7 << 24
    assert bench.t.drops.sum() == 0 and bench.state(row).integrity_failed == 1
    assert opened(bench, sealed(bench, 2))[1]["syndrome"] == 0


def test_esn_is_inferred_around_the_top(bench: Any) -> None:
    """REPLAY-08; the top is what was authenticated or what the host tells, and never goes back."""
    top = 5 << 32 | 10
    row = crypto(bench, direction=IN, esn=True, replay_window=64, seq=top)

    def good(seq: int) -> bool:
        return opened(bench, sealed(bench, seq, esn=True))[1]["syndrome"] == 0

    def high() -> int:
        return int(bench.descriptors["flags"][0]) >> RX_HIGH_SHIFT

    assert good(top + 1) and high() == 5
    assert good(top - 20) and good((5 << 32) - 40) and high() == 4
    assert good(top - 100) and high() == 4  # the host's window may not have come so far
    assert bench.state(row).seq == top + 1
    assert not good((6 << 32) + 5)  # a whole subspace ahead: taken for one of the window, wrongly
    assert good(5 << 32 | 0xFFFF_FF00) and good((6 << 32) + 5)
    tables.advance_seq(bench.t, row, 8 << 32 | 100)
    assert good(8 << 32 | 101) and not good(5 << 32 | 200)
    tables.advance_seq(bench.t, row, 3)
    assert bench.state(row).seq == 8 << 32 | 101


@pytest.mark.parametrize("size", [8, 16, 33])
def test_what_is_too_short_for_the_sa_comes_as_it_is(bench: Any, size: int) -> None:
    crypto(bench, direction=IN)
    data = frame(bench, (SPI.to_bytes(4, "big") + bytes(60))[:size])
    got, descriptor = opened(bench, data)
    assert (got, descriptor["flags"], descriptor["handle"]) == (data, 0, 0)


def test_other_spis_come_as_they_are(bench: Any) -> None:
    crypto(bench, direction=IN, spi=SPI + 1)
    for head in HEADS:
        data = sealed(bench, 1, head)
        got, descriptor = opened(bench, data)
        assert (got, descriptor["flags"]) == (data, 0)


def test_what_was_sealed_here_opens_elsewhere_and_the_other_way(bench: Any) -> None:
    """One card's crypto mode against `cryptography`, whose key is another: no key, no packet."""
    row = crypto(bench)
    (sent,) = send(bench, row, [frame(bench, built(b"secret", 1))])
    assert b"secret" not in sent
    with pytest.raises(InvalidTag):
        bench.open_esp(bytes(16), sent[34:])
