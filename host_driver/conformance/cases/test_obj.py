# SPDX-License-Identifier: Apache-2.0
"""OBJ-*: what SAs, policies and received packets are made of."""

import errno
import struct

import pytest

from host_driver.conformance import layouts, messages, packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import alloc_spi, new_policy, new_sa, request
from host_driver.conformance.probe import EVENTS, REFUSE
from host_driver.conformance.subject import Subject
from proto.xfrm import Attr, Msg

INFINITE = (1 << 64) - 1
PEER, HERE = messages.DESTINATION, messages.SOURCE
CLEAR = packets.udp(src=PEER, dst=HERE)


def larval(host: Subject) -> messages.Note:
    """The only SA, just made by ALLOCSPI."""
    assert host.request(alloc_spi()).errno == 0
    (note,) = host.states()
    return note


def inbound(bench: Bench, host: Subject, *sealed: bytes) -> int:
    """How many of these packets are delivered."""
    bench.arrive(*sealed)
    return len(host.receive())


@rule("OBJ-01")
@pytest.mark.parametrize("order", [0, REFUSE | errno.EOPNOTSUPP])
def test_a_device_and_a_type_come_together(bench: Bench, order: int) -> None:
    """An SA that its driver took has device and type; one that fell back to software has neither:
    no OFFLOAD_DEV, no reference, no further call."""
    host = bench.host(driver=PROBE)
    crypto = host.offload(0)
    assert host.request(new_sa(reqid=order | 1, attributes=crypto)).errno == 0
    (note,) = host.states()
    assert (Attr.OFFLOAD_DEV in note.attributes, host.refcnt()) == (
        (False, 0) if order else (True, 1)
    )
    host.ok(texts.delete())
    assert host.order("U") == ("A" if order else "A D F")
    assert host.refcnt() == 0


@rule("OBJ-02")
@pytest.mark.parametrize("flags", [0, 1, 2, 3])
def test_a_policy_knows_no_crypto_offload(bench: Bench, flags: int) -> None:
    """OFFLOAD_DEV of a policy without PACKET: EINVAL, the driver is not asked; with PACKET it is
    a packet policy."""
    host = bench.host(driver=PROBE)
    crypto = host.offload(flags)
    assert host.request(new_policy(attributes=crypto)).errno == errno.EINVAL
    assert host.order() == ""
    packet = host.offload()
    assert host.request(new_policy(attributes=packet)).errno == 0
    (call,) = host.calls()
    assert (call["call"], call["type"]) == ("xdo_dev_policy_add", "packet")


@rule("OBJ-03")
def test_the_direction_of_an_sa_is_in_or_out(bench: Bench) -> None:
    """INBOUND makes IN, its absence OUT, and a larval SA has OUT as the policy that wants it."""
    host = bench.host(driver=PROBE)
    for spi, flags in ((1, 4), (2, 6), (3, 0), (4, 2)):
        attributes = host.offload(flags)
        assert host.request(new_sa(spi=spi, attributes=attributes)).errno == 0
    host.ok(texts.policy(host.dev, dst="10.1.0.7", reqid=7))
    host.send([packets.udp(dst="10.1.0.7")])
    added = host.calls_of("state_add")
    assert [call["dir"] for call in added] == ["out", "in", "out", "in", "out"]
    assert (added[-1]["context"], added[-1]["reqid"]) == ("data", 7)


@rule("OBJ-04")
def test_handles_are_not_0(bench: Bench) -> None:
    """The driver gives each SA a handle of its own, and none is 0."""
    host = bench.host()
    for spi in (0x1000, 0x1001):
        host.ok(texts.state(host.dev, spi=spi))
        host.ok(texts.delete(spi=spi))
    for spi, offload in ((0x1002, "packet"), (0x1003, "crypto")):
        host.ok(texts.state(host.dev, spi=spi, offload=offload))
    host.ok("xfrm state flush")
    handles = [call["handle"] for call in host.calls_of("state_delete")]
    assert len(handles) == 4
    assert 0 not in handles
    assert handles[2] != handles[3]


