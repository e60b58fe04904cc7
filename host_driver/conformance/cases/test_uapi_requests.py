# SPDX-License-Identifier: Apache-2.0
"""UAPI-01..13: how requests are framed, admitted, parsed and acknowledged."""

import errno
import struct

import pytest

from host_driver.conformance import layouts, messages, texts
from host_driver.conformance.bench import Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import alloc_spi, new_policy, new_sa, request
from proto.xfrm import Attr, Msg

ACK, REQUEST, DUMP, MULTI = 4, 1, 0x300, 2
NLMSG_ERROR, NLMSG_DONE = 2, 3

# Table 1.2: type and smallest fixed part.
FIXED = (
    (0x10, 224), (0x11, 24), (0x12, 24), (0x13, 168), (0x14, 64), (0x15, 64), (0x16, 232),
    (0x17, 280), (0x18, 232), (0x19, 168), (0x1A, 224), (0x1B, 176), (0x1C, 1), (0x1E, 48),
    (0x1F, 48), (0x20, 60), (0x21, 64), (0x22, 4), (0x23, 4), (0x24, 4), (0x25, 4), (0x27, 3),
    (0x28, 3),
)  # fmt: skip

# Table 1.3: attribute and shortest payload, and those that came after v6.2.
SHORTEST = (
    (1, 68), (2, 68), (3, 68), (4, 24), (5, 64), (6, 224), (7, 168), (8, 8), (9, 32), (10, 12),
    (11, 4), (12, 4), (13, 16), (14, 16), (15, 8), (16, 6), (17, 76), (18, 72), (19, 40), (20, 72),
    (21, 8), (22, 4), (23, 24), (24, 4), (25, 1), (26, 36), (28, 8), (29, 4), (30, 4), (31, 4),
    (32, 4),
)  # fmt: skip
STRICT = ((33, 1), (34, 4), (35, 4))


def headers(answer: bytes) -> list[tuple[int, ...]]:
    """(length, type, flags, sequence) of each message of an answer."""
    found: list[tuple[int, ...]] = []
    at = 0
    while at < len(answer):
        length, type, flags, seq, _ = struct.unpack_from("<IHHII", answer, at)
        found.append((length, type, flags, seq))
        at += (length + 3) & ~3
    return found


@rule("UAPI-01")
def test_a_request_is_header_fixed_part_and_padded_attributes(bench: Bench) -> None:
    """Bytes made by the rule alone are understood, and the answer is laid out in the same way."""
    host = bench.host()
    sub = struct.pack("<HHBxHBx", 10, 16, 1, 0, 0) + bytes(2)  # POLICY_TYPE, padded
    mark = struct.pack("<HHII", 12, 21, 5, 7)
    body = messages.policy_info().pack() + sub + mark
    answer = host.answer(struct.pack("<IHHII", 16 + len(body), 0x13, 5, 77, 0) + body)
    assert headers(answer) == [(36, NLMSG_ERROR, 0x100, 77)]
    assert answer[16:20] == bytes(4)

    wanted = messages.policy_id(messages.selector()) + sub + mark
    answer = host.answer(struct.pack("<IHHII", 16 + len(wanted), 0x15, 1, 78, 0) + wanted)
    assert headers(answer) == [(len(answer), 0x13, 0, 78)]
    assert answer[16 + 168 :] == sub + mark


@rule("UAPI-02")
@pytest.mark.parametrize("type", [0x2A, 0x3F, 0x100, 0xFFFF])
def test_an_unknown_type_is_einval(bench: Bench, type: int) -> None:
    """A type above the highest known one: EINVAL, nothing changed."""
    host = bench.host()
    assert host.request(request(type, bytes(280))).errno == errno.EINVAL
    assert (host.states(), host.policies(), host.note_names()) == ([], [], [])


@rule("UAPI-03")
def test_without_privilege_every_type_is_eperm(bench: Bench) -> None:
    """Without CAP_NET_ADMIN: EPERM for every type, before the payload is looked at."""
    host = bench.host()
    host.ok(texts.policy())
    for type, length in FIXED:
        for payload in (bytes(length), b""):
            came = host.request(request(type, payload), privileged=False).errno
            assert came == errno.EPERM, f"type {type:#x} with {len(payload)} bytes"
    for type in (Msg.GETSA, Msg.GETPOLICY):
        came = host.request(messages.dump(type), privileged=False).errno
        assert came == errno.EPERM, f"dump of {type.name}"
    assert host.request(new_policy(dir=0), privileged=False).errno == errno.EPERM
    assert len(host.policies()) == 1


