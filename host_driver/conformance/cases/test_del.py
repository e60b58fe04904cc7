# SPDX-License-Identifier: Apache-2.0
"""DEL-01..09: how SAs leave the SAD and the driver, and the collector that frees them."""

import errno
import struct
from collections import Counter

import pytest

from host_driver.conformance import messages, packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import new_sa, request, sa_id
from host_driver.conformance.probe import EVENTS, LINGER, PEEK, WAKE
from host_driver.conformance.subject import Subject
from proto.xfrm import Attr, Msg
from proto.xfrm_structs import Algo, UserAcquire, UserSaInfo

ESP, AH, COMP, ROUTING, ANY = 50, 51, 108, 43, 255
RO = 2
UPDATE = "xdo_dev_state_update_curlft"
AUTH = {Attr.ALG_AUTH: Algo(b"hmac(sha256)", 256).pack() + bytes(32)}
DEFLATE = {Attr.ALG_COMP: Algo(b"deflate", 0).pack()}
NEAR, FAR, CARE_OF = "2001:db8::1", "2001:db8::2", "2001:db8::9"


def sad_count(host: Subject) -> int:
    """How many SAs GETSADINFO counts (XFRMA_SAD_CNT)."""
    (note,) = host.request(request(Msg.GETSADINFO, bytes(4))).notes
    return int.from_bytes(note.attributes[1], "little")


def lives(host: Subject) -> dict[str, list[str]]:
    """For each SA by its SPI: what the driver was told, as "add", "delete", "free"."""
    told: dict[str, list[str]] = {}
    for call in host.calls():
        if "spi" in call and call["call"] != UPDATE and "offload_ok" not in call["call"]:
            told.setdefault(call["spi"], []).append(call["call"].rpartition("_")[2])
    return told


def mobility(src: str = NEAR, dst: str = FAR) -> bytes:
    """NEWSA of a protocol without SPI."""
    info = messages.sa_info(0, src, dst, proto=ROUTING, mode=RO)
    return request(Msg.NEWSA, info.pack(), {Attr.COADDR: messages.address(CARE_OF)})


@rule("DEL-01")
def test_a_deleted_sa_is_on_no_list(bench: Bench) -> None:
    """Neither by SPI, nor in the dump, nor for packets; the count is one less."""
    host = bench.host()
    host.ok(texts.state(host.dev))
    host.ok(texts.state(host.dev, spi=0x1001, dst="10.1.0.3"))
    host.ok(texts.policy(host.dev))
    assert host.send([packets.udp()]) == [0]
    assert sad_count(host) == 2
    host.ok(texts.delete())
    assert sad_count(host) == 1
    assert host.request(request(Msg.GETSA, sa_id())).errno == errno.ESRCH
    assert host.spis() == [0x1001]
    before = len(bench.frames())
    assert host.send([packets.udp()]) == [0]
    assert len(bench.frames()) == before
    assert host.mib() == {"XfrmOutNoStates": 1}


@rule("DEL-01")
def test_a_deleted_larval_sa_has_no_sequence_number(bench: Bench) -> None:
    """ALLOCSPI with the number of its ACQUIRE makes a new one."""
    host = bench.host()
    host.ok(texts.policy())
    assert host.send([packets.udp()]) == [0]
    (note,) = [note for note in host.notes() if note.type == Msg.ACQUIRE]
    seq = UserAcquire.unpack(note.fixed).seq
    host.ok("xfrm state flush")
    assert sad_count(host) == 0
    (reply,) = host.request(messages.alloc_spi(0x500, seq=seq, reqid=99)).notes
    assert UserSaInfo.unpack(reply.fixed).reqid == 99


@rule("DEL-01", "DEL-09")
def test_a_dead_sa_is_not_deleted_again(bench: Bench) -> None:
    """ESRCH, nothing called, nothing told."""
    host = bench.host()
    host.ok(texts.state(host.dev))
    host.ok(texts.delete())
    calls, _ = len(host.calls()), host.notes()
    for _ in range(2):
        assert host.request(request(Msg.DELSA, sa_id())).errno == errno.ESRCH
    assert (len(host.calls()), host.note_names()) == (calls, [])
    assert lives(host) == {"0x1000": ["add", "delete", "free"]}


@rule("DEL-01")
def test_the_driver_hears_of_a_dead_sa_under_its_lock(bench: Bench) -> None:
    """state is DEAD and the lock is held; keys and record are still there."""
    host = bench.host()
    host.ok(texts.state(host.dev))
    host.ok(texts.delete())
    (delete,) = host.calls_of("state_delete")
    assert (delete["state"], delete["context"], delete["keys"]) == ("dead", "lock", 20)
    assert (delete["dev"], delete["type"], delete["dir"]) == (host.dev, "packet", "out")


