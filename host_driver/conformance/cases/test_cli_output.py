# SPDX-License-Identifier: Apache-2.0
"""CLI-40..66: what `ip xfrm` prints. Expected texts are those of iproute2 6.15, and word by word:
runs of spaces do not count (CLI-66)."""

import re

import pytest

from host_driver.conformance import messages, packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.language import AEAD, SA, accepted
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import DESTINATION, KEY, SOURCE
from host_driver.conformance.probe import EVENTS
from host_driver.conformance.subject import Subject
from proto.netlink import NLM_F_ACK, NLM_F_REPLACE
from proto.xfrm import Attr, Msg
from proto.xfrm_structs import AeventId, ReplayState, UserSaId

DATE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
LIFETIMES = """
    lifetime config:
    limit: soft (INF)(bytes), hard (INF)(bytes)
    limit: soft 7(packets), hard (INF)(packets)
    expire add: soft 0(sec), hard 90(sec)
    expire use: soft 0(sec), hard 0(sec)
    lifetime current:
    0(bytes), 0(packets)
    add DATE use -"""
ESP_ID = f"src {SOURCE} dst {DESTINATION} proto esp"


def words(text: str) -> str:
    """The text with single spaces and without dates, device under test named `nic0`."""
    return " ".join(DATE.sub("DATE", text).split())


def lines(text: str) -> list[str]:
    """Its lines, each with single spaces, without empty ones."""
    return [words(line) for line in text.splitlines() if line.strip()]


def offloaded(bench: Bench, more: str = "", **state: str | int) -> Subject:
    """A host with an offloaded outbound SA, by a driver that takes everything."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev, more=more, **state))  # type: ignore[arg-type]
    return host


@rule("CLI-50", "CLI-51", "CLI-52", "CLI-66")
def test_an_sa_with_statistics_is_printed_as_the_tool_does(bench: Bench) -> None:
    """Every line of a packet-offloaded SA with some limits, in the tool's order."""
    host = offloaded(bench, "limit packet-soft 7 limit time-hard 90")
    direction = "dir out" if bench.latest else ""
    assert words(host.ok(texts.get())) == words(f"""
        src 10.1.0.1 dst 10.1.0.2
        proto esp spi 0x00001000(4096) reqid 1(0x00000001) mode transport
        replay-window 0 seq 0x00000000 flag (0x00000000)
        aead rfc4106(gcm(aes)) 0x{KEY.hex()} (160 bits) 128
        anti-replay context: seq 0x0, oseq 0x0, bitmap 0x00000000
        crypto offload parameters: dev {host.dev} dir out mode packet
        {direction}
        sel src 0.0.0.0/0 dst 0.0.0.0/0 uid 0
        {LIFETIMES}
        stats:
        replay-window 0 replay 0 failed 0""")


@rule("CLI-50")
@pytest.mark.parametrize("mode", ["crypto", "packet"])
def test_the_last_word_of_the_offload_line_tells_the_mode(bench: Bench, mode: str) -> None:
    """It begins with "crypto offload parameters" either way."""
    host = offloaded(bench, offload=mode)
    line = f"crypto offload parameters: dev {host.dev} dir out mode {mode}"
    assert line in lines(host.ok("xfrm state"))


@rule("CLI-51")
def test_the_selector_line_stands_unless_all_of_it_is_zero(bench: Bench) -> None:
    """The kernel fills in the family, so nearly every SA has it; `flag af-unspec` leaves it out."""
    host = offloaded(bench)
    assert "sel src 0.0.0.0/0 dst 0.0.0.0/0" in lines(host.ok("xfrm state"))
    host.ok(texts.delete())
    host.ok(texts.state(host.dev, more="sel src 10.1.0.0/24 dst 10.2.0.0/16 proto udp dport 9"))
    line = "sel src 10.1.0.0/24 dst 10.2.0.0/16 proto udp dport 9"
    assert line in lines(host.ok("xfrm state"))
    host.ok(texts.delete())
    host.ok(texts.state(host.dev, mode="tunnel", more="flag af-unspec"))
    assert "sel src" not in host.ok("xfrm state")


