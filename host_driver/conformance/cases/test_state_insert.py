# SPDX-License-Identifier: Apache-2.0
"""STATE-21, 28..30, 32, 38: how a finished SA enters the SAD, and what stands in its way."""

import errno
import struct
from typing import Any

import pytest

from host_driver.conformance import messages, packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import alloc_spi, new_sa
from host_driver.conformance.subject import Subject
from proto.xfrm import Attr, Msg
from proto.xfrm_structs import Algo, UserAcquire, UserSaInfo

AH, COMP, ROUTING, DSTOPTS = 51, 108, 43, 60
RO = 2
PACKET = 4
UPDATE = "xdo_dev_state_update_curlft"
AUTH = {Attr.ALG_AUTH: Algo(b"hmac(sha256)", 256).pack() + bytes(32)}


def mark(value: int, mask: int) -> dict[Attr, bytes]:
    return {Attr.MARK: struct.pack("<II", value, mask)}


@rule("STATE-21")
def test_what_the_driver_took_in_vain_is_taken_back(bench: Bench) -> None:
    """EEXIST behind a successful add: delete on a dead SA, free without keys; SAD unchanged."""
    host = bench.host()
    host.ok(texts.state(host.dev))
    host.notes()
    before = len(host.calls())
    assert host.ip(texts.state(host.dev)).rc == 2
    add, delete, free = (call for call in host.calls()[before:] if call["call"] != UPDATE)
    assert (add["call"], add["state"], add["keys"]) == ("xdo_dev_state_add", "void", 20)
    assert (delete["call"], delete["state"]) == ("xdo_dev_state_delete", "dead")
    assert delete["context"] == "user"  # nobody else knows this SA: its lock is not taken
    assert (free["call"], free["context"], free["keys"]) == ("xdo_dev_state_free", "gc", 0)
    assert (host.spis(), host.note_names(), host.refcnt()) == ([0x1000], [], 1)
    assert host.census()["sas"] == 1


@rule("STATE-28")
@pytest.mark.parametrize(
    "how", [{}, {"src": "10.1.0.77"}, {"reqid": 9}, {"mode": 1}, {"flags": 1}, {"seq": 5},
            {"attributes": {Attr.IF_ID: struct.pack("<I", 5)}}, {"attributes": mark(0, 0)},
            {"attributes": mark(1, 0xFF)}, {"sel": messages.selector()}],
)  # fmt: skip
def test_the_same_identity_is_eexist(bench: Bench, how: dict[str, Any]) -> None:
    """Destination, SPI, protocol, family, and a mark that the old one takes: all else is free."""
    host = bench.host()
    assert host.request(new_sa()).errno == 0
    host.notes()
    assert host.request(new_sa(**how)).errno == errno.EEXIST
    assert (host.spis(), host.note_names()) == ([0x1000], [])


@rule("STATE-28")
def test_another_identity_is_another_sa(bench: Bench) -> None:
    """Other destination, SPI, protocol or family: both are there."""
    host = bench.host()
    mapped = messages.sa_info(src="2001:db8::1", dst="a01:2::")  # begins with the IPv4 bytes
    for count, request in enumerate(
        (new_sa(), new_sa(dst="10.1.0.3"), new_sa(spi=0x1001), new_sa(attributes=AUTH, proto=AH),
         new_sa(mapped))
    ):  # fmt: skip
        assert host.request(request).errno == 0
        assert len(host.states()) == count + 1


@rule("STATE-28")
@pytest.mark.parametrize(
    ("first", "second", "collide"),
    [((5, 0xFF), (5, 0xFF), True), ((5, 0xFF), (6, 0xFF), False), ((5, 0xFF), (5, 0xF), True),
     ((5, 0xFF), (0x105, 0xFFFF), True), ((5, 0xF), (0x15, 0xFF), True),
     ((0x15, 0xFF), (5, 0xF), False), ((5, 0xFF), (0, 0), False), ((0, 0), (5, 0xFF), True)],
)  # fmt: skip
def test_a_mark_collides_where_the_old_one_takes_it(
    bench: Bench, first: tuple[int, int], second: tuple[int, int], collide: bool
) -> None:
    """(new.v & new.m & old.m) == old.v, and not the other way round."""
    host = bench.host()
    assert host.request(new_sa(attributes=mark(*first))).errno == 0
    came = host.request(new_sa(attributes=mark(*second))).errno
    assert came == (errno.EEXIST if collide else 0)


