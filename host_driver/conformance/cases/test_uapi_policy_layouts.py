# SPDX-License-Identifier: Apache-2.0
"""UAPI-39..44, 54..56: structures of policies, of acquires, of counts and filters."""

import errno
import struct
from typing import Any

import pytest

from host_driver.conformance import layouts, messages, packets
from host_driver.conformance.bench import Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import alloc_spi, new_policy, request
from host_driver.conformance.subject import Subject
from proto.xfrm import Attr, Msg

SOURCE, DESTINATION = b"\x0a\x01\x00\x01".ljust(16, b"\0"), b"\x0a\x01\x00\x02".ljust(16, b"\0")
GATEWAY, PEER = b"\xc6\x33\x64\x01".ljust(16, b"\0"), b"\xc6\x33\x64\x02".ljust(16, b"\0")
SELECTOR = layouts.SELECTOR.make(
    daddr=DESTINATION, saddr=SOURCE, family=2, prefixlen_d=32, prefixlen_s=32
)
FOREVER = (0xFFFF_FFFF_FFFF_FFFF,) * 4 + (0,) * 4


def userpolicy_info(lft: tuple[int, ...] = FOREVER, **fields: Any) -> bytes:
    """xfrm_userpolicy_info of an OUT policy by the contract's formats alone."""
    fields = {"sel": SELECTOR, "dir": 1, **fields}
    return layouts.USERPOLICY_INFO.make(lft=struct.pack("<8Q", *lft), **fields)


def user_tmpl(**fields: Any) -> bytes:
    """xfrm_user_tmpl of a tunnel between two gateways."""
    id = layouts.ID.make(daddr=PEER, proto=50)
    fields = {"id": id, "saddr": GATEWAY, "mode": 1, "reqid": 0x77, "family": 2, **fields}
    return layouts.USER_TMPL.make(**fields)


def add(host: Subject, info: bytes, tmpl: bytes = b"") -> int:
    """NEWPOLICY."""
    return host.request(request(Msg.NEWPOLICY, info, {Attr.TMPL: tmpl} if tmpl else {})).errno


def only(host: Subject) -> Any:
    """The one policy there is, read."""
    (note,) = host.policies()
    return layouts.USERPOLICY_INFO.read(note.fixed)


@rule("UAPI-39", "UAPI-33")
def test_the_fixed_part_of_a_policy_comes_back(bench: Bench) -> None:
    """Selector, limits, priority, index, direction, action and flags stand where they were put."""
    host = bench.host()
    lft = (1000, 2000, 3000, 4000, 500, 600, 700, 800)
    info = userpolicy_info(lft, priority=0x01020304, index=0x809, action=1, flags=2)
    assert add(host, info) == 0
    (note,) = host.policies()
    assert note.fixed[:120] == info[:120]
    assert note.fixed[152:] == info[152:]
    born = layouts.LIFETIME_CUR.read(only(host).curlft)
    assert (born.bytes, born.packets, born.use_time) == (0, 0, 0)
    assert born.add_time > 0


@rule("UAPI-39")
def test_the_lower_priority_number_wins(bench: Bench) -> None:
    """Priority at 152, action at 161: a packet meets the policy with the lower number."""
    host = bench.host()
    for length, priority, action in ((32, 10, 1), (24, 5, 0)):
        sel = layouts.SELECTOR.make(
            daddr=DESTINATION, saddr=SOURCE, family=2, prefixlen_d=length, prefixlen_s=length
        )
        assert add(host, userpolicy_info(sel=sel, priority=priority, action=action)) == 0
    assert host.send([packets.udp()]) == [0]
    id = layouts.USERPOLICY_ID.make(sel=SELECTOR, dir=1)
    assert host.request(request(Msg.DELPOLICY, id)).errno == 0
    assert add(host, userpolicy_info(priority=1, action=1)) == 0
    assert host.send([packets.udp()]) == [errno.EPERM]


@rule("UAPI-33", "UAPI-44")
@pytest.mark.parametrize(("place", "hard"), [(4, 0), (5, 1), (6, 0), (7, 1)])
def test_time_limits_of_a_policy(bench: Bench, place: int, hard: int) -> None:
    """Soft and hard seconds since birth, soft and hard since use: POLEXPIRE says which kind."""
    host = bench.host()
    lft = list(FOREVER)
    lft[place] = 2
    assert add(host, userpolicy_info(tuple(lft))) == 0
    host.notes()
    bench.advance(4)
    (note,) = host.notes()
    told = layouts.USER_POLEXPIRE.read(note.fixed)
    assert (note.name, told.hard) == ("POLEXPIRE", hard)
    assert layouts.USERPOLICY_INFO.read(told.pol).sel == SELECTOR


