# SPDX-License-Identifier: Apache-2.0
"""STATE-31, 33..37: UPDSA on an SA that is missing, larval, valid, expired, or of another kind."""

import errno
import struct

import pytest

from host_driver.conformance import messages, packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import Note, aead, alloc_spi, new_sa
from host_driver.conformance.probe import EVENTS, EXPIRE
from host_driver.conformance.subject import Subject
from proto.xfrm import Attr, Msg
from proto.xfrm_structs import EncapTmpl, LifetimeCfg, ReplayState, UserSaInfo

PACKET = 4
UPDSA = Msg.UPDSA
UDP_4500 = EncapTmpl(2, 4500, 4500)


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def only(host: Subject) -> Note:
    """The one SA that there is."""
    (state,) = host.states()
    return state


def info(state: Note) -> UserSaInfo:
    return UserSaInfo.unpack(state.fixed)


@rule("STATE-31")
def test_limits_marks_and_ends_of_encapsulation_are_taken_over(bench: Bench) -> None:
    """All of lft, if_id, output mark, the encapsulation's ports."""
    host = bench.host()
    before = {Attr.ENCAP: UDP_4500.pack()}
    assert host.request(new_sa(attributes=before)).errno == 0
    limits = LifetimeCfg(1, 2, 3, 4, 5, 6, 7, 8)
    change = {
        Attr.ENCAP: EncapTmpl(2, 4500, 5000).pack(), Attr.IF_ID: u32(9),
        Attr.SET_MARK: u32(0x33), Attr.SET_MARK_MASK: u32(0xFF),
    }  # fmt: skip
    assert host.request(new_sa(attributes=change, type=UPDSA, lft=limits)).errno == 0
    state = only(host)
    assert info(state).lft == limits
    assert {kind: state.attributes[kind] for kind in change} == change


@rule("STATE-31")
def test_all_else_stays(bench: Bench) -> None:
    """Keys, replay state, reqid, mode, selector, counters are those of the SA that was there."""
    host = bench.host()
    kept = {Attr.REPLAY_VAL: ReplayState(oseq=5, seq=6, bitmap=7).pack()}
    assert host.request(new_sa(attributes=kept, replay_window=32)).errno == 0
    before = only(host)
    change = {
        Attr.ALG_AEAD: aead(bytes(20), 96), Attr.REPLAY_VAL: ReplayState(oseq=99).pack(),
        Attr.LTIME_VAL: struct.pack("<4Q", 1, 2, 3, 4),
    }  # fmt: skip
    other = messages.selector("10.9.0.1", "10.9.0.2")
    request = new_sa(
        attributes=change, type=UPDSA, reqid=77, mode=1, sel=other, replay_window=16,
        src="10.1.0.77",
    )  # fmt: skip
    assert host.request(request).errno == 0
    after = only(host)
    assert after.fixed == before.fixed
    assert after.attributes == before.attributes


@rule("STATE-31")
def test_totals_go_on_over_an_update(bench: Bench) -> None:
    """curlft is not copied: what passed before is still counted, and counts for the new limits."""
    host = bench.host()
    host.ok(texts.state())
    host.ok(texts.policy())
    assert host.send([packets.udp()] * 3) == [0] * 3
    before = info(only(host)).curlft
    host.ok(texts.state(verb="update", more="limit packet-hard 4"))
    assert info(only(host)).curlft == before
    assert host.send([packets.udp()] * 2) == [0, errno.EINVAL]


@rule("STATE-31")
@pytest.mark.parametrize("offered", [True, False])
def test_the_offload_stays(bench: Bench, offered: bool) -> None:
    """Whether the request names a device or none; its own object is offered and goes again."""
    host = bench.host()
    host.ok(texts.state(host.dev))
    shown = only(host).attributes[Attr.OFFLOAD_DEV]
    update = texts.state(host.dev if offered else None, verb="update", more="limit packet-hard 9")
    host.ok(update)
    state = only(host)
    assert state.attributes[Attr.OFFLOAD_DEV] == shown
    assert info(state).lft.hard_packet_limit == 9
    if offered:
        assert host.order("U") == ("A A D F" if bench.latest else "A A F")
    else:
        assert host.order("U") == "A"
    assert host.refcnt() == 1
    assert host.note_names() == ["NEWSA", "UPDSA"]


