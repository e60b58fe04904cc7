# SPDX-License-Identifier: Apache-2.0
"""What a seed means: card, kernel profile and a list of steps, drawn before anything runs.

Lives of a key manager and of two stacks: connections come up step by step in any order, carry
traffic, are rekeyed and taken down; attackers, flapping links, time and faults come in between.
"""

import random
from collections.abc import Callable, Sequence

import msgspec

from host_driver.faults.plan import PlannedFault
from host_driver.simulate import traffic
from host_driver.simulate.actions import (
    AddPolicy,
    AddSa,
    Advance,
    AllocSpi,
    AnyAction,
    Ask,
    Attack,
    DeletePolicy,
    DeleteSa,
    End,
    Ends,
    Flush,
    Link,
    LinkChange,
    Refused,
    Rekey,
    Send,
    Shape,
    Table,
    UpdateSa,
)
from host_driver.simulate.draw_faults import draw_faults
from host_driver.simulate.draw_lives import draw_lives
from host_driver.simulate.flows import DRAWN, TWINS
from host_driver.simulate.ledger import Limits, Verdict
from host_driver.simulate.plan import Plan
from host_driver.simulate.play_life import QUESTIONS
from host_driver.simulate.play_policy import REFUSED
from host_driver.simulate.play_traffic import KINDS as ATTACKS

PICKS = 1 << 16
SEQUENCES = (0, 0, 0, 0, 0, 0, (1 << 31) - 9, (1 << 32) - 12, (1 << 32) - 3, (3 << 32) - 7)
# Of UDP, 1418 and 1438 just fit 1500 bytes when they are sealed, in most of the flows (TX-32).
SIZES = (0, 1, 2, 3, 5, 11, 12, 13, 64, 64, 64, 255, 700, 1372, 1418, 1438, 1472, 1473, 2000, 9000)
ENDS: tuple[End, ...] = ("out", "in")
ENDS_OF_SAS: tuple[Ends, ...] = ("both", "both", "out", "in")
SHAPES: tuple[Shape, ...] = ("whole", "udp", "port", "one", "wide")
VERDICTS: tuple[Verdict, ...] = ("protect", "protect", "block", "bypass")
TABLES: tuple[Table, ...] = ("state", "policy")
BOUNCE: tuple[LinkChange, ...] = ("down", "up")
FEATURE: tuple[LinkChange, ...] = ("feature-off", "feature-on")
WINDOWS = (0, 1, 31, 32, 32, 33, 48, 64, 64, 128, 256, 1000)


def _limits(rng: random.Random) -> Limits:
    """Often none; small ones, so that they are met."""
    kind = rng.choice(("none",) * 5 + ("packets",) * 4 + ("hard", "soft", "bytes", "time", "use"))
    hard = rng.choice((1, 2, 3, 5, 8, 15, 16, 17, 20, 31, 32, 33, 40, 64, 100, 255, 256, 300))
    if kind == "packets":
        return Limits(soft_packets=rng.randint(1, max(1, hard - 1)), hard_packets=hard)
    if kind == "hard":
        return Limits(hard_packets=hard)
    if kind == "soft":
        return Limits(soft_packets=hard)
    if kind == "bytes":
        return Limits(soft_bytes=hard * 40, hard_bytes=hard * 90)
    if kind == "time":
        return Limits(soft_seconds=hard, hard_seconds=2 * hard)
    if kind == "use":
        return Limits(soft_use_seconds=hard, hard_use_seconds=2 * hard)
    return Limits()


