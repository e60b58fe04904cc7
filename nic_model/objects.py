# SPDX-License-Identifier: Apache-2.0
"""The card's objects: keys, SAs with their ASO blocks, SA rules and policy rules, and their census.

A handle is the row of the object with the low byte of its generation above it; a row that is used
again has another generation, so a stale handle finds nothing. Handles of different kinds live in
different spaces, as on real cards. References are strict:

    key <- SA <- SA rule        the left one is busy as long as the right one lives
    policy rule                 depends on nothing

Keys exist only as schedules in the tables, written here and zeroed here.
"""

from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from nic_model import steering, tables
from nic_model.checks import Refused
from nic_model.esp import expand_key
from nic_model.tables import ROW_MASK
from proto.caps import Caps
from proto.commands import (
    IN,
    OUT,
    AdvanceEsn,
    CreatePolicyRule,
    CreateSa,
    SaState,
    SetLimits,
)  # fmt: skip
from proto.status import Status, Syndrome

GENERATION_MASK = (1 << 32) - 1

T = TypeVar("T")


class Handle(NamedTuple):
    """What the driver learns about a new object."""

    handle: int
    generation: int


@dataclass(slots=True)
class Key:
    """`users` counts the SAs that use the key."""

    users: int = 0


@dataclass(slots=True)
class Sa:
    """`rule` is the row of the rule that steers packets here, 0 = none yet."""

    key: int
    spi: int
    rule: int = 0


class Rule(NamedTuple):
    """One of the two is a row, the other 0."""

    sa: int
    policy: int


