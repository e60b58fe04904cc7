# SPDX-License-Identifier: Apache-2.0
"""The published strategies: what they draw is what they promise; scapy, core and cards judge."""

import ipaddress
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP, defragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, defragment6

from host_driver import testing
from host_driver.faults.catalogue import find
from host_driver.lab import Lab
from host_driver.simulate.plan import Plan, decode_plan, encode_plan
from proto.faults import SITES, FaultSpec, check
from support.core import Core, ask
from support.examples import bounded

ROOT = Path(__file__).parents[3]
CARDS = st.sampled_from(("full", "cx6dx", "tiny"))


def test_without_hypothesis_it_says_what_is_missing():
    code = "import sys; sys.modules['hypothesis'] = None; import host_driver.testing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "pip install 'xfrmnic[testing]'" in done.stderr


@given(testing.addresses(), testing.addresses(anywhere=True))
def test_addresses_are_unicast(near: str, far: str):
    for text in (near, far):
        address = ipaddress.ip_address(text)
        assert not (address.is_multicast or address.is_unspecified or address.is_link_local)


@given(testing.networks(anywhere=True))
def test_networks_have_no_host_bits(text: str):
    ipaddress.ip_network(text, strict=True)


def dumped(*requests: bytes) -> list[bytes]:
    """What a core without devices has of these requests, without clock and sequence numbers."""
    core = Core(ops=None)
    for request in requests:
        assert not int.from_bytes(ask(core.net, request)[-1][16:20], "little")
    return [core.ip(f"-d -s xfrm {what} list").stdout for what in ("state", "policy")]


@bounded(25)
@given(testing.sas(offload=(None,)))
def test_text_and_request_are_one_sa(sa: testing.Sa):
    by_text = Core(ops=None)
    by_text.add(sa.text())
    texts = [by_text.ip(f"-d -s xfrm {what} list").stdout for what in ("state", "policy")]
    assert dumped(sa.request()) == texts
    assert f"spi {sa.spi:#010x}" in texts[0]
    assert not by_text.ip(sa.delete_text()).rc and "spi" not in by_text.ip("xfrm state").stdout
    assert sa.key.hex() not in repr(sa) and "key" not in sa.as_dict()


@bounded(25)
@given(testing.policies(offload=(False,)))
def test_text_and_request_are_one_policy(policy: testing.Policy):
    by_text = Core(ops=None)
    by_text.add(policy.text())
    texts = [by_text.ip(f"-d -s xfrm {what} list").stdout for what in ("state", "policy")]
    assert dumped(policy.request()) == texts
    assert f"dir {policy.direction}" in texts[1]
    by_text.add(policy.delete_text())
    assert not by_text.ip("xfrm policy").stdout


@bounded(30)
@given(st.data(), CARDS, st.booleans())
def test_cards_take_what_is_drawn_for_them(data: st.DataObject, card: str, as_text: bool):
    sa, policy = data.draw(testing.sas(card=card)), data.draw(testing.policies(card=card))
    with Lab(card=card) as lab:
        (host,) = lab.hosts
        for one in (sa, policy):
            if as_text:
                assert host.ip(one.text()).stderr == ""
            else:
                answer = host.netlink(one.request(host.nic.ifindex))[-1]
                assert not int.from_bytes(answer[16:20], "little"), answer
        assert host.nic.census()["sas"] == 1 and host.nic.census()["rules_policy"] == 1
        host.netlink(sa.delete_request())
        lab.settle()
        assert host.nic.census()["sas"] == 0


@bounded(20)
@given(testing.sas(modes=("transport",), direction="out"), st.data())
def test_the_policy_of_an_sa_sends_its_traffic_through_it(sa: testing.Sa, data: st.DataObject):
    with Lab() as lab:
        (host,) = lab.hosts
        for text in (sa.text(), testing.policy_of(sa).text()):
            assert host.ip(text).stderr == ""
        packet = data.draw(testing.packets(ends=(sa.src, sa.dst), mtu=1300))
        assert host.send([packet]) == [0]
        lab.settle()
        (frame,) = lab.wire.frames()
        assert sa.spi.to_bytes(4) in frame.data[:70]