@rule("UAPI-44")
def test_the_hard_byte_of_polexpire(bench: Bench) -> None:
    """xfrm_user_polexpire as a request: the policy, then whether it goes."""
    host = bench.host()
    assert add(host, userpolicy_info()) == 0
    for hard, left in ((0, 1), (1, 0)):
        wanted = layouts.USER_POLEXPIRE.make(pol=userpolicy_info(), hard=hard)
        assert host.request(request(Msg.POLEXPIRE, wanted)).errno == 0
        assert len(host.policies()) == left


@rule("UAPI-40")
def test_a_policy_is_named_by_selector_or_index(bench: Bench) -> None:
    """xfrm_userpolicy_id: selector, index and direction each at its place."""
    host = bench.host()
    assert add(host, userpolicy_info(index=0x809)) == 0
    for named in ({"sel": SELECTOR, "dir": 1}, {"index": 0x809, "dir": 1}):
        id = layouts.USERPOLICY_ID.make(**named)
        (note,) = host.request(request(Msg.GETPOLICY, id)).notes
        assert layouts.USERPOLICY_INFO.read(note.fixed).index == 0x809
    for wrong in ({"sel": SELECTOR, "dir": 0}, {"index": 0x811, "dir": 1}):
        id = layouts.USERPOLICY_ID.make(**wrong)
        assert host.request(request(Msg.GETPOLICY, id)).errno == errno.ENOENT


@rule("UAPI-41", "UAPI-42", "UAPI-36")
def test_a_template_makes_the_larval_sa_and_the_acquire(bench: Bench) -> None:
    """Protocol, addresses, reqid, mode, family and algorithm masks of xfrm_user_tmpl, told by
    xfrm_user_acquire and by the larval SA, which have one sequence number."""
    host = bench.host()
    masks = {"aalgos": 0x01020304, "ealgos": 0x05060708, "calgos": 0x090A0B0C}
    tmpl = user_tmpl(**masks)
    assert add(host, userpolicy_info(priority=9), tmpl) == 0
    before = only(host)
    host.notes()
    host.send([packets.udp(sport=4000, dport=5000)])
    (note,) = host.notes()
    acquire = layouts.USER_ACQUIRE.read(note.fixed)
    id = layouts.ID.read(acquire.id)
    assert (note.name, id.daddr, id.spi, id.proto) == ("ACQUIRE", PEER, bytes(4), 50)
    assert acquire.saddr == GATEWAY
    assert (acquire.aalgos, acquire.ealgos, acquire.calgos) == tuple(masks.values())
    sel = layouts.SELECTOR.read(acquire.sel)
    assert (sel.daddr, sel.saddr, sel.dport, sel.sport) == (
        DESTINATION, SOURCE, b"\x13\x88", b"\x0f\xa0",
    )  # fmt: skip
    assert (sel.dport_mask, sel.sport_mask, sel.proto) == (b"\xff\xff", b"\xff\xff", 17)
    policy = layouts.USERPOLICY_INFO.read(acquire.policy)
    assert (policy.index, policy.dir, policy.priority) == (before.index, 1, 9)
    assert note.attributes[Attr.TMPL] == tmpl

    (larval,) = host.states()
    info = layouts.USERSA_INFO.read(larval.fixed)
    assert (info.id, info.saddr, info.seq) == (acquire.id, GATEWAY, acquire.seq)
    assert (info.reqid, info.mode, info.family) == (0x77, 1, 2)


@rule("UAPI-41")
def test_share_and_optional_of_a_template(bench: Bench) -> None:
    """Optional at 50: such a tunnel is refused in an OUT policy, and goes back out in an IN one."""
    host = bench.host()
    optional = user_tmpl(optional=1, share=2)
    if bench.latest:
        assert add(host, userpolicy_info(), optional) == errno.EINVAL
    assert add(host, userpolicy_info(dir=0), optional) == 0
    (note,) = host.policies()
    assert note.attributes[Attr.TMPL] == optional


@rule("UAPI-54")
def test_flush_type_default_and_label(bench: Bench) -> None:
    """xfrm_usersa_flush, xfrm_userpolicy_type, xfrm_userpolicy_default and xfrm_user_sec_ctx."""
    host = bench.host()
    for proto in (50, 51):
        assert host.request(alloc_spi(proto=proto)).errno == 0
    assert host.request(request(Msg.FLUSHSA, b"\x32")).errno == 0
    (left,) = host.states()
    assert layouts.ID.read(layouts.USERSA_INFO.read(left.fixed).id).proto == 51

    sub = {Attr.POLICY_TYPE: layouts.USERPOLICY_TYPE.make(type=1, reserved1=0xFFFF, reserved2=9)}
    assert host.request(new_policy(attributes=sub)).errno == 0
    (note,) = host.policies()
    assert layouts.USERPOLICY_TYPE.read(note.attributes[Attr.POLICY_TYPE]).type == 1
    host.ok("xfrm policy flush ptype main")
    assert len(host.policies()) == 1

    host.notes()
    wanted = layouts.USERPOLICY_DEFAULT.make(in_=1, fwd=2, out=1)
    assert host.request(request(Msg.SETDEFAULT, wanted)).errno == 0
    (now,) = host.request(request(Msg.GETDEFAULT, bytes(3))).notes
    assert now.fixed == wanted
    assert host.send([packets.udp(dst="10.9.0.1")]) == [errno.EPERM]

    for length, claimed in ((8 + 5, 5), (8 + 5, 4), (12, 5)):
        label = layouts.USER_SEC_CTX.make(len=length, ctx_alg=1, ctx_doi=1, ctx_len=claimed)
        labelled = new_policy(dir=2, attributes={Attr.SEC_CTX: label + b"label"})
        fine = length == 8 + claimed
        assert host.request(labelled).errno == (0 if fine else errno.EINVAL)


