# SPDX-License-Identifier: Apache-2.0
"""CLI-30..33: the grammar of `ip xfrm policy`, as the bytes that it stands for (iproute2 6.15)."""

from types import SimpleNamespace

import pytest

from host_driver.conformance import layouts
from host_driver.conformance.bench import Bench
from host_driver.conformance.language import accepted, opened, refused
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import address
from proto.xfrm import Attr

FULL, NONE = b"\xff\xff", b"\0\0"


def selected(bench: Bench, words: str) -> SimpleNamespace:
    """The selector of a policy."""
    found: SimpleNamespace = accepted(bench, f"xfrm policy add {words} dir out").fixed.sel
    return found


def templates(bench: Bench, words: str) -> list[SimpleNamespace]:
    """The templates of a policy."""
    value = accepted(bench, f"xfrm policy add dir out {words}").attributes[Attr.TMPL]
    size = layouts.USER_TMPL.size
    return [opened(layouts.USER_TMPL.read(value, at)) for at in range(0, len(value), size)]


@rule("CLI-30")
def test_a_selector_names_networks_device_and_protocol(bench: Bench) -> None:
    """Prefixes with their lengths, a device by its ifindex, a protocol by name or number."""
    sel = selected(bench, "src 10.1.0.0/24 dst 10.2.0.0/16 dev nic7 proto tcp")
    assert (sel.saddr, sel.prefixlen_s) == (address("10.1.0.0"), 24)
    assert (sel.daddr, sel.prefixlen_d) == (address("10.2.0.0"), 16)
    assert (sel.family, sel.ifindex, sel.proto) == (2, 7, 6)
    assert (sel.sport_mask, sel.dport_mask) == (NONE, NONE)
    sel = selected(bench, "src fd00::/64 dst fd01::1 proto 99")
    assert (sel.saddr, sel.prefixlen_s, sel.family) == (address("fd00::"), 64, 10)
    assert (sel.daddr, sel.prefixlen_d, sel.proto) == (address("fd01::1"), 128, 99)


@rule("CLI-30")
def test_an_absent_address_is_any(bench: Bench) -> None:
    """Of the family that is known: /0. A word for it needs the family from an option."""
    for words, family in (("dst 10.2.0.0/16", 2), ("dst fd01::1", 10)):
        sel = selected(bench, words)
        assert (sel.saddr, sel.prefixlen_s, sel.family) == (bytes(16), 0, family)
    refused(bench, "xfrm policy add src any dst fd01::1 dir out", 255)
    sel = accepted(bench, "-6 xfrm policy add src any dst fd01::1 dir out").fixed.sel
    assert (sel.saddr, sel.prefixlen_s, sel.family) == (bytes(16), 0, 10)


@rule("CLI-30")
def test_ports_are_compared_whole(bench: Bench) -> None:
    """Network order, mask ffff for what is given; types, codes and keys stand in the same place."""
    sel = selected(bench, "proto udp sport 4000")
    assert (sel.sport, sel.sport_mask) == (b"\x0f\xa0", FULL)
    assert (sel.dport, sel.dport_mask) == (NONE, NONE)
    sel = selected(bench, "proto tcp dport 80")
    assert (sel.dport, sel.dport_mask, sel.sport_mask) == (b"\0\x50", FULL, NONE)
    sel = selected(bench, "proto icmp type 8 code 3")
    assert (sel.sport, sel.sport_mask) == (b"\0\x08", FULL)
    assert (sel.dport, sel.dport_mask) == (b"\0\x03", FULL)
    sel = selected(bench, "proto gre key 0x10002")
    assert (sel.sport, sel.dport) == (b"\0\x01", b"\0\x02")
    assert (sel.sport_mask, sel.dport_mask) == (FULL, FULL)


@rule("CLI-30")
@pytest.mark.parametrize("words", ["proto udp type 8", "proto icmp sport 5", "proto esp dport 7",
                                   "proto udp sport 65536"])  # fmt: skip
def test_ports_belong_to_protocols_that_have_them(bench: Bench, words: str) -> None:
    """Types and codes to ICMP, ports to UDP, TCP, SCTP and DCCP, and neither to anything else."""
    refused(bench, f"xfrm policy add {words} dir out", 255, 1)


@rule("CLI-31")
@pytest.mark.parametrize(("word", "number"), [("in", 0), ("out", 1), ("fwd", 2)])
def test_a_policy_has_one_of_three_directions(bench: Bench, word: str, number: int) -> None:
    """in 0, out 1, fwd 2."""
    assert accepted(bench, f"xfrm policy add dir {word}").fixed.dir == number


@rule("CLI-31")
def test_a_template_says_what_an_sa_must_be(bench: Bench) -> None:
    """ID, mode, reqid, level; all algorithms are allowed."""
    first, second = templates(
        bench,
        "tmpl src 1.1.1.1 dst 2.2.2.2 proto esp spi 0x99 reqid 7 mode tunnel level use "
        "tmpl proto ah",
    )
    assert (first.id.daddr, first.saddr) == (address("2.2.2.2"), address("1.1.1.1"))
    assert (first.id.proto, first.id.spi, first.family) == (50, b"\0\0\0\x99", 2)
    assert (first.reqid, first.mode, first.optional) == (7, 1, 1)
    assert (second.id.proto, second.reqid, second.mode, second.optional) == (51, 0, 0, 0)
    for one in (first, second):
        assert (one.aalgos, one.ealgos, one.calgos) == (0xFFFF_FFFF,) * 3
    (required,) = templates(bench, "tmpl proto esp level required")
    assert required.optional == 0
    refused(bench, "xfrm policy add dir out tmpl proto esp level maybe", 255)


@rule("CLI-32")
@pytest.mark.parametrize("dir", ["in", "out", "fwd"])
def test_offload_of_a_policy_is_packet_offload(bench: Bench, dir: str) -> None:
    """The device and PACKET; the direction is the policy's."""
    sent = accepted(bench, f"xfrm policy add dir {dir} offload packet dev nic7").attributes
    assert vars(layouts.USER_OFFLOAD.read(sent[Attr.OFFLOAD_DEV])) == {"ifindex": 7, "flags": 4}
    assert Attr.SA_DIR not in sent


@rule("CLI-32")
@pytest.mark.parametrize("words", ["crypto dev nic0", "dev nic0", "packet nic0", "packet dev nope",
                                   "packet dev nic0 dir out"])  # fmt: skip
def test_offload_of_a_policy_has_no_other_form(bench: Bench, words: str) -> None:
    """No crypto, no default, and no second direction."""
    refused(bench, f"xfrm policy add dir out offload {words}", 255, 1)


@rule("CLI-33")
def test_a_policy_allows_at_priority_0_unless_told_otherwise(bench: Bench) -> None:
    """Both may be given; the direction must be."""
    plain = accepted(bench, "xfrm policy add dir out").fixed
    assert (plain.action, plain.priority) == (0, 0)
    block = accepted(bench, "xfrm policy add dir out action block priority 4294967295").fixed
    assert (block.action, block.priority) == (1, 0xFFFF_FFFF)
    assert "DIR" in refused(bench, "xfrm policy add src 10.1.0.1 dst 10.1.0.2", 1)
    refused(bench, "xfrm policy add dir out action bogus", 255)