@rule("UAPI-04")
def test_a_dump_gives_all_objects_and_ends_with_done(bench: Bench) -> None:
    """NLM_F_DUMP on GETSA and GETPOLICY: one message each, then NLMSG_DONE."""
    host = bench.host()
    for number in (0x500, 0x501):
        assert host.request(alloc_spi(number)).errno == 0
    for dir in (0, 1):
        assert host.request(new_policy(dir=dir)).errno == 0
    for type, kind in ((Msg.GETSA, 0x10), (Msg.GETPOLICY, 0x13)):
        came = headers(host.answer(request(type, b"", flags=DUMP, seq=9)))
        assert [(type, flags & MULTI, seq) for _, type, flags, seq in came] == [
            (kind, MULTI, 9), (kind, MULTI, 9), (NLMSG_DONE, MULTI, 9),
        ]  # fmt: skip


@rule("UAPI-04")
def test_other_types_know_no_dump(bench: Bench) -> None:
    """NLM_F_DUMP on another type is no dump request: its normal handler runs."""
    host = bench.host()
    came = headers(host.answer(request(Msg.GETSADINFO, bytes(4), flags=DUMP | ACK)))
    assert [type for _, type, _, _ in came] == [Msg.NEWSADINFO, NLMSG_ERROR]
    assert host.request(new_policy()[:6] + struct.pack("<H", 0x305) + new_policy()[8:]).errno == 0
    assert len(host.policies()) == 1


@rule("UAPI-05")
@pytest.mark.parametrize(("type", "length"), FIXED)
def test_a_short_fixed_part_is_einval(bench: Bench, type: int, length: int) -> None:
    """A fixed part below the minimum of its type: EINVAL."""
    host = bench.host()
    for short in {0, length - 1}:
        assert host.request(request(type, bytes(short))).errno == errno.EINVAL
    assert host.note_names() == []


@rule("UAPI-06")
@pytest.mark.parametrize(("kind", "length"), SHORTEST)
def test_a_short_attribute_is_erange(bench: Bench, kind: int, length: int) -> None:
    """An attribute shorter than its minimum: ERANGE, even where nobody would read it."""
    host = bench.host()
    short = request(Msg.NEWPOLICY, messages.policy_info().pack(), {kind: bytes(length - 1)})
    assert host.request(short).errno == errno.ERANGE
    assert host.policies() == []


@rule("UAPI-06")
@pytest.mark.parametrize(("kind", "length"), STRICT)
def test_a_late_attribute_has_one_length(bench: Bench, kind: int, length: int) -> None:
    """From SA_DIR on any other length than the type's is EINVAL; v6.2 does not know those types."""
    host = bench.host()
    for other in {0, length - 1, length + 1, length + 4}:
        odd = request(Msg.NEWPOLICY, messages.policy_info().pack(), {kind: bytes(other)})
        assert host.request(odd).errno == (errno.EINVAL if bench.latest else 0), other
        host.request(request(Msg.FLUSHPOLICY, b""))


@rule("UAPI-06")
def test_the_tail_of_a_long_attribute_is_ignored(bench: Bench) -> None:
    """A longer attribute counts by its first bytes, and an unknown one does not count at all."""
    host = bench.host()
    mark, tail = layouts.MARK.make(v=5, m=7), b"tail"
    long = {Attr.MARK: mark + tail, Attr.IF_ID: struct.pack("<I", 9) + tail, 0x3FFF: b"?", 99: b""}
    assert host.request(new_policy(attributes=long)).errno == 0
    (note,) = host.policies()
    assert (note.attributes[Attr.MARK], note.attributes[Attr.IF_ID]) == (mark, b"\x09\0\0\0")
    assert not {99, 0x3FFF} & note.attributes.keys()


@rule("UAPI-08")
def test_a_flush_of_nothing_succeeds_in_silence(bench: Bench) -> None:
    """FLUSHSA and FLUSHPOLICY: success and a notification; without anything to delete, only the
    success."""
    host = bench.host()
    flushes = (request(Msg.FLUSHSA, b"\0"), request(Msg.FLUSHPOLICY, b""))
    for flush in flushes:
        assert host.request(flush).errno == 0
    assert host.note_names() == []
    assert host.request(alloc_spi()).errno == 0
    host.ok(texts.policy())
    host.notes()
    for flush in flushes:
        assert host.request(flush).errno == 0
    assert host.note_names() == ["FLUSHSA", "FLUSHPOLICY"]