@rule("CLI-52")
def test_limits_are_numbers_with_their_unit_or_infinite(bench: Bench) -> None:
    """(INF) for none; of seconds 0 is none."""
    host = offloaded(bench, "limit byte-soft 5 limit byte-hard 18446744073709551614")
    shown = lines(host.ok(texts.get()))
    assert "limit: soft 5(bytes), hard 18446744073709551614(bytes)" in shown
    assert "limit: soft (INF)(packets), hard (INF)(packets)" in shown
    assert "expire add: soft 0(sec), hard 0(sec)" in shown


@rule("CLI-66")
def test_the_whole_grammar_is_accepted(bench: Bench) -> None:
    """Every part that an SA may have, in one command."""
    accepted(
        bench,
        f"xfrm state add {SA} {AEAD} mode tunnel mark 1 mask 2 reqid 3 seq 4 replay-window 8 "
        "replay-seq 5 replay-oseq 6 replay-seq-hi 0 replay-oseq-hi 0 flag noecn icmp "
        "sel src 10.0.0.0/8 dst 11.0.0.0/8 dev nic7 proto udp sport 1 dport 2 "
        "limit time-soft 9 limit byte-hard 10 encap espinudp 4500 4500 0.0.0.0 ctx label "
        "extra-flag dont-encap-dscp offload crypto dev nic0 dir in output-mark 7 mask 8 if_id 9",
    )


@rule("CLI-40", "CLI-60", "CLI-63")
def test_policy_events_are_printed_one_by_one(bench: Bench) -> None:
    """Added, updated, deleted, flushed, defaults: a block each, with the word that tells which."""
    host = bench.host()
    policy = "src 10.0.0.0/24 dst 10.0.1.0/24 dir out"
    template = "tmpl src 1.1.1.1 dst 2.2.2.2 proto esp reqid 1 mode tunnel"
    for verb in (f"add {policy} {template}", f"update {policy} priority 3 {template}",
                 f"delete {policy}", f"add {policy} {template}", "flush",
                 "setdefault in block"):  # fmt: skip
        host.ok(f"xfrm policy {verb}")

    def block(prefix: str, priority: int) -> str:
        return (
            f"{prefix}src 10.0.0.0/24 dst 10.0.1.0/24 dir out priority {priority} ptype main "
            "tmpl src 1.1.1.1 dst 2.2.2.2 proto esp reqid 1 mode tunnel "
        )

    assert words(host.monitor()) == words(
        block("", 0) + block("Updated ", 3) + block("Deleted ", 3) + block("", 0)
        + "Flushed policy ptype main Default policies: in: block fwd: accept out: accept"
    )  # fmt: skip


@rule("CLI-60", "CLI-40")
def test_sa_events_are_printed_one_by_one(bench: Bench) -> None:
    """Added, updated, deleted: first words; expired: hard 0 or 1 at the end."""
    host = offloaded(bench, "limit packet-soft 1 limit packet-hard 2", reqid=EVENTS)
    host.ok(texts.policy(host.dev, reqid=EVENTS))
    host.ok(texts.state(host.dev, verb="update", reqid=EVENTS,
                        more="limit packet-soft 1 limit packet-hard 2"))  # fmt: skip
    for _ in range(2):
        host.send([packets.udp()])
    host.ok(texts.state(host.dev, spi=0x1001, reqid=EVENTS))
    host.ok(texts.delete(spi=0x1001))
    shown = lines(host.monitor())
    ends = "src 10.1.0.1 dst 10.1.0.2"
    heads = [line for line in shown if line.endswith(ends) and "tmpl" not in line]
    assert heads == [
        ends, f"Updated {ends}", f"Expired {ends}", f"Expired {ends}", ends, f"Deleted {ends}"
    ]  # fmt: skip
    assert [line for line in shown if line.startswith("hard")] == ["hard 0", "hard 1"]


@rule("CLI-60")
def test_an_expired_policy_is_printed_with_hard_1(bench: Bench) -> None:
    """POLEXPIRE has the same word and line."""
    host = bench.host()
    host.ok("xfrm policy add src 10.1.0.1 dst 10.1.0.2 dir out limit time-hard 1")
    host.notes()
    bench.advance(2)
    assert lines(host.monitor()) == [
        "Expired src 10.1.0.1/32 dst 10.1.0.2/32", "dir out priority 0 ptype main", "hard 1"
    ]  # fmt: skip


