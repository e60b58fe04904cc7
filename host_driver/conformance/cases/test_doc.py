# SPDX-License-Identifier: Apache-2.0
"""DOC-01..06: what the kernel's own document says about drivers, as the core does it."""

import errno

import pytest

from host_driver.conformance import layouts, messages, packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import DESTINATION, SOURCE
from host_driver.conformance.packets import Esp
from host_driver.conformance.probe import REFUSE
from host_driver.conformance.subject import Subject
from proto.xfrm import OFFLOAD_PACKET, Attr, Msg

PACKET = packets.udp()
OFFLOAD_CRYPTO = 0  # of the flags of OFFLOAD_DEV

# The ends and the key of the document's example.
LEFT, RIGHT = "14.0.0.52", "14.0.0.70"
EXAMPLE_KEY = bytes.fromhex("44434241343332312423222114131211f4f3f2f1")


def offered(host: Subject, flags: int, code: int) -> int:
    """The errno of NEWSA where the driver answers state_add with `code`."""
    device = host.offload(flags)
    reqid = REFUSE | code if code else 1
    return host.request(messages.new_sa(reqid=reqid, attributes=device)).errno


@rule("DOC-01", "STATE-24")
@pytest.mark.parametrize("code", [0, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOMEM])
@pytest.mark.parametrize("flags", [OFFLOAD_CRYPTO, OFFLOAD_PACKET])
def test_the_answers_of_state_add(bench: Bench, flags: int, code: int) -> None:
    """0 is success; EOPNOTSUPP means software, but not in packet mode; anything else fails."""
    host = bench.host(driver=PROBE)
    software = code == errno.EOPNOTSUPP and flags == OFFLOAD_CRYPTO
    assert offered(host, flags, code) == (0 if software else code)
    assert (host.sa() is not None) == (software or code == 0)
    assert host.refcnt() == (0 if code else 1)
    assert ("offload" in host.ok("xfrm state list")) == (code == 0)


@rule("DOC-02")
def test_what_the_user_removes_is_deleted_in_the_driver(bench: Bench) -> None:
    """DELSA calls state_delete; DELPOLICY calls policy_delete in late kernels only."""
    host = bench.host()
    host.ok(texts.state(host.dev))
    host.ok(texts.policy(host.dev))
    host.ok(texts.policy_delete())
    host.ok(texts.delete())
    assert host.order("U", "F", "pF") == ("A pA pD D" if bench.latest else "A pA D")


@rule("DOC-03")
def test_a_device_that_goes_down_hears_of_all_ends(bench: Bench) -> None:
    """state_delete, state_free, policy_delete, policy_free in late kernels; v6.2 skips
    policy_delete and frees the SA only when its last reference is gone."""
    host = bench.host()
    host.ok(texts.state(host.dev))
    host.ok(texts.policy(host.dev))
    host.link(up=False)
    assert host.order("U") == ("A pA D F pD pF" if bench.latest else "A pA D pF F")


@rule("DOC-04")
def test_the_document_s_example_is_no_pair(bench: Bench) -> None:
    """Copied as it stands: SA and policy are accepted, and what the policy asks for is protected
    by nothing, so the packet is not delivered; with the ends turned and one reqid it is."""
    host = bench.host()
    wrong = texts.state(
        host.dev, spi=7, src=LEFT, dst=RIGHT, reqid=7, dir="in", key=EXAMPLE_KEY,
        more=f"sel src {LEFT}/24 dst {RIGHT}/24 proto tcp",
    )  # fmt: skip
    host.ok(wrong)
    host.ok(texts.policy(host.dev, src=RIGHT, dst=LEFT, dir="in", reqid=10000))
    packet = packets.udp(src=RIGHT, dst=LEFT)
    sealed = Esp(7, EXAMPLE_KEY).seal(packet, 1)
    bench.arrive(sealed, packet)
    assert host.receive() == []
    host.ok(texts.policy_delete(src=RIGHT, dst=LEFT, dir="in"))
    host.ok(texts.policy(host.dev, src=RIGHT, dst=LEFT, dir="in", reqid=7))
    host.ok(texts.state(host.dev, spi=7, src=RIGHT, dst=LEFT, reqid=7, dir="in", key=EXAMPLE_KEY))
    bench.arrive(sealed)
    assert host.receive() == [packet]


