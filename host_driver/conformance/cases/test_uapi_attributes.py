# SPDX-License-Identifier: Apache-2.0
"""UAPI-46..53: what attributes of an SA hold, seen in what the SA then does."""

import errno

import pytest

from host_driver.conformance import layouts, messages, packets, texts
from host_driver.conformance.bench import Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import new_policy, new_sa, request
from host_driver.conformance.subject import Subject
from proto.xfrm import Attr, Msg

ESP_AT = 20  # behind the IP header
ESN = 128


def attributes(host: Subject, dst: str = messages.DESTINATION) -> dict[int, bytes]:
    """The attributes of the SA as GETSA gives them."""
    (note,) = host.request(request(Msg.GETSA, messages.sa_id(dst=dst))).notes
    return note.attributes


def sequence(packet: bytes) -> int:
    """The sequence number of an ESP packet."""
    return int.from_bytes(packet[ESP_AT + 4 : ESP_AT + 8])


@rule("UAPI-46")
def test_replay_state_of_a_sender(bench: Bench) -> None:
    """REPLAY_VAL: the next packet has the number behind oseq."""
    host = bench.host()
    replay = layouts.REPLAY_STATE.make(oseq=41)
    assert host.request(new_sa(attributes={Attr.REPLAY_VAL: replay})).errno == 0
    host.ok(texts.policy())
    assert host.send([packets.udp()]) == [0]
    (sent,) = bench.on_the_wire()
    assert sequence(sent) == 42
    assert attributes(host)[Attr.REPLAY_VAL] == layouts.REPLAY_STATE.make(oseq=42)


@rule("UAPI-46")
def test_replay_state_of_a_receiver(bench: Bench) -> None:
    """REPLAY_VAL: what the bitmap below seq has set is a duplicate."""
    host = bench.host()
    sender, receiver = messages.DESTINATION, messages.SOURCE
    replay = {Attr.REPLAY_VAL: layouts.REPLAY_STATE.make(seq=42, bitmap=0b101)}
    added = new_sa(src=sender, dst=receiver, replay_window=32, attributes=replay)
    assert host.request(added).errno == 0
    host.ok(texts.policy(src=sender, dst=receiver, dir="in"))
    clear = packets.udp(src=sender, dst=receiver)
    sealed = [packets.Esp().seal(clear, seq) for seq in (42, 41, 40, 39)]
    bench.arrive(*sealed)
    assert len(host.receive()) == 2
    assert host.mib() == {"XfrmInStateSeqError": 2}


@rule("UAPI-47")
def test_esn_replay_state_of_a_sender(bench: Bench) -> None:
    """REPLAY_ESN_VAL: oseq and oseq_hi are both halves of the last number sent."""
    host = bench.host()
    esn = layouts.REPLAY_STATE_ESN.make(bmp_len=1, oseq=7, oseq_hi=3, replay_window=32) + bytes(4)
    assert host.request(new_sa(flags=ESN, attributes={Attr.REPLAY_ESN_VAL: esn})).errno == 0
    host.ok(texts.policy())
    packet = packets.udp()
    assert host.send([packet]) == [0]
    (sent,) = bench.on_the_wire()
    assert sequence(sent) == 8
    assert packets.Esp(high=3).open(sent) == packet
    came = layouts.REPLAY_STATE_ESN.read(attributes(host)[Attr.REPLAY_ESN_VAL])
    assert (came.bmp_len, came.oseq, came.oseq_hi, came.seq, came.seq_hi) == (1, 8, 3, 0, 0)


@rule("UAPI-47")
def test_esn_replay_state_of_a_receiver(bench: Bench) -> None:
    """seq and seq_hi are both halves of the highest number received, replay_window is in bits,
    bmp_len words of bitmap follow."""
    host = bench.host()
    sender, receiver = messages.DESTINATION, messages.SOURCE
    esn = layouts.REPLAY_STATE_ESN.make(bmp_len=2, seq=5, seq_hi=3, replay_window=64) + bytes(8)
    added = new_sa(src=sender, dst=receiver, flags=ESN, attributes={Attr.REPLAY_ESN_VAL: esn})
    assert host.request(added).errno == 0
    host.ok(texts.policy(src=sender, dst=receiver, dir="in"))
    sealed = packets.Esp(high=3).seal(packets.udp(src=sender, dst=receiver), 9)
    bench.arrive(sealed)
    assert len(host.receive()) == 1
    value = attributes(host, receiver)[Attr.REPLAY_ESN_VAL]
    came = layouts.REPLAY_STATE_ESN.read(value)
    assert len(value) == 24 + 4 * 2
    assert (came.bmp_len, came.replay_window) == (2, 64)
    assert (came.seq, came.seq_hi, came.oseq, came.oseq_hi) == (9, 3, 0, 0)
    assert any(value[24:])