class Drawer:
    """One plan's generator. `number` names SAs, `priority` policies: each is given once."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"{seed} plan")
        self._number = 0
        self._priority = 0
        self._flows = self.rng.sample(DRAWN, self.rng.choice((2, 3, 4, 8)))
        self._kinds: dict[Callable[[], Sequence[AnyAction]], int] = {
            self._send: 40, self._connect: 5, self._add_sa: 6, self._add_policy: 5, self._rekey: 5,
            self._delete_sa: 4, self._delete_policy: 3, self._update_sa: 2, self._attack: 12,
            self._advance: 8, self._link: 2, self._ask: 3, self._refused: 2, self._flush: 1,
            self._alloc_spi: 1,
        }  # fmt: skip
        self._connected: list[int] = []
        self._burst = self.rng.choice((1, 3, 8, 24))

    def card(self) -> str:
        """A small card, so that tables fill, counters wrap and events overrun."""
        rng = self.rng
        if rng.random() < 0.1:
            return "tiny" if rng.random() < 0.3 else "cx6dx:sa_max=24,key_max=24"
        sas = rng.choice((6, 12, 16, 24, 48))
        overrides = {
            "sa_max": sas,
            "key_max": sas + rng.choice((0, 0, 2, -1)),
            "rule_max": rng.choice((8, 24, 48, 96)),
            "counter_bits": rng.choice((4, 4, 5, 6, 8, 16, 32)),
            "event_queue": rng.choice((2, 4, 16, 1023)),
        }
        return "full:" + ",".join(f"{name}={value}" for name, value in overrides.items())

    def actions(self, steps: int) -> list[AnyAction]:
        """So many steps."""
        drawn: list[AnyAction] = []
        for _ in self._flows[: self.rng.randint(1, 3)]:
            drawn += self._connect()
        while len(drawn) < steps:
            (kind,) = self.rng.choices(list(self._kinds), list(self._kinds.values()))
            drawn += kind()
        return drawn[:steps]

    # --- steps ---

    def _flow(self) -> tuple[int, int]:
        return self.rng.choice(self._flows), self.rng.randrange(2)

    def _pick(self) -> int:
        return self.rng.randrange(PICKS)

    def _settle(self) -> bool:
        return self.rng.random() < 0.75

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _next_priority(self, rank: int) -> int:
        """Of the same rank the later wins; no two policies share a number (SPD-27)."""
        self._priority += 1
        return rank * 10_000 - self._priority

    def _connect(self) -> list[AnyAction]:
        """Policies and SAs of a flow, in any order (INV-07)."""
        flow = self.rng.choice(self._flows)
        self._connected.append(flow)
        parts: list[AnyAction] = [self._sa(flow, way, "both") for way in (0, 1)]
        parts += [
            self._policy(flow, way, end, "protect", "whole") for way in (0, 1) for end in ENDS
        ]
        self.rng.shuffle(parts)
        return parts

    def _sa(self, flow: int, way: int, ends: Ends) -> AddSa:
        rng = self.rng
        esn = rng.random() < 0.35
        start = rng.choice(SEQUENCES)
        return AddSa(
            flow=flow, way=way, number=self._next_number(), ends=ends, settle=self._settle(),
            respi=rng.random() < 0.1, pick=self._pick(),
            key_bits=rng.choice((128, 128, 256, 192)), icv_bytes=rng.choice((16, 16, 16, 12, 8)),
            esn=esn, window=rng.choice(WINDOWS[1:] if esn else WINDOWS),
            start=start if esn else start & 0xFFFF_FFFF, selector=rng.random() < 0.3,
            crypto=rng.random() < 0.5, limits=_limits(rng),
            limited=rng.choice(ENDS_OF_SAS),
        )  # fmt: skip

    def _add_sa(self) -> list[AnyAction]:
        flow, way = self._flow()
        return [self._sa(flow, way, self.rng.choice(ENDS_OF_SAS))]

    def _policy(self, flow: int, way: int, end: End, verdict: Verdict, shape: Shape) -> AddPolicy:
        rank = self.rng.randint(2, 4) if shape == "wide" else self.rng.randint(1, 3)
        return AddPolicy(
            flow=flow, way=way, end=end, verdict=verdict, shape=shape, settle=self._settle(),
            priority=self._next_priority(rank), update=self.rng.random() < 0.5,
        )  # fmt: skip

    def _add_policy(self) -> list[AnyAction]:
        flow, way = self._flow()
        verdict = self.rng.choice(VERDICTS)
        shapes = SHAPES if verdict != "protect" else SHAPES[:-1]
        return [self._policy(flow, way, self.rng.choice(ENDS), verdict, self.rng.choice(shapes))]

    def _rekey(self) -> list[AnyAction]:
        return [
            Rekey(
                pick=self._pick(), number=self._next_number(), packets=self.rng.randint(1, 4),
                limits=_limits(self.rng),
            )
        ]  # fmt: skip

    def _delete_sa(self) -> list[AnyAction]:
        both = self.rng.random() < 0.6
        return [DeleteSa(pick=self._pick(), both=both, settle=self._settle())]

    def _delete_policy(self) -> list[AnyAction]:
        return [DeletePolicy(pick=self._pick(), settle=self._settle())]

    def _update_sa(self) -> list[AnyAction]:
        return [UpdateSa(pick=self._pick(), limits=_limits(self.rng))]

    def _alloc_spi(self) -> list[AnyAction]:
        flow, way = self._flow()
        return [AllocSpi(flow=flow, way=way)]

    def _send(self) -> list[AnyAction]:
        flow, way = self._flow()
        if self.rng.random() < 0.7:
            flow = self.rng.choice(self._connected)
        odd = self.rng.random() < 0.3
        kinds = ("port", "port", "tcp", *traffic.KINDS)  # what policies and selectors tell apart
        drain = self.rng.random() < 0.1  # so many that limits of packets and bytes are met
        return [
            Send(
                flow=flow, way=way,
                count=self.rng.randint(20, 60) if drain else self.rng.randint(1, self._burst),
                size=self.rng.choice(SIZES), member=self.rng.randrange(3),
                kind=self.rng.choice(kinds) if odd else "udp",
                reply=self.rng.randint(0, 2), settle=self._settle(),
            )
        ]  # fmt: skip

    def _attack(self) -> list[AnyAction]:
        rng = self.rng
        number = rng.choice((rng.randrange(40), rng.randrange(1 << 14), 1 << 31, (1 << 32) - 40))
        return [
            Attack(
                kind=rng.choice(ATTACKS), host=rng.randrange(2), pick=self._pick(), number=number,
                flow=rng.choice(self._flows), count=rng.choice((1, 1, 2, 5)),
                settle=self._settle(),
            )
        ]  # fmt: skip

    def _advance(self) -> list[AnyAction]:
        ms = self.rng.choice((1, 10, 100, 500, 1000, 1000, 2500, 5000, 30_000))
        leap_s = self.rng.choice((0,) * 6 + (5, 40, 3600, 86_400))
        return [Advance(ms=ms, leap_s=leap_s)]

    def _link(self) -> list[AnyAction]:
        host = self.rng.randrange(2)
        kind = self.rng.choice(("bounce", "feature", "mtu", "mtu"))
        if kind == "mtu":
            return [Link(host=host, what="mtu", mtu=self.rng.choice((1500, 1500, 1400, 576, 9000)))]
        pair = BOUNCE if kind == "bounce" else FEATURE
        return [Link(host=host, what=what, settle=self._settle()) for what in pair]

    def _ask(self) -> list[AnyAction]:
        what = self.rng.choice(tuple(QUESTIONS))
        return [Ask(host=self.rng.randrange(2), what=what)]

    def _refused(self) -> list[AnyAction]:
        return [Refused(host=self.rng.randrange(2), which=self.rng.randrange(len(REFUSED)))]

    def _flush(self) -> list[AnyAction]:
        return [Flush(host=self.rng.randrange(2), what=self.rng.choice(TABLES))]


def _of_the_twin(action: AnyAction) -> AnyAction:
    """The same step of the flow that stands for this one."""
    twin = TWINS.get(getattr(action, "flow", -1))
    return action if twin is None else msgspec.structs.replace(action, flow=twin)


def draw(
    seed: int, steps: int, target: str = "sim", follow: Sequence[PlannedFault] | None = None
) -> Plan:
    """The plan of a seed: the same on every machine, at every time.

    With faults to `follow`, none are drawn, and nobody dies. Real processes die in `chaos`.
    """
    drawer = Drawer(seed)
    card = drawer.card()
    profile = drawer.rng.choice(("latest", "latest", "latest", "v6.2"))
    link = drawer.rng.choice(("ipc", "ipc", "ipc", "tcp"))
    actions = drawer.actions(steps)
    if random.Random(f"{seed} twins").random() < 0.5:
        actions = [_of_the_twin(action) for action in actions]
    if follow is None:
        actions = draw_faults(random.Random(f"{seed} faults"), actions)
    if follow is None and target == "sim":
        actions = draw_lives(random.Random(f"{seed} lives"), actions)
    return Plan(
        seed=seed, card=card, profile=profile, link=link, target=target, actions=tuple(actions),
        follow=tuple(follow or ()),
    ).numbered()  # fmt: skip
