# SPDX-License-Identifier: Apache-2.0
"""Packets through a card whose policies and SAs come and go, against a scan of plain lists.

The model says what becomes of every packet: in clear, which SA seals or opens it, or the one reason
why it is dropped. An ESP of the suite's own opens what goes out and makes what comes in.
"""

import ipaddress
import itertools
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from host_driver.conformance.packets import Esp, frame, header_bytes, is_esp, udp
from host_driver.testing import TrafficSelector, fragments, tcp
from proto import commands as c
from proto.frame import Kind
from proto.wire import unpack_frames
from proto.xfrm import AF_INET, AF_INET6, MODE_TRANSPORT, MODE_TUNNEL
from unit.firmware.conftest import Card

ETHERNET = 14
UDP, TCP = 17, 6
HOSTS = {4: ("10.1.0.1", "10.1.0.2"), 6: ("fd00:1::1", "fd00:1::2")}
NETWORKS = {4: "10.1.0.0/30", 6: "fd00:1::/126"}
ANYWHERE = {4: "0.0.0.0/0", 6: "::/0"}
ANYBODY = {4: "0.0.0.0", 6: "::"}
FAMILIES = {4: AF_INET, 6: AF_INET6}
MODES = st.sampled_from((MODE_TRANSPORT, MODE_TRANSPORT, MODE_TUNNEL))
REQIDS = st.sampled_from((1, 1, 1, 2))
LIMITS = st.sampled_from((c.INFINITE, c.INFINITE, 2, 5, 9))
ROOM = 64
CARD = "full:key_max=1,sa_max=64,rule_max=64,counter_bits=4"
KEY, SALT = bytes(range(32)), b"salt"


class Flow(NamedTuple):
    """A packet, as selectors see it."""

    src: str
    dst: str
    proto: int
    sport: int
    dport: int

    def packet(self, number: int) -> bytes:
        data = number.to_bytes(4) * 4
        if self.proto == TCP:
            return tcp(data, self.sport, self.dport, self.src, self.dst)
        return udp(data, self.sport, self.dport, self.src, self.dst)


def covers(selector: TrafficSelector, flow: Flow, *, ports: bool = True) -> bool:
    """xfrm_selector_match, from the text of UAPI-32."""
    source, target = ipaddress.ip_address(flow.src), ipaddress.ip_address(flow.dst)
    return (
        source in ipaddress.ip_network(selector.src)
        and target in ipaddress.ip_network(selector.dst)
        and selector.proto in (0, flow.proto)
        and (not ports or selector.sport in (0, flow.sport))
        and (not ports or selector.dport in (0, flow.dport))
    )


@dataclass
class Policy:
    """A policy on the card; `what` is protect, bypass or block."""

    handle: int
    selector: TrafficSelector
    direction: int
    priority: int
    what: str
    reqid: int
    mode: int
    ends: tuple[str, str]


@dataclass
class Sa:
    """An SA that packets reach. `left` counts down to the hard limit, `soft` to the soft one."""

    handle: int
    spi: int
    src: str
    dst: str
    direction: int
    reqid: int
    mode: int
    left: float
    soft: float
    selector: TrafficSelector | None
    rule: int = 0
    seq: int = 0
    esp: Esp = field(init=False)

    def __post_init__(self) -> None:
        self.esp = Esp(self.spi, KEY + SALT)

    def count(self) -> None:
        self.left -= 1
        self.soft -= 1


# Few of everything, so that what one rule makes is met by the next. Ends are drawn as numbers: the
# family of an example is drawn first.
ends = st.sampled_from(((0, 1), (0, 1), (1, 0)))
flows = st.tuples(ends, st.sampled_from((UDP, TCP)), st.sampled_from((1000, 2000)))
where = st.sampled_from(("host", "network", "anywhere"))
covered = st.tuples(ends, where, where, st.sampled_from((0, 0, UDP)), st.sampled_from((0, 1000)))
Drawn = Any


