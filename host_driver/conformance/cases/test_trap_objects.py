# SPDX-License-Identifier: Apache-2.0
"""TRAP-*: mistakes that kernels and drivers have made with SAs, policies and devices."""

import errno

import pytest

from host_driver.conformance import messages, packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.probe import REFUSE
from host_driver.conformance.subject import Subject
from proto.xfrm import MODE_TUNNEL, SA_DIR_IN, SA_DIR_OUT, Attr, Msg
from proto.xfrm_structs import ReplayStateEsn, UserSpiInfo

PACKET = packets.udp()
ESPINUDP = "encap espinudp 4500 4500 0.0.0.0"


def with_policy(bench: Bench) -> Subject:
    """A scripted driver that holds one policy."""
    host = bench.host(driver=PROBE)
    host.ok(texts.policy(host.dev))
    return host


@rule("TRAP-03")
def test_a_driver_can_tell_a_larval_sa(bench: Bench) -> None:
    """A larval SA is offered with the ACQ flag in `latest`, and without it in v6.2."""
    host = with_policy(bench)
    host.send([PACKET])
    assert host.order("pA") == ("A(l)" if bench.latest else "A")


@rule("TRAP-05", profile="latest")
def test_a_refused_second_policy_leaves_nothing(bench: Bench) -> None:
    """The duplicate is deleted and freed in the driver, and holds no device."""
    host = with_policy(bench)
    assert host.ip(texts.policy(host.dev)).rc == 2
    assert (host.order(), host.refcnt()) == ("pA pA pD pF", 1)


@rule("TRAP-06", profile="latest")
def test_a_device_that_goes_down_is_told_of_its_policies(bench: Bench) -> None:
    """Each policy of the device is deleted in the driver before it is freed."""
    host = with_policy(bench)
    host.link(up=False)
    assert (host.order(), host.refcnt()) == ("pA pD pF", 0)


@rule("TRAP-07", profile="latest")
@pytest.mark.parametrize("command", [texts.policy_delete(), "xfrm policy flush"])
def test_a_deleted_policy_is_deleted_in_the_driver(bench: Bench, command: str) -> None:
    """DELPOLICY and FLUSHPOLICY delete in the driver, then free."""
    host = with_policy(bench)
    host.ok(command)
    assert (host.order(), host.refcnt()) == ("pA pD pF", 0)


@rule("TRAP-08", profile="latest")
def test_a_replaced_policy_is_deleted_in_the_driver(bench: Bench) -> None:
    """UPDPOLICY offers the new policy, then deletes and frees the old one."""
    host = with_policy(bench)
    host.ok(texts.policy(host.dev, verb="update", priority=7))
    assert (host.order(), host.refcnt()) == ("pA pA pD pF", 1)


@rule("TRAP-09")
def test_a_refused_policy_holds_no_device(bench: Bench) -> None:
    """Each hold of the device has its put, also when the driver refuses."""
    host = bench.host(driver=PROBE)
    assert host.ip(texts.policy(host.dev, priority=REFUSE | errno.EINVAL)).rc == 2
    assert host.refcnt() == 0


@rule("TRAP-11", profile="latest")
def test_a_larval_sa_holds_its_device_once(bench: Bench) -> None:
    """The larval SA takes one reference of its own and gives that one back."""
    host = with_policy(bench)
    host.send([PACKET])
    assert host.refcnt() == 2
    bench.advance(31)
    assert host.refcnt() == 1


@rule("TRAP-13")
def test_udp_encapsulation_may_be_offloaded(bench: Bench) -> None:
    """Packet mode with UDP encapsulation is the driver's to judge in `latest`; v6.2 refuses it."""
    host = bench.host(driver=PROBE)
    result = host.ip(texts.state(host.dev, more=ESPINUDP))
    assert result.rc == (0 if bench.latest else 2)
    assert host.order("U") == ("A" if bench.latest else "")


@rule("TRAP-24")
def test_if_id_of_an_inbound_offload(bench: Bench) -> None:
    """`latest` refuses an inbound packet SA with if_id before its driver is asked."""
    host = bench.host(driver=PROBE)
    result = host.ip(texts.state(host.dev, dir="in", more="if_id 7"))
    assert result.rc == (2 if bench.latest else 0)
    assert host.order("U") == ("" if bench.latest else "A")


def esn_errno(host: Subject, direction: int, esn: ReplayStateEsn) -> int:
    """What NEWSA with this REPLAY_ESN_VAL and without the ESN flag comes to."""
    attributes = {
        Attr.REPLAY_ESN_VAL: esn.pack() + bytes(4 * esn.bmp_len), Attr.SA_DIR: bytes((direction,))
    }  # fmt: skip
    return host.request(messages.new_sa(messages.sa_info(), attributes)).errno


@rule("TRAP-25", profile="latest")
def test_high_halves_without_esn_are_refused(bench: Bench) -> None:
    """An SA of a known direction and without ESN has no high half of a sequence number."""
    host = bench.host()
    assert esn_errno(host, SA_DIR_IN, ReplayStateEsn(2, replay_window=64, seq_hi=1)) == errno.EINVAL
    assert esn_errno(host, SA_DIR_OUT, ReplayStateEsn(0, oseq_hi=1)) == errno.EINVAL
    assert esn_errno(host, SA_DIR_OUT, ReplayStateEsn(0, oseq=1)) == 0