@rule("UAPI-55")
def test_an_address_filter_is_two_prefixes(bench: Bench) -> None:
    """xfrm_address_filter: source, destination, family and their lengths choose what a dump
    gives."""
    host = bench.host()
    ends = (("10.1.0.1", "10.2.0.1"), ("10.1.0.9", "10.2.9.1"), ("fd00::1", "fd00::2"))
    for n, (src, dst) in enumerate(ends):
        assert host.request(alloc_spi(0x500 + n, src=src, dst=dst)).errno == 0
    for fields, wanted in (
        ({"saddr": SOURCE, "splen": 32}, {0x500}),
        ({"saddr": SOURCE, "splen": 24}, {0x500, 0x501}),
        ({"daddr": b"\x0a\x02\0\x07", "dplen": 24}, {0x500}),
        ({"daddr": b"\x0a\x02\0\x07", "dplen": 16}, {0x500, 0x501}),
        ({"family": 10}, {0x502}),
    ):
        value = layouts.ADDRESS_FILTER.make(**{"family": 2, **fields})
        notes = host.request(
            messages.dump(Msg.GETSA, attributes={Attr.ADDRESS_FILTER: value})
        ).notes
        ids = [layouts.ID.read(layouts.USERSA_INFO.read(note.fixed).id) for note in notes]
        assert {int.from_bytes(id.spi, "big") for id in ids} == wanted, fields


@rule("UAPI-55")
def test_sizes_of_structures_that_only_key_managers_read(bench: Bench) -> None:
    """A byte less than xfrm_user_report, xfrm_user_migrate or xfrm_user_kmaddress is too short."""
    host = bench.host()
    assert host.request(request(Msg.REPORT, bytes(59))).text == "Invalid header length"
    assert host.request(request(Msg.REPORT, bytes(60))).text != "Invalid header length"
    info = userpolicy_info()
    for kind, size in ((Attr.MIGRATE, 76), (Attr.KMADDRESS, 40)):
        short = request(Msg.NEWPOLICY, info, {kind: bytes(size - 1)})
        assert host.request(short).errno == errno.ERANGE
        assert host.request(request(Msg.UPDPOLICY, info, {kind: bytes(size)})).errno == 0


@rule("UAPI-56", "UAPI-75")
def test_counts_of_sas_and_policies(bench: Bench) -> None:
    """xfrmu_sadhinfo, xfrmu_spdinfo, xfrmu_spdhinfo and xfrmu_spdhthresh."""
    host = bench.host()
    for spi in (0x500, 0x501):
        assert host.request(alloc_spi(spi)).errno == 0
    for dir, count in ((0, 1), (1, 2), (2, 3)):
        for n in range(count):
            assert host.request(new_policy(dst=f"10.1.1.{n}", dir=dir)).errno == 0
    (sad,) = host.request(request(Msg.GETSADINFO, bytes(4))).notes
    assert struct.unpack("<I", sad.attributes[1]) == (2,)
    sizes = layouts.SADHINFO.read(sad.attributes[2])
    assert (sizes.sadhcnt & (sizes.sadhcnt - 1), sizes.sadhmcnt) == (0, 1 << 20)
    assert sizes.sadhcnt >= 8

    widths = {3: layouts.SPDHTHRESH.make(lbits=24, rbits=25), 4: b"\x40\x41"}
    assert host.request(request(Msg.NEWSPDINFO, bytes(4), widths)).errno == 0
    (spd,) = host.request(request(Msg.GETSPDINFO, bytes(4))).notes
    info = layouts.SPDINFO.read(spd.attributes[1])
    assert (info.incnt, info.outcnt, info.fwdcnt) == (1, 2, 3)
    assert (info.inscnt, info.outscnt, info.fwdscnt) == (0, 0, 0)
    table = layouts.SPDHINFO.read(spd.attributes[2])
    assert (table.spdhcnt & (table.spdhcnt + 1), table.spdhmcnt) == (0, 1 << 20)
    assert (spd.attributes[3], spd.attributes[4]) == (widths[3], widths[4])
