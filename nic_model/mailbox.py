# SPDX-License-Identifier: Apache-2.0
"""Mailbox messages into commands. Strict in form: what does not decode is refused, never guessed.

The key of a CREATE_KEY is decoded as a view into the message, so the card makes no copy of it, and
whoever owns the message can wipe it (`wipe`).

Tokens keep commands apart (`Tokens`). For each slot the last one counts:

    newer token   executed, its reply kept      the same again   the reply is repeated, not the work
    older token   not executed: it was held up on the way, and its slot belongs to another by now
"""

from typing import Any, Union, get_args

import msgspec

from nic_model.checks import Refused
from proto.commands import AnyCommand, Command, CreateKey, InitFunction, Reply, Reset
from proto.frame import Kind, Message
from proto.limits import MAILBOX_GENERATIONS, MAILBOX_MESSAGE_BYTES, MAILBOX_SLOTS
from proto.status import Delivery, Status, Syndrome

_NAME_CHARS = 40  # of an unknown opcode, in the text of the refusal


class LoadKey(Command, tag="CreateKey"):
    """CREATE_KEY as the card reads it: `key` lies in the message."""

    key: memoryview
    cookie: int = 0

    def __repr__(self) -> str:
        return f"LoadKey(<{len(self.key) * 8} bits>)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class _Envelope(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    token: int
    command: msgspec.Raw


class _Opcode(msgspec.Struct, array_like=True):
    name: str


_COMMANDS = tuple(LoadKey if kind is CreateKey else kind for kind in get_args(AnyCommand))
OPCODES: frozenset[str] = frozenset(str(kind.__struct_config__.tag) for kind in _COMMANDS)

_envelope = msgspec.msgpack.Decoder(_Envelope)
_opcode = msgspec.msgpack.Decoder(_Opcode)
_command = msgspec.msgpack.Decoder(Union[_COMMANDS])


def _malformed(error: Exception) -> Refused:
    return Refused(Status.BAD_MESSAGE, Syndrome.MALFORMED, f"malformed command: {error}")


def open_envelope(body: bytes | memoryview) -> tuple[int, msgspec.Raw]:
    """Token and undecoded command. Raises Refused(BAD_MESSAGE) when there is no readable token."""
    try:
        envelope = _envelope.decode(body)
    except (ValueError, RecursionError) as error:
        raise _malformed(error) from None
    return envelope.token, envelope.command


def opcode_of(body: bytes | memoryview) -> str:
    """The opcode of a request, "" where it cannot be read: a fact for fault injection."""
    try:
        return _opcode.decode(_envelope.decode(body).command).name
    except (ValueError, RecursionError):
        return ""


def decode(raw: msgspec.Raw) -> Any:
    """The command. Raises Refused(BAD_OPCODE or BAD_MESSAGE)."""
    try:
        name = _opcode.decode(raw).name
        if name in OPCODES:
            return _command.decode(raw)
    except (ValueError, RecursionError) as error:
        raise _malformed(error) from None
    raise Refused(
        Status.BAD_OPCODE,
        Syndrome.UNKNOWN_OPCODE,
        f"opcode {name[:_NAME_CHARS]!r} is unknown to this card",
    )


def takes_card(message: Message, *, in_error: bool) -> bool:
    """Whether this is for a card of whatever epoch: InitFunction, and Reset where it is in error,
    with the epoch in its header."""
    if message.kind is not Kind.COMMAND:
        return False
    try:
        command = decode(open_envelope(message.body)[1])
    except Refused:
        return False
    wanted = (InitFunction, Reset) if in_error else InitFunction
    return isinstance(command, wanted) and command.epoch == message.epoch


class Tokens:
    """What was answered last in each slot; one reply a slot is all that is kept."""

    def __init__(self) -> None:
        self._answered: dict[int, Reply] = {}

    def repeated(self, token: int, size: int) -> Reply | None:
        """The reply to a token that comes again, None for a new one; `size` is the message's.

        Raises Refused, not delivered, for an older token and for a message that is too long.
        """
        last = self._answered.get(token % MAILBOX_SLOTS)
        if last is not None and last.token == token:
            return last
        last_generation = last.token // MAILBOX_SLOTS if last else 0
        behind = (last_generation - token // MAILBOX_SLOTS) % MAILBOX_GENERATIONS
        if last is not None and behind < MAILBOX_GENERATIONS // 2:
            text = f"token {token:#x} is older than {last.token:#x}, the last one of its slot"
            raise _undelivered(Delivery.TOKEN, Syndrome.TOKEN_STALE, text)
        if size > MAILBOX_MESSAGE_BYTES:
            text = f"command of {size} bytes, the mailbox takes {MAILBOX_MESSAGE_BYTES}"
            raise _undelivered(Delivery.INPUT_LENGTH, Syndrome.MESSAGE_TOO_LONG, text)
        return None

    def keep(self, reply: Reply) -> None:
        """Remember the reply to a token; not one that says that the token is stale."""
        if reply.token and reply.delivery != Delivery.TOKEN:
            self._answered[reply.token % MAILBOX_SLOTS] = reply

    def clear(self) -> None:
        """Forget everything: tokens of another life begin."""
        self._answered.clear()


def _undelivered(delivery: Delivery, syndrome: Syndrome, text: str) -> Refused:
    return Refused(Status.BAD_MESSAGE, syndrome, text, delivery)


def wipe(body: bytes | memoryview) -> None:
    """Zero a message in place where its buffer is writable: it may have carried a key."""
    if isinstance(body, memoryview) and not body.readonly:
        body[:] = bytes(len(body))