@rule("DOC-05")
def test_which_callbacks_are_for_packet_mode_alone(bench: Bench) -> None:
    """A crypto SA: late kernels ask for its totals, v6.2 does not; no policy is ever offered for
    crypto offload."""
    host = bench.host()
    host.ok(texts.state(host.dev, offload="crypto"))
    host.ok(texts.policy())
    host.ok(texts.get())
    host.ok("xfrm state list")
    assert host.order("U", "K") == "A"
    assert ("U" in host.order().split()) == bench.latest
    device = host.offload(OFFLOAD_CRYPTO)
    policy = messages.new_policy(attributes=device, dst="10.1.0.9")
    assert host.request(policy).errno == errno.EINVAL


@rule("DOC-06")
@pytest.mark.parametrize("mode", ["transport", "tunnel"])
def test_the_device_protects_what_the_core_hands_over_in_clear(bench: Bench, mode: str) -> None:
    """Encryption, headers and sequence numbers are the device's: the packet leaves as ESP that
    opens to what was sent, and arrives; the core's own numbers stand still."""
    a, b = bench.pair()
    for host, way in ((a, "out"), (b, "in")):
        host.ok(texts.state(host.dev, dir=way, mode=mode))
        host.ok(texts.policy(host.dev, dir=way, mode=mode))
    assert a.send([PACKET] * 2) == [0, 0]
    sent = bench.on_the_wire()
    assert [Esp().open(esp, tunnel=mode == "tunnel") for esp in sent] == [PACKET] * 2
    assert b.receive() == [PACKET] * 2
    assert (a.mib(), b.mib()) == ({}, {})
    for host in (a, b):
        get = messages.request(Msg.GETSA, messages.sa_id())
        (note,) = host.request(get).notes
        replay = layouts.REPLAY_STATE.read(note.attributes[Attr.REPLAY_VAL])
        assert (replay.oseq, replay.seq) == (0, 0)


@rule("DOC-06")
def test_kernel_and_device_hold_the_same(bench: Bench) -> None:
    """After every step the card has as many SAs and policies as the core shows."""
    host = bench.host()
    bare = host.census()
    for spi in (0x1000, 0x1001):
        host.ok(texts.state(host.dev, spi=spi))
    host.ok(texts.state(host.dev, spi=0x2000, src=DESTINATION, dst=SOURCE, dir="in"))
    host.ok(texts.policy(host.dev))
    full = host.census()
    assert full["sas"] == full["keys"] == 3
    host.ok(texts.state(host.dev, verb="update", more="limit packet-hard 9"))
    host.ok(texts.policy(host.dev, verb="update", priority=4))
    assert host.ip(texts.state(host.dev)).rc == 2
    assert host.ip(texts.policy(host.dev)).rc == 2
    assert host.census() == full
    host.ok(texts.delete())
    assert host.census()["sas"] == 2
    host.ok("xfrm state flush")
    host.ok("xfrm policy flush")
    assert host.census() == bare == {}


@rule("DOC-06")
def test_the_kernel_talks_to_the_key_manager(bench: Bench) -> None:
    """What the device finds out is told by the core: a missing SA, a soft and a hard limit."""
    host = bench.host()
    host.ok(texts.policy(host.dev))
    host.notes()
    host.send([PACKET])
    assert host.note_names() == ["ACQUIRE"]
    host.ok(texts.state(host.dev, more="limit packet-soft 1 limit packet-hard 2"))
    host.notes()
    for _ in range(2):
        host.send([PACKET])
    assert host.expired() == ["soft 0x1000", "hard 0x1000"]