class CardPackets(RuleBasedStateMachine):
    """One firmware with policies, SAs, and packets both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.card = Card(CARD)
        self.policies: list[Policy] = []
        self.sas: list[Sa] = []  # in the order in which packets began to reach them
        self.numbers = itertools.count(1)
        self.family = 4
        self.key = 0

    @initialize(family=st.sampled_from((4, 6)))
    def begin(self, family: int) -> None:
        self.family = family
        self.key = self.card.make(c.CreateKey(KEY))

    def flow(self, drawn: Drawn) -> Flow:
        (source, target), proto, sport = drawn
        hosts = HOSTS[self.family]
        return Flow(hosts[source], hosts[target], proto, sport, 2000)

    def selector(self, drawn: Drawn) -> TrafficSelector:
        both, near, far, proto, sport = drawn
        tail = "/32" if self.family == 4 else "/128"
        networks = [
            {"network": NETWORKS[self.family], "anywhere": ANYWHERE[self.family]}.get(
                how, HOSTS[self.family][end] + tail
            )
            for how, end in zip((near, far), both, strict=True)
        ]
        return TrafficSelector(*networks, proto, sport if proto else 0, 0)

    # --- what the card has ---

    @rule(
        selector=covered, direction=st.sampled_from((c.IN, c.OUT)), priority=st.integers(0, 3),
        what=st.sampled_from(("protect", "protect", "protect", "bypass", "block")),
        reqid=REQIDS, mode=MODES,
    )  # fmt: skip
    def add_policy(
        self, selector: Drawn, direction: int, priority: int, what: str, reqid: int, mode: int
    ) -> None:
        chosen, hosts = self.selector(selector), HOSTS[self.family]
        command = c.CreatePolicyRule(
            direction=direction, selector=of_command(chosen), priority=priority,
            action=c.BLOCK if what == "block" else c.ALLOW, protect=what == "protect",
            reqid=reqid, mode=mode, tmpl_family=FAMILIES[self.family],
            tmpl_saddr=packed(hosts[0]), tmpl_daddr=packed(hosts[1]),
        )  # fmt: skip
        if len(self.policies) + len(self.sas) < ROOM:
            handle = self.card.make(command)
            policy = Policy(handle, chosen, direction, priority, what, reqid, mode, hosts)
            self.policies.append(policy)

    @precondition(lambda self: self.policies)
    @rule(which=st.integers(0, ROOM), what=st.sampled_from(("bypass", "bypass", "block")))
    def except_a_port(self, which: int, what: str) -> None:
        """A policy for one port in front of another that covers it."""
        behind = self.policies[which % len(self.policies)]
        both = (0, 1) if behind.selector.src.startswith(HOSTS[self.family][0]) else (1, 0)
        self.add_policy(
            (both, "anywhere", "anywhere", UDP, 1000), behind.direction, behind.priority, what,
            behind.reqid, behind.mode,
        )  # fmt: skip

    @precondition(lambda self: self.policies)
    @rule(which=st.integers(0, ROOM))
    def remove_policy(self, which: int) -> None:
        policy = self.policies.pop(which % len(self.policies))
        self.card.make(c.DestroyRule(policy.handle))

    @rule(
        both=ends, direction=st.sampled_from((c.IN, c.OUT)), reqid=REQIDS, mode=MODES, hard=LIMITS,
        soft=LIMITS, bound=st.sampled_from((None, None, UDP, TCP)),
        wildcard=st.sampled_from((False, False, True)),
    )  # fmt: skip
    def add_sa(
        self, both: tuple[int, int], direction: int, reqid: int, mode: int, hard: int, soft: int,
        bound: int | None, wildcard: bool,
    ) -> None:  # fmt: skip
        if len(self.policies) + len(self.sas) >= ROOM:
            return
        source, target = (HOSTS[self.family][end] for end in both)
        if wildcard and mode == MODE_TRANSPORT and direction == c.OUT:
            source = ANYBODY[self.family]
        everything = ANYWHERE[self.family]
        selector = None if bound is None else TrafficSelector(everything, everything, bound)
        spi = 0x1000 + next(self.numbers)
        handle = self.card.make(
            self.card.sa(
                self.key, direction, FAMILIES[self.family], spi=spi, reqid=reqid, mode=mode,
                saddr=packed(source), daddr=packed(target), packets=hard, soft_packets=soft,
                selector=c.Selector() if selector is None else of_command(selector),
            )
        )  # fmt: skip
        sa = Sa(handle, spi, source, target, direction, reqid, mode, hard, soft, selector)
        sa.rule = self.card.make(c.CreateSaRule(handle))
        self.sas.append(sa)

    @rule(
        both=ends, direction=st.sampled_from((c.IN, c.OUT)), reqid=REQIDS, mode=MODES, hard=LIMITS,
        soft=LIMITS, priority=st.integers(0, 3),
    )  # fmt: skip
    def add_pair(
        self, both: tuple[int, int], direction: int, reqid: int, mode: int, hard: int, soft: int,
        priority: int,
    ) -> None:  # fmt: skip
        """A policy for the traffic of two hosts, and the SA that it asks for."""
        selector = (both, "host", "host", 0, 0)
        self.add_policy(selector, direction, priority, "protect", reqid, mode)
        self.add_sa((0, 1) if mode == MODE_TUNNEL else both, direction, reqid, mode, hard, soft,
                    None, False)  # fmt: skip

    @precondition(lambda self: self.sas)
    @rule(which=st.integers(0, ROOM))
    def remove_sa(self, which: int) -> None:
        sa = self.sas.pop(which % len(self.sas))
        self.card.make(c.DestroyRule(sa.rule))
        self.card.make(c.DestroySa(sa.handle))

    @precondition(lambda self: self.sas)
    @rule(which=st.integers(0, ROOM))
    def stop_sa(self, which: int) -> None:
        sa = self.sas[which % len(self.sas)]
        self.card.make(c.StopSa(sa.handle))
        sa.left = 0

    # --- packets out ---

    @rule(flow=flows, fragment=st.sampled_from((False, False, False, True)), n=st.integers(1, 4))
    def send(self, flow: Drawn, fragment: bool, n: int) -> None:
        for _ in range(n):
            self._send(self.flow(flow), fragment)

    def _send(self, flow: Flow, fragment: bool) -> None:
        packet = flow.packet(next(self.numbers))
        if fragment:
            packet = fragments(packet, 8)[0]
        expected = self._out(flow, fragment)
        before = self.card.counters
        messages = self.card.tx([frame(packet)])
        wire = [
            one for m in messages if m.kind is Kind.WIRE for one in unpack_frames(m.body, m.count)
        ]
        self.card.wire_done(len(wire))
        if isinstance(expected, str):
            assert self._dropped("tx", before) == [expected] and not wire
            return
        assert self._dropped("tx", before) == [] and len(wire) == 1
        sent = wire[0][ETHERNET:]
        if expected is None:
            assert sent == packet
            return
        expected.seq += 1
        expected.count()
        assert is_esp(sent)
        at = header_bytes(sent)
        assert int.from_bytes(sent[at : at + 4]) == expected.spi
        assert int.from_bytes(sent[at + 4 : at + 8]) == expected.seq
        assert expected.esp.open(sent, tunnel=expected.mode == MODE_TUNNEL) == packet

    def _out(self, flow: Flow, fragment: bool) -> Sa | str | None:
        """The SA that seals the packet, None for clear, or the reason why it is dropped."""
        policy = self._policy(c.OUT, flow, fragment)
        if policy is None or policy.what == "bypass":
            return None
        if fragment:
            return "fragment"
        return "policy_block" if policy.what == "block" else self._sealing(policy, flow)

    def _policy(self, direction: int, flow: Flow, fragment: bool) -> Policy | None:
        """The lowest priority number, then the newest. Of a fragment nobody knows the ports: what
        protects or blocks some port may mean it, what passes some port does not."""
        fit = [
            policy
            for policy in self.policies
            if policy.direction == direction
            and covers(policy.selector, flow, ports=not fragment)
            and not (
                fragment
                and policy.what == "bypass"
                and (policy.selector.sport or policy.selector.dport)
            )
        ]
        return min(reversed(fit), key=lambda policy: policy.priority, default=None)

    def _sealing(self, policy: Policy, flow: Flow) -> Sa | str:
        """TX-10, TX-12, TX-13: exact source before wildcard, alive before dying, newest first."""
        if policy.mode == MODE_TUNNEL:
            sources, target = (policy.ends[0],), policy.ends[1]
        else:
            sources, target = (flow.src, ANYBODY[self.family]), flow.dst
        for source in sources:
            fit = [
                sa
                for sa in reversed(self.sas)
                if (sa.direction, sa.reqid, sa.mode) == (c.OUT, policy.reqid, policy.mode)
                and (sa.src, sa.dst) == (source, target)
                and (sa.selector is None or covers(sa.selector, flow))
            ]
            usable = [sa for sa in fit if sa.left > 0]
            if usable:
                return min(usable, key=lambda sa: sa.soft <= 0)
            if fit:
                return "hard_limit"
        return "no_sa"

    # --- packets in ---

    @rule(flow=flows)
    def receive_clear(self, flow: Drawn) -> None:
        chosen = self.flow(flow)
        policy = self._policy(c.IN, chosen, False)
        refused = {"protect": "clear_text", "block": "policy_block", "bypass": ""}
        packet = chosen.packet(next(self.numbers))
        self._receive(packet, packet, refused[policy.what] if policy else "", 0)

    @precondition(lambda self: any(sa.direction == c.IN for sa in self.sas))
    @rule(
        which=st.integers(0, ROOM), flow=flows, n=st.integers(1, 4),
        broken=st.sampled_from((False, False, True)),
    )  # fmt: skip
    def receive_esp(self, which: int, flow: Drawn, n: int, broken: bool) -> None:
        inbound = [sa for sa in self.sas if sa.direction == c.IN]
        sa, inner = inbound[which % len(inbound)], self.flow(flow)
        if sa.mode == MODE_TRANSPORT:
            inner = inner._replace(src=sa.src, dst=sa.dst)
        for _ in range(n):
            self._receive_esp(sa, inner, broken)

    def _receive_esp(self, sa: Sa, flow: Flow, broken: bool) -> None:
        packet = flow.packet(next(self.numbers))
        outer = udp(b"", src=sa.src, dst=sa.dst) if sa.mode == MODE_TUNNEL else None
        sealed = sa.esp.seal(packet, sa.seq + 1, outer)
        if broken:
            sealed = sealed[:-1] + bytes((sealed[-1] ^ 0x80,))
        reason = self._in(sa, flow, broken)
        if not broken and reason != "hard_limit":
            sa.seq += 1
            sa.count()
        self._receive(sealed, packet, reason, sa.handle)

    def _in(self, sa: Sa, flow: Flow, broken: bool) -> str:
        """Why a packet of this SA is dropped, or nothing."""
        if sa.left <= 0:
            return "hard_limit"
        if broken:
            return "integrity"
        if sa.selector is not None and not covers(sa.selector, flow):
            return "selector"
        policy = self._policy(c.IN, flow, False)
        if policy is None or policy.what == "bypass":
            return ""
        if policy.what == "block":
            return "policy_block"
        fits = (policy.reqid, policy.mode) == (sa.reqid, sa.mode) and (
            policy.mode == MODE_TRANSPORT or policy.ends == (sa.src, sa.dst)
        )
        return "" if fits else "template"

    @rule(flow=flows, spi=st.integers(1, 0xFFF))
    def receive_esp_of_nobody(self, flow: Drawn, spi: int) -> None:
        """ESP of no SA goes to the host as it came."""
        sealed = Esp(spi, KEY + SALT).seal(self.flow(flow).packet(0), 1)
        self._receive(sealed, sealed, "", 0)

    def _receive(self, packet: bytes, inner: bytes, reason: str, handle: int) -> None:
        before = self.card.counters
        got = self.card.received(messages := self.card.rx([frame(packet)]))
        self.card.rx_done(sum(m.count for m in messages if m.kind is Kind.RX))
        assert self._dropped("rx", before) == [reason] * bool(reason)
        if reason:
            assert got == []
            return
        ((descriptor, delivered),) = got
        assert delivered[ETHERNET:] == inner
        assert int(descriptor["handle"]) == handle

    # --- what holds at every moment ---

    def _dropped(self, side: str, before: dict[str, int]) -> list[str]:
        """The reasons counted since `before`, one for each packet."""
        prefix = f"{side}_drop_"
        return [
            name.removeprefix(prefix)
            for name, value in self.card.counters.items()
            if name.startswith(prefix)
            for _ in range(value - before[name])
        ]

    @invariant()
    def nothing_is_lost(self) -> None:
        counters = self.card.counters
        drops = {
            side: sum(n for name, n in counters.items() if name.startswith(f"{side}_drop_"))
            for side in ("tx", "rx")
        }
        assert counters["tx_descriptors"] + counters["tx_segmented"] == (
            counters["tx_packets"] + drops["tx"]
        )
        assert counters["rx_packets"] == counters["rx_delivered"] + drops["rx"]


def packed(address: str) -> bytes:
    """16 bytes."""
    return ipaddress.ip_address(address).packed.ljust(16, b"\0")


def of_command(selector: TrafficSelector) -> c.Selector:
    """The selector of a command."""
    uapi = selector.uapi()
    return c.Selector(**{name: getattr(uapi, name) for name in c.Selector.__struct_fields__})
