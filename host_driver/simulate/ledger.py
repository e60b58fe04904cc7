# SPDX-License-Identifier: Apache-2.0
"""The ledger: what users asked and what the outside saw, step by step, and nothing else.

The runner writes, the judge reads. A step is one action, then what came of it (`Step`). SAs and
policies are kept for the whole run, for what was once protected stays judged. Times are ns of the
lab's clock; `step` numbers begin at 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import msgspec

from host_driver.lab.record import Frame
from host_driver.xfrm.profile import LATEST, profile_by_name
from proto.caps import parse_card
from proto.limits import MTU_DEFAULT

Direction = Literal["in", "out", "fwd"]
Mode = Literal["transport", "tunnel"]
Offload = Literal["packet", "crypto", "none"]
Verdict = Literal["protect", "block", "bypass"]
Phase = Literal["run", "healed", "end"]

# Why a frame was put on the wire by nobody's card.
# An insider has the key: its frames are sealed as the peer would seal them.
Origin = Literal["replay", "bitflip", "clear", "forged", "stray", "insider"]


class Violation(msgspec.Struct, frozen=True):
    """An invariant that did not hold: its number (1..54), the step that showed it, and what."""

    invariant: int
    step: int
    text: str


@dataclass(frozen=True)
class Selector:
    """What a policy or SA is about. Addresses are prefixes as text; port and proto 0 are any."""

    src: str
    dst: str
    proto: int = 0
    sport: int = 0
    dport: int = 0


@dataclass(frozen=True)
class Limits:
    """Limits of an SA, None where there is none; packets, bytes, seconds since the SA was added and
    since it was used first."""

    soft_packets: int | None = None
    hard_packets: int | None = None
    soft_bytes: int | None = None
    hard_bytes: int | None = None
    soft_seconds: int | None = None
    hard_seconds: int | None = None
    soft_use_seconds: int | None = None
    hard_use_seconds: int | None = None


@dataclass
class SaAsked:
    """One SA of one host, from the request on. `key` is AES key and salt; no two SAs share one.

    `errno` is what the request answered (0: it is there), `removed_*` when the user asked to take
    it back, or flushed; an SA that expired was not removed by anybody. `number` is the SA's place
    in `Ledger.sas`; `pair` is the same for both ends of one key. `sequence` is the sequence number
    that the SA began at (the first packet has the next), the high half included.
    """

    number: int
    pair: int
    host: int
    direction: Direction
    src: str
    dst: str
    spi: int
    reqid: int
    mode: Mode
    offload: Offload
    key: bytes = field(repr=False)
    inner_family: int = 4  # of the packets inside, 4 or 6
    icv_bytes: int = 16
    esn: bool = False
    window: int = 0
    sequence: int = 0
    encap: tuple[int, int] | None = None  # UDP source and destination port (RFC 3948)
    selector: Selector | None = None
    limits: Limits = Limits()
    asked_ns: int = 0
    asked_step: int = 0
    answered_ns: int = 0
    errno: int = 0
    text: str = ""
    removed_ns: int | None = None
    removed_step: int | None = None
    remove_errno: int | None = None  # of a delete; None of a flush, and while not removed
    updates: list[tuple[int, Limits, int]] = field(default_factory=list)  # step, limits, errno
    expired_step: int | None = None  # when the user was told that it expired hard

    @property
    def id(self) -> tuple[str, int]:
        """What the wire shows of it: destination and SPI."""
        return self.dst, self.spi


@dataclass
class PolicyAsked:
    """One policy of one host, from the request on. `protect` has a template, others have none.

    `mode`, `tunnel` (outer source and destination) and `reqid` are those of the template.
    """

    number: int
    host: int
    direction: Direction
    selector: Selector
    verdict: Verdict
    priority: int
    offload: bool
    mode: Mode = "transport"
    tunnel: tuple[str, str] | None = None
    reqid: int = 0
    asked_ns: int = 0
    asked_step: int = 0
    answered_ns: int = 0
    errno: int = 0
    text: str = ""
    removed_ns: int | None = None
    removed_step: int | None = None
    remove_errno: int | None = None


class Submitted(NamedTuple):
    """A packet that a stack sent; `errno` is what it was told at once, 0 = accepted."""

    step: int
    host: int
    packet: bytes
    errno: int
    time_ns: int


class Injected(NamedTuple):
    """A frame that an attacker put on the wire towards a host, at a time."""

    step: int
    host: int
    frame: bytes
    origin: Origin
    time_ns: int


class Delivered(NamedTuple):
    """An IP packet that a host's stack received."""

    step: int
    host: int
    packet: bytes
    time_ns: int


class Notice(NamedTuple):
    """A multicast message of a host's core, as the netlink socket gives it."""

    step: int
    host: int
    message: bytes
    time_ns: int


class Life(NamedTuple):
    """Something that was done to a party on purpose, or by a fault. `party`: card, host or link.

    `what`: kill, stop, resume, restart, reset-function, reset-firmware, reload, down, up,
    feature-off, feature-on, mtu; hang, of a card that does not answer, by a fault. A host that
    died, and a link that went down, took SAs and policies with them: the ledger has those as
    removed then.
    """

    step: int
    host: int
    party: Literal["card", "host", "link"]
    what: str
    errno: int
    time_ns: int


