# SPDX-License-Identifier: Apache-2.0
"""Faults of the firmware at commands: sites card.command, card.table and card.object.

A command passes here when it arrives, also when it comes again because its reply was lost:

    held or lost before it is executed  ->  refused  ->  executed  ->  its reply lost, late or wrong

What is wrong with a reply as it is written (its token, its length, its fields) is so only this
once; what the firmware says in it stays, when it is asked for again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from nic_model.handles import Rows
from nic_model.mailbox import LoadKey
from nic_model.objects import Objects
from proto import commands as c
from proto.faults import BEFORE, FaultTable, Fired, parse_delivery, parse_status
from proto.limits import MAILBOX_SLOTS
from proto.status import Delivery, Status

SITE_COMMAND, SITE_TABLE = "card.command", "card.table"
SITE_CREATE, SITE_DESTROY = "card.object.create", "card.object.destroy"
TOKENS_AHEAD = 7 * MAILBOX_SLOTS  # of a wrong token: the same slot, a generation never given


class Verdict(NamedTuple):
    """What happens to one command. `reply`: (status, syndrome, text) in place of the firmware's;
    `delivery` a delivery status in front of it; `written`: the fault of the reply as written."""

    execute: bool = True
    answer: bool = True
    hold_ms: int = 0  # before it is executed
    late_ms: int = 0  # before it is answered
    fault: str = ""  # that delays it
    reply: tuple[int, int, str] | None = None
    delivery: int = Delivery.OK
    written: str = ""


class CommandFaults:
    """Asks the card's table at commands."""

    def __init__(self, faults: FaultTable, objects: Objects) -> None:
        self._faults = faults
        keys, sas, rules = (
            Table("keys", objects.keys, objects.destroy_key),
            Table("sas", objects.sas, objects.destroy_sa),
            Table("rules", objects.rules, objects.destroy_rule),
        )
        self._creates: dict[type, Table] = {
            LoadKey: keys, c.CreateSa: sas, c.CreateSaRule: rules, c.CreatePolicyRule: rules,
        }  # fmt: skip
        self._destroys: dict[type, Table] = {
            c.DestroyKey: keys, c.DestroySa: sas, c.DestroyRule: rules,
        }  # fmt: skip

    def judge(self, opcode: str, now_ns: int) -> Verdict:
        """What happens to a command that arrives. The last fault that says something wins."""
        verdict = Verdict()
        for fired in self._faults.fire(SITE_COMMAND, {"opcode": opcode}, now_ns):
            verdict = verdict._replace(**_change(fired))
        return verdict

    def execute(self, command: Any, run: Callable[[], c.Reply], now_ns: int) -> c.Reply:
        """Execute a command with what is wrong with the objects that it concerns.

        Raises Refused as `run` does, and with NO_RESOURCES where a fault says that a table is full.
        """
        kind = type(command)
        table = self._creates.get(kind) or self._destroys.get(kind)
        if table is None:
            return run()
        facts = {"table": table.name, "op": str(kind.__struct_config__.tag)}
        if kind in self._destroys:
            undead = self._faults.fire(SITE_DESTROY, facts, now_ns)
            return c.Reply(0) if undead else run()
        if self._faults.fire(SITE_TABLE, facts, now_ns):
            raise table.rows.full()
        reply = run()
        for fired in self._faults.fire(SITE_CREATE, facts, now_ns):
            reply = _misnamed(reply, fired.kind, table)
        return reply


class Table(NamedTuple):
    """Objects of one kind: their table's name in faults, their rows, how one is destroyed."""

    name: str
    rows: Rows[Any]
    destroy: Callable[[int], None]


def _misnamed(reply: c.Reply, kind: str, table: Table) -> c.Reply:
    """What the card says of a new object that it has just made."""
    match kind:
        case "zero-handle":
            return msgspec.structs.replace(reply, handle=0, generation=0)
        case "alias":
            others = (table.rows.handle(row) for row in table.rows.live)
            other = next((one for one in others if one.handle != reply.handle), None)
            if other is None:
                return reply
            return msgspec.structs.replace(reply, handle=other.handle, generation=other.generation)
        case _:  # phantom
            table.destroy(reply.handle)
            return reply


def _change(fired: Fired) -> dict[str, Any]:
    before = fired.value == BEFORE
    match fired.kind:
        case "silent":
            return {"execute": not before, "answer": False}
        case "delay":
            return {"hold_ms" if before else "late_ms": fired.delay_ms, "fault": fired.name}
        case "status":
            return {"execute": False, "reply": parse_status(fired.value)}
        case "undelivered":
            text = f"not delivered (fault {fired.name})"
            delivery = parse_delivery(fired.value)
            return {"execute": False, "reply": (Status.BAD_MESSAGE, 0, text), "delivery": delivery}
        case "misreport":
            return {"reply": parse_status(fired.value)}
        case _:
            return {"written": fired.kind}


def altered(reply: c.Reply, verdict: Verdict) -> c.Reply:
    """The reply that a fault puts in the place of the firmware's; it names no object."""
    if verdict.reply is None:
        return reply
    status, syndrome, text = verdict.reply
    return c.Reply(reply.token, status, syndrome, text, delivery=verdict.delivery)


def written(reply: c.Reply, verdict: Verdict) -> bytes:
    """The reply as bytes, or what a fault makes of it."""
    match verdict.written:
        case "wrong-token":
            reply = msgspec.structs.replace(reply, token=reply.token + TOKENS_AHEAD)
        case "truncated":
            return msgspec.msgpack.encode([reply.token, reply.status])
        case "other-shape":
            reply = c.Reply(reply.token, handle=1, generation=1, values={"other": 1})
    return msgspec.msgpack.encode(reply)