@rule("STATE-31")
def test_a_software_sa_does_not_become_an_offloaded_one(bench: Bench) -> None:
    """UPDSA with OFFLOAD_DEV on it: accepted, offered, and given back."""
    host = bench.host()
    host.ok(texts.state())
    host.ok(texts.state(host.dev, verb="update"))
    assert Attr.OFFLOAD_DEV not in only(host).attributes
    assert host.order("U") == ("A D F" if bench.latest else "A F")
    assert host.refcnt() == 0


@rule("STATE-31")
def test_an_update_of_a_used_sa_is_checked_at_once(bench: Bench) -> None:
    """A new limit that the counters have passed already expires it without another packet."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev, reqid=EVENTS))
    host.ok(texts.policy(host.dev, reqid=EVENTS))
    assert host.send([packets.udp()] * 3) == [0, 0, 0]
    host.notes()
    host.ok(texts.state(host.dev, verb="update", reqid=EVENTS, more="limit packet-soft 9"))
    assert host.expired() == []
    host.ok(texts.state(host.dev, verb="update", reqid=EVENTS, more="limit packet-soft 3"))
    assert host.expired() == ["soft 0x1000"]
    host.ok(texts.state(host.dev, verb="update", reqid=EVENTS, more="limit packet-hard 2"))
    assert host.expired() == ["hard 0x1000"]
    assert host.states() == []


@rule("STATE-31")
def test_an_update_of_an_unused_sa_is_checked_by_its_timer(bench: Bench) -> None:
    """The timer is armed to a second, whatever was planned before."""
    host = bench.host()
    host.ok(texts.state(host.dev, more="limit time-hard 900"))
    bench.advance(5)
    host.notes()
    host.ok(texts.state(host.dev, verb="update", more="limit time-hard 2"))
    assert host.expired() == []
    bench.advance(2)
    assert host.expired() == ["hard 0x1000"]


@rule("STATE-33")
def test_an_update_of_what_is_not_there_is_esrch(bench: Bench) -> None:
    """No SA with the SPI, or with the mark: ESRCH, nothing made, nothing told."""
    host = bench.host()
    assert host.request(new_sa(type=UPDSA)).errno == errno.ESRCH
    marked = {Attr.MARK: struct.pack("<II", 5, 0xFF)}
    assert host.request(new_sa(attributes=marked)).errno == 0
    host.notes()
    assert host.request(new_sa(type=UPDSA)).errno == errno.ESRCH
    assert host.request(new_sa(type=UPDSA, spi=0x1001, attributes=marked)).errno == errno.ESRCH
    assert (len(host.states()), host.note_names()) == (1, [])
    assert host.request(new_sa(type=UPDSA, attributes=marked)).errno == 0


@rule("STATE-33", "STATE-21")
def test_what_an_update_offered_in_vain_is_taken_back(bench: Bench) -> None:
    """UPDSA with OFFLOAD_DEV and no SA: add, delete, free, ESRCH."""
    host = bench.host()
    assert host.ip(texts.state(host.dev, verb="update")).rc == 2
    assert (host.order(), host.refcnt(), host.note_names()) == ("A D F", 0, [])


@rule("STATE-34")
def test_an_update_completes_a_larval_sa(bench: Bench) -> None:
    """The new SA is inserted, the larval one goes without a message, the result is 0."""
    host = bench.host()
    assert host.request(alloc_spi(0x500)).errno == 0
    host.notes()
    assert host.request(new_sa(type=UPDSA, spi=0x500)).errno == 0
    state = only(host)
    assert (info(state).id.spi, Attr.ALG_AEAD in state.attributes) == (0x500, True)
    assert host.note_names() == ["UPDSA"]
    assert host.request(messages.request(Msg.GETSA, messages.sa_id(0x500))).errno == 0


@rule("STATE-34")
def test_an_offloaded_sa_completes_a_larval_one(bench: Bench) -> None:
    """The larval SA of ALLOCSPI is not the driver's; the SA in its place is."""
    host = bench.host()
    inbound = {Attr.SA_DIR: b"\1"} if bench.latest else {}
    assert host.request(alloc_spi(0x500, attributes=inbound)).errno == 0
    host.ok(texts.state(host.dev, verb="update", spi=0x500, dir="in"))
    assert Attr.OFFLOAD_DEV in only(host).attributes
    assert (host.order("U"), host.refcnt()) == ("A", 1)


