# SPDX-License-Identifier: Apache-2.0
"""What can be done in one step: frozen records, drawn before the run begins.

A step that means an object of the run has a `pick`: a number, taken modulo how many there are when
its turn comes. Once a run has shown what that was, it can be `pinned`: then the step means the same
object in a list from which others were taken away.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from host_driver.simulate.ledger import Limits, Verdict

# What a file may say: plans are written by hand, too.
Host = Annotated[int, Meta(ge=0, le=1)]  # or a way: from which host
Flow = Annotated[int, Meta(ge=0, le=8)]  # flows.FLOWS
Few = Annotated[int, Meta(ge=0, le=100_000)]
Number = Annotated[int, Meta(ge=0, lt=1 << 32)]

Ends = Literal["both", "out", "in"]
End = Literal["out", "in"]
Shape = Literal["whole", "udp", "port", "one", "wide"]
Party = Literal["card", "host"]
Table = Literal["state", "policy"]
LinkChange = Literal["down", "up", "feature-off", "feature-on", "mtu"]
Incident = Literal[
    "kill", "stop", "resume", "restart", "reset-function", "reset-firmware", "reload"
]  # fmt: skip


class Action(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """Base of all; the tag is the class name. `id` is the step's own in its plan.

    `settle` False: the next step begins while this one's packets are still on their way.
    """

    id: int = 0
    settle: bool = True

    def words(self) -> str:
        """The step as a log shows it."""
        fields = msgspec.structs.asdict(self)
        told = (
            f"{name}={value}"
            for (name, value), field in zip(
                fields.items(), msgspec.structs.fields(self), strict=True
            )
            if value != field.default and name not in ("id", "pick")
        )
        return " ".join((type(self).__name__, *told))


class Picking(Action, frozen=True, kw_only=True, tag=True):
    """A step about one of several objects. `pinned` names it; "" is none, None is `pick`."""

    pick: int = 0
    pinned: str | None = None


class AddSa(Picking, frozen=True, kw_only=True, tag=True):
    """One way of a flow gets an SA at one end or both. `number` makes key and SPI its own.

    `respi`: the SPI of an SA before it instead, if there is one. `limits` hold at `limited` ends.
    `start`: the sequence number before the first.
    """

    flow: Flow
    way: Host
    number: Number
    ends: Ends = "both"
    respi: bool = False
    key_bits: Literal[128, 192, 256] = 128
    icv_bytes: Literal[8, 12, 16] = 16
    esn: bool = False
    window: Few = 64
    start: Annotated[int, Meta(ge=0)] = 0
    selector: bool = False
    crypto: bool = False
    limits: Limits = Limits()
    limited: Ends = "both"


class UpdateSa(Picking, frozen=True, kw_only=True, tag=True):
    """An SA gets other limits, by UPDSA."""

    limits: Limits


class DeleteSa(Picking, frozen=True, kw_only=True, tag=True):
    """An SA goes, or with `both` the one at the other end, too."""

    both: bool = False


class Rekey(Picking, frozen=True, kw_only=True, tag=True):
    """Make before break: new SAs at both ends, packets before and after, old ones deleted."""

    number: Number
    packets: Few = 2
    limits: Limits = Limits()


class AllocSpi(Action, frozen=True, kw_only=True, tag=True):
    """A larval SA with an SPI that the core draws."""

    flow: Flow
    way: Host


class AddPolicy(Action, frozen=True, kw_only=True, tag=True):
    """A policy at the sender (`end` out) or the receiver of one way; `update` replaces."""

    flow: Flow
    way: Host
    end: End
    priority: Number
    verdict: Verdict = "protect"
    shape: Shape = "whole"
    update: bool = False
    software: bool = False


class DeletePolicy(Picking, frozen=True, kw_only=True, tag=True):
    """A policy goes."""


class Flush(Action, frozen=True, kw_only=True, tag=True):
    """All SAs or all policies of a host go."""

    host: Host
    what: Table


class Refused(Action, frozen=True, kw_only=True, tag=True):
    """A request that core, driver or card must refuse; `which` is one of `play_policy.REFUSED`."""

    host: Host
    which: Number


class Send(Action, frozen=True, kw_only=True, tag=True):
    """A host's stack sends packets of a flow; `kind` is one of `traffic.KINDS`."""

    flow: Flow
    way: Host
    count: Few = 1
    size: Few = 64
    member: Few = 0
    kind: str = "udp"
    reply: Few = 0  # so many packets come back in the same step


class Attack(Picking, frozen=True, kw_only=True, tag=True):
    """A frame from nobody. `kind` is one of `play_attack.KINDS`; it is about a frame that was
    seen, or an SA; `number` is a bit, an offset or a sequence number, as the kind wants it."""

    kind: str
    host: Host
    number: Number
    flow: Flow = 0
    count: Few = 1


class Link(Action, frozen=True, kw_only=True, tag=True):
    """`ip link set` or `ethtool -K`: down, up, feature-off, feature-on, or an MTU."""

    host: Host
    what: LinkChange
    mtu: Few = 0


class Live(Action, frozen=True, kw_only=True, tag=True):
    """A card or host dies, hangs or comes back."""

    host: Host
    party: Party
    what: Incident


class Advance(Action, frozen=True, kw_only=True, tag=True):
    """Time passes; `leap_s` only for the cores' timers, so that days cost nothing."""

    ms: Number
    leap_s: Number = 0


class Ask(Action, frozen=True, kw_only=True, tag=True):
    """A question that must change nothing; `what` is one of `play_life.QUESTIONS`."""

    host: Host
    what: str


class Arm(Action, frozen=True, kw_only=True, tag=True):
    """A fault is armed; `fields` are those of proto.faults.FaultSpec."""

    fault: str
    host: Host | None = None
    fields: dict[str, Any] = {}


class Heal(Action, frozen=True, kw_only=True, tag=True):
    """A fault is disarmed."""

    fault: str


AnyAction = (
    AddSa | UpdateSa | DeleteSa | Rekey | AllocSpi | AddPolicy | DeletePolicy | Flush | Refused
    | Send | Attack | Link | Live | Advance | Ask | Arm | Heal
)  # fmt: skip
