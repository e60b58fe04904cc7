# SPDX-License-Identifier: Apache-2.0
"""What the driver knows of each command: its lane, its deadline, what its reply must hold.

A command fails in one of three ways, and each has a type, because unwinding depends on it:

    CommandFailed    the card answered no. With `delivered` the firmware saw the command and
                     `status` says why (a kernel driver would say -EREMOTEIO inside); without, it
                     was lost on the way, and `delivery` says where
    CommandUnknown   nobody knows whether the card did it; `late` brings the answer, if ever
    CommandTimeout   the same, because no reply came in time
"""

import errno
from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar

from host_driver.sleep import Completion
from proto.commands import (
    AdvanceEsn,
    AnyCommand,
    CreateKey,
    CreatePolicyRule,
    CreateSa,
    CreateSaRule,
    DestroyKey,
    DestroyRule,
    DestroySa,
    Fence,
    InitFunction,
    ListObjects,
    QueryCaps,
    QueryCensus,
    QueryCounters,
    QuerySa,
    Reply,
    Reset,
    SetLimits,
    SetPort,
    SetQueue,
    StopSa,
    Teardown,
)
from proto.limits import COMMAND_TIMEOUT_MS, RESET_TIMEOUT_MS
from proto.status import DELIVERY_ERRNO, STATUS_ERRNO, Delivery, OffloadError, Status

TEXT_LONGEST = 400  # of what a card says; the syndrome behind it must not be cut off
U32 = (1 << 32) - 1

# By these a card promises that nothing has changed; after any other failure it is asked.
CLEAN = frozenset(Status) - {Status.INTERNAL_ERROR, Status.BAD_SYSTEM_STATE, Status.NOT_READY,
                             Status.BAD_OUTPUT_LENGTH}  # fmt: skip


class Lane(Enum):
    """Which slots a command may take: see `driver.mailbox`."""

    CREATE = "create"
    COMMON = "common"
    SAFETY = "safety"  # makes the card safe or gives room


LANES: dict[type[Any], Lane] = {
    **dict.fromkeys((CreateKey, CreateSa, CreateSaRule, CreatePolicyRule), Lane.CREATE),
    **dict.fromkeys((DestroyKey, DestroySa, DestroyRule, StopSa, Teardown), Lane.SAFETY),
}

# Deadlines of commands that take longer than COMMAND_TIMEOUT_MS.
TIMEOUTS_MS: dict[type[Any], int] = {Teardown: RESET_TIMEOUT_MS}

# What the reply of a command holds beside its status, when that is OK.
CREATED = frozenset({"handle", "generation"})
NOTHING: frozenset[str] = frozenset()
CONTENTS: dict[type[Any], frozenset[str]] = {
    **dict.fromkeys((CreateKey, CreateSa, CreateSaRule, CreatePolicyRule), CREATED),
    **dict.fromkeys((DestroyKey, DestroySa, DestroyRule, Teardown), NOTHING),
    **dict.fromkeys((SetLimits, AdvanceEsn, StopSa, SetPort, Reset), NOTHING),
    **dict.fromkeys(
        (InitFunction, QueryCounters, QueryCensus, Fence, SetQueue), frozenset({"values"})
    ),
    QueryCaps: frozenset({"caps"}),
    QuerySa: frozenset({"sa"}),
    ListObjects: frozenset({"objects", "values"}),
}
FENCE = "tx tx_done tx_state rx rx_done rx_state wire events".split()
VALUES: dict[type[Any], frozenset[str]] = {
    Fence: frozenset(FENCE),
    InitFunction: frozenset({"boot", "health", "revision"}),
}
HELD: dict[str, Callable[[Reply], bool]] = {
    "handle": lambda reply: reply.handle != 0,
    "generation": lambda reply: reply.generation != 0,
    "caps": lambda reply: reply.caps is not None,
    "sa": lambda reply: reply.sa is not None,
    "values": lambda reply: bool(reply.values),
    "objects": lambda reply: reply.objects is not None,
}


