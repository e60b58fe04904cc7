# SPDX-License-Identifier: Apache-2.0
"""UAPI-12, 60..68: what replies and notifications carry, in which order, and to whom they go."""

import struct

import pytest

from host_driver.conformance import layouts, messages, packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import alloc_spi, new_policy, new_sa, request, template
from host_driver.conformance.subject import Subject
from proto.xfrm import Attr, Msg

IN, OUT, FWD = range(3)
INBOUND, PACKET = 2, 4
U32 = struct.Struct("<I").pack
MARK = {Attr.MARK: layouts.MARK.make(v=0x10, m=0xF0)}
IF_ID = {Attr.IF_ID: U32(7)}

# UAPI-60, without what only an LSM (SEC_CTX) or route optimization (LASTUSED) brings.
ORDER = (
    Attr.SA_EXTRA_FLAGS, Attr.COADDR, Attr.ALG_AEAD, Attr.ALG_AUTH, Attr.ALG_AUTH_TRUNC,
    Attr.ALG_CRYPT, Attr.ENCAP, Attr.TFCPAD, Attr.MARK, Attr.SET_MARK, Attr.SET_MARK_MASK,
    Attr.REPLAY_ESN_VAL, Attr.REPLAY_VAL, Attr.OFFLOAD_DEV, Attr.IF_ID, Attr.MTIMER_THRESH,
    Attr.SA_PCPU, Attr.SA_DIR, Attr.NAT_KEEPALIVE_INTERVAL,
)  # fmt: skip
FULL = {
    Attr.SA_EXTRA_FLAGS: U32(2), Attr.COADDR: b"\x0a\x09\0\1".ljust(16, b"\0"),
    Attr.ENCAP: b"\2" + bytes(23), Attr.TFCPAD: U32(100), **MARK, Attr.SET_MARK: U32(3),
    Attr.SET_MARK_MASK: U32(0xFF), **IF_ID,
}  # fmt: skip
LATE = {Attr.SA_PCPU: U32(0), Attr.SA_DIR: b"\2", Attr.NAT_KEEPALIVE_INTERVAL: U32(20)}
ESN = layouts.REPLAY_STATE_ESN.make(bmp_len=1, replay_window=32) + bytes(4)


def sa_of(host: Subject) -> messages.Note:
    """The one SA there is."""
    (note,) = host.states()
    return note


def offload(host: Subject, flags: int = PACKET) -> dict[int, bytes]:
    """OFFLOAD_DEV for the device under test."""
    return {Attr.OFFLOAD_DEV: layouts.USER_OFFLOAD.make(ifindex=host.ifindex, flags=flags)}


@rule("UAPI-60")
@pytest.mark.parametrize(
    ("flags", "attributes"),
    [
        (0, FULL),
        (0, dict(messages.ALGORITHMS)),
        (128, {Attr.REPLAY_ESN_VAL: ESN}),
        (0, {Attr.ENCAP: b"\2" + bytes(23), Attr.MTIMER_THRESH: U32(60), **IF_ID}),
    ],
)
def test_sa_attributes_have_one_order(
    bench: Bench, flags: int, attributes: dict[int, bytes]
) -> None:
    """All attributes of an SA in the kernel's order, in reply, notification and DELSA, with exactly
    one of the two replay states."""
    host = bench.host()
    given = attributes | (LATE if bench.latest and attributes is FULL else {})
    assert host.request(new_sa(mode=1, flags=flags, attributes=given)).errno == 0
    (told,) = host.notes()
    came = sa_of(host)
    assert list(told.attributes) == list(came.attributes)
    assert list(came.attributes) == [kind for kind in ORDER if kind in came.attributes]
    assert given.keys() <= came.attributes.keys()
    assert (Attr.REPLAY_VAL in came.attributes) != (Attr.REPLAY_ESN_VAL in came.attributes)
    host.request(request(Msg.DELSA, messages.sa_id(), MARK if Attr.MARK in given else ()))
    (gone,) = host.notes()
    assert list(gone.attributes) == [Attr.SA, *came.attributes]


