# SPDX-License-Identifier: Apache-2.0
"""Mailbox messages into commands. Strict in form: what does not decode is refused, never guessed.

The key of a CREATE_KEY is decoded as a view into the message, so the card makes no copy of it, and
whoever owns the message can wipe it (`wipe`).
"""

from typing import Any, Union, get_args

import msgspec

from nic_model.checks import Refused
from proto.commands import AnyCommand, Command, CreateKey, InitFunction
from proto.frame import Kind, Message
from proto.status import Status, Syndrome

_NAME_CHARS = 40  # of an unknown opcode, in the text of the refusal


class LoadKey(Command, tag="CreateKey"):
    """CREATE_KEY as the card reads it: `key` lies in the message."""

    key: memoryview

    def __repr__(self) -> str:
        return f"LoadKey(<{len(self.key) * 8} bits>)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class _Envelope(msgspec.Struct, array_like=True):
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


def takes_card(message: Message) -> bool:
    """Whether this is the InitFunction of the epoch in its header: it may open a new epoch."""
    if message.kind is not Kind.COMMAND:
        return False
    try:
        command = decode(open_envelope(message.body)[1])
    except Refused:
        return False
    return isinstance(command, InitFunction) and command.epoch == message.epoch


def wipe(body: bytes | memoryview) -> None:
    """Zero a message in place where its buffer is writable: it may have carried a key."""
    if isinstance(body, memoryview) and not body.readonly:
        body[:] = bytes(len(body))
