# SPDX-License-Identifier: Apache-2.0
"""The card's objects: keys, SAs with their ASO blocks, SA rules and policy rules, and their census.

`handles` says how they are named. References are strict:

    key <- SA <- SA rule        the left one is busy as long as the right one lives
    policy rule                 depends on nothing

Keys exist only as schedules in the tables, written here and zeroed here.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from nic_model import steering, tables
from nic_model.checks import Refused
from nic_model.esp import expand_key
from nic_model.handles import Handle, Rows
from proto.caps import Caps
from proto.commands import (
    IN,
    OUT,
    AdvanceEsn,
    CreatePolicyRule,
    CreateSa,
    ListObjects,
    ObjectInfo,
    ObjectKind,
    SaState,
    SetLimits,
)  # fmt: skip
from proto.status import Status, Syndrome


@dataclass(slots=True)
class Key:
    """`users` counts the SAs that use the key."""

    cookie: int
    users: int = 0


@dataclass(slots=True)
class Sa:
    """`rule` is the row of the rule that steers packets here, 0 = none yet."""

    key: int
    spi: int
    cookie: int
    rule: int = 0


class Rule(NamedTuple):
    """One of the first two is a row, the other 0."""

    sa: int
    policy: int
    cookie: int


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

    def list(self, command: ListObjects) -> tuple[tuple[ObjectInfo, ...], int]:
        """One page of live objects, and the row after which the next begins."""
        spaces: dict[int, Rows[Any]] = {
            ObjectKind.KEY: self.keys, ObjectKind.SA: self.sas, ObjectKind.RULE: self.rules,
        }  # fmt: skip
        rows = spaces[command.kind]
        found, following = rows.page(command.after, command.cookie)
        return tuple(self._info(rows.live[row], rows.handle(row)) for row in found), following

    def _info(self, one: Key | Sa | Rule, name: Handle) -> ObjectInfo:
        uses = spi = 0
        if isinstance(one, Sa):
            uses, spi = self.keys.handle(one.key).handle, one.spi
        elif isinstance(one, Rule) and one.sa:
            uses, spi = self.sas.handle(one.sa).handle, self.sas.live[one.sa].spi
        return ObjectInfo(name.handle, name.generation, one.cookie, uses, spi)

    def create_key(self, key: bytes | memoryview, cookie: int = 0) -> Handle:
        """Expand the key into its row; the key itself is not kept."""
        row = self.keys.add(Key(cookie))
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
        row = self.sas.add(Sa(key_row, command.spi, command.cookie))
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

    def create_sa_rule(self, handle: int, cookie: int = 0) -> Handle:
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
        sa.rule = self.rules.add(Rule(sa=row, policy=0, cookie=cookie))
        return self.rules.handle(sa.rule)

    def create_policy_rule(self, command: CreatePolicyRule) -> Handle:
        """One entry of the policy table."""
        self.rules.require_space()
        policy = self.steering.add_policy(command)
        return self.rules.handle(self.rules.add(Rule(0, policy, command.cookie)))

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