@rule("CLI-61")
def test_an_acquire_shows_flow_and_policy(bench: Bench) -> None:
    """What is wanted, for which flow, and the policy that wants it, indented."""
    host = bench.host()
    host.ok(texts.policy(dir="out"))
    host.notes()
    host.send([packets.udp(sport=42200, dport=1025)])
    text = re.sub(r" dev \S+", " dev DEV", host.monitor())
    assert words(text) == words("""
        acquire proto esp
        sel src 10.1.0.1/32 dst 10.1.0.2/32 proto udp sport 42200 dport 1025 dev DEV
        policy src 10.1.0.1/32 dst 10.1.0.2/32
        dir out priority 0 ptype main
        tmpl src 10.1.0.1 dst 10.1.0.2
        proto esp reqid 1 mode transport""")
    assert [line[:3] for line in text.splitlines()[1:3]] == ["  s", "  p"]


@rule("CLI-62")
@pytest.mark.parametrize(
    ("flag", "cause"), [(0x10, "replay update"), (0x20, "timer expired"), (0x40, "policy updated")]
)
def test_an_async_event_names_its_cause(bench: Bench, flag: int, cause: str) -> None:
    """The flags in hex, their words, and the SA."""
    host = bench.host()
    host.ok(texts.state())
    host.ok(texts.policy())
    host.notes()
    if flag == 0x40:
        id = UserSaId(messages.address(DESTINATION), 0x1000, 2, 50)
        replay = {Attr.REPLAY_VAL: ReplayState(oseq=5).pack()}
        event = AeventId(id, messages.address(SOURCE)).pack()
        flags = NLM_F_ACK | NLM_F_REPLACE
        assert host.request(messages.request(Msg.NEWAE, event, replay, flags)).errno == 0
    else:
        host.send([packets.udp()])
        bench.advance(2)
        host.send([packets.udp()] * 5)
    shown = lines(host.monitor())
    assert f"Async event (0x{flag:x}) {cause}" in shown
    after = shown[shown.index(f"Async event (0x{flag:x}) {cause}") + 1]
    assert after == "src 10.1.0.1 dst 10.1.0.2 reqid 0x1 protocol esp SPI 0x1000"


@rule("CLI-63")
@pytest.mark.parametrize(("proto", "shown"), [("proto esp", "esp"), ("", "0")])
def test_a_flush_of_sas_names_the_protocol(bench: Bench, proto: str, shown: str) -> None:
    """esp, or 0 for all of them."""
    host = bench.host()
    host.ok(f"xfrm state allocspi {ESP_ID} mode transport reqid 3 min 0x500 max 0x500")
    host.notes()
    host.ok(f"xfrm state flush {proto}")
    assert lines(host.monitor()) == [f"Flushed state proto {shown}"]


@rule("CLI-64")
def test_counts_are_printed_with_or_without_tables(bench: Bench) -> None:
    """SAs; policies by direction; -s adds hash tables and the policies of sockets."""
    host = bench.host()
    host.ok(f"xfrm state allocspi {ESP_ID} mode transport reqid 3 min 0x500 max 0x500")
    for dir in ("in", "out"):
        host.ok(f"xfrm policy add src 10.1.0.1 dst 10.1.0.2 dir {dir}")
    assert host.ok("xfrm state count") == "\t SAD count 1\n"
    pattern = r"\t SAD count 1 \(buckets count \d+ Max \d+\)\n"
    assert re.fullmatch(pattern, host.ok("-s xfrm state count"))
    assert host.ok("xfrm policy count") == "\t SPD IN  1 OUT 1 FWD 0\n"
    expected = "SPD IN 1 OUT 1 FWD 0 (Sock: IN 0 OUT 0 FWD 0)"
    assert words(host.ok("-s xfrm policy count")) == expected
    more = words(host.ok("-s -s xfrm policy count"))
    assert more.startswith(expected)
    assert "SPD buckets: count" in more
    assert "SPD IPv4 thresholds: local 32 remote 32" in more
    assert "SPD IPv6 thresholds: local 128 remote 128" in more


@rule("CLI-65")
def test_defaults_are_printed_one_a_line(bench: Bench) -> None:
    """A header, then in, fwd, out."""
    host = bench.host()
    host.ok("xfrm policy setdefault in block out accept")
    assert host.ok("xfrm policy getdefault").splitlines() == [
        "Default policies:", " in:  block", " fwd: accept", " out: accept"
    ]  # fmt: skip
