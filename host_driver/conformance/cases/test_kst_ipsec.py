# SPDX-License-Identifier: Apache-2.0
"""KST-11: what the kernel's self test net/ipsec.c asks: algorithms with traffic, and messages that
users send to listeners. All of it is software's."""

import errno
import struct

import pytest

from host_driver.conformance import layouts, messages, packets
from host_driver.conformance.bench import Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import request
from host_driver.conformance.subject import Subject
from proto.xfrm import Attr, Msg

TUNNEL = "src 192.0.2.1 dst 192.0.2.2"
AUTH = {
    "hmac(md5)": (16, 96), "hmac(sha1)": (20, 96), "hmac(sha256)": (32, 128),
    "hmac(sha384)": (48, 192), "hmac(sha512)": (64, 256), "cmac(aes)": (16, 96),
}  # fmt: skip
CRYPT = {
    "ecb(cipher_null)": 0, "cbc(des3_ede)": 24, "cbc(aes)": 16, "cbc(cast5)": 16,
    "cbc(blowfish)": 16, "cbc(camellia)": 32, "rfc3686(ctr(aes))": 20,
}  # fmt: skip
AEAD = {"rfc4106(gcm(aes))": 20, "rfc4309(ccm(aes))": 19, "rfc7539esp(chacha20,poly1305)": 36}
IPV4_HTHRESH, IPV6_HTHRESH = 3, 4  # XFRMA_SPD_*


def key(size: int) -> str:
    """Hexadecimal, of so many bytes, all different."""
    return "0x" + bytes(range(1, size + 1)).hex() if size else '""'


def apart(auth: str, crypt: str) -> str:
    """Encryption and authentication as two algorithms."""
    size, icv = AUTH[auth]
    return f"enc {crypt} {key(CRYPT[crypt])} auth-trunc {auth} {key(size)} {icv}"


@rule("KST-11")
@pytest.mark.parametrize(
    "algorithms",
    [apart(auth, "cbc(aes)") for auth in AUTH]
    + [apart("hmac(sha256)", crypt) for crypt in CRYPT]
    + [f"aead {name} {key(size)} 128" for name, size in AEAD.items()],
)
def test_a_tunnel_of_each_algorithm_carries_packets(bench: Bench, algorithms: str) -> None:
    """What one host's software seals the other's opens; on the wire it is ESP."""
    hosts = bench.pair()
    for host, dir in zip(hosts, ("out", "in"), strict=True):
        host.ok(f"xfrm state add {TUNNEL} proto esp spi 0x1000 reqid 1 mode tunnel {algorithms}")
        host.ok(
            f"xfrm policy add src 10.1.0.1 dst 10.1.0.2 dir {dir} "
            f"tmpl {TUNNEL} proto esp reqid 1 mode tunnel"
        )
    sent = [packets.udp(bytes(size)) for size in (1, 64, 1200)]
    assert hosts[0].send(sent) == [0] * 3
    assert hosts[1].receive() == sent
    assert bench.spis() == [0x1000] * 3
    for frame in bench.frames():
        assert bytes(64) not in frame or "cipher_null" in algorithms


@rule("KST-11")
def test_an_spi_is_given(bench: Bench) -> None:
    """ALLOCSPI: one out of the range, which no other SA has."""
    host = bench.host()
    given = []
    for reqid in range(3):
        (note,) = host.request(messages.alloc_spi(0x2710, 0x2AF7, reqid=reqid)).notes
        id = layouts.ID.read(layouts.USERSA_INFO.read(note.fixed).id)
        given.append(int.from_bytes(id.spi))
    assert len(set(given)) == 3
    assert all(0x2710 <= spi <= 0x2AF7 for spi in given)


@rule("KST-11")
def test_an_acquire_from_a_user_reaches_listeners(bench: Bench) -> None:
    """The user's ACQUIRE is told with the masks of its template."""
    host = bench.host()
    masks = {"aalgos": 0xFEED, "ealgos": 0xBAAD, "calgos": 0xBABE}
    here, there = messages.address("10.1.0.1"), messages.address("10.1.0.2")
    sel = messages.selector()
    id = layouts.ID.make(daddr=there, spi=bytes(4), proto=50)
    acquire = layouts.USER_ACQUIRE.make(
        id=id,
        saddr=here,
        sel=sel.pack(),
        policy=messages.policy_info(sel=sel).pack(),
        seq=1,
        **masks,
    )
    template = layouts.USER_TMPL.make(id=id, family=2, saddr=here, **masks)
    assert host.request(request(Msg.ACQUIRE, acquire, {Attr.TMPL: template})).errno == 0
    (told,) = host.notes()
    assert told.name == "ACQUIRE"
    seen = layouts.USER_ACQUIRE.read(told.fixed)
    assert {name: getattr(seen, name) for name in masks} == masks
    assert (seen.sel, seen.saddr) == (sel.pack(), here)


@rule("KST-11")
def test_expiries_from_a_user_reach_listeners(bench: Bench) -> None:
    """A hard EXPIRE ends the SA, a hard POLEXPIRE the policy; both are told as such."""
    host = bench.host()
    assert host.request(messages.new_sa()).errno == 0
    assert host.request(messages.new_policy()).errno == 0
    host.notes()
    hard = struct.pack("<B7x", 1)
    assert host.request(request(Msg.EXPIRE, messages.sa_info().pack() + hard)).errno == 0
    assert host.request(request(Msg.POLEXPIRE, messages.policy_info().pack() + hard)).errno == 0
    assert messages.expiries(host.notes()) == ["hard 0x1000", "hard policy"]
    assert (host.states(), host.policies()) == ([], [])


def thresholds(host: Subject) -> list[tuple[int, int]]:
    """Local and remote bits for IPv4 and IPv6, as GETSPDINFO tells them."""
    (note,) = host.request(request(Msg.GETSPDINFO, bytes(4))).notes
    found = [
        layouts.SPDHTHRESH.read(note.attributes[kind]) for kind in (IPV4_HTHRESH, IPV6_HTHRESH)
    ]
    return [(one.lbits, one.rbits) for one in found]


@rule("KST-11")
def test_thresholds_are_told_as_they_were_set(bench: Bench) -> None:
    """NEWSPDINFO, then GETSPDINFO; a value too large is refused and changes nothing."""
    host = bench.host()
    assert thresholds(host) == [(32, 32), (128, 128)]
    wanted = {IPV4_HTHRESH: bytes((31, 16)), IPV6_HTHRESH: bytes((120, 16))}
    assert host.request(request(Msg.NEWSPDINFO, bytes(4), list(wanted.items()))).errno == 0
    assert thresholds(host) == [(31, 16), (120, 16)]
    too_long = [(IPV4_HTHRESH, bytes((33, 16)))]
    assert host.request(request(Msg.NEWSPDINFO, bytes(4), too_long)).errno == errno.EINVAL
    assert thresholds(host) == [(31, 16), (120, 16)]
