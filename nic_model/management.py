# SPDX-License-Identifier: Apache-2.0
"""The card's management controller: answers the lab on a channel of its own, in every state.

Malformed messages are counted, and answered with EBADMSG where they have an id.
"""

import errno
import os
from collections.abc import Callable
from typing import Any

import msgspec

from nic_model.checks import Refused
from nic_model.event_log import Raised
from nic_model.life import Life
from proto import management as m
from proto.caps import Caps
from proto.codec import decode
from proto.faults import FaultTable
from proto.frame import FrameError, Kind, Message, pack
from proto.health import FunctionState, HealthRecord
from proto.status import OffloadError


class _Envelope(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """An Ask whose request is still closed, so that a malformed one can be answered."""

    id: int
    request: msgspec.Raw


class Management:
    """`census`, `counters` and `events` are asked when a request wants them."""

    def __init__(
        self,
        name: str,
        caps: Caps,
        faults: FaultTable,
        census: Callable[[], dict[str, int]],
        counters: Callable[[], dict[str, int]],
        events: Callable[[int], list[Raised]],
        life: Life,
    ) -> None:
        self._name = name
        self._caps = caps
        self._faults = faults
        self._census = census
        self._counters = counters
        self._events = events
        self._life = life

    def answer(self, message: Message) -> bytes:
        """The CONTROL message that answers one. Raises FrameError for one that has no id."""
        envelope = decode(message.body, _Envelope)
        try:
            answer = m.Answer(
                envelope.id, value=self._value(decode(envelope.request, m.AnyRequest))
            )
        except OffloadError as error:
            answer = m.Answer(envelope.id, error.errno, error.text)
        except FrameError as error:
            answer = m.Answer(envelope.id, errno.EBADMSG, f"malformed request: {error}")
        return pack(Kind.CONTROL, msgspec.msgpack.encode(answer))

    def _value(self, request: m.AnyRequest) -> Any:
        match request:
            case m.Info():
                caps = msgspec.to_builtins(self._caps)
                return {"name": self._name, "pid": os.getpid(), "caps": caps}
            case m.Census():
                return self._census()
            case m.Counters():
                return self._counters()
            case m.Events():
                return self._events(request.start)
            case m.Health():
                return _described(self._life.record())
            case m.ResetCard():
                return self._reset(request.level)
            case _:
                return m.about_faults(self._faults, request)

    def _reset(self, level: str) -> None:
        resets = {
            "function": self._life.reset_function,
            "firmware": self._life.reset_firmware,
        }
        if level not in resets:
            raise OffloadError(
                errno.EINVAL, f"reset level {level!r} is none of {', '.join(resets)}"
            )
        try:
            self._life.require_agreement(level)
        except Refused as refused:
            raise OffloadError(errno.EBUSY, refused.text) from None
        resets[level]()


def _described(record: HealthRecord) -> dict[str, Any]:
    """A record with its state as a word."""
    state = FunctionState(record.state).name.lower()
    return {**msgspec.structs.asdict(record), "state": state}
