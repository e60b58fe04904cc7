# SPDX-License-Identifier: Apache-2.0
"""TX-01..04 and TX-10..18: which policy and which SA an outgoing packet meets."""

import errno

import pytest

from host_driver.conformance import messages, packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import DESTINATION, SOURCE
from host_driver.conformance.packets import Esp
from host_driver.conformance.policies import chain
from host_driver.conformance.probe import REFUSE
from host_driver.conformance.subject import Subject

PACKET = packets.udp()
NO_STATES = {"XfrmOutNoStates": 1}


def refused(host: Subject) -> bool:
    """Whether a packet finds no SA: its sender hears of no error, and one is asked for."""
    before = host.mib().get("XfrmOutNoStates", 0)
    assert host.send([PACKET]) == [0]
    return host.mib().get("XfrmOutNoStates", 0) == before + 1


@rule("TX-01")
def test_without_a_policy_a_packet_leaves_as_it_is(bench: Bench) -> None:
    """No policy and default accept: the packet passes. Default block: EPERM, and no counter."""
    host = bench.host()
    assert host.send([PACKET]) == [0]
    host.ok("xfrm policy setdefault out block")
    assert host.send([PACKET]) == [errno.EPERM]
    assert (bench.on_the_wire(), host.mib()) == ([PACKET], {})


@rule("TX-01")
@pytest.mark.parametrize("offloaded", [False, True])
def test_policies_without_templates(bench: Bench, offloaded: bool) -> None:
    """BLOCK refuses with EPERM and XfrmOutPolBlock, ALLOW passes unchanged, offloaded or not."""
    host = bench.host()
    dev = host.dev if offloaded else None
    for action in ("block", "allow"):
        port = "1" if action == "block" else "2"
        selected = texts.policy(template=False).replace("dir", f"proto udp dport {port} dir", 1)
        host.ok(f"{selected} action {action}" + (f" offload packet dev {dev}" if dev else ""))
    blocked, allowed = packets.udp(dport=1), packets.udp(dport=2)
    assert host.send([blocked, allowed]) == [errno.EPERM, 0]
    assert host.mib() == {"XfrmOutPolBlock": 1}
    assert bench.on_the_wire() == [allowed]


@rule("TX-02")
def test_each_template_is_an_sa_on_the_packet(bench: Bench) -> None:
    """Two templates, two SAs: a tunnel, and transport mode around its outer packet."""
    host = bench.host()
    chain(host)
    assert host.send([PACKET]) == [0]
    (sent,) = bench.on_the_wire()
    assert Esp(spi=0x1000).open(Esp(spi=0x2000).open(sent), tunnel=True) == PACKET


@rule("TX-02")
def test_what_was_chosen_holds_until_something_changes(bench: Bench) -> None:
    """The same SA packet after packet; a new SA, a deleted one and a new policy count at once."""
    host = bench.host()
    host.ok(texts.state(host.dev, spi=0x1000))
    host.ok(texts.policy(host.dev))
    host.send([PACKET] * 2)
    host.ok(texts.state(host.dev, spi=0x2000))
    host.send([PACKET] * 2)
    host.ok(texts.delete(spi=0x2000))
    host.settle()  # the card hears of it behind the packets that are on their way
    host.send([PACKET])
    host.ok(texts.policy(verb="update", template=False, more="action block"))
    assert host.send([PACKET]) == [errno.EPERM]
    assert bench.spis() == [0x1000, 0x1000, 0x2000, 0x2000, 0x1000]


@rule("TX-03", "TX-16")
@pytest.mark.parametrize("heard", [True, False])
def test_no_sa_yet(bench: Bench, heard: bool) -> None:
    """The packet is gone and its sender hears nothing. Who listens is asked for an SA; with nobody
    there no larval SA is made."""
    host = bench.host()
    host.ok(texts.policy(host.dev))
    host.notes()
    before = len(host.calls())
    if not heard:
        host.listen()
    assert host.send([PACKET]) == [0]
    assert (host.mib(), bench.on_the_wire()) == (NO_STATES, [])
    assert host.note_names() == (["ACQUIRE"] if heard else [])
    larval = "A(l)" if bench.latest else "A"
    assert host.order("U", since=before) == (larval if heard else "")
    assert ("spi 0x00000000" in host.ok("xfrm state list")) is heard


@rule("TX-03")
def test_what_a_driver_says_to_a_larval_sa_is_heard(bench: Bench) -> None:
    """Any other error than EAGAIN: XfrmOutPolError and that errno."""
    host = bench.host(driver=PROBE)
    host.ok(texts.policy(host.dev, reqid=REFUSE | errno.EINVAL))
    assert host.send([PACKET]) == [errno.EINVAL]
    assert host.mib() == {"XfrmOutPolError": 1}