@rule("DEL-02")
def test_the_sa_is_invisible_when_the_driver_hears_of_its_end(bench: Bench) -> None:
    """A packet that the driver hands up from its delete finds no SA; before, it did."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev, dir="in", reqid=PEEK))
    esp = packets.ip(struct.pack(">II", 0x1000, 1) + bytes(24), packets.ESP)
    bench.arrive(esp)
    bench.settle()
    assert sum(host.mib().values()) == 1 and "XfrmInNoStates" not in host.mib()
    host.ok(texts.delete())
    assert host.mib()["XfrmInNoStates"] == 1


@rule("DEL-03")
def test_delsa_names_an_sa_by_spi_and_mark(bench: Bench) -> None:
    """ESRCH for another SPI, destination, protocol or mark; the right one goes and is told."""
    host = bench.host()
    mark = {Attr.MARK: struct.pack("<II", 5, 0xFF)}
    assert host.request(new_sa(attributes=mark)).errno == 0
    host.notes()
    wrong = (
        request(Msg.DELSA, sa_id(0x1001), mark), request(Msg.DELSA, sa_id(dst="10.1.0.3"), mark),
        request(Msg.DELSA, sa_id(proto=AH), mark), request(Msg.DELSA, sa_id()),
        request(Msg.DELSA, sa_id(), {Attr.MARK: struct.pack("<II", 6, 0xFF)}),
    )  # fmt: skip
    for datagram in wrong:
        assert host.request(datagram).errno == errno.ESRCH
    assert (len(host.states()), host.note_names()) == (1, [])
    assert host.request(request(Msg.DELSA, sa_id(), mark)).errno == 0
    assert (host.states(), host.note_names()) == ([], ["DELSA"])


@rule("DEL-03")
def test_delsa_names_an_sa_without_spi_by_its_ends(bench: Bench) -> None:
    """SRCADDR is needed, EINVAL without it; another source is another SA."""
    host = bench.host()
    for src in (NEAR, CARE_OF):
        assert host.request(mobility(src)).errno == 0
    host.notes()

    def delete(*src: str) -> int:
        given = [(Attr.SRCADDR, messages.address(one)) for one in src]
        return host.request(request(Msg.DELSA, sa_id(0, FAR, ROUTING), given)).errno

    assert delete() == errno.EINVAL
    assert delete("2001:db8::77") == errno.ESRCH
    assert delete(CARE_OF) == 0
    (left,) = host.states()
    assert UserSaInfo.unpack(left.fixed).saddr == messages.address(NEAR)
    assert host.note_names() == ["DELSA"]


@rule("DEL-04", "DEL-05")
def test_the_collector_frees_behind_the_deletions(bench: Bench) -> None:
    """A flush deletes all SAs, then the collector frees all, in a context that may sleep."""
    host = bench.host()
    for number in range(3):
        host.ok(texts.state(host.dev, spi=0x1000 + number))
    host.ok("xfrm state flush")
    assert host.order("U") == "A A A D D D F F F"
    frees = host.calls_of("state_free")
    assert {call["context"] for call in frees} == {"gc"}
    assert {call["state"] for call in frees} == {"dead"}


@rule("DEL-05")
def test_the_keys_are_gone_before_free(bench: Bench) -> None:
    """The driver's free finds a record with device, direction and type, and no key material."""
    host = bench.host()
    host.ok(texts.state(host.dev))
    host.ok(texts.delete())
    (free,) = host.calls_of("state_free")
    assert free["keys"] == 0
    assert (free["dev"], free["type"], free["dir"]) == (host.dev, "packet", "out")
    assert (host.refcnt(), host.census()) == (0, {})


@rule("DEL-05")
def test_timers_end_before_free(bench: Bench) -> None:
    """No timer of a deleted SA runs any more, whatever limits it had."""
    host = bench.host()
    host.ok(texts.state(host.dev, more="limit time-soft 2 limit time-hard 4"))
    host.ok(texts.delete())
    host.notes()
    bench.advance(6)
    assert host.note_names() == []
    assert "timer" not in {call["context"] for call in host.calls()}