@rule("OBJ-10")
def test_the_life_of_an_sa(bench: Bench) -> None:
    """VOID at the add, VALID in between, EXPIRED once a hard limit is reached, DEAD at the end."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev, reqid=EVENTS, more="limit packet-hard 1"))
    host.ok(texts.policy(host.dev, reqid=EVENTS))
    host.ok(texts.get())
    host.send([packets.udp()])
    bench.advance(1)
    states = [call["state"] for call in host.calls() if "state" in call]
    stages = [name for n, name in enumerate(states) if n == 0 or states[n - 1] != name]
    assert stages == ["void", "valid", "expired", "dead"]


@rule("OBJ-10")
def test_a_larval_sa_is_not_valid(bench: Bench) -> None:
    """ACQ: it may be seen, and neither expired nor updated by hand."""
    host = bench.host()
    assert layouts.USERSA_INFO.read(larval(host).fixed).mode == 0
    expire = request(Msg.EXPIRE, messages.sa_info(0x500).pack() + bytes(8))
    assert host.request(expire).errno == errno.EINVAL
    event = layouts.AEVENT_ID.make(sa_id=messages.sa_id(0x500))
    change = {Attr.REPLAY_THRESH: struct.pack("<I", 1)}
    assert host.request(request(Msg.NEWAE, event, change, flags=0x104)).errno == errno.EINVAL


@rule("OBJ-11")
def test_a_fresh_sa(bench: Bench) -> None:
    """Byte and packet limits infinite, time limits 0 (a larval SA's own end apart), add_time now,
    nothing counted, no event thresholds."""
    host = bench.host()
    host.ok(texts.policy())
    (policy,) = host.policies()
    now = layouts.LIFETIME_CUR.read(layouts.USERPOLICY_INFO.read(policy.fixed).curlft).add_time
    info = layouts.USERSA_INFO.read(larval(host).fixed)
    lft, cur = layouts.LIFETIME_CFG.read(info.lft), layouts.LIFETIME_CUR.read(info.curlft)
    assert (lft.soft_byte, lft.hard_byte, lft.soft_packet, lft.hard_packet) == (INFINITE,) * 4
    assert (lft.soft_add, lft.soft_use, lft.hard_use) == (0, 0, 0)
    assert (cur.bytes, cur.packets, cur.use_time) == (0, 0, 0)
    assert 0 <= cur.add_time - now <= 1
    assert info.stats == bytes(12)
    event = layouts.AEVENT_ID.make(sa_id=messages.sa_id(0x500), flags=9)
    (note,) = host.request(request(Msg.GETAE, event)).notes
    thresholds = note.attributes[Attr.REPLAY_THRESH], note.attributes[Attr.ETIMER_THRESH]
    assert thresholds == (bytes(4), bytes(4))


@rule("OBJ-12")
def test_what_a_request_does_not_set(bench: Bench) -> None:
    """The request's curlft and stats are ignored; the selector's family is the SA's, unless
    AF_UNSPEC says otherwise."""
    host = bench.host()
    passed = layouts.LIFETIME_CUR.make(bytes=1, packets=2, add_time=3, use_time=4)
    for spi, flags, family in ((1, 0, 2), (2, 32, 0)):
        info = messages.sa_info(spi, flags=flags, seq=77).pack()
        info = info[:160] + passed + layouts.STATS.make(replay=5) + info[204:]
        assert host.request(request(Msg.NEWSA, info, {Attr.ALG_AEAD: messages.aead()})).errno == 0
        (note,) = host.request(request(Msg.GETSA, messages.sa_id(spi))).notes
        came = layouts.USERSA_INFO.read(note.fixed)
        cur = layouts.LIFETIME_CUR.read(came.curlft)
        assert (cur.bytes, cur.packets, cur.use_time) == (0, 0, 0)
        assert cur.add_time > 1_600_000_000
        assert (came.stats, came.seq) == (bytes(12), 77)
        assert layouts.SELECTOR.read(came.sel).family == family


@rule("OBJ-13")
@pytest.mark.parametrize(
    "limits", [(2000, 1000, 20, 10, 9, 8, 7, 6), (0, 0, 0, 0, 0, 0, 0, 0), (INFINITE,) * 8]
)
def test_limits_are_not_judged(bench: Bench, limits: tuple[int, ...]) -> None:
    """Soft above hard, 0 and anything else is taken and told as it came, by SA and policy."""
    host = bench.host()
    lft = struct.pack("<8Q", *limits)
    policy = messages.policy_info().pack()
    assert host.request(request(Msg.NEWPOLICY, policy[:56] + lft + policy[120:])).errno == 0
    (note,) = host.policies()
    assert note.fixed[56:120] == lft
    info = messages.sa_info().pack()
    added = request(Msg.NEWSA, info[:96] + lft + info[160:], {Attr.ALG_AEAD: messages.aead()})
    assert host.request(added).errno == 0
    (told,) = [note for note in host.notes() if note.name == "NEWSA"]
    assert told.fixed[96:160] == lft


@rule("OBJ-14")
def test_a_larval_sa_is_found_by_its_sequence_number(bench: Bench) -> None:
    """ALLOCSPI with the number of an ACQUIRE gives that SA an SPI; by it the SA is found from then
    on."""
    host = bench.host()
    host.ok(texts.policy())
    host.send([packets.udp()])
    (note,) = host.states()
    seq = layouts.USERSA_INFO.read(note.fixed).seq
    assert host.request(request(Msg.GETSA, messages.sa_id(0))).errno == errno.ESRCH
    (same,) = host.request(alloc_spi(0x500, seq=seq, reqid=99)).notes
    assert layouts.USERSA_INFO.read(same.fixed).reqid == 1
    assert len(host.states()) == 1
    assert host.request(request(Msg.GETSA, messages.sa_id(0x500))).errno == 0
    (other,) = host.request(alloc_spi(0x501, seq=seq + 1, reqid=99)).notes
    assert layouts.USERSA_INFO.read(other.fixed).reqid == 99


@rule("OBJ-14")
def test_an_sa_without_spi_is_on_no_list_of_spis(bench: Bench) -> None:
    """SPI 0 is in the dump, and cannot be fetched."""
    host = bench.host()
    assert host.request(new_sa(spi=0)).errno == 0
    assert len(host.states()) == 1
    assert host.request(request(Msg.GETSA, messages.sa_id(0))).errno == errno.ESRCH


@rule("OBJ-20")
def test_a_fresh_policy(bench: Bench) -> None:
    """Limits as in the request, add_time now, nothing else counted or used."""
    host = bench.host()
    assert host.request(alloc_spi()).errno == 0
    (larval,) = host.states()
    now = layouts.LIFETIME_CUR.read(layouts.USERSA_INFO.read(larval.fixed).curlft).add_time
    info = messages.policy_info().pack()
    passed = layouts.LIFETIME_CUR.make(bytes=1, packets=2, add_time=3, use_time=4)
    assert host.request(request(Msg.NEWPOLICY, info[:120] + passed + info[152:])).errno == 0
    (note,) = host.policies()
    policy = layouts.USERPOLICY_INFO.read(note.fixed)
    cur = layouts.LIFETIME_CUR.read(policy.curlft)
    assert policy.lft == info[56:120]
    assert (cur.bytes, cur.packets, cur.use_time) == (0, 0, 0)
    assert 0 <= cur.add_time - now <= 1


@rule("OBJ-30", "OBJ-33")
def test_only_what_the_device_has_done_needs_no_policy(bench: Bench) -> None:
    """With block as the default: a packet that the device opened has its offload record and
    passes; one that software opened, and a clear one, have none and are dropped."""
    host = bench.host()
    host.ok(texts.state(host.dev, src=PEER, dst=HERE, dir="in", spi=0x1000))
    host.ok(texts.state(src=PEER, dst=HERE, dir="in", spi=0x2000))
    host.ok("xfrm policy setdefault in block")
    assert inbound(bench, host, packets.Esp(0x1000).seal(CLEAR, 1)) == 1
    assert host.mib() == {}
    assert inbound(bench, host, packets.Esp(0x2000).seal(CLEAR, 1)) == 0
    assert inbound(bench, host, CLEAR) == 0
    assert host.mib() == {"XfrmInNoPols": 2}


@rule("OBJ-33")
def test_a_received_packet_holds_its_sa(bench: Bench) -> None:
    """Packets of an SA that is deleted meanwhile do no harm, and in the end nothing holds it."""
    host = bench.host()
    host.ok(texts.state(host.dev, src=PEER, dst=HERE, dir="in"))
    bench.arrive(*(packets.Esp().seal(CLEAR, n) for n in range(1, 65)))
    host.ok(texts.delete(src=PEER, dst=HERE))
    assert set(host.receive()) <= {CLEAR}
    assert host.order("U") == "A D F"
    assert (host.refcnt(), host.violations(), host.census()) == (0, [], {})


@rule("OBJ-31", "OBJ-32")
@pytest.mark.parametrize("mode", ["transport", "tunnel"])
def test_the_record_says_what_became_of_the_crypto(bench: Bench, mode: str) -> None:
    """Crypto offload: done with success arrives, done with a wrong ICV is counted and dropped."""
    host = bench.host()
    host.ok(texts.state(host.dev, src=PEER, dst=HERE, dir="in", mode=mode, offload="crypto"))
    host.ok(texts.policy(src=PEER, dst=HERE, dir="in", mode=mode))
    outer = packets.ip(b"", src=PEER, dst=HERE) if mode == "tunnel" else None
    good = packets.Esp().seal(CLEAR, 1, outer)
    forged = packets.broken(packets.Esp().seal(CLEAR, 2, outer))
    assert inbound(bench, host, good) == 1
    assert inbound(bench, host, forged) == 0
    assert host.mib() == {"XfrmInStateProtoError": 1}
    (note,) = host.states()
    stats = layouts.STATS.read(layouts.USERSA_INFO.read(note.fixed).stats)
    assert stats.integrity_failed == 1
