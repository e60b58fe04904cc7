# SPDX-License-Identifier: Apache-2.0
"""UAPI-07, 70..75: requests about what is not there, events by hand, defaults, counts."""

import errno
import struct

import pytest

from host_driver.conformance import layouts, messages, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import alloc_spi, new_policy, new_sa, request
from host_driver.conformance.probe import SLEEP
from host_driver.conformance.subject import Subject
from proto.xfrm import Attr, Msg

ACK, REPLACE = 4, 0x100
THRESHOLD = {Attr.REPLAY_THRESH: struct.pack("<I", 9)}


def new_ae(attributes: messages.Attributes, spi: int = 0x1000, flags: int = ACK | REPLACE) -> bytes:
    """NEWAE for an SA."""
    id = layouts.AEVENT_ID.make(sa_id=messages.sa_id(spi))
    return request(Msg.NEWAE, id, attributes, flags=flags)


def expire(hard: int, spi: int = 0x1000) -> bytes:
    """A user's EXPIRE."""
    return request(Msg.EXPIRE, messages.sa_info(spi).pack() + struct.pack("<B7x", hard))


def polexpire(hard: int) -> bytes:
    """A user's POLEXPIRE."""
    return request(Msg.POLEXPIRE, messages.policy_info().pack() + struct.pack("<B7x", hard))


@rule("UAPI-07")
def test_requests_do_not_interleave(bench: Bench) -> None:
    """While the driver sleeps in the add of one requester, the other one's request waits."""
    host = bench.host(driver=PROBE)
    flags = host.offload()
    slow = new_sa(spi=0x1000, reqid=SLEEP, attributes=flags)
    quick = new_sa(spi=0x2000, reqid=2, attributes=flags)
    first, second = host.together([slow, quick])
    assert (first.errno, second.errno) == (0, 0)
    told = [layouts.ID.read(layouts.USERSA_INFO.read(note.fixed).id).spi for note in host.notes()]
    assert told == [b"\0\0\x10\0", b"\0\0\x20\0"]


@rule("UAPI-70")
def test_an_sa_that_is_not_there(bench: Bench) -> None:
    """GETSA and DELSA: ESRCH, nothing is told."""
    host = bench.host()
    assert host.request(alloc_spi(0x500)).errno == 0
    for type in (Msg.GETSA, Msg.DELSA):
        for id in (
            messages.sa_id(0x501), messages.sa_id(0x500, dst="10.1.0.9"),
            messages.sa_id(0x500, proto=51), messages.sa_id(0),
        ):  # fmt: skip
            assert host.request(request(type, id)).errno == errno.ESRCH
    assert host.note_names() == []


@rule("UAPI-71")
def test_a_policy_that_is_not_there(bench: Bench) -> None:
    """GETPOLICY and DELPOLICY: ENOENT, also for an index that is not of the direction."""
    host = bench.host()
    sel = messages.selector()
    assert host.request(new_policy(index=0x809)).errno == 0
    host.notes()
    missing = (
        (messages.policy_id(sel, dir=0), ()),
        (messages.policy_id(messages.selector(dst="10.1.0.9")), ()),
        (messages.policy_id(sel), {Attr.IF_ID: b"\1\0\0\0"}),
        (messages.policy_id(sel), {Attr.MARK: struct.pack("<II", 1, 1)}),
        (messages.policy_id(sel), {Attr.POLICY_TYPE: b"\1" + bytes(5)}),
        (messages.policy_id(index=0x811), ()),
        (messages.policy_id(index=0x809, dir=0), ()),
    )
    for type in (Msg.GETPOLICY, Msg.DELPOLICY):
        for id, attributes in missing:
            assert host.request(request(type, id, attributes)).errno == errno.ENOENT
    assert host.note_names() == []
    assert host.request(request(Msg.DELPOLICY, messages.policy_id(index=0x809))).errno == 0


@rule("UAPI-72")
def test_expire_by_hand(bench: Bench) -> None:
    """EXPIRE: told first, then with hard the SA goes; no SA is ENOENT."""
    host = bench.host()
    assert host.request(new_sa()).errno == 0
    host.notes()
    assert host.request(expire(0, spi=0x1001)).errno == errno.ENOENT
    assert host.request(expire(0)).errno == 0
    assert len(host.states()) == 1
    assert host.request(expire(1)).errno == 0
    assert host.states() == []
    assert host.expired() == ["soft 0x1000", "hard 0x1000"]


@rule("UAPI-72")
def test_a_larval_sa_does_not_expire_by_hand(bench: Bench) -> None:
    """EXPIRE for an SA that is not VALID: EINVAL; for one that is not there: ENOENT."""
    host = bench.host()
    assert host.request(alloc_spi(0x1000)).errno == 0
    assert host.request(expire(1)).errno == errno.EINVAL
    assert host.request(expire(1, spi=0x1001)).errno == errno.ENOENT
    assert len(host.states()) == 1
    assert host.note_names() == []