@rule("DEL-05")
def test_the_device_is_held_until_free_returns(bench: Bench) -> None:
    """A driver that sleeps in free keeps its reference until it is done."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev, reqid=LINGER))
    with host.restless():
        host.ok(texts.delete())
        assert (host.order("U"), host.refcnt()) == ("A D F", 1)
        host.ok(texts.state(host.dev, spi=0x1001, reqid=WAKE))
    assert host.refcnt() == 1  # of the new one
    host.ok("xfrm state flush")
    assert (host.order("U"), host.refcnt()) == ("A D F A D F", 0)


@rule("DEL-06")
@pytest.mark.parametrize(
    ("proto", "left"), [(0, set()), (ANY, {ROUTING}), (ESP, {AH, COMP, ROUTING}),
                        (AH, {ESP, COMP, ROUTING}), (COMP, {ESP, AH, ROUTING}),
                        (ROUTING, {ESP, AH, COMP})],
)  # fmt: skip
def test_flushsa_deletes_every_sa_of_a_protocol(bench: Bench, proto: int, left: set[int]) -> None:
    """0 is all, 255 those with an SPI; one FLUSHSA that repeats the protocol, and no DELSA."""
    host = bench.host()
    for datagram in (
        new_sa(), new_sa(spi=0x1001), new_sa(attributes=AUTH, proto=AH),
        new_sa(attributes=DEFLATE, proto=COMP, spi=0x100), mobility(),
    ):  # fmt: skip
        assert host.request(datagram).errno == 0
    host.notes()
    assert host.request(request(Msg.FLUSHSA, bytes((proto,)))).errno == 0
    assert {UserSaInfo.unpack(state.fixed).id.proto for state in host.states()} == left
    (note,) = host.notes()
    assert (note.name, note.fixed) == ("FLUSHSA", bytes((proto,)))


@rule("DEL-06")
def test_flushsa_takes_offloaded_and_larval_sas_too(bench: Bench) -> None:
    """The driver hears delete and free of each that it has; a second flush finds nothing."""
    host = bench.host()
    host.ok(texts.state(host.dev))
    host.ok(texts.state(host.dev, spi=0x1001, dir="in"))
    assert host.request(messages.alloc_spi(0x500)).errno == 0
    host.notes()
    for told in (["FLUSHSA"], []):
        assert host.request(request(Msg.FLUSHSA, b"\0")).errno == 0
        assert (host.states(), host.note_names()) == ([], told)
    assert host.order("U") == "A A D D F F"
    assert (host.refcnt(), host.census()) == (0, {})


@rule("DEL-07")
def test_the_message_about_a_deletion_still_has_the_sa(bench: Bench) -> None:
    """DELSA shows the SA and so holds it: late kernels ask the driver once more, before free."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev, reqid=EVENTS))
    host.ok(texts.policy(host.dev, reqid=EVENTS))
    assert host.send([packets.udp()] * 3) == [0, 0, 0]
    host.notes()
    before = len(host.calls())
    host.ok(texts.delete())
    assert host.order(since=before) == ("D U F" if bench.latest else "D F")
    (note,) = host.notes()
    shown = UserSaInfo.unpack(note.attributes[Attr.SA])
    assert (note.name, shown.id.spi, shown.curlft.packets) == ("DELSA", 0x1000, 3)


@rule("DEL-07")
def test_a_sleeping_free_delays_those_behind_it(bench: Bench) -> None:
    """The collector is one: SAs that were deleted meanwhile wait, and lose nothing."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev, reqid=LINGER))
    host.ok(texts.state(host.dev, spi=0x1001))
    with host.restless():
        host.ok(texts.delete())
        host.ok(texts.delete(spi=0x1001))
        assert (host.order("U"), host.refcnt()) == ("A A D F D", 2)
        assert host.states() == []
        host.ok(texts.state(host.dev, spi=0x1002, reqid=WAKE))
    assert host.order("U") == "A A D F D A F"


@rule("DEL-08", "TRAP-12")
def test_the_flush_of_a_device_frees_what_was_deleted_before(bench: Bench) -> None:
    """Deleted SAs that something still holds: the driver's free comes with the flush, and once.
    v6.2 left them to the collector."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev, reqid=LINGER))
    host.ok(texts.state(host.dev, spi=0x1001))
    host.ok(texts.state(host.dev, spi=0x1002))
    with host.restless():
        host.ok(texts.delete())
        host.ok(texts.delete(spi=0x1001))
        before = len(host.calls())
        host.link(up=False)
        if bench.latest:
            frees = host.calls_of("state_free", before)
            assert {call["spi"] for call in frees} == {"0x1001", "0x1002"}
            assert {call["context"] for call in frees} == {"netdev"}
            assert host.refcnt() == 1  # of the one whose free sleeps
        else:
            assert (host.order("U", since=before), host.refcnt()) == ("D", 3)
        host.link(up=True)
        host.ok(texts.state(host.dev, spi=0x1003, reqid=WAKE))
    once = ["add", "delete", "free"]
    assert lives(host) == {
        "0x1000": once, "0x1001": once, "0x1002": once, "0x1003": ["add"],
    }  # fmt: skip
    assert host.refcnt() == 1


@rule("DEL-09")
def test_every_sa_is_deleted_once_whoever_comes_second(bench: Bench) -> None:
    """DELSA, flush, hard expiry, the device's end: the driver hears of each SA once."""
    host = bench.host(driver=PROBE)
    host.ok(texts.policy(host.dev, reqid=EVENTS))
    host.ok(texts.state(host.dev, reqid=EVENTS, more="limit packet-hard 1"))
    assert host.send([packets.udp()]) == [0]  # expires it
    assert host.ip(texts.delete()).rc == 2
    for spi in (0x1001, 0x1002, 0x1003, 0x1004):
        host.ok(texts.state(host.dev, spi=spi, more="limit time-hard 3"))
    host.ok(texts.delete(spi=0x1001))
    bench.advance(5)
    for spi in (0x1001, 0x1002):
        assert host.ip(texts.delete(spi=spi)).rc == 2
    host.ok(texts.state(host.dev, spi=0x1005))
    host.ok("xfrm state flush")
    host.link(up=False)
    assert host.ip(texts.delete(spi=0x1005)).rc == 2
    told = Counter(call["spi"] for call in host.calls_of("state_delete"))
    assert told == Counter({f"{0x1000 + number:#x}": 1 for number in range(6)})