class Armed(NamedTuple):
    """A fault that was armed: its fields as given, and when it was healed (None: still armed)."""

    step: int
    name: str
    host: int | None
    spec: dict[str, Any]
    healed_step: int | None


class Expected(NamedTuple):
    """A packet that must arrive at a host before its step ends, and why."""

    step: int
    host: int
    packet: bytes
    why: str


class Audited(NamedTuple):
    """Two audits of a host's driver, one right behind the other: what each reported."""

    host: int
    first: dict[str, int]
    second: dict[str, int]


@dataclass(frozen=True)
class Snapshot:
    """What the queries of one host answered after a step that settled; None where nobody did.

    `sas` and `policies` are now and then those of a dump: xfrm_usersa_info and xfrm_userpolicy_info
    of each, without attributes, so without keys. `card` is the state that its card says it is in.
    """

    host: int
    counters: dict[str, int] | None
    census: dict[str, int] | None
    mib: dict[str, int] | None
    sas: list[bytes] | None = None
    policies: list[bytes] | None = None
    snmp: dict[str, int] | None = None
    card: str | None = None


@dataclass
class Step:
    """One step and all that came of it. `id` is the action's in its plan, -1 for what comes after
    the plan; `action` as text, `errno` and `text` as it answered.

    `settled`: nothing moved any more when the snapshots were taken; else there are none, and
    `restless` says what still moved. `trace` are the xdo_* calls of each host since the step before
    (those that still sleep come later), `firings` the faults that fired since then. `unanswered`:
    questions that a living host did not answer within their bound. `expected` are packets of the
    healed phase.
    """

    number: int
    phase: Phase
    action: str
    began_ns: int
    id: int = -1
    ended_ns: int = 0
    errno: int = 0
    text: str = ""
    settled: bool = False
    restless: str = ""
    unanswered: list[str] = field(default_factory=list)
    expected: list[Expected] = field(default_factory=list)
    submitted: list[Submitted] = field(default_factory=list)
    injected: list[Injected] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    delivered: list[Delivered] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    firings: list[dict[str, Any]] = field(default_factory=list)
    trace: list[list[dict[str, Any]]] = field(default_factory=list)
    audits: list[Audited] = field(default_factory=list)
    wire: dict[str, int] = field(default_factory=dict)
    snapshots: list[Snapshot] = field(default_factory=list)

    @property
    def deaths(self) -> list[Life]:
        """What was done to cards and hosts: who died, hung, was reset or came back."""
        return [life for life in self.lives if life.party != "link"]

    def let_go(self) -> None:
        """Of what takes room and is judged; what was done to whom stays."""
        self.submitted, self.injected, self.frames, self.delivered = [], [], [], []
        self.notices, self.trace, self.snapshots = [], [], []


class Ledger:
    """The book of one run: SAs, policies and faults ever asked for, and every step.

    `lived`: the lab has lived before, so cards may have booted since their hosts began to count.
    """

    def __init__(
        self, hosts: int, card: str, seed: int, profile: str = LATEST.name, *, lived: bool = False
    ) -> None:
        self.hosts = hosts
        self.lived = lived
        self.card = card
        self.caps = parse_card(card)
        self.seed = seed
        self.profile = profile_by_name(profile)
        self.sas: list[SaAsked] = []
        self.policies: list[PolicyAsked] = []
        self.armed: list[Armed] = []
        self.steps: list[Step] = []
        self.macs: list[bytes] = []  # of their devices, where that is known
        self.mtus = [MTU_DEFAULT] * hosts  # of their devices, as users asked for
        self.larvals = [0] * hosts  # SAs without keys that cores ever made: acquired, or for an SPI
        self._firings: dict[str, dict[str, Any]] = {}

    def condense(self, step: Step) -> None:
        """Of a judged step's firings the first of its kind stands for all, as often as there were
        some: a fault may fire at every command."""
        shared = self._firings
        step.firings = [
            shared.setdefault(f"{one['party']} {one['name']} {one['site']} {one['kind']}", one)
            for one in step.firings
        ]

    @property
    def faulty(self) -> bool:
        """Whether any fault was ever armed, or anything killed, stopped or reset."""
        return bool(self.armed) or self.deadly

    @property
    def deadly(self) -> bool:
        """Whether anybody ever died, hung or was reset."""
        return any(step.deaths for step in self.steps)

    def live_sas(self, host: int | None = None) -> list[SaAsked]:
        """SAs that were accepted, that nobody asked to take back, and that did not expire."""
        return [sa for sa in self.sas if _live(sa) and host in (None, sa.host)]

    def on_card(self, sa: SaAsked) -> bool:
        """Whether an SA's card has it; crypto offload that a card lacks is done in software
        (STATE-24)."""
        return sa.offload == "packet" or (sa.offload == "crypto" and self.caps.crypto)

    def live_policies(self, host: int | None = None) -> list[PolicyAsked]:
        """Policies that were accepted and that nobody asked to take back."""
        return [policy for policy in self.policies if _live(policy) and host in (None, policy.host)]

    def frames(self) -> Iterator[tuple[Step, Frame]]:
        """Every frame that the wire saw, with its step, in order."""
        for step in self.steps:
            for frame in step.frames:
                yield step, frame


def _live(asked: SaAsked | PolicyAsked) -> bool:
    expired = isinstance(asked, SaAsked) and asked.expired_step is not None
    return not (asked.errno or expired) and asked.answered_ns > 0 and asked.removed_ns is None