@rule("STATE-35", "STATE-21")
def test_an_expired_sa_is_not_updated(bench: Bench) -> None:
    """It expires while the request is with the driver: EINVAL, the new object is destroyed."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev))
    host.notes()
    wish = host.offload()
    direction = {Attr.SA_DIR: b"\2"} if bench.latest else {}
    request = new_sa(type=UPDSA, reqid=EXPIRE, attributes=wish | direction)
    assert host.request(request).errno == errno.EINVAL
    assert host.note_names() == ["EXPIRE"]
    lives: dict[int, list[str]] = {}
    for call in host.calls():
        if not call["call"].endswith("curlft"):
            lives.setdefault(call["reqid"], []).append(call["call"].rpartition("_")[2])
    assert lives == {reqid: ["add", "delete", "free"] for reqid in (1, EXPIRE)}
    assert (host.states(), host.refcnt()) == ([], 0)


@rule("STATE-36")
def test_the_encapsulation_must_be_of_the_same_kind(bench: Bench) -> None:
    """One with, the other without: EINVAL, and the SA is as it was."""
    host = bench.host()
    encap = {Attr.ENCAP: UDP_4500.pack()}
    limits = LifetimeCfg(hard_packet_limit=5)
    for first, second in (({}, encap), (encap, {})):
        assert host.request(new_sa(attributes=first)).errno == 0
        before = only(host)
        host.notes()
        request = new_sa(attributes=second, type=UPDSA, lft=limits)
        assert host.request(request).errno == errno.EINVAL
        after = only(host)
        assert (after.fixed, after.attributes) == (before.fixed, before.attributes)
        assert host.note_names() == []
        host.ok("xfrm state flush")


@rule("STATE-37", "STATE-21", profile="latest")
def test_the_direction_must_be_the_same(bench: Bench) -> None:
    """In, out and none are three: ESRCH for any other, and what was offered is taken back."""
    host = bench.host()
    directions: tuple[dict[Attr, bytes], ...] = ({}, {Attr.SA_DIR: b"\1"}, {Attr.SA_DIR: b"\2"})
    for first in directions:
        assert host.request(new_sa(attributes=first)).errno == 0
        for second in directions:
            came = host.request(new_sa(attributes=second, type=UPDSA)).errno
            assert came == (0 if first == second else errno.ESRCH)
        host.ok("xfrm state flush")


@rule("STATE-37", "STATE-34", profile="latest")
def test_a_larval_sa_without_direction_takes_none(bench: Bench) -> None:
    """Of a larval SA only a direction that the request names must be the same."""
    host = bench.host()
    inbound, outbound = {Attr.SA_DIR: b"\1"}, {Attr.SA_DIR: b"\2"}
    for larval, named, wanted in (
        ({}, inbound, errno.ESRCH), (inbound, outbound, errno.ESRCH), (inbound, inbound, 0),
        (inbound, {}, 0),
    ):  # fmt: skip
        assert host.request(alloc_spi(0x500, attributes=larval)).errno == 0
        assert host.request(new_sa(attributes=named, type=UPDSA, spi=0x500)).errno == wanted
        host.ok("xfrm state flush")


@rule("STATE-37", "STATE-21", profile="latest")
def test_an_update_in_the_other_direction_is_taken_back(bench: Bench) -> None:
    """ESRCH behind the driver's add: delete, free, and the old SA is untouched and not pinned."""
    host = bench.host()
    host.ok(texts.state(host.dev, dir="in"))
    assert host.ip(texts.state(host.dev, verb="update", dir="out")).rc == 2
    assert host.order("U") == "A A D F"
    assert host.refcnt() == 1
    host.ok(texts.delete())
    assert (host.order("U"), host.refcnt()) == ("A A D F D F", 0)