@rule("STATE-28")
def test_software_and_offloaded_sas_collide(bench: Bench) -> None:
    """Offload, its kind, its direction and its device are not part of the identity."""
    host = bench.host(driver=PROBE)
    kinds = [texts.state(), texts.state(host.dev), texts.state(host.dev, offload="crypto"),
             texts.state(host.dev, dir="in"), texts.state(host.second_device())]  # fmt: skip
    for first in kinds:
        host.ok(first)
        for second in kinds:
            result = host.ip(second)
            assert (result.rc, "File exists" in result.stderr) == (2, True)
        host.ok("xfrm state flush")
    assert (host.states(), host.refcnt()) == ([], 0)


@rule("STATE-28")
def test_protocols_without_spi_compare_addresses(bench: Bench) -> None:
    """Mobility: both ends are the identity, SPI there is none."""
    host = bench.host()
    coaddr = {Attr.COADDR: messages.address("2001:db8::9")}

    def add(src: str, dst: str, proto: int) -> int:
        info = messages.sa_info(0, src, dst, proto=proto, mode=RO)
        return host.request(messages.request(Msg.NEWSA, info.pack(), coaddr)).errno

    assert add("2001:db8::1", "2001:db8::2", ROUTING) == 0
    assert add("2001:db8::1", "2001:db8::2", ROUTING) == errno.EEXIST
    assert add("2001:db8::1", "2001:db8::3", ROUTING) == 0
    assert add("2001:db8::5", "2001:db8::2", ROUTING) == 0
    assert add("2001:db8::1", "2001:db8::2", DSTOPTS) == 0


def acquired(host: Subject) -> int:
    """Let a packet of the offloaded policy ask for an SA; the sequence number of the ACQUIRE."""
    host.ok(texts.policy(host.dev))
    host.notes()
    assert host.send([packets.udp()]) == [0]
    (note,) = host.notes()
    assert note.type == Msg.ACQUIRE
    return UserAcquire.unpack(note.fixed).seq


def answer(host: Subject, **how: Any) -> None:
    """NEWSA, offloaded, with `how` as for `sa_info`."""
    wish = host.offload()
    assert host.request(new_sa(attributes=wish, **how)).errno == 0


@rule("STATE-29")
def test_an_sa_takes_the_place_of_the_larval_one_of_its_template(bench: Bench) -> None:
    """Same reqid, mode, protocol and ends: inserted, then the larval one goes without a message."""
    host = bench.host()
    acquired(host)
    assert host.spis() == [0]
    answer(host)
    assert host.spis() == [0x1000]
    assert host.order("U", "K") == ("pA A(l) A D(l) F(l)" if bench.latest else "pA A A D F")
    assert host.note_names() == ["NEWSA"]


@rule("STATE-29")
@pytest.mark.parametrize("how", [{"reqid": 7}, {"mode": 1}, {"src": "10.1.0.99"}])
def test_the_sequence_number_of_the_acquire_names_the_larval_sa(
    bench: Bench, how: dict[str, Any]
) -> None:
    """km.seq, protocol and destination are enough; without it such an SA answers nothing."""
    host = bench.host(driver=PROBE)
    seq = acquired(host)
    answer(host, spi=0x1001, **how)
    assert host.spis() == [0x1001, 0]
    answer(host, spi=0x1002, seq=seq, dst="10.1.0.3", **how)
    assert host.spis() == [0x1002, 0x1001, 0]
    answer(host, spi=0x1003, seq=seq, **how)
    assert host.spis() == [0x1003, 0x1002, 0x1001]


