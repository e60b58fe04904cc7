# SPDX-License-Identifier: Apache-2.0
"""MLX-01..15: what the kernel's reference driver refuses and does, judged on our strict card."""

import errno

import pytest

from host_driver.conformance import packets, texts
from host_driver.conformance.bench import Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import DESTINATION, KEY, SOURCE
from host_driver.conformance.packets import ETHERNET_BYTES, Esp
from host_driver.conformance.subject import Subject
from proto.xfrm import Attr

PACKET = packets.udp()
OUT = f"src {SOURCE} dst {DESTINATION}"
# Drivers report SAs with limits by themselves; in v6.2 nobody asks them for others (DUMP-03).
REPORTED = "packet-soft 99998 limit packet-hard 99999"


def refused(host: Subject, text: str, code: int = errno.EINVAL) -> None:
    """The command fails, by this errno where the driver is asked, and leaves nothing behind."""
    asked = len(host.calls())
    assert host.ip(text).rc == 2, f"`ip {text}` was accepted"
    results = [call["result"] for call in host.calls()[asked:]]
    assert results in ([], [-code])  # the core refuses some of these by itself
    assert host.census() == {}


def taken(host: Subject, text: str) -> None:
    """The driver accepts."""
    host.ok(text)
    assert host.calls()[-1]["result"] in (0, None)


@rule("MLX-01")
def test_a_larval_sa_is_not_checked(bench: Bench) -> None:
    """One of reqid 0 and without algorithms gets its place; the real one of reqid 0 is refused."""
    host = bench.strict()
    host.ok(texts.policy(host.dev, reqid=0))
    before = host.census()
    assert host.send([PACKET]) == [0]
    assert host.calls()[-1]["result"] == 0
    assert len(host.states()) == 1
    assert host.census() == before
    assert host.ip(texts.state(host.dev, reqid=0)).rc == 2


@rule("MLX-02")
def test_a_card_without_ipsec_says_that_it_is_not_supported(bench: Bench) -> None:
    """EOPNOTSUPP: crypto goes on in software, packet and policies fail with it."""
    host = bench.strict("packet=0,crypto=0")
    host.ok(texts.state(host.dev, offload="crypto"))
    assert host.calls()[-1]["result"] == -errno.EOPNOTSUPP
    (found,) = host.states()
    assert Attr.OFFLOAD_DEV not in found.attributes
    refused(host, texts.state(host.dev, spi=0x1001), errno.EOPNOTSUPP)
    refused(host, texts.policy(host.dev), errno.EOPNOTSUPP)


@rule("MLX-03", "MLX-07")
@pytest.mark.parametrize(
    "algorithm",
    [f"enc cbc(aes) 0x{'11' * 16} auth-trunc hmac(sha256) 0x{'22' * 32} 128",
     f"aead rfc7539esp(chacha20,poly1305) 0x{'33' * 36} 128",
     f"aead rfc4543(gcm(aes)) 0x{'44' * 20} 128", f"enc cbc(aes) 0x{'11' * 16}"],
)  # fmt: skip
@pytest.mark.parametrize("offload", ["packet", "crypto"])
def test_only_aes_gcm_is_taken(bench: Bench, algorithm: str, offload: str) -> None:
    """No authentication algorithm of its own, no other cipher, no SA without AEAD."""
    host = bench.strict()
    ours = f"aead rfc4106(gcm(aes)) 0x{KEY.hex()} 128"
    refused(host, texts.state(host.dev, offload=offload).replace(ours, algorithm))


@rule("MLX-04")
def test_esn_needs_its_capability(bench: Bench) -> None:
    """With it ESN is taken, without it refused."""
    words = "flag esn replay-window 64"
    host = bench.strict()
    taken(host, texts.state(host.dev, dir="in", more=words))
    host = bench.strict("esn=0")
    refused(host, texts.state(host.dev, dir="in", more=words))
    taken(host, texts.state(host.dev, dir="in"))


@rule("MLX-05")
def test_families_and_protocols_that_are_taken(bench: Bench) -> None:
    """IPv4 and IPv6, ESP."""
    host = bench.strict()
    taken(host, texts.state(host.dev))
    taken(host, texts.state(host.dev, src="fd00:1::1", dst="fd00:1::2"))
    for text in (texts.delete(), texts.delete(src="fd00:1::1", dst="fd00:1::2")):
        host.ok(text)
    authenticated = f"auth-trunc hmac(sha256) 0x{'22' * 32} 128"
    offload = f"offload packet dev {host.dev} dir out"
    refused(host, f"xfrm state add {OUT} proto ah spi 7 reqid 1 {authenticated} {offload}")


