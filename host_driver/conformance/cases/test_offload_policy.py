# SPDX-License-Identifier: Apache-2.0
"""POL-01..12 and PADD-01..08: the offload step of NEWPOLICY, and what fails behind it."""

import errno
import struct
from typing import Any

import pytest

from host_driver.conformance import messages, packets, texts
from host_driver.conformance.bench import PROBE, STATES_ONLY, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import Reply, new_policy, offload, template
from host_driver.conformance.probe import QUIET, REFUSE, SLEEP
from host_driver.conformance.subject import Subject
from proto.xfrm import Attr, Msg

LO = 1  # a device without callbacks
NOWHERE = 9999  # no device
IPV6, INBOUND, PACKET = 1, 2, 4
POLICY_IN, POLICY_OUT, POLICY_FWD = 0, 1, 2


def asked(host: Subject, bits: int = PACKET, ifindex: int | None = None, **how: Any) -> Reply:
    """NEWPOLICY with OFFLOAD_DEV, on the device unless `ifindex` says otherwise."""
    where = host.ifindex if ifindex is None else ifindex
    return host.request(new_policy(attributes={Attr.OFFLOAD_DEV: offload(where, bits)}, **how))


def refused(host: Subject, code: int, **request: Any) -> Reply:
    """Such a request fails with this errno and leaves nothing: no policy, no message, no hold."""
    reply = asked(host, **request)
    assert reply.errno == code, reply
    assert (host.policies(), host.note_names()) == ([], [])
    return reply


@rule("POL-01")
def test_without_the_attribute_it_is_a_software_policy(bench: Bench) -> None:
    """No driver is called, no device is held, the policy shows no offload."""
    host = bench.host()
    assert host.request(new_policy()).errno == 0
    (policy,) = host.policies()
    assert Attr.OFFLOAD_DEV not in policy.attributes
    assert (host.order(), host.refcnt()) == ("", 0)


@rule("PADD-01", "POL-02")
def test_policies_have_no_crypto_offload(bench: Bench) -> None:
    """Flags 0: EINVAL, also on devices that could not do it anyway."""
    host = bench.host()
    for ifindex in (None, LO, NOWHERE):
        refused(host, errno.EINVAL, bits=0, ifindex=ifindex)


@rule("PADD-02", "POL-02")
@pytest.mark.parametrize("bits", [IPV6, INBOUND, IPV6 | INBOUND, 8, 16, 32, 64, 128])
def test_flags_are_packet_and_nothing_else(bench: Bench, bits: int) -> None:
    """INBOUND, IPV6 and unknown bits, with PACKET or without: EINVAL, before the device is."""
    host = bench.host()
    for flags in (bits, bits | PACKET):
        for ifindex in (None, NOWHERE):
            reply = refused(host, errno.EINVAL, bits=flags, ifindex=ifindex)
            if bench.latest:
                assert reply.text == "Unrecognized flags in offload request"


@rule("PADD-03", "POL-03")
@pytest.mark.parametrize("ifindex", [NOWHERE, 0, -1])
def test_an_unknown_device_is_einval(bench: Bench, ifindex: int) -> None:
    """No route is asked, unlike for SAs: EINVAL although one would lead to the device."""
    host = bench.host(driver=PROBE)
    refused(host, errno.EINVAL, ifindex=ifindex)
    assert (host.order(), host.refcnt()) == ("", 0)


@rule("PADD-04", "POL-04")
def test_a_device_without_callbacks_is_einval(bench: Bench) -> None:
    """`lo` has no callback table: EINVAL."""
    refused(bench.host(), errno.EINVAL, ifindex=LO)


@rule("PADD-04", "POL-04")
def test_a_driver_without_policy_add_is_einval(bench: Bench) -> None:
    """A table without that callback: EINVAL, the device is not held."""
    host = bench.host(driver=STATES_ONLY)
    refused(host, errno.EINVAL)
    assert host.refcnt() == 0


@rule("PADD-05", "POL-05")
def test_a_driver_that_accepts_has_the_policy(bench: Bench) -> None:
    """One policy_add, the device held once, and the policy shows its device."""
    host = bench.host()
    assert asked(host).errno == 0
    assert (host.order(), host.note_names(), host.refcnt()) == ("pA", ["NEWPOLICY"], 1)
    (policy,) = host.policies()
    shown = struct.unpack_from("<iB", policy.attributes[Attr.OFFLOAD_DEV])
    assert shown == (host.ifindex, PACKET)


@rule("POL-05", "POL-07")
@pytest.mark.parametrize(("dir", "name"), [(0, "in"), (1, "out"), (2, "fwd")])
def test_each_direction_is_offered(bench: Bench, dir: int, name: str) -> None:
    """IN, OUT and FWD reach the driver, with dev, type and direction in the record."""
    host = bench.host(driver=PROBE)
    assert asked(host, dir=dir).errno == 0
    (call,) = host.calls()
    assert (call["dev"], call["type"], call["dir"]) == (host.dev, "packet", name)


@rule("POL-07")
def test_fwd_is_the_drivers_to_refuse(bench: Bench) -> None:
    """Refused or not, the driver was asked, and its word is the request's."""
    host = bench.host()
    reply = asked(host, dir=POLICY_FWD)
    (call,) = host.calls_of("policy_add")
    assert (call["dir"], -call["result"]) == ("fwd", reply.errno)