@rule("STATE-29")
def test_a_software_sa_resolves_an_offloaded_larval_one(bench: Bench) -> None:
    """Offload and if_id are ignored in the search; the driver hears delete and free of its own."""
    host = bench.host()
    acquired(host)
    if_id = {Attr.IF_ID: struct.pack("<I", 9)}
    assert host.request(new_sa(attributes=if_id)).errno == 0
    assert host.spis() == [0x1000]
    larval = "(l)" if bench.latest else ""
    assert host.order("U", "K") == f"pA A{larval} D{larval} F{larval}"


@rule("STATE-29")
def test_a_larval_sa_with_an_spi_is_not_searched_for(bench: Bench) -> None:
    """ALLOCSPI has given it one: only the sequence number finds it, else it stays."""
    host = bench.host()
    seq = acquired(host)
    assert host.request(alloc_spi(0x500, seq=seq)).errno == 0
    assert host.request(new_sa(spi=0x501)).errno == 0
    assert host.spis() == [0x501, 0x500]
    assert host.request(new_sa(spi=0x502, seq=seq)).errno == 0
    assert host.spis() == [0x502, 0x501]


@rule("STATE-30")
def test_a_newer_sa_is_used_for_flows_that_had_an_older_one(bench: Bench) -> None:
    """Cached routes are resolved anew when an SA of the same reqid and ends comes. In software, as
    a device may choose by itself."""
    host = bench.host()
    host.ok(texts.state())
    host.ok(texts.policy())
    assert host.send([packets.udp()] * 2) == [0, 0]
    bench.advance(2)  # the newer one is newer by a whole second
    host.ok(texts.state(spi=0x1001))
    assert host.send([packets.udp()] * 2) == [0, 0]
    host.ok(texts.state(spi=0x1002, reqid=5))
    assert host.send([packets.udp()]) == [0]
    assert bench.spis() == [0x1000, 0x1000, 0x1001, 0x1001, 0x1001]


