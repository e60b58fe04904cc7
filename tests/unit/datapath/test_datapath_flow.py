# SPDX-License-Identifier: Apache-2.0
"""What is kept of the flow before changes nothing: a burst is as its packets one by one, which
cannot use it. Packets, rules and limits are drawn from so few values that flows differ in one field
only, and meet the rules of each other.
"""

import random
from collections.abc import Callable
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.packet import Raw

from proto.commands import ALLOW, BLOCK, IN, OUT
from proto.status import Drop

BURST, BURSTS = 40, 12
ENDS = {  # sources and targets; the first ones have the same first bits in both families
    4: (("10.1.0.1", "10.1.1.1"), ("10.1.0.2", "10.1.1.2")),
    6: (("a01:1::", "a01:1::1"), ("a01:2::", "a01:2::2")),
}
FAMILY = {4: 2, 6: 10}
PORTS = (0, 9)
KEYS = (bytes(range(16)), bytes(range(1, 17)))
EXACT = {4: 32, 6: 128}


def upper(rng: random.Random) -> tuple[int, Any]:
    """An upper-layer protocol and its packet."""
    proto = rng.choice((17, 17, 6, 47, 89))
    ports = {"sport": rng.choice(PORTS), "dport": rng.choice(PORTS)}
    if proto in (6, 17):
        return proto, (UDP if proto == 17 else TCP)(**ports) / Raw(b"text")
    return proto, Raw(bytes(8))


def clear(rng: random.Random, bench: Any) -> bytes:
    """A frame with a packet, or with a piece of one."""
    version = rng.choice((4, 6))
    src, dst = (rng.choice(ends) for ends in ENDS[version])
    proto, inside = upper(rng)
    offset, more = rng.choice(((0, 0), (0, 0), (0, 0), (0, 1), (5, 0)))
    if version == 4:
        head = IP(src=src, dst=dst, proto=proto, frag=offset, flags=more, id=7)
        return bench.frame(bytes(head / inside))
    if not (offset or more):
        return bench.frame(bytes(IPv6(src=src, dst=dst, nh=proto) / inside))
    piece = IPv6ExtHdrFragment(nh=proto, offset=offset, m=more)
    return bench.frame(bytes(IPv6(src=src, dst=dst) / piece / inside))


def runs(rng: random.Random, make: Callable[[], bytes]) -> list[bytes]:
    """Frames of a burst, some of which come several times in a row."""
    frames: list[bytes] = []
    while len(frames) < BURST:
        frames += [make()] * rng.choice((1, 1, 2, 5))
    return frames[:BURST]


def furnish(rng: random.Random, bench: Any) -> None:
    """SAs for some pairs of addresses, two for one of them; policies of all sorts."""
    for version, (sources, targets) in ENDS.items():
        for src in sources:
            for dst in targets:
                for number in range(rng.choice((0, 1, 2))):
                    packets = rng.choice((10, 30, 1 << 40))
                    soft = rng.choice((4, 9, 1 << 40))
                    bench.sa(
                        key=KEYS[number], src=src, dst=dst, spi=0x2000 + number,
                        packets=packets, soft_packets=soft,
                    )  # fmt: skip
        for number, dst in enumerate(targets):  # one SPI, two destinations
            bench.sa(
                key=KEYS[number], src=sources[0], dst=dst, direction=IN, replay_window=64,
                packets=rng.choice((15, 1 << 40)), reqid=rng.choice((1, 1, 2)),
            )  # fmt: skip
        for direction in (OUT, IN):
            for _ in range(rng.randrange(3, 9)):
                bench.policy(
                    direction=direction, family=FAMILY[version], priority=rng.randrange(3),
                    action=rng.choice((ALLOW, ALLOW, BLOCK)), protect=rng.random() < 0.6,
                    **selector(rng, bench, version),
                )  # fmt: skip


def selector(rng: random.Random, bench: Any, version: int) -> dict[str, Any]:
    """What a policy looks at: one or two fields."""
    src, dst = (bench.address(rng.choice(ends)) for ends in ENDS[version])
    choices: list[dict[str, Any]] = [
        {},
        {"saddr": src, "prefixlen_s": EXACT[version]},
        {"daddr": dst, "prefixlen_d": EXACT[version]},
        {"proto": rng.choice((6, 17, 47))},
        {"sport": rng.choice(PORTS), "sport_mask": 0xFFFF},
        {"dport": rng.choice(PORTS), "dport_mask": 0xFFFF},
    ]
    return rng.choice(choices) | rng.choice(choices)


def tables_of(bench: Any) -> dict[str, Any]:
    t = bench.t
    count = int(t.event_count[0])
    return {
        "sa": t.sa.tobytes(), "window": t.window.tobytes(), "totals": t.totals.tolist(),
        "drops": t.drops.tolist(), "events": t.events[:count].tolist(),
        "touched": t.touched.tolist(),
    }  # fmt: skip


