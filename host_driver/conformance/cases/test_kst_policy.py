# SPDX-License-Identifier: Apache-2.0
"""KST-09, 10, 12, 13, 20: the kernel's self tests of policies: exceptions to a tunnel, in software,
on the device and mixed; policies found again among hundreds; devices in selectors; speed."""

import errno
import ipaddress
import random
from typing import Any

import pytest

from host_driver.conformance import layouts, messages, packets, texts
from host_driver.conformance.bench import Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.subject import Subject
from proto.clock import RealClock
from proto.xfrm import Msg

HERE, NETWORK, BEYOND = "10.1.0.1", "10.1.0.0/24", "10.2.0.0/24"
TUNNEL = ("192.0.2.1", "192.0.2.2")
HARDWARE, SOFTWARE = 1, 2  # reqids, and SPIs in units of 0x1000
ON_CARD = {"none": [set[str]()], "all": [{"tunnel", "bypass", "host", "others"}]}
POLICIES = ("tunnel", "bypass", "host", "others")


# --- KST-09: xfrm_policy.sh ---


class Exceptions:
    """A tunnel between two networks and exceptions to it; those in `on_card` are the device's."""

    def __init__(self, bench: Bench, host: Subject, on_card: set[str]) -> None:
        self._bench, self._host, self._on_card = bench, host, on_card
        for dev, reqid in ((None, SOFTWARE), (host.dev, HARDWARE)):  # SAD-03: software first
            ends: dict[str, Any] = {"src": TUNNEL[0], "dst": TUNNEL[1]}
            host.ok(texts.state(dev, spi=reqid << 12, reqid=reqid, mode="tunnel", **ends))

    def add(self, name: str, src: str, dst: str, priority: int, *, template: bool = True) -> None:
        """A policy out."""
        mine = name in self._on_card
        self._host.ok(
            texts.policy(
                self._host.dev if mine else None, src=src, dst=dst, priority=priority,
                reqid=HARDWARE if mine else SOFTWARE, mode="tunnel", ends=TUNNEL, template=template,
            )
        )  # fmt: skip

    def left(self, dst: str) -> list[int]:
        """A packet to this host of the other network: the SPIs it left with, 0 in clear."""
        before = len(self._bench.frames())
        assert self._host.send([packets.udp(src=HERE, dst=dst)]) == [0]
        return self._bench.spis()[before:]

    def protected(self, name: str) -> list[int]:
        """What a policy's packet leaves with."""
        return [(HARDWARE if name in self._on_card else SOFTWARE) << 12]

    def check(self, *, exact: bool = False) -> None:
        """(b) the network's end bypasses, (c) but for one host; (d) the rest uses the tunnel. A
        tunnel of the device in the `exact` table ends the search for all of them (SPD-21)."""
        assert self.left("10.2.0.2") == self.protected("tunnel")
        if exact and "tunnel" in self._on_card:
            assert 0 not in self.left("10.2.0.254")
            host = self.left("10.2.0.253")
            if "host" in self._on_card or "bypass" not in self._on_card:
                assert host == self.protected("tunnel")
            assert 0 not in host  # the card may know a bypass where the core saw a tunnel
            return
        if "bypass" in self._on_card or "tunnel" not in self._on_card:
            assert self.left("10.2.0.254") == [0]
        else:  # the core lets it pass, and the card knows its tunnel alone
            assert 0 not in self.left("10.2.0.254")
        assert self.left("10.2.0.253") == self.protected("host")


def mixes(bench: Bench) -> list[set[str]]:
    """Which policies are the device's, drawn from the seed: neither none nor all of them."""
    draw = random.Random(f"{bench.options.seed} KST-09")
    return [set(draw.sample(POLICIES, draw.randint(1, 3))) for _ in range(4)]