@rule("STATE-30")
def test_an_offloaded_sa_that_is_newer_is_asked_for(bench: Bench) -> None:
    """The driver is asked about packets of the SA that the core has chosen."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev))
    host.ok(texts.policy(host.dev))
    assert host.send([packets.udp()]) == [0]
    bench.advance(2)
    host.ok(texts.state(host.dev, spi=0x1001))
    assert host.send([packets.udp()]) == [0]
    asked = [call["spi"] for call in host.calls_of("offload_ok")]
    assert asked == ["0x1000", "0x1001"]


@rule("STATE-32")
def test_a_new_sa_is_valid_and_told(bench: Bench) -> None:
    """VOID while the driver is asked, VALID behind the insertion; one NEWSA that shows it."""
    host = bench.host()
    host.ok(texts.state(host.dev))
    host.ok(texts.policy(host.dev))
    (note,) = [note for note in host.notes() if note.type == Msg.NEWSA]
    (state,) = host.states()
    assert note.fixed[:56] == state.fixed[:56]
    assert note.attributes == state.attributes
    assert host.send([packets.udp()]) == [0]
    assert bench.spis() == [0x1000]
    states = [call["state"] for call in host.calls() if "state" in call]
    assert states[0] == "void"
    assert set(states[1:]) <= {"valid"}


@rule("STATE-32")
def test_the_first_timer_shot_is_a_second_after_the_insertion(bench: Bench) -> None:
    """The timer asks the driver for totals: not at once, and once after a second."""
    host = bench.host()
    host.ok(texts.state(host.dev))
    assert [call for call in host.calls() if call["context"] == "timer"] == []
    bench.advance(1)
    (shot,) = [call for call in host.calls() if call["context"] == "timer"]
    assert shot["call"] == UPDATE


@rule("STATE-38")
@pytest.mark.parametrize("proto", [50, AH, COMP])
def test_allocspi_makes_a_larval_sa_with_an_spi_of_the_range(bench: Bench, proto: int) -> None:
    """The answer is NEWSA with the SPI; no algorithm, no offload, no driver, no message."""
    host = bench.host()
    for number in range(20):
        reply = host.request(alloc_spi(0x500, 0x5FF, proto=proto, reqid=number + 1))
        (note,) = reply.notes
        assert (note.name, reply.errno) == ("NEWSA", 0)
        assert 0x500 <= UserSaInfo.unpack(note.fixed).id.spi <= 0x5FF
        assert not {Attr.ALG_AEAD, Attr.OFFLOAD_DEV} & note.attributes.keys()
    assert len(set(host.spis())) == 20
    assert (host.note_names(), host.order(), host.refcnt()) == ([], "", 0)


@rule("STATE-38")
def test_a_range_that_allocspi_cannot_use(bench: Bench) -> None:
    """min > max: EINVAL; of IPComp above 0xffff, and other protocols: EINVAL."""
    host = bench.host()
    assert host.request(alloc_spi(0x600, 0x5FF)).errno == errno.EINVAL
    assert host.request(alloc_spi(0xFFFF, 0x1_0000, proto=COMP)).errno == errno.EINVAL
    assert host.request(alloc_spi(0xFFFF, 0xFFFF, proto=COMP)).errno == 0
    assert host.request(alloc_spi(0xFFFF_FFFF, 0xFFFF_FFFF)).errno == 0
    assert host.request(alloc_spi(0x500, proto=ROUTING)).errno == errno.EINVAL
    assert sorted(host.spis()) == [0xFFFF, 0xFFFF_FFFF]


@rule("STATE-38")
def test_a_range_that_is_full_is_enoent(bench: Bench) -> None:
    """A fixed SPI that is taken, by a larval or a real SA: ENOENT."""
    host = bench.host()
    for number in range(2):
        assert host.request(alloc_spi(0x500 + number, reqid=number + 1)).errno == 0
    assert host.request(new_sa(spi=0x502, reqid=50)).errno == 0
    for low, high in ((0x500, 0x501), (0x501, 0x501), (0x502, 0x502)):
        reply = host.request(alloc_spi(low, high, reqid=9))
        assert (reply.errno, reply.notes) == (errno.ENOENT, [])


@rule("STATE-38")
def test_allocspi_finds_the_larval_sa_of_an_acquire(bench: Bench) -> None:
    """By sequence number, or by its template: no second one is made."""
    host = bench.host()
    host.ok(texts.policy())
    assert host.send([packets.udp()]) == [0]
    (note,) = [note for note in host.notes() if note.type == Msg.ACQUIRE]
    seq = UserAcquire.unpack(note.fixed).seq
    assert host.request(alloc_spi(0x500, seq=seq, reqid=77)).errno == 0
    assert host.spis() == [0x500]
    host.ok("xfrm state flush")
    assert host.send([packets.udp()]) == [0]
    assert host.request(alloc_spi(0x501)).errno == 0
    assert host.spis() == [0x501]


@rule("STATE-38")
def test_no_sa_gets_spi_0(bench: Bench) -> None:
    """Neither from a range of it alone, nor from one that begins with it."""
    host = bench.host()
    assert host.request(alloc_spi(0)).errno == errno.ENOENT
    for number in range(16):  # each draws 0 with even chances
        reply = host.request(alloc_spi(0, 1, dst=f"10.1.7.{number}", reqid=number + 2))
        assert [UserSaInfo.unpack(note.fixed).id.spi for note in reply.notes] in ([1], [])
        assert reply.errno == (0 if reply.notes else errno.ENOENT)


@rule("STATE-38")
def test_an_spi_is_taken_whatever_its_mark_and_family(bench: Bench) -> None:
    """Since v6.17 one (destination, SPI, protocol) is one; before, a mark or a family apart was."""
    host = bench.host()
    wanted = errno.ENOENT if bench.latest else 0
    assert host.request(new_sa(attributes=mark(5, 0xFF), spi=0x500)).errno == 0
    assert host.request(alloc_spi(0x500, attributes=mark(6, 0xFF))).errno == wanted