@rule("MLX-06")
@pytest.mark.parametrize(
    ("card", "encap", "how", "fine"),
    [("espinudp=1", "espinudp", {}, True), ("espinudp=1", "espinudp-nonike", {}, False),
     ("espinudp=1", "espinudp", {"offload": "crypto"}, False),
     ("espinudp=1", "espinudp", {"mode": "tunnel"}, False), ("espinudp=0", "espinudp", {}, False)],
)  # fmt: skip
def test_udp_encapsulation_is_for_packet_and_transport(
    bench: Bench, card: str, encap: str, how: dict[str, str], fine: bool
) -> None:
    """ESPINUDP only, with the capability, and in a kernel that lets it be offloaded at all."""
    host = bench.strict(card)
    text = texts.state(host.dev, more=f"encap {encap} 4500 4500 0.0.0.0", **how)  # type: ignore[arg-type]
    if fine and bench.latest:
        taken(host, text)
    else:
        refused(host, text)


@rule("MLX-07")
@pytest.mark.parametrize(("bits", "icv", "fine"), [(128, 128, True), (256, 128, True),
                         (192, 128, False), (128, 96, False), (128, 64, False)])  # fmt: skip
def test_keys_of_two_sizes_and_one_icv_are_taken(
    bench: Bench, bits: int, icv: int, fine: bool
) -> None:
    """160 or 288 bits with the salt, ICV of 128."""
    host = bench.strict()
    text = texts.state(host.dev, key=bytes(range(1, bits // 8 + 5)), icv=icv)
    (taken if fine else refused)(host, text)


@rule("MLX-07")
def test_tfc_padding_is_refused(bench: Bench) -> None:
    """Whatever its size."""
    host = bench.strict()
    refused(host, texts.state(host.dev, mode="tunnel", more="tfcpad 100"))


@rule("MLX-08")
@pytest.mark.parametrize(("proto", "fine"), [("", True), ("proto udp", True), ("proto tcp", True),
                         ("proto icmp", False), ("proto sctp", False)])  # fmt: skip
def test_selectors_of_an_sa_name_udp_tcp_or_nothing(bench: Bench, proto: str, fine: bool) -> None:
    """Any other protocol is refused."""
    host = bench.strict()
    text = texts.state(host.dev, more=f"sel {OUT} {proto}")
    (taken if fine else refused)(host, text)


@rule("MLX-09")
@pytest.mark.parametrize(("card", "mode", "fine"), [("", "transport", True), ("", "tunnel", True),
                         ("", "beet", False), ("tunnel=0", "tunnel", False),
                         ("tunnel=0", "transport", True)])  # fmt: skip
def test_modes_that_are_taken(bench: Bench, card: str, mode: str, fine: bool) -> None:
    """Transport, and tunnel with its capability."""
    host = bench.strict(card)
    (taken if fine else refused)(host, texts.state(host.dev, mode=mode))


@rule("MLX-10", "LIFE-03")
@pytest.mark.parametrize(
    "limits", ["packet-soft 5 limit packet-hard 5", "packet-soft 6 limit packet-hard 5",
               "byte-hard 900", "byte-soft 0", "packet-hard 0", "packet-soft 0",
               "byte-soft 0 limit byte-hard 0"],
)  # fmt: skip
def test_limits_that_make_no_sense_are_refused(bench: Bench, limits: str) -> None:
    """Soft must be below a finite hard one, infinite soft included; none may be 0."""
    host = bench.strict()
    refused(host, texts.state(host.dev, more=f"limit {limits}"))
    taken(host, texts.state(host.dev, more="limit packet-soft 4 limit packet-hard 5"))


@rule("MLX-10")
def test_packet_offload_needs_reqid_window_and_capability(bench: Bench) -> None:
    """reqid 0, windows other than 32, 64, 128 and 256, a card without it."""
    host = bench.strict()
    refused(host, texts.state(host.dev, reqid=0))
    refused(host, texts.state(host.dev, dir="in", more="flag esn replay-window 33"))
    refused(host, texts.state(host.dev, dir="in", more="flag esn replay-window 512"))
    for spi, window in enumerate((32, 64, 128, 256), 0x2000):
        text = texts.state(host.dev, spi=spi, dir="in", more=f"flag esn replay-window {window}")
        taken(host, text)
    host = bench.strict("packet=0")
    refused(host, texts.state(host.dev))


@rule("MLX-11")
def test_crypto_offload_needs_its_capability(bench: Bench) -> None:
    """Without it the request fails: only a card without any offload says EOPNOTSUPP."""
    host = bench.strict()
    taken(host, texts.state(host.dev, offload="crypto"))
    host = bench.strict("crypto=0")
    refused(host, texts.state(host.dev, offload="crypto"))


@rule("MLX-12")
@pytest.mark.parametrize(
    ("card", "words"),
    [("", f"{OUT} dir out ptype sub"), ("", f"{OUT} dir fwd"), ("packet=0", f"{OUT} dir out"),
     ("", f"{OUT} dir out tmpl proto esp reqid 1 tmpl proto esp reqid 2"),
     ("", "src 0.0.0.0/0 dst 0.0.0.0/0 dir out tmpl proto esp"), ("", f"{OUT} proto icmp dir out"),
     ("", f"{OUT} dir out priority 4294967295"), ("priority=0", f"{OUT} dir out priority 1")],
)  # fmt: skip
def test_policies_that_are_refused(bench: Bench, card: str, words: str) -> None:
    """Type, number of templates, direction, reqid 0 for all traffic, protocol, priority, no
    capability."""
    host = bench.strict(card)
    refused(host, f"xfrm policy add {words} offload packet dev {host.dev}")


@rule("MLX-12")
@pytest.mark.parametrize(
    "words", [f"{OUT} dir in", f"{OUT} dir out priority 4294967294", f"{OUT} proto tcp dir out",
              f"{OUT} dir out tmpl proto esp", f"{OUT} dir out action block",
              "src 0.0.0.0/0 dst 0.0.0.0/0 dir out tmpl proto esp reqid 1"],
)  # fmt: skip
def test_policies_that_are_taken(bench: Bench, words: str) -> None:
    """The other side of each of these limits."""
    host = bench.strict()
    taken(host, f"xfrm policy add {words} offload packet dev {host.dev}")


@rule("MLX-14")
def test_statistics_count_failures_apart(bench: Bench) -> None:
    """Packets that fail authentication or replay are no packets of the SA; they show in its
    statistics, and since v6.9 in the host's counters, each in its place."""
    host = bench.strict()
    limit = f"limit {REPORTED}"
    host.ok(texts.state(host.dev, dir="in", more=limit))
    host.ok(texts.policy(host.dev, dir="in"))
    good = [Esp().seal(PACKET, seq) for seq in (1, 2, 3)]
    forged = Esp().seal(PACKET, 4)[:-1] + b"\0"
    for packet in (*good, forged, good[1], good[2]):
        bench.arrive(packet)
        bench.settle()
    if not bench.latest:
        bench.lab.advance(1.2)
    found = host.sa()
    assert found is not None
    assert found.curlft.packets == 3
    assert (found.stats.integrity_failed, found.stats.replay) == (1, 2)
    assert host.receive() == [PACKET] * 3
    failures = {"XfrmInStateProtoError": 1, "XfrmInStateSeqError": 2}
    assert host.mib() == host.mib() == (failures if bench.latest else {})


@rule("MLX-15")
def test_tunnel_packets_have_link_addresses(bench: Bench) -> None:
    """Nobody resolves a neighbour for them: the device fills in the peer's address and its own."""
    a, b = bench.pair()
    ends = (SOURCE, DESTINATION)
    inner = {"src": "10.8.0.1", "dst": "10.9.0.1"}
    a.ok(texts.state(a.dev, mode="tunnel", more="flag af-unspec"))
    a.ok(texts.policy(a.dev, mode="tunnel", ends=ends, **inner))  # type: ignore[arg-type]
    a.send([packets.udp(**inner)])  # type: ignore[arg-type]
    (frame,) = bench.frames()
    assert (frame[:6], frame[6:12]) == (b.mac, a.mac)
    assert Esp().open(frame[ETHERNET_BYTES:], tunnel=True) == packets.udp(**inner)  # type: ignore[arg-type]


@rule("LIFE-04")
@pytest.mark.parametrize("ends", [(SOURCE, DESTINATION), ("fd00:1::1", "fd00:1::2")])
def test_bytes_of_a_card_are_those_behind_the_ip_header(
    bench: Bench, ends: tuple[str, str]
) -> None:
    """Per packet, without link and IP header, in either family."""
    src, dst = ends
    host = bench.strict()
    host.ok(texts.state(host.dev, src=src, dst=dst, more=f"limit {REPORTED}"))
    host.ok(texts.policy(host.dev, src=src, dst=dst))
    packet = packets.udp(bytes(100), src=src, dst=dst)
    host.send([packet] * 3)
    if not bench.latest:
        bench.lab.advance(1.2)
    found = host.sa(dst=dst)
    assert found is not None
    assert found.curlft.bytes == 3 * (len(packet) - packets.header_bytes(packet))