@rule("UAPI-60")
def test_what_is_zero_is_not_told(bench: Bench) -> None:
    """A plain SA has its algorithm and its replay state, a larval one only the latter."""
    host = bench.host()
    assert host.request(alloc_spi()).errno == 0
    assert list(sa_of(host).attributes) == [Attr.REPLAY_VAL]
    host.request(request(Msg.FLUSHSA, b"\0"))
    zero = {kind: bytes(4) for kind in (Attr.IF_ID, Attr.SA_EXTRA_FLAGS)} | {Attr.MARK: bytes(8)}
    assert host.request(new_sa(attributes=zero)).errno == 0
    assert list(sa_of(host).attributes) == [Attr.ALG_AEAD, Attr.REPLAY_VAL]


@rule("UAPI-60", "UAPI-61", "UAPI-53")
def test_the_offload_device_of_an_sa(bench: Bench) -> None:
    """OFFLOAD_DEV stands between replay state and if_id, with INBOUND and PACKET as they are."""
    host = bench.host(driver=PROBE)
    assert host.request(new_sa(attributes=offload(host) | IF_ID)).errno == 0
    came = sa_of(host).attributes
    assert list(came) == [Attr.ALG_AEAD, Attr.REPLAY_VAL, Attr.OFFLOAD_DEV, Attr.IF_ID]
    assert came[Attr.OFFLOAD_DEV] == offload(host)[Attr.OFFLOAD_DEV]


@rule("UAPI-61")
@pytest.mark.parametrize(
    ("dir", "reported"), [(IN, PACKET | INBOUND), (OUT, PACKET), (FWD, PACKET)]
)
def test_the_offload_flags_of_a_policy(bench: Bench, dir: int, reported: int) -> None:
    """A policy for input is told with INBOUND, though its request must not have it."""
    host = bench.host(driver=PROBE)
    assert host.request(new_policy(dir=dir, attributes=offload(host))).errno == 0
    (note,) = host.policies()
    assert note.attributes[Attr.OFFLOAD_DEV] == offload(host, reported)[Attr.OFFLOAD_DEV]


@rule("UAPI-62")
def test_every_message_about_a_policy_names_its_device(bench: Bench) -> None:
    """NEWPOLICY, UPDPOLICY, POLEXPIRE, ACQUIRE, DELPOLICY, reply and dump: TMPL, POLICY_TYPE, MARK,
    IF_ID, OFFLOAD_DEV in this order."""
    host = bench.host(driver=PROBE)
    mark = {Attr.MARK: layouts.MARK.make(v=0, m=0xF0)}
    attributes = mark | offload(host)
    assert host.request(new_policy(attributes=attributes)).errno == 0
    assert host.request(new_policy(attributes=attributes, type=Msg.UPDPOLICY)).errno == 0
    soft = messages.policy_info().pack() + bytes(8)
    assert host.request(request(Msg.POLEXPIRE, soft, mark)).errno == 0
    assert host.send([packets.udp()]) == [0]
    selected = messages.policy_id(messages.selector())
    found = host.request(request(Msg.GETPOLICY, selected, mark)).notes
    found += host.policies()
    assert host.request(request(Msg.DELPOLICY, selected, mark)).errno == 0
    notes = host.notes()
    names = ["NEWPOLICY", "UPDPOLICY", "POLEXPIRE", "ACQUIRE", "DELPOLICY"]
    assert [note.name for note in notes] == names
    wanted = [Attr.TMPL, Attr.POLICY_TYPE, Attr.MARK, Attr.OFFLOAD_DEV]
    for note in notes + found:
        assert [kind for kind in note.attributes if kind != Attr.POLICY] == wanted, note.name
        assert note.attributes[Attr.OFFLOAD_DEV] == offload(host)[Attr.OFFLOAD_DEV]


@rule("UAPI-62")
def test_policy_attributes_have_one_order(bench: Bench) -> None:
    """TMPL, POLICY_TYPE, MARK, IF_ID; without templates there is no TMPL."""
    host = bench.host()
    assert host.request(new_policy(attributes=IF_ID | MARK)).errno == 0
    assert host.request(new_policy(templates=[])).errno == 0
    first, second = host.notes()
    assert list(first.attributes) == [Attr.TMPL, Attr.POLICY_TYPE, Attr.MARK, Attr.IF_ID]
    assert list(second.attributes) == [Attr.POLICY_TYPE]