@rule("TX-03")
def test_no_way_to_the_end_of_a_tunnel(bench: Bench) -> None:
    """A bundle that cannot be made: XfrmOutBundleGenError, ENETUNREACH."""
    host = bench.host()
    here, there, end = "127.0.0.1", "127.0.0.2", ("192.0.2.1", "192.0.2.2")
    host.ok(texts.state(src=end[0], dst=end[1], mode="tunnel"))
    host.ok(texts.policy(src=here, dst=there, mode="tunnel", ends=end))
    host.link(up=False)
    assert host.send([packets.udp(src=here, dst=there)]) == [errno.ENETUNREACH]
    assert host.mib() == {"XfrmOutBundleGenError": 1}


@rule("TX-04", profile="latest")
@pytest.mark.parametrize("offloaded", [False, True])
def test_an_sa_of_the_other_direction(bench: Bench, offloaded: bool) -> None:
    """The SA that addresses and reqid choose is one for receiving: EINVAL, XfrmOutStateDirError."""
    host = bench.host()
    dev = host.dev if offloaded else None
    host.ok(texts.state(dev, dir="in"))
    host.ok(texts.policy(dev))
    assert host.send([PACKET]) == [errno.EINVAL]
    assert host.mib() == {"XfrmOutStateDirError": 1, "XfrmOutPolError": 1}
    assert bench.on_the_wire() == []


@rule("TX-14")
def test_the_offload_s_direction_is_not_compared(bench: Bench) -> None:
    """An SA offloaded inbound, without a direction of its own, is chosen: the driver is asked
    about the packet."""
    host = bench.host(driver=PROBE)
    inbound = messages.new_sa(messages.sa_info(replay_window=32), host.offload(6))
    assert host.request(inbound).errno == 0
    host.ok(texts.policy(host.dev))
    assert host.send([PACKET]) == [0]
    assert host.order("U") == "A pA K"
    assert (host.mib(), bench.on_the_wire()) == ({}, [])


@rule("TX-10")
def test_the_exact_source_comes_before_any(bench: Bench) -> None:
    """An SA from any source serves, but not beside one from the packet's own, however old."""
    host = bench.host()
    host.ok(texts.policy())
    host.ok(texts.state(src="0.0.0.0", spi=0x2000))
    host.send([PACKET])
    host.ok(texts.state(spi=0x1000))
    bench.advance(2)
    host.ok(texts.state(src="0.0.0.0", spi=0x3000))
    host.send([PACKET])
    assert bench.spis() == [0x2000, 0x1000]


@rule("TX-10")
def test_an_acquire_hides_what_any_source_could_serve(bench: Bench) -> None:
    """While an SA of the exact source is asked for, those from any source are not looked at."""
    host = bench.host()
    host.ok(texts.policy())
    assert refused(host)
    host.ok(texts.state(src="0.0.0.0"))
    assert refused(host)
    host.ok("xfrm state flush")
    host.ok(texts.state(src="0.0.0.0"))
    assert not refused(host)
    assert bench.spis() == [0x1000]


@rule("TX-11")
@pytest.mark.parametrize("policy", ["hardware", "software"])
@pytest.mark.parametrize("offload", ["packet", "crypto", ""])
def test_hardware_meets_hardware(bench: Bench, policy: str, offload: str) -> None:
    """A packet policy can use a packet SA only, and any other policy none of these."""
    host = bench.host()
    host.ok(texts.state(host.dev if offload else None, offload=offload))
    host.ok(texts.policy(host.dev if policy == "hardware" else None))
    usable = (policy == "hardware") is (offload == "packet")
    assert refused(host) is not usable
    assert bench.spis() == ([0x1000] if usable else [])


@rule("TX-11")
def test_another_device_s_sa_is_passed_over(bench: Bench) -> None:
    """A packet SA on another device is skipped and does not end the walk."""
    host = bench.host(driver=PROBE)
    second = host.second_device()
    host.ok(texts.policy(host.dev))
    host.ok(texts.state(second, spi=0x2000))
    assert refused(host)
    host.ok("xfrm state flush")
    host.ok(texts.state(host.dev, spi=0x1000))
    host.ok(texts.state(second, spi=0x2000))
    assert not refused(host)
    asked = host.calls_of("offload_ok")
    assert [call["spi"] for call in asked] == ["0x1000"]


