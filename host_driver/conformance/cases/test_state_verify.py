# SPDX-License-Identifier: Apache-2.0
"""STATE-01..12: what NEWSA and UPDSA are refused for before anything is built."""

import errno
import struct
from typing import Any

import pytest

from host_driver.conformance import messages
from host_driver.conformance.bench import Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import aead, new_sa, sa_info, selector
from host_driver.conformance.subject import Subject
from proto.xfrm import AF_INET, AF_INET6, STATE_AF_UNSPEC, Attr, Msg
from proto.xfrm_structs import (
    Algo,
    AlgoAuth,
    LifetimeCfg,
    ReplayState,
    ReplayStateEsn,
    XfrmSelector,
)

ESP, AH, COMP, ROUTING, DSTOPTS = 50, 51, 108, 43, 60
ESN = 128
END = 0xFFFF_FFFF
TUNNEL, RO = 1, 2
IN, OUT = b"\1", b"\2"
V6: dict[str, Any] = {"src": "2001:db8::1", "dst": "2001:db8::2"}

SHA = b"hmac(sha256)"
AUTH = (Attr.ALG_AUTH, Algo(SHA, 256).pack() + bytes(32))
AUTH_TRUNC = (Attr.ALG_AUTH_TRUNC, AlgoAuth(SHA, 256, 128).pack() + bytes(32))
CRYPT = (Attr.ALG_CRYPT, Algo(b"cbc(aes)", 128).pack() + bytes(16))
DEFLATE = (Attr.ALG_COMP, Algo(b"deflate", 0).pack())
GCM = (Attr.ALG_AEAD, aead())
TFCPAD = (Attr.TFCPAD, struct.pack("<I", 64))
COADDR = (Attr.COADDR, messages.address("2001:db8::3"))


def raw(*attributes: tuple[int, bytes], **how: Any) -> bytes:
    """NEWSA with these attributes and no other."""
    return messages.request(Msg.NEWSA, sa_info(**how).pack(), attributes)


def esn(words: int = 1, *, pad: int = -1, **fields: int) -> bytes:
    """REPLAY_ESN_VAL with a window of 32 and a bitmap of so many words, or of `pad` bytes."""
    fixed = ReplayStateEsn(bmp_len=words, **{"replay_window": 32, **fields})
    return fixed.pack() + bytes(4 * words if pad < 0 else pad)


def refused(host: Subject, datagram: bytes, code: int = errno.EINVAL) -> None:
    """Refused with this errno; nothing is stored, nothing told."""
    reply = host.request(datagram)
    assert reply.errno == code, reply
    assert (host.states(), host.note_names()) == ([], [])


def accepted(host: Subject, datagram: bytes) -> None:
    """Accepted, stored, told; then taken back."""
    reply = host.request(datagram)
    assert reply.errno == 0, reply
    assert (len(host.states()), host.note_names()) == (1, ["NEWSA"])
    host.ok("xfrm state flush")
    host.notes()


@rule("STATE-01")
@pytest.mark.parametrize("family", [0, 1, 7, 99, 0xFFFF])
def test_a_family_other_than_ipv4_and_ipv6_is_einval(bench: Bench, family: int) -> None:
    """AF_INET and AF_INET6 only, for NEWSA and UPDSA."""
    host = bench.host()
    for type in (Msg.NEWSA, Msg.UPDSA):
        refused(host, new_sa(family=family, type=type))
    accepted(host, new_sa())
    accepted(host, new_sa(sa_info(**V6)))


@rule("STATE-02")
def test_prefixes_of_the_selector_fit_its_family(bench: Bench) -> None:
    """At most 32 or 128 bits, by the selector's family or, without one, the SA's; others EINVAL."""
    host = bench.host()
    for family, longest in ((AF_INET, 32), (AF_INET6, 128)):
        for length, judge in ((longest, accepted), (longest + 1, refused)):
            for ends in ((length, 0), (0, length)):
                sel = XfrmSelector(family=family, prefixlen_d=ends[0], prefixlen_s=ends[1])
                judge(host, new_sa(sel=sel, mode=TUNNEL))
    accepted(host, new_sa(sel=XfrmSelector(family=0, prefixlen_s=32)))
    wide = XfrmSelector(family=0, prefixlen_s=33)
    accepted(host, new_sa(sel=wide, mode=TUNNEL, flags=STATE_AF_UNSPEC))
    (refused if bench.latest else accepted)(host, new_sa(sel=wide))
    for family in (1, 99):
        refused(host, new_sa(sel=XfrmSelector(family=family)))