@rule("UAPI-63")
def test_expire_says_little(bench: Bench) -> None:
    """EXPIRE: mark, if_id, CPU and direction; no device, no key, no replay state; sequence 0."""
    host = bench.host(driver=PROBE)
    dir = {Attr.SA_PCPU: U32(0), Attr.SA_DIR: b"\2"} if bench.latest else {}
    assert host.request(new_sa(attributes=offload(host) | MARK | IF_ID | dir)).errno == 0
    host.notes()
    hard = struct.pack("<B7x", 1)
    body = messages.sa_info().pack() + hard
    assert host.request(request(Msg.EXPIRE, body, MARK, seq=55)).errno == 0
    note = host.notes()[0]
    assert (note.name, note.seq) == ("EXPIRE", 0)
    assert list(note.attributes) == [Attr.MARK, Attr.IF_ID, *dir]


@rule("UAPI-63")
def test_expire_of_a_larval_sa(bench: Bench) -> None:
    """The larval SA of an acquire expires hard: EXPIRE without replay state, sequence 0."""
    host = bench.host()
    host.sysctl("acq_expires", 2)
    host.ok(texts.policy())
    host.send([packets.udp()])
    host.notes()
    bench.advance(4)
    (note,) = host.notes()
    told = layouts.USER_EXPIRE.read(note.fixed)
    assert (note.name, note.seq, told.hard) == ("EXPIRE", 0, 1)
    assert list(note.attributes) == ([Attr.SA_DIR] if bench.latest else [])


@rule("UAPI-64")
def test_delsa_carries_the_whole_sa(bench: Bench) -> None:
    """The ID, the SA inside XFRMA_SA, then all its attributes, keys included."""
    host = bench.host()
    assert host.request(new_sa(attributes=offload(host))).errno == 0
    before = sa_of(host)
    host.notes()
    assert host.request(request(Msg.DELSA, messages.sa_id(), seq=9)).errno == 0
    (note,) = host.notes()
    id = layouts.USERSA_ID.read(note.fixed)
    assert (note.name, note.seq, len(note.fixed)) == ("DELSA", 9, 24)
    assert (id.daddr[:4], id.spi, id.family, id.proto) == (b"\x0a\x01\0\2", b"\0\0\x10\0", 2, 50)
    assert note.attributes.pop(Attr.SA) == before.fixed
    assert note.attributes[Attr.ALG_AEAD] == messages.aead()


@rule("UAPI-64")
@pytest.mark.parametrize("by_index", [False, True])
def test_delpolicy_names_the_policy_as_the_request_did(bench: Bench, by_index: bool) -> None:
    """The index if it was named by index, else the selector; the policy inside XFRMA_POLICY."""
    host = bench.host()
    assert host.request(new_policy()).errno == 0
    (before,) = host.notes()
    policy = layouts.USERPOLICY_INFO.read(before.fixed)
    named = (
        messages.policy_id(index=policy.index)
        if by_index
        else messages.policy_id(messages.selector())
    )
    assert host.request(request(Msg.DELPOLICY, named)).errno == 0
    (note,) = host.notes()
    id = layouts.USERPOLICY_ID.read(note.fixed)
    wanted = (policy.index, bytes(56)) if by_index else (0, policy.sel)
    assert (id.index, id.sel) == wanted
    assert id.dir == OUT
    assert note.attributes.pop(Attr.POLICY) == before.fixed
    assert note.attributes == before.attributes


@rule("UAPI-65")
def test_acquires_are_numbered_and_tell_of_their_policy(bench: Bench) -> None:
    """Each has another sequence number, never 0, which the larval SA has, too; policy with dir OUT,
    all templates, mark and type."""
    host = bench.host()
    both = [template(reqid=5), template(reqid=6, proto=51)]
    mark = {Attr.MARK: layouts.MARK.make(v=0, m=0xF0)}
    for dst in ("10.1.0.2", "10.1.0.3"):
        assert host.request(new_policy(dst=dst, templates=both, attributes=mark)).errno == 0
    host.notes()
    for dst in ("10.1.0.2", "10.1.0.3"):
        host.send([packets.udp(dst=dst)])
    acquires = host.notes()
    assert [note.name for note in acquires] == ["ACQUIRE", "ACQUIRE"]
    told = [layouts.USER_ACQUIRE.read(note.fixed) for note in acquires]
    assert 0 not in (numbers := [one.seq for one in told])
    assert len(set(numbers)) == 2
    larval = [layouts.USERSA_INFO.read(one.fixed) for one in host.states()]
    assert sorted(one.seq for one in larval) == sorted(numbers)
    for note, acquire in zip(acquires, told, strict=True):
        assert layouts.USERPOLICY_INFO.read(acquire.policy).dir == OUT
        assert note.attributes[Attr.TMPL] == b"".join(both)
        assert list(note.attributes) == [Attr.TMPL, Attr.POLICY_TYPE, Attr.MARK]