@rule("UAPI-48", "UAPI-49")
def test_keys_are_counted_in_bits_behind_their_names(bench: Bench) -> None:
    """xfrm_algo and xfrm_algo_auth: name, key bits, (truncation bits,) key; a key that is missing
    in part is EINVAL, an unknown name ENOSYS."""
    host = bench.host()
    crypt = layouts.ALGO.make(name=b"cbc(aes)", key_len=256) + bytes(range(32))
    auth = layouts.ALGO_AUTH.make(name=b"hmac(sha256)", key_len=128, trunc_len=96) + b"k" * 16
    both = {Attr.ALG_CRYPT: crypt, Attr.ALG_AUTH_TRUNC: auth}
    for kind, short in ((Attr.ALG_CRYPT, crypt[:-1]), (Attr.ALG_AUTH_TRUNC, auth[:-1])):
        assert host.request(new_sa(attributes=both | {kind: short})).errno == errno.EINVAL
    for kind, value in both.items():
        unknown = b"x" + value[1:]
        assert host.request(new_sa(attributes=both | {kind: unknown})).errno == errno.ENOSYS
    assert host.request(new_sa(attributes=both)).errno == 0
    came = attributes(host)
    assert (came[Attr.ALG_CRYPT], came[Attr.ALG_AUTH_TRUNC]) == (crypt, auth)
    plain = layouts.ALGO.read(came[Attr.ALG_AUTH])
    assert (plain.name.rstrip(b"\0"), plain.key_len) == (b"hmac(sha256)", 128)
    assert came[Attr.ALG_AUTH][68:] == b"k" * 16


@rule("UAPI-50")
@pytest.mark.parametrize(("bits", "wanted"), [(160, 0), (153, 0), (161, 22), (168, 22), (152, 22)])
def test_aead_key_bits_round_up_to_bytes(bench: Bench, bits: int, wanted: int) -> None:
    """(key_len + 7) / 8 bytes of key, salt included: 20 bytes do for 153 to 160 bits."""
    host = bench.host()
    aead = layouts.ALGO_AEAD.make(name=messages.GCM, key_len=bits, icv_len=128) + messages.KEY
    assert host.request(new_sa(attributes={Attr.ALG_AEAD: aead})).errno == wanted
    if not wanted:
        assert attributes(host)[Attr.ALG_AEAD] == aead


@rule("UAPI-50")
@pytest.mark.parametrize("icv_bits", [64, 96, 128])
def test_the_icv_has_the_length_of_the_attribute(bench: Bench, icv_bits: int) -> None:
    """icv_len is in bits: the frame ends with as many."""
    host = bench.host()
    assert (
        host.request(new_sa(attributes={Attr.ALG_AEAD: messages.aead(icv_bits=icv_bits)})).errno
        == 0
    )
    host.ok(texts.policy())
    packet = packets.udp(b"12345678")  # UDP, pad to 4, 2 bytes of trailer: 20
    assert host.send([packet]) == [0]
    (sent,) = bench.on_the_wire()
    assert len(sent) - ESP_AT == 8 + 8 + 20 + icv_bits // 8


@rule("UAPI-51")
def test_ports_of_the_encapsulation_are_on_the_wire(bench: Bench) -> None:
    """xfrm_encap_tmpl: type, source and destination port in network order."""
    host = bench.host()
    encap = layouts.ENCAP_TMPL.make(encap_type=2, sport=b"\x11\x94", dport=b"\x23\x45")
    assert host.request(new_sa(attributes={Attr.ENCAP: encap})).errno == 0
    assert attributes(host)[Attr.ENCAP] == encap
    host.ok(texts.policy())
    assert host.send([packets.udp()]) == [0]
    (sent,) = bench.on_the_wire()
    assert packets.protocol(sent) == packets.UDP
    assert sent[ESP_AT : ESP_AT + 4] == b"\x11\x94\x23\x45"


@rule("UAPI-52")
@pytest.mark.parametrize(("v", "m", "blocks"), [(0, 5, True), (5, 0xFF, False), (5, 6, False)])
def test_a_mark_is_value_then_mask(bench: Bench, v: int, m: int, blocks: bool) -> None:
    """A packet without a mark meets a policy whose value its mark has under the mask; late kernels
    keep of the value what the mask covers."""
    host = bench.host()
    mark = {Attr.MARK: layouts.MARK.make(v=v, m=m)}
    assert host.request(new_policy(action=1, attributes=mark)).errno == 0
    assert host.send([packets.udp()]) == [errno.EPERM if blocks else 0]
    (note,) = host.policies()
    kept = layouts.MARK.make(v=v & m if bench.latest else v, m=m)
    assert note.attributes[Attr.MARK] == kept
    named = request(Msg.GETPOLICY, messages.policy_id(messages.selector()), {Attr.MARK: kept})
    assert host.request(named).errno == 0


@rule("UAPI-52")
def test_a_mark_selects_the_sa(bench: Bench) -> None:
    """The SA's value must be the request's under the SA's mask."""
    host = bench.host()
    mark = {Attr.MARK: layouts.MARK.make(v=0x10, m=0xF0)}
    assert host.request(messages.alloc_spi(0x1000, attributes=mark)).errno == 0
    for value, wanted in ((0x13, 0), (0x23, errno.ESRCH), (0, errno.ESRCH)):
        query = {Attr.MARK: layouts.MARK.make(v=value, m=0xFFFF_FFFF)}
        assert host.request(request(Msg.GETSA, messages.sa_id(), query)).errno == wanted
