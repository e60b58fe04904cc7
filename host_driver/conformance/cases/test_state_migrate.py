# SPDX-License-Identifier: Apache-2.0
"""STATE-39 and STATE-40: MIGRATE gives an SA new ends; what then becomes of its offload."""

import errno

import pytest

from host_driver.conformance import messages, packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import migrate, new_sa
from host_driver.conformance.probe import REFUSE
from host_driver.conformance.subject import Subject
from proto.xfrm import Attr
from proto.xfrm_structs import UserSaInfo

PACKET, INBOUND = 4, 2
MOVED = "10.1.0.4"


def offloaded(host: Subject, reqid: int = 1) -> None:
    """An SA and a policy on the device."""
    host.ok(texts.state(host.dev, reqid=reqid))
    host.ok(texts.policy(host.dev, reqid=1))
    host.notes()


def ends(host: Subject) -> list[tuple[bytes, bool]]:
    """Destination of each SA, and whether it is offloaded."""
    states = ((UserSaInfo.unpack(one.fixed), one.attributes) for one in host.states())
    return [(info.id.daddr, Attr.OFFLOAD_DEV in attributes) for info, attributes in states]


@rule("STATE-39", profile="v6.2")
@pytest.mark.parametrize("asked", [True, False])
def test_a_clone_carries_no_offload(bench: Bench, asked: bool) -> None:
    """The moved SA is a software one, whether the request names a device or not; the old one goes
    with delete and free."""
    host = bench.host()
    offloaded(host)
    assert host.request(migrate(MOVED, attributes=host.offload() if asked else {})).errno == 0
    assert ends(host) == [(messages.address(MOVED), False)]
    assert host.order("U") == "A pA D F"
    assert host.note_names() == ["MIGRATE"]


@rule("STATE-40", profile="latest")
def test_a_migrate_without_device_leaves_a_software_sa(bench: Bench) -> None:
    """Offload is never inherited: only OFFLOAD_DEV asks for it."""
    host = bench.host()
    offloaded(host)
    assert host.request(migrate(MOVED)).errno == 0
    assert ends(host) == [(messages.address(MOVED), False)]
    assert host.order("U") == "A pA D F"
    assert host.refcnt() == 1  # the policy's


@rule("STATE-40", profile="latest")
def test_a_migrate_with_device_offers_the_clone(bench: Bench) -> None:
    """A regular add before the old SA goes; the clone has its keys, limits, SPI, and the device."""
    host = bench.host()
    host.ok(texts.state(host.dev, more="limit packet-hard 9"))
    host.ok(texts.policy(host.dev))
    host.notes()
    assert host.request(migrate(MOVED, attributes=host.offload())).errno == 0
    assert ends(host) == [(messages.address(MOVED), True)]
    assert host.order("U") == "A pA A D F"
    first, clone = host.calls_of("state_add")
    assert (clone["keys"], clone["spi"], clone["type"]) == (20, "0x1000", "packet")
    assert clone["object"] != first["object"]
    assert host.refcnt() == 2
    (state,) = host.states()
    assert UserSaInfo.unpack(state.fixed).lft.hard_packet_limit == 9
    assert host.note_names() == ["MIGRATE"]


@rule("STATE-40", profile="latest")
def test_the_clone_protects_packets(bench: Bench) -> None:
    """An inbound SA whose peer has moved takes what is sent to its new address, on the card."""
    host = bench.host()
    here, there = messages.SOURCE, messages.DESTINATION
    host.ok(texts.state(host.dev, src=there, dst=here, dir="in"))
    host.ok(texts.policy(host.dev, src=there, dst=here, dir="in"))
    moved = migrate(
        MOVED, there, old_src=there, old_dst=here, dir=0, attributes=host.offload(PACKET | INBOUND)
    )
    assert host.request(moved).errno == 0
    packet = packets.udp(src=there, dst=MOVED)
    bench.arrive(packets.Esp().seal(packet, 1))
    assert host.receive() == [packet]


@rule("STATE-40", "TRAP-28", profile="latest")
def test_a_clone_that_finds_no_place_is_taken_back(bench: Bench) -> None:
    """The new identity exists: add, delete and free of the clone; the old SA is as before."""
    host = bench.host()
    offloaded(host)
    assert host.request(new_sa(dst=MOVED)).errno == 0
    host.notes()
    before = len(host.calls())
    assert host.request(migrate(MOVED, attributes=host.offload())).errno != 0
    names = [call["call"][8:] for call in host.calls()[before:]]
    assert [name for name in names if "curlft" not in name] == [
        "state_add", "state_delete", "state_free",
    ]  # fmt: skip
    assert sorted(ends(host)) == sorted(
        [(messages.address(MOVED), False), (messages.address(messages.DESTINATION), True)]
    )
    assert (host.refcnt(), host.note_names()) == (2, [])


@rule("STATE-40", profile="latest")
def test_a_driver_that_refuses_the_clone_stops_the_move(bench: Bench) -> None:
    """The old SA stays, in the SAD and in the driver; nothing is told."""
    host = bench.host(driver=PROBE)
    order = REFUSE | errno.ENOSPC
    host.ok(texts.state(reqid=order))
    host.ok(texts.policy(reqid=order))
    host.notes()
    moved = migrate(MOVED, reqid=order, attributes=host.offload())
    assert host.request(moved).errno != 0
    assert ends(host) == [(messages.address(messages.DESTINATION), False)]
    assert (host.order(), host.refcnt(), host.note_names()) == ("A", 0, [])


@rule("STATE-40", profile="latest")
def test_a_move_that_cannot_be_leaves_all_as_it_was(bench: Bench) -> None:
    """No policy between such ends, or no end given: an error, and no call of the driver."""
    host = bench.host()
    offloaded(host)
    before = host.states()[0].fixed
    elsewhere = migrate(MOVED, old_src="10.9.0.1", old_dst="10.9.0.2", attributes=host.offload())
    assert host.request(elsewhere).errno == errno.ENOENT
    assert host.request(migrate("0.0.0.0", attributes=host.offload())).errno == errno.EINVAL
    assert (host.states()[0].fixed, host.order("U")) == (before, "A pA")
    assert host.note_names() == []