@rule("KST-09")
@pytest.mark.parametrize(
    "which",
    ["none", pytest.param("all", marks=rule("KST-20")), pytest.param("mix", marks=rule("KST-20"))],
)
def test_exceptions_to_a_tunnel(bench: Bench, which: str) -> None:
    """The most special policy decides before and after the tables were rebuilt, in software and on
    the device; what a tunnel of the device covers leaves in clear for a bypass of the device only.
    """
    for on_card in ON_CARD.get(which) or mixes(bench):
        host = bench.host()
        host.ok("xfrm state flush")
        host.ok("xfrm policy flush")
        host.ok("xfrm policy set hthresh4 32 32")
        case = Exceptions(bench, host, on_card)
        case.add("tunnel", NETWORK, BEYOND, 100)
        assert case.left("10.2.0.254") == case.protected("tunnel")
        case.add("bypass", "0.0.0.0/0", "10.2.0.240/28", 10, template=False)
        case.add("host", "0.0.0.0/0", "10.2.0.253/32", 1)
        case.check()
        for length in (24, 28, 25, 23, 22, 16):
            overlapping = str(ipaddress.ip_network(f"10.2.0.0/{length}"))
            case.add("others", "10.9.0.0/24", overlapping, 200, template=False)
        case.check()
        for bits in ("28 32", "24 24", "0 0", "32 32"):
            host.ok(f"xfrm policy set hthresh4 {bits}")
            case.check(exact=bits == "24 24")


# --- KST-10: each of hundreds ---


@rule("KST-10")
@pytest.mark.parametrize("bits", [32, 128])
def test_every_policy_is_found_by_its_selector(bench: Bench, bits: int) -> None:
    """Hundreds of networks of any length, many within others, out and forward: each is found, and
    it is the one."""
    host = bench.host()
    draw = random.Random(f"{bench.options.seed} KST-10")
    wanted: dict[tuple[int, bytes], int] = {}
    for number in range(300):
        dir = draw.choice((1, 2))
        length = draw.randint(bits // 4, bits)
        src, dst = (str(network(draw, bits, length).network_address) for _ in range(2))
        sel = messages.selector(src, dst, length)
        info = messages.policy_info(sel=sel, dir=dir, priority=number)
        if (dir, sel.pack()) not in wanted:
            assert host.request(messages.new_policy(info, templates=[])).errno == 0
            wanted[dir, sel.pack()] = number
    assert len(wanted) > 250
    for (dir, packed), number in wanted.items():
        id = packed + bytes(4) + bytes((dir,)) + bytes(3)
        (found,) = host.request(messages.request(Msg.GETPOLICY, id)).notes
        info_found = layouts.USERPOLICY_INFO.read(found.fixed)
        assert (info_found.sel, info_found.dir, info_found.priority) == (packed, dir, number)


def network(
    draw: random.Random, bits: int, length: int
) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """One of few bits' difference, so that networks overlap."""
    base = 10 << 24 if bits == 32 else 0xFD << 120
    number = base | draw.getrandbits(10) << bits - 18 | draw.getrandbits(4)
    ip = ipaddress.IPv4Address(number) if bits == 32 else ipaddress.IPv6Address(number)
    return ipaddress.ip_network(f"{ip}/{length}", strict=False)


# --- KST-12: a device in the selector ---


@rule("KST-12")
def test_a_device_in_the_selector_matches_the_way_out(bench: Bench) -> None:
    """A policy that names a device is for packets that leave through it, and for no others."""
    host = bench.host()
    if host.dev == "lo":
        pytest.skip("needs a device beside lo")
    packet = packets.udp()
    ends = f"src {messages.SOURCE} dst {messages.DESTINATION}"
    host.ok(f"xfrm policy add {ends} dev lo dir out action block")
    assert (host.send([packet]), host.mib()) == ([0], {})
    host.ok(f"xfrm policy add {ends} dev {host.dev} dir out action block")
    assert host.send([packet]) == [errno.EPERM]
    assert host.mib() == {"XfrmOutPolBlock": 1}
    host.ok(f"xfrm policy delete {ends} dev {host.dev} dir out")
    assert host.send([packet]) == [0]


# --- KST-13: thousands ---


@rule("KST-13")
def test_the_thousandth_policy_is_added_like_the_first(bench: Bench) -> None:
    """4000 policies, of hosts and networks: the last hundreds take no multiple of the first's time,
    as they would if each add looked at all policies."""
    host = bench.host()
    clock, times = RealClock(), []
    for chunk in range(40):
        requests = b"".join(
            messages.new_policy(
                dst=str(ipaddress.IPv4Address((100 << 24) + (chunk * 100 + n) * 256)),
                prefixlen=(32, 24)[n & 1], templates=[],
            )
            for n in range(100)
        )  # fmt: skip
        start = clock.now_ns()
        answers = host.answer(requests)
        times.append(clock.now_ns() - start)
        assert len(messages.reply([answers]).notes) == 0
    assert len(host.policies()) == 4000
    assert min(times[-6:]) < 6 * min(times[:6]), times
