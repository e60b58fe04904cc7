# SPDX-License-Identifier: Apache-2.0
"""OPS-30..34: the callbacks of policies, their order, context and answers."""

import errno
import struct

import pytest

from host_driver.conformance import messages, packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import DESTINATION, SOURCE
from host_driver.conformance.probe import REFUSE, REPORT, SLEEP
from host_driver.conformance.subject import Subject
from proto.xfrm import Msg
from proto.xfrm_structs import UserPolicyInfo

PACKET = packets.udp()


def offer(host: Subject, priority: int = 0, dst: str = DESTINATION) -> int:
    """The errno of NEWPOLICY with a policy for the device."""
    device = host.offload()
    policy = messages.new_policy(attributes=device, priority=priority, dst=dst)
    return host.request(policy).errno


def contexts(host: Subject) -> list[tuple[str, str]]:
    """The policy callbacks with the context of each."""
    called = [call for call in host.calls() if "_policy_" in call["call"]]
    return [(call["call"].rpartition("_")[2], call["context"]) for call in called]


@rule("OPS-30")
def test_policy_add_sees_the_finished_policy(bench: Bench) -> None:
    """Selector, template, mark, interface and action are final; there is no index yet."""
    host = bench.host(driver=PROBE)
    more = "proto udp sport 7 dport 9"
    words = texts.policy(host.dev, reqid=8, mode="tunnel", priority=REPORT, more=more)
    refused = host.ip(words.replace("priority", "mark 5 mask 0xff if_id 3 priority"))
    assert (
        "index 0 dir 2 action 0 mark 5/255 if_id 3 sport 7 dport 9 templates [(8, 1, 0)]"
    ) in refused.stderr
    assert host.ok("xfrm policy list") == ""


@rule("OPS-30")
def test_policy_add_runs_for_the_user_and_may_sleep(bench: Bench) -> None:
    """In the context of the request, which waits as long as the driver sleeps."""
    host = bench.host(driver=PROBE)
    host.ok(texts.policy(host.dev, priority=SLEEP))
    assert contexts(host) == [("add", "user")]
    assert host.errors() == []
    assert "tmpl" in host.ok("xfrm policy list")


@rule("OPS-30")
@pytest.mark.parametrize("dir", ["out", "in"])
def test_a_driver_takes_a_policy_without_index(bench: Bench, dir: str) -> None:
    """The driver under test, as it is called: index 0, then the core gives one."""
    host = bench.host()
    host.ok(texts.policy(host.dev, dir=dir, priority=7))
    (call,) = host.calls()
    shown = [call[name] for name in ("context", "index", "priority", "dir", "type", "result")]
    assert shown == ["user", 0, 7, dir, "packet", 0]
    assert host.errors() == []
    assert "index 0 " not in host.ok("-s xfrm policy list")


@rule("OPS-31")
@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSPC, errno.EINVAL])
def test_a_refused_policy_fails_with_the_errno_of_its_driver(bench: Bench, code: int) -> None:
    """Unchanged, EOPNOTSUPP included: no policy in software, no delete, no free, no reference."""
    host = bench.host(driver=PROBE)
    assert offer(host, REFUSE | code) == code
    assert (host.order(), host.refcnt()) == ("pA", 0)
    assert host.note_names() == []
    assert host.ok("xfrm policy list") == ""
    assert host.send([PACKET]) == [0]
    assert bench.spis() == [0]


@rule("OPS-31")
def test_a_driver_undoes_a_policy_that_does_not_fit(bench: Bench) -> None:
    """The card's table is full: the second policy fails, the card stays as it was, and there is
    room again once the first one is gone."""
    host = bench.host(card="full:rule_max=1")
    assert offer(host) == 0
    before = host.census()
    assert offer(host, dst="10.1.0.9") != 0
    assert (host.order(), host.census(), host.refcnt()) == ("pA pA", before, 1)
    host.ok(texts.policy_delete())
    assert host.census() == {}
    assert offer(host, dst="10.1.0.9") == 0


@rule("OPS-32")
def test_policy_delete_takes_the_policy_out_of_the_device(bench: Bench) -> None:
    """Protected before DELPOLICY, in clear after it; the driver does not sleep."""
    host = bench.host()
    host.ok(texts.state(host.dev))
    before = host.census()
    host.ok(texts.policy(host.dev))
    host.send([PACKET])
    host.ok(texts.policy_delete())
    assert host.census() == before
    host.send([PACKET])
    assert bench.spis() == [0x1000, 0]
    assert host.errors() == []