@rule("TRAP-26", profile="latest")
def test_used_up_counters_are_no_start(bench: Bench) -> None:
    """A sequence number with all bits set cannot be the last one used."""
    host = bench.host()
    assert esn_errno(host, SA_DIR_OUT, ReplayStateEsn(0, oseq=0xFFFF_FFFF)) == errno.EINVAL
    assert esn_errno(host, SA_DIR_OUT, ReplayStateEsn(0, oseq=0xFFFF_FFFE)) == 0


@rule("TRAP-29")
def test_an_update_in_the_other_direction_changes_nothing(bench: Bench) -> None:
    """The refusal leaves the SA whole: it can be deleted, and its device is free then."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev))
    if bench.latest:
        assert host.ip(texts.state(host.dev, verb="update", dir="in")).rc == 2
    host.ok(texts.delete())
    assert host.refcnt() == 0


@rule("TRAP-31", profile="latest")
def test_allocspi_gives_no_spi_0_and_none_twice(bench: Bench) -> None:
    """SPI 0 is never given out, and a taken one is refused whatever else differs."""
    host = bench.host()
    info = messages.sa_info(spi=0)
    zero = messages.request(Msg.ALLOCSPI, UserSpiInfo(info, 0, 0).pack())
    assert host.request(zero).errno == errno.ENOENT
    taken = messages.request(Msg.ALLOCSPI, UserSpiInfo(info, 0x1000, 0x1000).pack())
    assert host.request(taken).errno == 0
    other = messages.sa_info(spi=0, src="10.1.0.9", reqid=9, mode=MODE_TUNNEL)
    again = messages.request(Msg.ALLOCSPI, UserSpiInfo(other, 0x1000, 0x1000).pack())
    assert host.request(again).errno == errno.ENOENT


@rule("TRAP-36")
def test_an_sa_leaves_its_lists_once(bench: Bench) -> None:
    """Deleting, flushing and taking the device down delete an SA once in the driver."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev))
    host.ok(texts.delete())
    host.ok("xfrm state flush")
    host.link(up=False)
    assert host.order("U") == "A D F"


@rule("TRAP-38")
def test_an_update_leaks_nothing_on_the_device(bench: Bench) -> None:
    """The object that UPDSA offers is gone in the end, and so is all of it from the card."""
    host = bench.host()
    host.ok(texts.state(host.dev))
    before = host.census()
    host.ok(texts.state(host.dev, verb="update"))
    assert (host.order("U"), host.census()) == ("A A D F" if bench.latest else "A A F", before)
    host.ok(texts.delete())
    assert (host.refcnt(), host.census()) == (0, {})


@rule("TRAP-41")
def test_a_flush_by_the_device_is_silent(bench: Bench) -> None:
    """No message of any kind tells of objects that went with their device."""
    host = bench.host()
    host.ok(texts.state(host.dev))
    host.ok(texts.policy(host.dev))
    host.notes()
    host.link(up=False)
    assert host.note_names() == []
    assert host.ok("xfrm state list") == host.ok("xfrm policy list") == ""


@rule("TRAP-45")
def test_no_driver_needs_the_key_at_the_free(bench: Bench) -> None:
    """state_free works although the key material has been freed before (DEL-05)."""
    host = bench.host()
    host.ok(texts.state(host.dev))
    host.ok(texts.delete())
    assert [call.get("error") for call in host.calls()] == [None] * len(host.calls())
    assert host.census() == {}


@rule("TRAP-53")
def test_prefix_lengths_are_judged_before_they_are_used(bench: Bench) -> None:
    """A selector longer than its addresses is refused for SA and policy."""
    host = bench.host()
    sel = messages.selector(prefixlen=33)
    assert host.request(messages.new_sa(messages.sa_info(sel=sel))).errno == errno.EINVAL
    assert host.request(messages.new_policy(messages.policy_info(sel=sel))).errno == errno.EINVAL


@rule("TRAP-54")
def test_byte_limits_are_taken(bench: Bench) -> None:
    """An SA with byte limits can be offloaded, as key managers ask for."""
    host = bench.host()
    host.ok(texts.state(host.dev, more="limit byte-soft 1000 limit byte-hard 2000"))


@rule("TRAP-42", "TRAP-43", "TRAP-55")
def test_no_callback_sleeps_or_locks_where_it_must_not(bench: Bench) -> None:
    """Through a life with limits, an update, an expiry and a flush no call breaks its context."""
    host = bench.host()
    host.ok(texts.policy(host.dev))
    host.ok(texts.state(host.dev, more="limit packet-soft 1 limit packet-hard 2"))
    for _ in range(3):
        host.send([PACKET])
    assert host.sa() is None
    for spi in (0x2000, 0x2001):
        host.ok(texts.state(host.dev, spi=spi))
    host.ok(texts.state(host.dev, spi=0x2000, verb="update"))
    host.ok("xfrm state flush")
    host.link(up=False)
    assert host.violations() == []
    assert [call for call in host.calls() if "error" in call] == []