class CommandFailed(OffloadError):
    """The card answered, and the answer is no."""

    def __init__(self, code: int, text: str, command: AnyCommand, reply: Reply) -> None:
        super().__init__(code, text)
        self.command = command
        self.delivery = reply.delivery
        self.status = reply.status
        self.syndrome = reply.syndrome & U32

    @property
    def delivered(self) -> bool:
        """Whether the firmware saw the command."""
        return self.delivery == Delivery.OK

    @property
    def inner_errno(self) -> int:
        """What the transport has to say: EREMOTEIO when it did its work and the firmware refused,
        else why the command did not get there."""
        return errno.EREMOTEIO if self.delivered else self.errno

    @property
    def clean(self) -> bool:
        """Whether the card has promised that nothing changed."""
        return self.delivered and self.status in CLEAN


class CommandUnknown(OffloadError):
    """The card may have done it. `late` completes with the Reply that comes in the end: an object
    that `command` created in spite of it belongs to whoever caught this."""

    def __init__(self, code: int, text: str, command: AnyCommand, late: Completion) -> None:
        super().__init__(code, text)
        self.command = command
        self.late = late


class CommandTimeout(CommandUnknown):
    """No reply in time."""

    def __init__(self, text: str, command: AnyCommand, late: Completion) -> None:
        super().__init__(errno.ETIMEDOUT, text, command, late)


def opcode(command: AnyCommand) -> str:
    """`CREATE_SA` for CreateSa: how a command is called in texts."""
    name = type(command).__name__
    return "".join("_" + c if c.isupper() else c.upper() for c in name).lstrip("_")


def lane(command: AnyCommand) -> Lane:
    """The lane of a command."""
    return LANES.get(type(command), Lane.COMMON)


def timeout_ms(command: AnyCommand) -> int:
    """How long a command may take."""
    return TIMEOUTS_MS.get(type(command), COMMAND_TIMEOUT_MS)


def wipe_key(command: AnyCommand) -> None:
    """Zero the driver's copy of a key, which it keeps only while the command may be sent again."""
    key: object = getattr(command, "key", None)
    if isinstance(key, bytearray):
        key[:] = bytes(len(key))


def checked(command: AnyCommand, reply: Reply) -> Reply:
    """The reply, if it holds what the command's reply must and nothing else; else what is made of
    it, a failure with BAD_OUTPUT_LENGTH (F-CTL-08)."""
    wanted = CONTENTS[type(command)]
    if reply.status != Status.OK or reply.delivery != Delivery.OK:
        return reply
    found = {name for name, held in HELD.items() if held(reply)}
    if "handle" in wanted:  # a missing or impossible one is told by whoever wants it (F-CTL-07)
        found |= CREATED
    missing = (wanted - found) | (VALUES.get(type(command), NOTHING) - reply.values.keys())
    if found == wanted and not missing:
        return reply
    wrong = [f"no {name}" for name in sorted(missing)]
    wrong += [f"a {name} that was not asked for" for name in sorted(found - wanted)]
    text = f"{opcode(command)}: the card's reply has {', '.join(wrong)}"
    return Reply(reply.token, Status.BAD_OUTPUT_LENGTH, reply.syndrome, text)


def failure(command: AnyCommand, reply: Reply) -> CommandFailed | None:
    """What a reply means to the caller, None when it is good; every text ends with the syndrome
    (F-CTL-06)."""
    if reply.status == Status.OK and reply.delivery in (Delivery.OK, Delivery.ABORTED):
        return None
    if reply.delivery != Delivery.OK:
        name, code = _named(Delivery, DELIVERY_ERRNO, reply.delivery, errno.EINVAL)
    else:
        name, code = _named(Status, STATUS_ERRNO, reply.status, errno.EIO)
    text = reply.text[:TEXT_LONGEST] or f"{opcode(command)} failed with {name}"
    if reply.delivery != Delivery.ABORTED:  # there the card said nothing
        text = f"{text} (syndrome {reply.syndrome & U32:#x})"
    return CommandFailed(code, text, command, reply)


E = TypeVar("E", Status, Delivery)


def _named(kind: type[E], codes: dict[E, int], number: int, other: int) -> tuple[str, int]:
    """Name and errno of a status of either kind, also of one that nobody knows."""
    try:
        return kind(number).name, codes[kind(number)]
    except ValueError:
        return f"{kind.__name__.lower()} {number}", other