class Rows(Generic[T]):
    """The rows 1..size of one kind of object. Row 0 stays unused, so that 0 means none."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self.live: dict[int, T] = {}
        self._generations = np.zeros(size + 1, np.uint32)
        self._free: list[int] = []
        self._fresh = 1  # the first row that was never used

    def require_space(self) -> None:
        """Raises Refused(NO_RESOURCES) when every row is taken."""
        if len(self.live) >= self.size:
            raise self.full()

    def full(self) -> Refused:
        """The refusal of one row too many."""
        return Refused(
            Status.NO_RESOURCES,
            Syndrome.TABLE_FULL,
            f"{self.name} table is full at {self.size}, delete one or use a larger card",
        )

    def add(self, value: T) -> int:
        """Take a row and give it the next generation. Raises Refused(NO_RESOURCES)."""
        self.require_space()
        if self._free:
            row = self._free.pop()
        else:
            row, self._fresh = self._fresh, self._fresh + 1
        self._generations[row] = (self.generation(row) + 1) & GENERATION_MASK or 1
        self.live[row] = value
        return row

    def remove(self, row: int) -> None:
        """Give a row back."""
        del self.live[row]
        self._free.append(row)

    def generation(self, row: int) -> int:
        """The generation of a row, 0 if it was never used."""
        return int(self._generations[row])

    def handle(self, row: int) -> Handle:
        """Handle and generation of a live row."""
        generation = self.generation(row)
        return Handle(tables.handle_of(row, generation), generation)

    def find(self, handle: int) -> int:
        """The row of a handle. Raises Refused(BAD_OBJECT) for a stale or unknown one."""
        row = handle & ROW_MASK
        if row not in self.live or self.handle(row).handle != handle:
            raise Refused(
                Status.BAD_OBJECT,
                Syndrome.HANDLE_UNKNOWN,
                f"{self.name} handle {handle:#x} names no live object",
            )
        return row


def _busy(text: str) -> Refused:
    return Refused(Status.OBJECT_BUSY, Syndrome.HANDLE_IN_USE, text)


class Objects:
    """All objects of one card and the tables that the kernels read."""

    def __init__(self, caps: Caps) -> None:
        self.caps = caps
        self.tables = tables.make_tables(caps)
        self.steering = steering.Steering(self.tables)
        self.keys: Rows[Key] = Rows("key", caps.key_max)
        self.sas: Rows[Sa] = Rows("SA", caps.sa_max)
        self.rules: Rows[Rule] = Rows("rule", caps.rule_max)

    def census(self) -> dict[str, int]:
        """Live objects by kind."""
        rules_sa = sum(1 for rule in self.rules.live.values() if rule.sa)
        return {
            "keys": len(self.keys.live),
            "sas": len(self.sas.live),
            "rules_sa": rules_sa,
            "rules_policy": len(self.rules.live) - rules_sa,
        }

    def create_key(self, key: bytes | memoryview) -> Handle:
        """Expand the key into its row; the key itself is not kept."""
        row = self.keys.add(Key())
        expand_key(key, self.tables.keys[row])
        return self.keys.handle(row)

    def destroy_key(self, handle: int) -> None:
        """Zero the key row. Refused while an SA uses the key."""
        row = self.keys.find(handle)
        if users := self.keys.live[row].users:
            raise _busy(f"key handle {handle:#x} is used by {users} SA, destroy that first")
        self._drop_key(row)

    def require_sa(self, key: int) -> None:
        """Raises Refused if `create_sa` with this key handle would."""
        self.keys.find(key)
        self.sas.require_space()

    def create_sa(self, command: CreateSa, iv_mask: int) -> Handle:
        """An SA that no rule points to yet. `iv_mask` is its 64-bit random mask of IVs."""
        key_row = self.keys.find(command.key)
        row = self.sas.add(Sa(key_row, command.spi))
        handle = self.sas.handle(row)
        tables.write_sa(self.tables, row, command, key_row, handle.generation, iv_mask, self.caps)
        self.keys.live[key_row].users += 1
        return handle

    def destroy_sa(self, handle: int) -> None:
        """Zero the ASO block. Refused while a rule points to the SA."""
        row = self.sas.find(handle)
        if self.sas.live[row].rule:
            raise _busy(f"SA handle {handle:#x} is used by a rule, destroy that first")
        self._drop_sa(row)

    def set_limits(self, command: SetLimits) -> None:
        """Give the SA other limits; what it has counted stays."""
        tables.set_limits(self.tables, self._counting(command.handle), command)

    def advance_esn(self, command: AdvanceEsn) -> None:
        """Tell an SA how far the host's replay window has come. Refused where it has its own."""
        row = self.sas.find(command.handle)
        sa = self.tables.sa[row]
        if not (sa["crypto"] and sa["esn"] and sa["direction"] == IN):
            raise Refused(
                Status.BAD_PARAMETER,
                Syndrome.ESN_UNSUPPORTED,
                f"SA handle {command.handle:#x} is no inbound crypto SA with ESN, "
                "the card counts by itself",
            )
        tables.advance_seq(self.tables, row, command.seq)

    def stop_sa(self, handle: int) -> None:
        """Let the SA drop everything from now on."""
        tables.stop_sa(self.tables, self._counting(handle))

    def query_sa(self, handle: int) -> SaState:
        """The ASO block as it stands."""
        return tables.read_sa(self.tables, self.sas.find(handle))

    def create_sa_rule(self, handle: int) -> Handle:
        """Steer packets to the SA. Refused with EXISTS for a second (daddr, SPI, protocol) in."""
        row = self.sas.find(handle)
        sa = self.sas.live[row]
        if sa.rule:
            raise self._exists(f"SA handle {handle:#x} has a rule already")
        if self.tables.sa[row]["crypto"] and self.tables.sa[row]["direction"] == OUT:
            raise Refused(
                Status.BAD_PARAMETER,
                Syndrome.DIRECTION,
                f"SA handle {handle:#x} is an outbound crypto SA, descriptors name it and no rule",
            )
        self.rules.require_space()
        try:
            self.steering.add_sa(row)
        except steering.Exists:
            raise self._exists(
                f"a rule for the destination, SPI {sa.spi:#x} and protocol of "
                f"SA handle {handle:#x} exists"
            ) from None
        sa.rule = self.rules.add(Rule(sa=row, policy=0))
        return self.rules.handle(sa.rule)

    def create_policy_rule(self, command: CreatePolicyRule) -> Handle:
        """One entry of the policy table."""
        self.rules.require_space()
        policy = self.steering.add_policy(command)
        return self.rules.handle(self.rules.add(Rule(sa=0, policy=policy)))

    def destroy_rule(self, handle: int) -> None:
        """Take an SA rule or a policy rule out of the data path."""
        self._drop_rule(self.rules.find(handle))

    def teardown(self) -> None:
        """Destroy everything, users before what they use. Generations go on."""
        for row in list(self.rules.live):
            self._drop_rule(row)
        for row in list(self.sas.live):
            self._drop_sa(row)
        for row in list(self.keys.live):
            self._drop_key(row)

    def _counting(self, handle: int) -> int:
        """The row of an SA whose limits are the card's."""
        row = self.sas.find(handle)
        if self.tables.sa[row]["crypto"]:
            raise Refused(
                Status.BAD_PARAMETER,
                Syndrome.LIMIT,
                f"SA handle {handle:#x} is a crypto SA, its limits are the host's",
            )
        return row

    @staticmethod
    def _exists(text: str) -> Refused:
        return Refused(Status.EXISTS, Syndrome.SA_EXISTS, text)

    def _drop_rule(self, row: int) -> None:
        rule = self.rules.live[row]
        if rule.sa:
            self.steering.remove_sa(rule.sa)
            self.sas.live[rule.sa].rule = 0
        else:
            self.steering.remove_policy(rule.policy)
        self.rules.remove(row)

    def _drop_sa(self, row: int) -> None:
        tables.clear_sa(self.tables, row)
        self.keys.live[self.sas.live[row].key].users -= 1
        self.sas.remove(row)

    def _drop_key(self, row: int) -> None:
        tables.wipe_key(self.tables, row)
        self.keys.remove(row)
