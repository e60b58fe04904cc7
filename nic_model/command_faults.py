# SPDX-License-Identifier: Apache-2.0
"""Faults of the firmware at commands: sites card.command and card.table.

A command passes here when it arrives, also when it comes again because its reply was lost:

    held or lost before it is executed  ->  refused  ->  executed  ->  its reply lost, late or wrong
"""

from typing import Any, NamedTuple

import msgspec

from nic_model.handles import Rows
from nic_model.mailbox import LoadKey
from nic_model.objects import Objects
from proto import commands as c
from proto.faults import BEFORE, FaultTable, Fired, parse_status

SITE_COMMAND, SITE_TABLE = "card.command", "card.table"


class Verdict(NamedTuple):
    """What happens to one command. `reply`: (status, syndrome, text) in place of the firmware's."""

    execute: bool = True
    answer: bool = True
    hold_ms: int = 0  # before it is executed
    late_ms: int = 0  # before it is answered
    fault: str = ""  # that delays it
    reply: tuple[int, int, str] | None = None


class CommandFaults:
    """Asks the card's table at commands."""

    def __init__(self, faults: FaultTable, objects: Objects) -> None:
        self._faults = faults
        self._tables: dict[type, tuple[str, Rows[Any]]] = {
            LoadKey: ("keys", objects.keys),
            c.CreateSa: ("sas", objects.sas),
            c.CreateSaRule: ("rules", objects.rules),
            c.CreatePolicyRule: ("rules", objects.rules),
        }

    def judge(self, opcode: str, now_ns: int) -> Verdict:
        """What happens to a command that arrives. The last fault that says something wins."""
        verdict = Verdict()
        for fired in self._faults.fire(SITE_COMMAND, {"opcode": opcode}, now_ns):
            verdict = verdict._replace(**_change(fired))
        return verdict

    def require_space(self, command: type, now_ns: int) -> None:
        """Raises Refused(NO_RESOURCES) when a fault says that the table is full."""
        if command in self._tables:
            name, rows = self._tables[command]
            opcode = str(command.__struct_config__.tag)  # type: ignore[attr-defined]
            if self._faults.fire(SITE_TABLE, {"table": name, "op": opcode}, now_ns):
                raise rows.full()


def _change(fired: Fired) -> dict[str, Any]:
    before = fired.value == BEFORE
    match fired.kind:
        case "silent":
            return {"execute": not before, "answer": False}
        case "delay":
            return {"hold_ms" if before else "late_ms": fired.delay_ms, "fault": fired.name}
        case "status":
            return {"execute": False, "reply": parse_status(fired.value)}
        case _:
            return {"reply": parse_status(fired.value)}


def altered(reply: c.Reply, verdict: Verdict) -> c.Reply:
    """The reply that a fault puts in the place of the firmware's; it names no object."""
    if verdict.reply is None:
        return reply
    status, syndrome, text = verdict.reply
    return msgspec.structs.replace(
        c.Reply(reply.token), status=status, syndrome=syndrome, text=text
    )