@rule("PADD-06", "POL-06")
@pytest.mark.parametrize("name", ["EOPNOTSUPP", "EINVAL", "ENOSPC", "ENOMEM", "EBUSY", "EEXIST"])
def test_a_driver_that_refuses(bench: Bench, name: str) -> None:
    """Its errno unchanged, EOPNOTSUPP too: no policy, no reference, no delete, no free."""
    host = bench.host(driver=PROBE)
    code = getattr(errno, name)
    reply = refused(host, code, priority=REFUSE | code)
    assert reply.text == f"probe: told to refuse with {errno.errorcode[code]}"
    assert (host.order(), host.refcnt()) == ("pA", 0)
    weak = refused(host, code, priority=REFUSE | QUIET | code)
    assert weak.text == "Device failed to offload this policy"


@rule("PADD-07", "POL-08", "POL-09")
def test_an_identity_that_exists(bench: Bench) -> None:
    """The driver takes the second copy, then EEXIST: policy_delete, policy_free, no reference.
    v6.2 forgot policy_free and leaked the reference."""
    host = bench.host(driver=PROBE)
    assert asked(host).errno == 0
    host.notes()
    assert asked(host, priority=7).errno == errno.EEXIST
    assert host.order() == ("pA pA pD pF" if bench.latest else "pA pA pD")
    assert host.refcnt() == (1 if bench.latest else 2)
    assert (len(host.policies()), host.note_names()) == (1, [])


@rule("POL-08", profile="latest")
def test_the_hardware_has_the_second_copy_for_a_moment(bench: Bench) -> None:
    """The driver is asked before the SPD is: the card's rules do not end up fewer or more."""
    host = bench.host()
    host.ok(texts.policy(host.dev))
    before = host.census()
    assert host.ip(texts.policy(host.dev, priority=9)).rc == 2
    assert host.order() == "pA pA pD pF"
    assert host.census() == before


@rule("POL-09")
@pytest.mark.parametrize("sleeps", [False, True])
def test_what_fails_behind_the_driver_is_taken_back(bench: Bench, sleeps: bool) -> None:
    """Also when the add slept; the policy that was there is untouched."""
    host = bench.host(driver=PROBE)
    assert host.request(new_policy(priority=3)).errno == 0
    assert asked(host, priority=SLEEP if sleeps else 0).errno == errno.EEXIST
    assert host.order() == ("pA pD pF" if bench.latest else "pA pD")
    (policy,) = host.policies()
    assert Attr.OFFLOAD_DEV not in policy.attributes


@rule("PADD-08", "POL-10")
@pytest.mark.parametrize(
    "templates",
    [[template(proto=17)], [template(mode=9)], [template(family=99)], [template()] * 7,
     [template(src="2001:db8::1", dst="2001:db8::2")]],
)  # fmt: skip
def test_a_wrong_template_never_reaches_the_driver(bench: Bench, templates: list[bytes]) -> None:
    """Protocol, mode, family, number: EINVAL, nothing left, the driver not called."""
    host = bench.host()
    refused(host, errno.EINVAL, templates=templates)
    assert (host.order(), host.refcnt(), host.census()) == ("", 0, {})


@rule("POL-10")
def test_a_wrong_policy_never_reaches_the_driver(bench: Bench) -> None:
    """Share, action, direction, index, selector, security context: EINVAL, driver not called."""
    host = bench.host()
    wrong: tuple[dict[str, Any], ...] = (
        {"share": 4}, {"action": 2}, {"dir": 3}, {"index": 8, "dir": 1}, {"prefixlen": 33},
    )  # fmt: skip
    for how in wrong:
        refused(host, errno.EINVAL, **how)
    context = struct.pack("<HHBBH", 12, 8, 1, 1, 5) + b"user"
    wish = host.offload()
    for odd in ({Attr.SEC_CTX: context}, {Attr.POLICY_TYPE: struct.pack("<BxHBx", 7, 0, 0)}):
        assert host.request(new_policy(attributes={**odd, **wish})).errno == errno.EINVAL
    assert (host.order(), host.refcnt(), host.policies()) == ("", 0, [])


@rule("POL-11")
def test_the_device_of_a_policy_does_not_restrict_its_lookup(bench: Bench) -> None:
    """A packet that leaves by another device meets the policy all the same: BLOCK holds there."""
    host = bench.host(driver=PROBE)
    second = host.second_device()
    assert host.send([packets.udp()]) == [0]
    host.ok(texts.policy(second, template=False, more="action block"))
    assert (host.refcnt(second), host.refcnt()) == (1, 0)
    assert host.send([packets.udp()]) == [errno.EPERM]
    assert host.mib() == {"XfrmOutPolBlock": 1}


@rule("POL-12")
def test_policies_without_templates_are_offered_too(bench: Bench) -> None:
    """BLOCK, and ALLOW without a template; and nobody compares templates with the offload."""
    host = bench.host(driver=PROBE)
    kinds: tuple[dict[str, Any], ...] = (
        {"action": 1, "templates": []}, {"templates": []}, {"templates": [template(proto=51)]},
        {"templates": [template(reqid=99), template(reqid=98)]},
    )  # fmt: skip
    for number, how in enumerate(kinds):
        assert asked(host, dst=f"10.1.9.{number}", **how).errno == 0
    assert host.order() == "pA pA pA pA"
    assert host.refcnt() == 4


@rule("POL-12")
def test_the_device_blocks_and_bypasses(bench: Bench) -> None:
    """What the driver takes holds: BLOCK stops a packet, ALLOW lets it out in clear."""
    host = bench.host()
    other = "10.1.0.99"
    assert asked(host, action=1, templates=[]).errno == 0
    assert asked(host, templates=[], dst=other).errno == 0
    bypassed = packets.udp(dst=other)
    assert host.send([packets.udp(), bypassed])[1] == 0
    assert bench.on_the_wire() == [bypassed]
    assert host.request(messages.request(Msg.FLUSHPOLICY, b"")).errno == 0
    assert host.census() == {}
