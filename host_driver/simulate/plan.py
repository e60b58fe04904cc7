# SPDX-License-Identifier: Apache-2.0
"""A plan: the lab's settings and every step, as one JSON document that replays a run."""

import errno
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec

from host_driver.faults.plan import PlannedFault
from host_driver.simulate.actions import AnyAction, Arm, Heal, Live, Picking
from proto.status import OffloadError

PLAN_MAX_BYTES = 16 << 20


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a run depends on, beside the program itself."""

    seed: int
    card: str
    profile: str = "latest"
    link: str = "ipc"
    target: str = "sim"
    actions: tuple[AnyAction, ...] = ()
    follow: tuple[PlannedFault, ...] = ()  # faults with times of their own

    @property
    def faults(self) -> list[Arm]:
        """The faults that are armed, in order."""
        return [action for action in self.actions if isinstance(action, Arm)]

    def numbered(self) -> "Plan":
        """The same, where each step has an id of its own."""
        if len({action.id for action in self.actions}) == len(self.actions):
            return self
        numbered = (
            msgspec.structs.replace(action, id=number) for number, action in enumerate(self.actions)
        )
        return msgspec.structs.replace(self, actions=tuple(numbered))

    def pinned(self, pins: Mapping[int, str]) -> "Plan":
        """The same, where each step means what it meant in the run that gave these pins."""
        fixed = (
            msgspec.structs.replace(action, pinned=pins[action.id])
            if isinstance(action, Picking) and action.id in pins
            else action
            for action in self.actions
        )
        return msgspec.structs.replace(self, actions=tuple(fixed))

    def lines(self) -> list[str]:
        """What was drawn, for people: settings, how often what, and when who fails or dies."""
        counts = Counter(type(action).__name__ for action in self.actions)
        healed = {a.fault: n for n, a in enumerate(self.actions) if isinstance(a, Heal)}
        lines = [
            f"seed {self.seed}: card {self.card}, profile {self.profile}, link {self.link}, "
            f"{len(self.actions)} steps",
            "  " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())),
        ]
        for number, action in enumerate(self.actions):
            if isinstance(action, Arm):
                until = healed.get(action.fault)
                lines.append(
                    f"  fault {action.fault} from step {number} "
                    + (f"to {until}" if until is not None else "to the end")
                    + f": {action.fields}"
                    + ("" if action.host is None else f" host {action.host}")
                )
            elif isinstance(action, Live):
                lines.append(f"  {action.party}{action.host} {action.what} in step {number}")
        return lines + [f"  planned {msgspec.to_builtins(one)}" for one in self.follow]


def read_plan(path: Path) -> Plan:
    """The plan in a file. Raises OffloadError(EINVAL)."""
    try:
        with path.open("rb") as file:
            data = file.read(PLAN_MAX_BYTES + 1)
    except OSError as error:
        raise OffloadError(errno.EINVAL, f"{path}: {error.strerror}") from None
    return decode_plan(data, str(path))


def encode_plan(plan: Plan) -> bytes:
    """The plan as JSON, one step per line."""
    return msgspec.json.format(msgspec.json.encode(plan), indent=1)


def decode_plan(data: bytes, name: str) -> Plan:
    """Read a plan. Raises OffloadError(EINVAL) that says where `name` is wrong."""
    if len(data) > PLAN_MAX_BYTES:
        raise OffloadError(
            errno.EINVAL, f"{name} has {len(data)} bytes, a plan has at most {PLAN_MAX_BYTES}"
        )
    try:
        return msgspec.json.decode(data, type=Plan)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise OffloadError(errno.EINVAL, f"{name} is no plan: {error}") from None