@rule("OPS-32")
def test_after_an_update_the_device_keeps_the_new_policy(bench: Bench) -> None:
    """The old one goes, which has the same selector: packets take the SA of the new template, and
    after DELPOLICY none."""
    host = bench.host()
    for reqid in (1, 2):
        host.ok(texts.state(host.dev, spi=0x1000 + reqid, reqid=reqid))
    host.ok(texts.policy(host.dev, reqid=1))
    host.send([PACKET])
    host.ok(texts.policy(host.dev, reqid=2, verb="update"))
    host.send([PACKET])
    host.ok(texts.policy_delete())
    host.settle()
    host.send([PACKET])
    assert bench.spis() == [0x1001, 0x1002, 0]


@rule("OPS-30")
@pytest.mark.parametrize("which", [0x1000, 0x1001])
def test_a_device_takes_the_spi_that_the_template_names(bench: Bench, which: int) -> None:
    """Two SAs of one reqid, and a template that wants one of them."""
    host = bench.host()
    for spi in (0x1000, 0x1001):
        host.ok(texts.state(host.dev, spi=spi))
    policy = texts.policy(host.dev).replace("proto esp", f"proto esp spi {which:#x}")
    host.ok(policy)
    host.send([PACKET])
    assert bench.spis() == [which]


@rule("OPS-32")
def test_every_end_of_a_policy_deletes_it_in_late_kernels(bench: Bench) -> None:
    """Delete, flush, replacement, expiry, end of the link: each time once, before the free. v6.2
    knew it of expiry alone, and of duplicates."""
    host = bench.host()
    policy = texts.policy(host.dev)
    for end in (texts.policy_delete(), "xfrm policy flush"):
        host.ok(policy)
        host.ok(end)
    assert host.order() == ("pA pD pF pA pD pF" if bench.latest else "pA pF pA pF")
    host.ok(policy)
    host.ok(texts.policy(host.dev, verb="update", priority=3))
    before = len(host.calls())
    host.link(up=False)
    assert host.order(since=before) == ("pD pF" if bench.latest else "pF")
    seen = contexts(host)
    assert {context for call, context in seen if call == "delete"} <= {"user", "netdev"}
    assert (host.refcnt(), host.census(), host.errors()) == (0, {}, [])


@rule("OPS-32")
@pytest.mark.parametrize("by", ["timer", "user"])
def test_an_expiring_policy_is_deleted_in_every_kernel(bench: Bench, by: str) -> None:
    """Its own timer, or a user's POLEXPIRE with hard = 1: delete, then free."""
    host = bench.host()
    host.ok(texts.policy(host.dev, more="limit time-hard 2" if by == "timer" else ""))
    if by == "timer":
        bench.advance(4)
    else:
        expire = messages.policy_info().pack() + struct.pack("<B7x", 1)
        assert host.request(messages.request(Msg.POLEXPIRE, expire)).errno == 0
    assert contexts(host) == [("add", "user"), ("delete", by), ("free", by)]
    assert (host.refcnt(), host.census(), host.errors()) == (0, {}, [])


@rule("OPS-33")
def test_policy_free_is_the_last_call_and_gives_the_device_back(bench: Bench) -> None:
    """Once per policy, the device is held in it and released behind it; it does not sleep."""
    host = bench.host()
    host.ok(texts.policy(host.dev))
    host.ok(texts.policy(host.dev, src=DESTINATION, dst=SOURCE, dir="in"))
    assert host.refcnt() == 2
    host.ok(texts.policy_delete())
    assert host.refcnt() == 1
    host.ok("xfrm policy flush")
    freed = host.calls_of("policy_free")
    assert [(call["refs"], call["dev"]) for call in freed] == [(2, host.dev), (1, host.dev)]
    assert len({call["object"] for call in freed}) == 2
    assert (host.refcnt(), host.errors(), host.census()) == (0, [], {})


@rule("OPS-34")
def test_nobody_asks_for_totals_of_a_policy(bench: Bench) -> None:
    """Traffic, dumps, GETPOLICY and the statistics file call nothing for a policy, whose bytes and
    packets stay 0."""
    host = bench.host()
    host.ok(texts.state(host.dev))
    host.ok(texts.policy(host.dev))
    host.send([PACKET] * 3)
    host.ok("-s xfrm policy list")
    host.mib()
    wanted = messages.policy_id(messages.selector())
    (note,) = host.request(messages.request(Msg.GETPOLICY, wanted)).notes
    found = UserPolicyInfo.unpack(note.fixed)
    assert (found.curlft.packets, found.curlft.bytes) == (0, 0)
    assert contexts(host) == [("add", "user")]
    assert bench.spis() == [0x1000] * 3