@rule("TX-18", "TX-11")
def test_a_software_sa_can_stand_in_front_of_all_hardware(bench: Bench) -> None:
    """Added behind a packet SA alone in its bucket, it ends the walk: an acquire starts although a
    usable SA is there. A newer packet SA is seen again."""
    host = bench.host()
    host.ok(texts.policy(host.dev))
    host.ok(texts.state(host.dev, spi=0x1000))
    host.ok(texts.state(spi=0x2000))
    host.notes()
    assert refused(host)
    assert host.note_names() == ["ACQUIRE"]
    host.ok(texts.state(host.dev, spi=0x3000))
    assert not refused(host)
    assert bench.spis() == [0x3000]


@rule("TX-12")
@pytest.mark.parametrize(
    ("sa", "template"),
    [
        ({"reqid": 2}, ""),
        ({"more": "mark 4 mask 0xff"}, ""),
        ({"more": "if_id 7"}, ""),
        ({"dir": "", "more": "flag wildrecv"}, ""),
        ({"src": "10.1.0.9"}, ""),
        ({"mode": "tunnel"}, ""),
        ({}, "spi 0x2000"),
    ],
    ids=["reqid", "mark", "if_id", "wildrecv", "source", "mode", "spi"],
)
def test_what_an_sa_must_have_in_common(bench: Bench, sa: dict, template: str) -> None:  # type: ignore[type-arg]
    """One thing differs from policy and template, and the SA is not used; else it is."""
    host = bench.host()
    host.ok(texts.policy().replace("proto esp", f"proto esp {template}"))
    host.ok(texts.state(**sa))
    assert refused(host)
    host.ok("xfrm state flush")
    host.ok(texts.state(spi=0x2000, more="mark 0 mask 0xff"))
    assert not refused(host)
    assert bench.spis() == [0x2000]


@rule("TX-13")
def test_the_selector_of_an_sa_counts(bench: Bench) -> None:
    """A newer SA whose selector does not cover the packet is ignored."""
    host = bench.host()
    host.ok(texts.policy())
    host.ok(texts.state(spi=0x1000))
    bench.advance(2)
    narrow = f"sel src {SOURCE} dst {DESTINATION} proto udp dport 9"
    host.ok(texts.state(spi=0x2000, more=narrow))
    host.send([PACKET, packets.udp(dport=9)])
    assert bench.spis() == [0x1000, 0x2000]


@rule("TX-13")
def test_the_best_of_several(bench: Bench) -> None:
    """The newest, but one past its soft limit only when there is no other."""
    host = bench.host()
    host.ok(texts.policy())
    host.ok(texts.state(spi=0x1000))
    bench.advance(2)
    host.ok(texts.state(spi=0x2000, more="limit packet-soft 1"))
    host.send([PACKET] * 2)
    assert host.expired() == ["soft 0x2000"]
    host.send([packets.udp(sport=4001)])
    host.ok(texts.delete(spi=0x1000))
    host.send([packets.udp(sport=4001)])
    assert bench.spis() == [0x2000, 0x2000, 0x1000, 0x2000]


@rule("TX-13")
def test_the_newest_of_one_second_stands_first(bench: Bench) -> None:
    """The first found wins a tie."""
    host = bench.host()
    host.ok(texts.policy(host.dev))
    for spi in (0x1000, 0x3000, 0x2000):
        host.ok(texts.state(host.dev, spi=spi))
    host.send([PACKET])
    assert bench.spis() == [0x2000]


@rule("TX-13")
def test_one_acquire_at_a_time(bench: Bench) -> None:
    """A larval SA says that an acquire is in progress: no second one starts."""
    host = bench.host()
    host.ok(texts.policy())
    host.notes()
    assert refused(host) and refused(host)
    assert host.note_names() == ["ACQUIRE"]


@rule("TX-15")
@pytest.mark.parametrize("policy", ["hardware", "software"])
@pytest.mark.parametrize("sa", ["hardware", "software"])
def test_the_spi_of_a_template_in_use_elsewhere(bench: Bench, policy: str, sa: str) -> None:
    """An SA has the template's SPI and another reqid: EEXIST, XfrmOutPolError. One that a policy of
    this kind could not use at all does not count: an acquire starts."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev if sa == "hardware" else None, reqid=2))
    added = texts.policy(host.dev if policy == "hardware" else None)
    host.ok(added.replace("proto esp", "proto esp spi 0x1000"))
    errnos = host.send([PACKET])
    clash = policy == sa
    assert errnos == [errno.EEXIST if clash else 0]
    assert host.mib() == ({"XfrmOutPolError": 1} if clash else NO_STATES)
