# SPDX-License-Identifier: Apache-2.0
"""DUMP-*: objects read back: which, in which order, and how fresh their counters are."""

import errno

import pytest

from host_driver.conformance import layouts, messages, packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import alloc_spi, new_policy, new_sa, request
from host_driver.conformance.subject import Subject
from proto.xfrm import Attr, Msg

PEER, HERE = messages.DESTINATION, messages.SOURCE


def spis(notes: list[messages.Note]) -> list[int]:
    """The SPIs of SAs, in order."""
    ids = [layouts.ID.read(layouts.USERSA_INFO.read(note.fixed).id) for note in notes]
    return [int.from_bytes(id.spi, "big") for id in ids]


def policies(host: Subject) -> list[tuple[int, int]]:
    """(type, index) of each policy, in the order of the dump."""
    notes = host.policies()
    return [
        (note.attributes[Attr.POLICY_TYPE][0], layouts.USERPOLICY_INFO.read(note.fixed).index)
        for note in notes
    ]


def counted(notes: list[messages.Note]) -> list[int]:
    """How many packets each SA has had."""
    infos = [layouts.USERSA_INFO.read(note.fixed) for note in notes]
    return [layouts.LIFETIME_CUR.read(info.curlft).packets for info in infos]


def used(host: Subject) -> int:
    """use_time of the one policy, whose byte and packet counters are 0."""
    (note,) = host.policies()
    cur = layouts.LIFETIME_CUR.read(layouts.USERPOLICY_INFO.read(note.fixed).curlft)
    assert (cur.bytes, cur.packets) == (0, 0)
    assert cur.add_time > 0
    return int(cur.use_time)


@rule("DUMP-01")
def test_which_sas_a_dump_gives(bench: Bench) -> None:
    """All, larval ones too, the newest first; by protocol, or by address."""
    host = bench.host()
    for spi, proto in ((0x500, 50), (0x501, 51), (0x502, 50)):
        assert host.request(alloc_spi(spi, proto=proto, reqid=spi)).errno == 0
    assert spis(host.states()) == [0x502, 0x501, 0x500]
    for proto, wanted in (
        (50, [0x502, 0x500]),
        (51, [0x501]),
        (108, []),
        (255, [0x502, 0x501, 0x500]),
    ):
        by_proto = messages.dump(Msg.GETSA, attributes={Attr.PROTO: bytes((proto,))})
        assert spis(host.request(by_proto).notes) == wanted
    host.request(request(Msg.DELSA, messages.sa_id(0x501, proto=51)))
    assert spis(host.states()) == [0x502, 0x500]


@rule("DUMP-01")
def test_how_one_sa_is_named(bench: Bench) -> None:
    """By destination, SPI, protocol, family and mark: one NEWSA; anything else: ESRCH."""
    host = bench.host()
    mark = {Attr.MARK: layouts.MARK.make(v=5, m=0xF)}
    assert host.request(alloc_spi(0x500, attributes=mark)).errno == 0
    answer = host.request(request(Msg.GETSA, messages.sa_id(0x500), mark))
    assert (answer.errno, [note.name for note in answer.notes]) == (0, ["NEWSA"])
    for id, attributes in (
        (messages.sa_id(0x500), ()),
        (messages.sa_id(0x501), mark),
        (messages.sa_id(0x500, dst=HERE), mark),
        (messages.sa_id(0x500, proto=51), mark),
        (messages.sa_id(0x500, dst="fd00::2"), mark),
    ):
        assert host.request(request(Msg.GETSA, id, attributes)).errno == errno.ESRCH