@rule("UAPI-09", profile="latest")
def test_only_some_types_take_a_direction(bench: Bench) -> None:
    """SA_DIR on anything but NEWSA, UPDSA and ALLOCSPI: EINVAL."""
    host = bench.host()
    direction = {Attr.SA_DIR: b"\1"}
    assert host.request(alloc_spi(attributes=direction)).errno == 0
    assert host.request(new_policy(dir=2)).errno == 0
    others = (
        (Msg.GETSA, messages.sa_id(0x500)), (Msg.NEWPOLICY, messages.policy_info().pack()),
        (Msg.GETPOLICY, messages.policy_id(messages.selector(), dir=2)),
        (Msg.GETSADINFO, bytes(4)), (Msg.GETSPDINFO, bytes(4)), (Msg.GETDEFAULT, bytes(3)),
        (Msg.SETDEFAULT, bytes(3)), (Msg.GETAE, messages.sa_id(0x500) + bytes(24)),
        (Msg.FLUSHSA, b"\0"), (Msg.DELSA, messages.sa_id(0x500)),
    )  # fmt: skip
    for type, payload in others:
        refused = host.request(request(type, payload, direction)).errno
        assert refused == errno.EINVAL, type.name
        assert host.request(request(type, payload)).errno in (0, errno.ESRCH), type.name


@rule("UAPI-09", profile="latest")
@pytest.mark.parametrize("value", [0, 3, 255])
def test_a_direction_is_1_or_2(bench: Bench, value: int) -> None:
    """Other values than 1 and 2 are out of range: ERANGE."""
    host = bench.host()
    direction = {Attr.SA_DIR: bytes((value,))}
    for datagram in (alloc_spi(attributes=direction), new_sa(attributes=direction)):
        assert host.request(datagram).errno == errno.ERANGE
    for good in (b"\1", b"\2"):
        (note,) = host.request(alloc_spi(0x500 + good[0], attributes={Attr.SA_DIR: good})).notes
        assert note.attributes[Attr.SA_DIR] == good


@rule("UAPI-10", profile="latest")
def test_only_some_types_take_a_cpu(bench: Bench) -> None:
    """SA_PCPU on a type that has no use for it: EINVAL; a CPU that cannot be: ERANGE."""
    host = bench.host()
    cpu, none = {Attr.SA_PCPU: bytes(4)}, {Attr.SA_PCPU: struct.pack("<I", 1 << 20)}
    for type, payload in (
        (Msg.GETSADINFO, bytes(4)), (Msg.GETDEFAULT, bytes(3)), (Msg.FLUSHSA, b"\0"),
        (Msg.NEWPOLICY, messages.policy_info().pack()),
    ):  # fmt: skip
        assert host.request(request(type, payload, cpu)).errno == errno.EINVAL, type.name
        assert host.request(request(type, payload)).errno == 0, type.name
    (note,) = host.request(alloc_spi(attributes=cpu | {Attr.SA_DIR: b"\1"})).notes
    assert note.attributes[Attr.SA_PCPU] == bytes(4)
    assert host.request(new_sa(attributes=none | {Attr.SA_DIR: b"\1"})).errno == errno.ERANGE
    assert host.request(alloc_spi(attributes=none)).errno == errno.EINVAL


@rule("UAPI-13")
def test_success_is_told_on_demand_and_failure_always(bench: Bench) -> None:
    """With NLM_F_ACK success is an NLMSG_ERROR of 0, without it is silent; failure is not."""
    host = bench.host()
    info = messages.policy_info().pack()
    assert host.answer(request(Msg.NEWPOLICY, info, flags=0)) == b""
    assert len(host.policies()) == 1
    acked = host.answer(request(Msg.SETDEFAULT, bytes(3), flags=ACK, seq=5))
    assert headers(acked) == [(36, NLMSG_ERROR, 0x100, 5)]
    assert acked[16:20] == bytes(4)
    for flags in (0, ACK):
        refused = host.answer(request(Msg.NEWPOLICY, info, flags=flags, seq=6))
        assert [(type, seq) for _, type, _, seq in headers(refused)] == [(NLMSG_ERROR, 6)]
        assert struct.unpack_from("<i", refused, 16) == (-errno.EEXIST,)
    wrong = messages.policy_info(dir=3).pack()
    assert host.request(request(Msg.NEWPOLICY, wrong)).text