def parse(packet: bytes) -> IP | IPv6:
    return (IP if packet[0] >> 4 == 4 else IPv6)(packet)


@bounded(50)
@given(testing.packets())
def test_packets_are_whole(packet: bytes):
    """Scapy computes lengths and checksums anew and gets the same bytes."""
    parsed = parse(packet)
    copy = parsed.copy()
    upper = copy[UDP] if UDP in copy else copy[TCP]
    for layer, names in ((copy, ("len", "plen", "chksum")), (upper, ("len", "chksum"))):
        for name in names:
            if name in layer.fields:
                del layer.fields[name]
    assert bytes(copy) == packet


@bounded(40)
@given(testing.selectors(), st.data())
def test_packets_of_a_selector_are_covered(selector: testing.TrafficSelector, data: st.DataObject):
    packet = parse(data.draw(testing.packets_of(selector)))
    assert ipaddress.ip_address(packet.src) in ipaddress.ip_network(selector.src)
    assert ipaddress.ip_address(packet.dst) in ipaddress.ip_network(selector.dst)
    upper = packet[UDP] if UDP in packet else packet[TCP]
    assert selector.proto in (0, 17 if UDP in packet else 6)
    assert selector.sport in (0, upper.sport) and selector.dport in (0, upper.dport)


@bounded(40)
@given(testing.packets(), st.integers(8, 1400))
def test_fragments_are_the_packet(packet: bytes, size: int):
    pieces = testing.fragments(packet, size, ident=5)
    assert all(len(piece) <= size + 48 for piece in pieces)
    if len(pieces) == 1:
        assert pieces == [packet]
        return
    parsed = [parse(piece) for piece in pieces]
    if packet[0] >> 4 == 4:
        (whole,) = defragment(parsed)
        assert bytes(whole.payload) == packet[20:]
    else:
        assert all(IPv6ExtHdrFragment in one for one in parsed)
        whole = defragment6(parsed)
        assert bytes(whole.payload) == packet[40:]


@bounded(20)
@given(testing.fragmented())
def test_fragmented_has_two_and_more(pieces: list[bytes]):
    assert len(pieces) > 1


def test_a_fragment_below_eight_bytes_is_refused():
    with pytest.raises(ValueError, match="smallest have 8"):
        testing.fragments(bytes(40), 7)


@bounded(200)
@given(testing.fault_specs())
def test_every_fault_can_be_armed(spec: FaultSpec):
    check(spec)
    assert spec.kind in SITES[spec.site].kinds


@bounded(30)
@given(testing.fault_specs(sites=["mailbox"], kinds=["drop", "delay"]))
def test_faults_of_some_sites(spec: FaultSpec):
    assert spec.site in ("mailbox.command", "mailbox.reply") and spec.kind in ("drop", "delay")


def test_faults_that_no_site_has_are_refused():
    with pytest.raises(ValueError, match="no site"):
        testing.fault_specs(sites=["wire"], kinds=["full"])


@bounded(20)
@given(testing.fault_names())
def test_names_of_the_catalogue_are_found(name: str):
    assert find(name).fault == name


@bounded(15)
@given(testing.plans(steps=15))
def test_plans_run_and_hold(plan: Plan):
    assert testing.simulate(plan).violations == []


@bounded(30)
@given(testing.plans(steps=60))
def test_no_number_comes_twice_in_a_plan(plan: Plan):
    sas = [one.number for one in plan.actions if hasattr(one, "number") and hasattr(one, "esn")]
    policies = [one.priority for one in plan.actions if hasattr(one, "priority")]
    for numbers in (sas, policies):
        assert len(numbers) == len(set(numbers))
    assert decode_plan(encode_plan(plan), "plan") == plan