@rule("DUMP-02", profile="v6.2")
def test_reading_an_sa_asks_no_driver(bench: Bench) -> None:
    """v6.2: GETSA and dump tell what the driver last reported, and do not ask it."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev))
    host.ok(texts.policy(host.dev))
    host.send([packets.udp()] * 3)
    before = host.order().count("U")
    one = host.request(request(Msg.GETSA, messages.sa_id())).notes
    assert counted(one + host.states()) == [0, 0]
    assert host.order().count("U") == before


@rule("DUMP-03", profile="latest")
def test_every_message_about_an_sa_asks_the_driver_first(bench: Bench) -> None:
    """GETSA, dump, NEWSA, UPDSA, DELSA, EXPIRE: update_curlft, then the counters are copied."""
    host = bench.host(driver=PROBE)
    offloaded = host.offload()
    assert host.request(new_sa(attributes=offloaded)).errno == 0
    assert host.order() == "A U"
    host.ok(texts.policy(host.dev))
    host.notes()

    def asked(datagram: bytes) -> list[messages.Note]:
        host.send([packets.udp()])
        before = host.order("K").count("U")
        answer = host.request(datagram)
        assert (answer.errno, host.order("K").count("U")) == (0, before + 1)
        return answer.notes + host.notes()

    assert counted(asked(request(Msg.GETSA, messages.sa_id()))) == [1]
    assert counted(asked(messages.dump(Msg.GETSA))) == [2]
    (expire,) = asked(request(Msg.EXPIRE, messages.sa_info().pack() + bytes(8)))
    assert counted([expire]) == [3]
    (gone,) = asked(request(Msg.DELSA, messages.sa_id()))
    assert counted([gone._replace(fixed=gone.attributes[Attr.SA])]) == [4]
    assert host.order("K").split()[-3:] == ["D", "U", "F"]


@rule("DUMP-04", profile="latest")
@pytest.mark.parametrize("offload", ["packet", "crypto"])
def test_statistics_come_from_the_driver_too(bench: Bench, offload: str) -> None:
    """Duplicates and forged packets that the device or the core dropped are told by GETSA, and the
    driver of a crypto SA is asked as well."""
    host = bench.host()
    host.ok(texts.state(host.dev, src=PEER, dst=HERE, dir="in", offload=offload))
    host.ok(texts.policy(src=PEER, dst=HERE, dir="in"))
    clear = packets.udp(src=PEER, dst=HERE)
    sealed = packets.Esp().seal(clear, 5)
    forged = packets.Esp().seal(clear, 6)[:-1] + b"?"
    bench.arrive(sealed, sealed, sealed, forged)
    assert len(host.receive()) == 1
    before = host.order().count("U")
    (note,) = host.request(request(Msg.GETSA, messages.sa_id(dst=HERE))).notes
    assert host.order().count("U") == before + 1
    stats = layouts.STATS.read(layouts.USERSA_INFO.read(note.fixed).stats)
    assert (stats.replay_window + stats.replay, stats.integrity_failed) == (2, 1)
    assert counted([note]) == [1]


@rule("DUMP-05")
def test_which_policies_a_dump_gives(bench: Bench) -> None:
    """Both types, the newest first; a replaced policy is a new one with the old index."""
    host = bench.host()
    sub = {Attr.POLICY_TYPE: b"\1" + bytes(5)}
    assert host.request(new_policy(index=0x101, dir=1)).errno == 0
    assert host.request(new_policy(index=0x108, dir=0, attributes=sub)).errno == 0
    assert host.request(new_policy(index=0x112, dir=2)).errno == 0
    assert policies(host) == [(0, 0x112), (1, 0x108), (0, 0x101)]
    assert host.request(new_policy(dir=1, type=Msg.UPDPOLICY)).errno == 0
    assert policies(host) == [(0, 0x101), (0, 0x112), (1, 0x108)]


@rule("DUMP-05")
def test_how_one_policy_is_named(bench: Bench) -> None:
    """By index, or by selector, with mark, if_id and type; of these each one counts."""
    host = bench.host()
    sel = messages.selector()
    more: tuple[dict[int, bytes], ...] = (
        {}, {Attr.MARK: layouts.MARK.make(v=1, m=0xF)}, {Attr.IF_ID: b"\7\0\0\0"},
        {Attr.POLICY_TYPE: b"\1" + bytes(5)},
    )  # fmt: skip
    for n, attributes in enumerate(more):
        added = new_policy(index=0x101 + 8 * n, attributes=attributes)
        assert host.request(added).errno == 0
    for n, attributes in enumerate(more):
        for id in (messages.policy_id(sel), messages.policy_id(index=0x101 + 8 * n)):
            (note,) = host.request(request(Msg.GETPOLICY, id, attributes)).notes
            assert layouts.USERPOLICY_INFO.read(note.fixed).index == 0x101 + 8 * n
    wrong = messages.policy_id(index=0x109)
    assert host.request(request(Msg.GETPOLICY, wrong)).errno == errno.ENOENT


@rule("DUMP-06")
def test_a_policy_counts_nothing_but_its_use(bench: Bench) -> None:
    """use_time is 0 until a lookup hits the policy; bytes and packets stay 0."""
    host = bench.host()
    assert host.request(new_policy(action=1)).errno == 0
    assert used(host) == 0
    host.send([packets.udp(dst="10.1.0.9")])
    assert used(host) == 0
    assert host.send([packets.udp()]) == [errno.EPERM]
    assert used(host) > 0


@rule("DUMP-06")
def test_what_the_device_has_opened_uses_no_policy(bench: Bench) -> None:
    """A packet with a good offload record is not looked up: use_time of the IN policy stays 0."""
    host = bench.host()
    host.ok(texts.state(host.dev, src=PEER, dst=HERE, dir="in"))
    host.ok(texts.policy(host.dev, src=PEER, dst=HERE, dir="in"))
    sealed = packets.Esp().seal(packets.udp(src=PEER, dst=HERE), 1)
    bench.arrive(sealed)
    assert len(host.receive()) == 1
    assert used(host) == 0