@rule("UAPI-68")
def test_getae_gives_replay_state_lifetime_and_what_was_asked(bench: Bench) -> None:
    """Replay state, LTIME_VAL, the thresholds that were asked for, MARK, IF_ID; no driver call."""
    host = bench.host(driver=PROBE)
    assert host.request(new_sa(attributes=offload(host) | MARK | IF_ID)).errno == 0
    before = host.order()
    for flags, asked in (
        (0, []), (1, [Attr.REPLAY_THRESH]), (8, [Attr.ETIMER_THRESH]),
        (9, [Attr.REPLAY_THRESH, Attr.ETIMER_THRESH]),
    ):  # fmt: skip
        id = layouts.AEVENT_ID.make(sa_id=messages.sa_id(), flags=flags)
        (note,) = host.request(request(Msg.GETAE, id, MARK)).notes
        wanted = [Attr.REPLAY_VAL, Attr.LTIME_VAL, *asked, Attr.MARK, Attr.IF_ID]
        assert list(note.attributes) == wanted
        assert len(note.attributes[Attr.LTIME_VAL]) == 32
    assert host.order() == before


def tell_of_policies(host: Subject) -> None:
    """Everything that can be heard without a complete SA."""
    host.request(new_policy())
    host.request(new_policy(type=Msg.UPDPOLICY))
    host.request(request(Msg.POLEXPIRE, messages.policy_info().pack() + bytes(8)))
    host.send([packets.udp()])
    host.request(request(Msg.SETDEFAULT, bytes(3)))
    host.request(request(Msg.DELPOLICY, messages.policy_id(messages.selector())))
    host.request(alloc_spi())
    host.request(request(Msg.FLUSHSA, b"\0"))


@rule("UAPI-12", "UAPI-67")
@pytest.mark.parametrize(
    ("group", "wanted"),
    [
        (1, ["ACQUIRE"]),
        (2, ["POLEXPIRE"]),
        (3, ["FLUSHSA"]),
        (4, ["NEWPOLICY", "UPDPOLICY", "GETDEFAULT", "DELPOLICY"]),
        (5, []), (6, []), (7, []), (8, []),
    ],
)  # fmt: skip
def test_who_hears_of_policies(bench: Bench, group: int, wanted: list[str]) -> None:
    """ACQUIRE is group 1, POLEXPIRE in EXPIRE 2, FLUSHSA in SA 3, policies in POLICY 4."""
    host = bench.host()
    host.listen(group)
    tell_of_policies(host)
    assert host.note_names() == wanted


@rule("UAPI-12", "UAPI-67")
@pytest.mark.parametrize(
    ("group", "wanted"),
    [(2, ["EXPIRE"]), (3, ["NEWSA", "UPDSA", "DELSA"]), (5, ["NEWAE"]), (4, [])],
)
def test_who_hears_of_sas(bench: Bench, group: int, wanted: list[str]) -> None:
    """EXPIRE is group 2, NEWSA, UPDSA and DELSA SA 3, NEWAE AEVENTS 5."""
    host = bench.host()
    host.listen(group)
    assert host.request(new_sa()).errno == 0
    assert host.request(new_sa(type=Msg.UPDSA)).errno == 0
    host.request(request(Msg.EXPIRE, messages.sa_info().pack() + bytes(8)))
    id = layouts.AEVENT_ID.make(sa_id=messages.sa_id())
    host.request(request(Msg.NEWAE, id, {Attr.REPLAY_THRESH: U32(9)}, flags=0x104))
    host.request(request(Msg.DELSA, messages.sa_id()))
    assert host.note_names() == wanted