@rule("STATE-03")
@pytest.mark.parametrize(
    "attributes",
    [(), (DEFLATE,), (GCM, CRYPT), (GCM, AUTH), (GCM, AUTH_TRUNC), (CRYPT, DEFLATE), (TFCPAD,),
     (GCM, TFCPAD)],
)  # fmt: skip
def test_esp_takes_one_kind_of_algorithm(
    bench: Bench, attributes: tuple[tuple[Attr, bytes], ...]
) -> None:
    """AEAD alone, or authentication and encryption; no compression; TFC padding in tunnels only."""
    refused(bench.host(), raw(*attributes))


@rule("STATE-03")
def test_esp_takes_aead_or_encryption_with_authentication(bench: Bench) -> None:
    """What is allowed is accepted."""
    host = bench.host()
    for attributes in ((GCM,), (CRYPT,), (CRYPT, AUTH), (CRYPT, AUTH_TRUNC)):
        accepted(host, raw(*attributes))
    accepted(host, raw(GCM, TFCPAD, mode=TUNNEL))


@rule("STATE-03")
def test_other_protocols_have_attributes_of_their_own(bench: Bench) -> None:
    """AH: authentication; IPComp: compression and a small SPI; mobility: a care-of address."""
    host = bench.host()
    accepted(host, raw(AUTH_TRUNC, proto=AH))
    accepted(host, raw(DEFLATE, proto=COMP))
    for wrong in ((), (GCM,), (AUTH, CRYPT), (AUTH, TFCPAD), (AUTH, DEFLATE)):
        refused(host, raw(*wrong, proto=AH))
    for wrong in ((), (GCM,), (DEFLATE, AUTH), (DEFLATE, TFCPAD)):
        refused(host, raw(*wrong, proto=COMP))
    refused(host, raw(DEFLATE, proto=COMP, spi=0x1_0000))
    for proto in (ROUTING, DSTOPTS):
        how = V6 | {"proto": proto, "spi": 0, "mode": RO}
        accepted(host, raw(COADDR, **how))
        refused(host, raw(**how))
        refused(host, raw(COADDR, CRYPT, **how))


@rule("STATE-03")
@pytest.mark.parametrize("proto", [0, 6, 17, 254, 255])
def test_an_unknown_protocol_is_einval(bench: Bench, proto: int) -> None:
    """Whatever its attributes."""
    host = bench.host()
    for attributes in ((), (GCM,), (AUTH,)):
        refused(host, raw(*attributes, proto=proto))