def twins(make_bench: Callable[..., Any], seed: int) -> tuple[Any, Any]:
    """Two benches that are furnished alike."""
    benches = make_bench(), make_bench()
    for bench in benches:
        furnish(random.Random(seed), bench)
    return benches


@pytest.mark.parametrize("seed", range(6))
def test_a_burst_out_is_as_its_packets(make_bench: Callable[..., Any], seed: int) -> None:
    whole, single = twins(make_bench, seed)
    rng = random.Random(seed)
    seen = set()
    for _ in range(BURSTS):
        frames = runs(rng, lambda: clear(rng, whole))
        left = whole.tx(frames)
        assert left == [single.tx([frame])[0] for frame in frames]
        assert tables_of(whole) == tables_of(single)
        sealed = (0x2000).to_bytes(4), (0x2001).to_bytes(4)
        seen |= {
            one if isinstance(one, Drop) else any(spi in one[30:70] for spi in sealed)
            for one in left
        }
    assert {True, False, Drop.FRAGMENT, Drop.POLICY_BLOCK} <= seen


@pytest.mark.parametrize("seed", range(6))
def test_a_burst_in_is_as_its_packets(make_bench: Callable[..., Any], seed: int) -> None:
    whole, single = twins(make_bench, seed)
    rng = random.Random(seed)
    numbers = iter(range(1, 10_000))
    seen = set()

    def arriving() -> bytes:
        """Clear, or ESP for one of the two SAs, sometimes with the other one's key."""
        if rng.random() < 0.4:
            return clear(rng, whole)
        version, number = rng.choice((4, 6)), rng.randrange(2)
        ends = {"src": ENDS[version][0][0], "dst": ENDS[version][1][number]}
        proto, inside = upper(rng)
        key = KEYS[number if rng.random() < 0.9 else 1 - number]
        sealed = Raw(whole.esp(key, 0x1000, next(numbers), bytes(inside), proto))
        head = IP(**ends, proto=50) if version == 4 else IPv6(**ends, nh=50)
        return whole.frame(bytes(head / sealed))

    for _ in range(BURSTS):
        frames = runs(rng, arriving)
        got = whole.rx(frames)
        assert got == [single.rx([frame])[0] for frame in frames]
        assert tables_of(whole) == tables_of(single)
        seen |= {one if isinstance(one, Drop) else "delivered" for one in got}
    assert {"delivered", Drop.REPLAY, Drop.INTEGRITY, Drop.FRAGMENT} <= seen
    assert seen & {Drop.CLEAR_TEXT, Drop.TEMPLATE, Drop.POLICY_BLOCK}


def test_clear_text_behind_an_opened_packet_of_its_flow(bench: Any) -> None:
    """The policy is the same, what it says is not."""
    bench.sa(direction=IN)
    bench.policy(direction=IN)
    packet = bench.frame(bytes(IP(src="10.1.0.1", dst="10.1.0.2") / UDP(sport=1, dport=2)))
    sealed = bench.esp(bench.KEY, 0x1000, 1, packet[34:], 17)
    opened = bench.frame(bytes(IP(src="10.1.0.1", dst="10.1.0.2", proto=50) / Raw(sealed)))
    again = bench.frame(bytes(IP(src="10.1.0.1", dst="10.1.0.2", proto=50) / Raw(
        bench.esp(bench.KEY, 0x1000, 2, packet[34:], 17))))  # fmt: skip
    assert bench.rx([packet, opened, packet, again, packet]) == [
        Drop.CLEAR_TEXT, packet, Drop.CLEAR_TEXT, packet, Drop.CLEAR_TEXT,
    ]  # fmt: skip


def test_a_dying_sa_is_left_within_a_burst(bench: Any) -> None:
    """TX-13: the SA that is not dying comes first, from the packet behind the soft limit on."""
    old, new = bench.sa(spi=1), bench.sa(spi=2, soft_packets=2)
    bench.policy()
    packet = bench.frame(bytes(IP(src="10.1.0.1", dst="10.1.0.2") / UDP()))
    sent = bench.tx([packet] * 4)
    assert [int.from_bytes(one[34:38]) for one in sent] == [2, 2, 1, 1]
    assert (bench.state(old).packets, bench.state(new).packets) == (2, 2)


def test_the_other_family_has_policies_of_its_own(bench: Any) -> None:
    bench.policy(action=BLOCK)
    four = bench.frame(bytes(IP(src="10.1.0.1", dst="10.1.0.2") / UDP(sport=1, dport=2)))
    six = bench.frame(bytes(IPv6(src="a01:1::", dst="a01:2::") / UDP(sport=1, dport=2)))
    assert bench.tx([four, six, four]) == [Drop.POLICY_BLOCK, six, Drop.POLICY_BLOCK]


def test_rules_may_change_between_bursts(bench: Any) -> None:
    packet = bench.frame(bytes(IP(src="10.1.0.1", dst="10.1.0.2") / UDP()))
    assert bench.tx([packet]) == [packet]
    bench.policy(action=BLOCK)
    assert bench.tx([packet]) == [Drop.POLICY_BLOCK]