@rule("UAPI-72")
def test_polexpire_by_hand(bench: Bench) -> None:
    """POLEXPIRE: with hard the policy goes, and it is told; no policy is ENOENT."""
    host = bench.host()
    assert host.request(polexpire(0)).errno == errno.ENOENT
    assert host.request(new_policy()).errno == 0
    host.notes()
    assert host.request(polexpire(0)).errno == 0
    assert host.request(polexpire(1)).errno == 0
    assert host.request(polexpire(1)).errno == errno.ENOENT
    assert host.expired() == ["soft policy", "hard policy"]
    assert host.policies() == []


@rule("UAPI-73")
def test_what_newae_is_refused_for(bench: Bench) -> None:
    """Nothing to set, no NLM_F_REPLACE, an SA that is not VALID: EINVAL; no SA: ESRCH."""
    host = bench.host()
    assert host.request(new_sa()).errno == 0
    assert host.request(alloc_spi(0x1002)).errno == 0
    host.notes()
    assert host.request(new_ae({})).errno == errno.EINVAL
    assert host.request(new_ae(THRESHOLD, flags=ACK)).errno == errno.EINVAL
    assert host.request(new_ae(THRESHOLD, spi=0x1001)).errno == errno.ESRCH
    assert host.request(new_ae(THRESHOLD, spi=0x1002)).errno == errno.EINVAL
    assert host.note_names() == []


@rule("UAPI-73")
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Attr.REPLAY_THRESH, struct.pack("<I", 9)),
        (Attr.ETIMER_THRESH, struct.pack("<I", 50)),
        (Attr.REPLAY_VAL, layouts.REPLAY_STATE.make(oseq=41)),
        (Attr.LTIME_VAL, layouts.LIFETIME_CUR.make(bytes=1, packets=2, add_time=3, use_time=4)),
    ],
)
def test_newae_sets_and_tells(bench: Bench, kind: int, value: bytes) -> None:
    """The value is taken over, and an event with cause CU goes out."""
    host = bench.host()
    assert host.request(new_sa()).errno == 0
    host.notes()
    assert host.request(new_ae({kind: value})).errno == 0
    (told,) = host.notes()
    assert (told.name, layouts.AEVENT_ID.read(told.fixed).flags) == ("NEWAE", 64)
    id = layouts.AEVENT_ID.make(sa_id=messages.sa_id(), flags=9)
    (note,) = host.request(request(Msg.GETAE, id)).notes
    assert note.attributes[kind] == value


@rule("UAPI-73")
def test_newae_of_another_esn_length(bench: Bench) -> None:
    """A bitmap of another length than the SA's: EINVAL; of its length: taken."""
    host = bench.host()
    bitmap = layouts.REPLAY_STATE_ESN.make(bmp_len=2, replay_window=64) + bytes(8)
    added = new_sa(flags=128, attributes={Attr.REPLAY_ESN_VAL: bitmap})
    assert host.request(added).errno == 0
    other = layouts.REPLAY_STATE_ESN.make(bmp_len=1, replay_window=32) + bytes(4)
    assert host.request(new_ae({Attr.REPLAY_ESN_VAL: other})).errno == errno.EINVAL
    moved = layouts.REPLAY_STATE_ESN.make(bmp_len=2, seq=70, replay_window=64) + bytes(8)
    assert host.request(new_ae({Attr.REPLAY_ESN_VAL: moved})).errno == 0
    (note,) = host.request(request(Msg.GETSA, messages.sa_id())).notes
    assert note.attributes[Attr.REPLAY_ESN_VAL] == moved


@rule("UAPI-74")
def test_default_policies_are_told_and_kept(bench: Bench) -> None:
    """SETDEFAULT: 0 and what is no action leave a direction as it is; GETDEFAULT gives three
    bytes."""
    host = bench.host()
    for given, wanted in (
        (b"\0\0\0", b"\2\2\2"), (b"\1\0\0", b"\1\2\2"), (b"\0\1\2", b"\1\1\2"),
        (b"\x09\x09\x09", b"\1\1\2"), (b"\2\2\1", b"\2\2\1"),
    ):  # fmt: skip
        assert host.request(request(Msg.SETDEFAULT, given)).errno == 0
        (now,) = host.request(request(Msg.GETDEFAULT, bytes(3))).notes
        assert now.fixed == wanted
        (told,) = host.notes()
        assert (told.name, told.fixed) == ("GETDEFAULT", wanted)


def count(host: Subject) -> tuple[int, ...]:
    """SAs, then policies in, out, fwd, and of sockets."""
    (sad,) = host.request(request(Msg.GETSADINFO, bytes(4))).notes
    (spd,) = host.request(request(Msg.GETSPDINFO, bytes(4))).notes
    return struct.unpack("<I", sad.attributes[1]) + struct.unpack("<6I", spd.attributes[1])


@rule("UAPI-75")
def test_counts_follow(bench: Bench) -> None:
    """GETSADINFO counts larval SAs, too; GETSPDINFO counts by direction."""
    host = bench.host()
    assert count(host) == (0, 0, 0, 0, 0, 0, 0)
    assert host.request(alloc_spi()).errno == 0
    host.ok(texts.policy(dir="in"))
    assert count(host) == (1, 1, 0, 0, 0, 0, 0)
    host.ok(texts.policy(dir="out"))
    host.ok(texts.policy_delete(dir="in"))
    host.request(request(Msg.FLUSHSA, b"\0"))
    assert count(host) == (0, 0, 1, 0, 0, 0, 0)