@rule("STATE-04")
def test_an_algorithm_brings_all_bytes_of_its_key(bench: Bench) -> None:
    """Bits are rounded up to bytes; fewer bytes than that are EINVAL, more are not looked at."""
    host = bench.host()
    for type, fixed, key_bits in (
        (Attr.ALG_AUTH, Algo(SHA, 256), 256), (Attr.ALG_AUTH_TRUNC, AlgoAuth(SHA, 256, 128), 256),
        (Attr.ALG_CRYPT, Algo(b"cbc(aes)", 128), 128),
    ):  # fmt: skip
        others = () if type == Attr.ALG_CRYPT else (CRYPT,)
        refused(host, raw(*others, (type, fixed.pack() + bytes(key_bits // 8 - 1))))
        accepted(host, raw(*others, (type, fixed.pack() + bytes(key_bits // 8))))
    refused(host, raw((Attr.ALG_AEAD, aead()[:-1])))
    refused(host, raw((Attr.ALG_AEAD, aead(key_bits=161))))
    accepted(host, raw((Attr.ALG_AEAD, aead(key_bits=153))))  # 20 bytes, too
    accepted(host, raw((Attr.ALG_AEAD, aead() + bytes(4))))


@rule("STATE-05")
def test_a_security_context_is_as_long_as_it_says(bench: Bench) -> None:
    """len is 8 + ctx_len, and no more than the attribute has; else EINVAL."""
    host = bench.host()
    label = b"user"
    for length, ctx_len in ((12, 5), (11, 4), (8, 4), (0, 4), (13, 5), (200, 192)):
        context = struct.pack("<HHBBH", length, 8, 1, 1, ctx_len) + label
        refused(host, new_sa(attributes={Attr.SEC_CTX: context}))


@rule("STATE-06")
def test_esn_and_its_replay_state_belong_together(bench: Bench) -> None:
    """No flag without the attribute, no attribute beside a legacy window or another protocol."""
    host = bench.host()
    refused(host, new_sa(flags=ESN))
    accepted(host, new_sa(flags=ESN, attributes={Attr.REPLAY_ESN_VAL: esn()}))
    refused(host, new_sa(flags=ESN, replay_window=1, attributes={Attr.REPLAY_ESN_VAL: esn()}))
    refused(host, raw(DEFLATE, (Attr.REPLAY_ESN_VAL, esn()), proto=COMP))
    accepted(host, raw(AUTH_TRUNC, (Attr.REPLAY_ESN_VAL, esn()), proto=AH, flags=ESN))


@rule("STATE-06")
def test_a_bitmap_is_whole_or_left_out(bench: Bench) -> None:
    """At most 128 words; the attribute has 24 bytes or the bitmap behind them."""
    host = bench.host()
    for good in (esn(128), esn(4), esn(4, pad=0), esn(4, pad=20)):
        accepted(host, new_sa(flags=ESN, attributes={Attr.REPLAY_ESN_VAL: good}))
    for bad in (esn(129), esn(129, pad=0), esn(4, pad=4), esn(4, pad=15)):
        refused(host, new_sa(flags=ESN, attributes={Attr.REPLAY_ESN_VAL: bad}))


@rule("STATE-07", profile="latest")
def test_a_direction_has_one_half_of_the_replay_state(bench: Bench) -> None:
    """OUT: no window, seq, seq_hi, bitmap; IN: no oseq, oseq_hi; else EINVAL."""
    host = bench.host()
    out = esn(0, replay_window=0, oseq=7, oseq_hi=1)
    accepted(host, new_sa(flags=ESN, attributes={Attr.REPLAY_ESN_VAL: out, Attr.SA_DIR: OUT}))
    for fields in ({"replay_window": 1}, {"seq": 1}, {"seq_hi": 1}):
        bad = esn(0, **{"replay_window": 0, **fields})
        refused(host, new_sa(flags=ESN, attributes={Attr.REPLAY_ESN_VAL: bad, Attr.SA_DIR: OUT}))
    bad = esn(1, replay_window=0)
    refused(host, new_sa(flags=ESN, attributes={Attr.REPLAY_ESN_VAL: bad, Attr.SA_DIR: OUT}))
    into = esn(seq=7, seq_hi=1)
    accepted(host, new_sa(flags=ESN, attributes={Attr.REPLAY_ESN_VAL: into, Attr.SA_DIR: IN}))
    for number in ("oseq", "oseq_hi"):
        bad = esn(**{number: 1})
        refused(host, new_sa(flags=ESN, attributes={Attr.REPLAY_ESN_VAL: bad, Attr.SA_DIR: IN}))
        accepted(host, new_sa(flags=ESN, attributes={Attr.REPLAY_ESN_VAL: bad}))


def counting(bench: Bench, dir: bytes | None, flags: int, low: int, high: int) -> bytes:
    """NEWSA with a counter of its direction; of both where it has none. An SA for output has no
    window, where kernels know that it is one."""
    words = 0 if dir == OUT and bench.latest else 1
    fields = {"replay_window": 32 * words}
    fields |= {} if dir == IN else {"oseq": low, "oseq_hi": high}
    fields |= {} if dir == OUT else {"seq": low, "seq_hi": high}
    attributes = {Attr.REPLAY_ESN_VAL: esn(words, **fields)}
    attributes |= {Attr.SA_DIR: dir} if dir else {}
    return new_sa(flags=flags, attributes=attributes)


@rule("STATE-08")
@pytest.mark.parametrize("dir", [IN, OUT])
@pytest.mark.parametrize(("flags", "low", "high"), [(0, 0, 1), (0, END, 0), (ESN, END, END)])
def test_counters_at_their_end_are_refused(
    bench: Bench, dir: bytes, flags: int, low: int, high: int
) -> None:
    """High halves without ESN, or numbers all used up: EINVAL; kernels before 6.15 took them. Late
    ones were seen to ask only of an SA with a direction, so one without is accepted."""
    host = bench.host()
    judge = refused if bench.latest else accepted
    judge(host, counting(bench, dir, flags, low, high))
    accepted(host, counting(bench, None, flags, low, high))


@rule("STATE-08")
@pytest.mark.parametrize("dir", [IN, OUT])
def test_counters_below_their_end_are_accepted(bench: Bench, dir: bytes) -> None:
    """One number is left: fine."""
    host = bench.host()
    for flags, low, high in ((0, END - 1, 0), (ESN, END - 1, END), (ESN, END, END - 1)):
        accepted(host, counting(bench, dir, flags, low, high))


@rule("STATE-09")
@pytest.mark.parametrize("mode", [3, 5, 6, 255])
def test_an_unknown_mode_is_einval(bench: Bench, mode: int) -> None:
    """3 is only for input triggers, 5 needs support of its own, the others do not exist."""
    refused(bench.host(), new_sa(mode=mode))


@rule("STATE-10")
@pytest.mark.parametrize(
    ("fields", "attributes", "dir"),
    [({"flags": 2}, {}, OUT), ({"flags": 16}, {}, OUT), ({"flags": 8}, {}, OUT),
     ({"replay_window": 1}, {}, OUT),
     ({}, {Attr.REPLAY_VAL: ReplayState(seq=1).pack()}, OUT),
     ({}, {Attr.REPLAY_VAL: ReplayState(bitmap=1).pack()}, OUT),
     ({"flags": 4}, {}, IN), ({}, {Attr.SA_EXTRA_FLAGS: struct.pack("<I", 1)}, IN),
     ({}, {Attr.SA_EXTRA_FLAGS: struct.pack("<I", 2)}, IN)],
)  # fmt: skip
def test_what_is_for_the_other_direction_is_refused(
    bench: Bench, fields: dict[str, Any], attributes: dict[Attr, bytes], dir: bytes
) -> None:
    """With a direction that it cannot mean: EINVAL; with the other, or none, accepted."""
    host = bench.host()
    other = IN if dir == OUT else OUT
    for how in ({}, {Attr.SA_DIR: other}):
        accepted(host, new_sa(attributes=attributes | how, **fields))
    judge = refused if bench.latest else accepted  # v6.2 does not know the attribute
    judge(host, new_sa(attributes=attributes | {Attr.SA_DIR: dir}, **fields))


@rule("STATE-11")
def test_an_unknown_algorithm_is_enosys(bench: Bench) -> None:
    """By name, of every kind, and an ICV length that the algorithm does not have."""
    host = bench.host()
    for proto, attributes in (
        (ESP, ((Attr.ALG_AEAD, aead(name=b"rfc9999(xyz)")),)),
        (ESP, ((Attr.ALG_AEAD, aead(icv_bits=120)),)),
        (ESP, (CRYPT, (Attr.ALG_AUTH, Algo(b"nope", 256).pack() + bytes(32)))),
        (ESP, (CRYPT, (Attr.ALG_AUTH_TRUNC, AlgoAuth(b"nope", 256, 128).pack() + bytes(32)))),
        (ESP, ((Attr.ALG_CRYPT, Algo(b"nope", 128).pack() + bytes(16)),)),
        (COMP, ((Attr.ALG_COMP, Algo(b"nope", 0).pack()),)),
    ):  # fmt: skip
        refused(host, raw(*attributes, proto=proto), errno.ENOSYS)


@rule("STATE-11", "STATE-15")
@pytest.mark.parametrize("size", [0, 4, 16, 19, 21, 40])
def test_a_key_of_another_size_is_refused_by_the_cipher(bench: Bench, size: int) -> None:
    """AES-GCM takes 20, 28 and 36 bytes, salt included: EINVAL for others."""
    refused(bench.host(), new_sa(attributes={Attr.ALG_AEAD: aead(bytes(size))}))


@rule("STATE-12")
def test_what_nobody_checks_is_accepted(bench: Bench) -> None:
    """Soft above hard, reqid 0, odd selectors, one address at both ends."""
    host = bench.host()
    odd = LifetimeCfg(soft_packet_limit=9, hard_packet_limit=3, soft_add_expires_seconds=99)
    accepted(host, new_sa(lft=odd))
    accepted(host, new_sa(reqid=0))
    accepted(host, new_sa(src=messages.DESTINATION))
    accepted(host, new_sa(sel=selector("203.0.113.1", "198.51.100.7", proto=200, user=5)))


@rule("STATE-12")
def test_an_sa_without_spi_is_stored_where_no_spi_finds_it(bench: Bench) -> None:
    """SPI 0 is accepted, again and again; the dump has it, GETSA and DELSA do not."""
    host = bench.host()
    for _ in range(2):
        assert host.request(new_sa(spi=0)).errno == 0
    assert len(host.states()) == 2
    for type in (Msg.GETSA, Msg.DELSA):
        found = host.request(messages.request(type, messages.sa_id(0)))
        assert found.errno == errno.ESRCH
    host.ok("xfrm state flush")
    assert host.states() == []
