# SPDX-License-Identifier: Apache-2.0
"""How a lab asks: queries framed for the CONTROL channel, answers read, refusals raised.

Both worlds (simulator and processes) speak through these functions; `World` is what they share.
"""

import errno
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import msgspec

from host_driver.control import Answer, AnyQuery
from host_driver.lab.life import PartyState
from host_driver.lab.wire import Wire
from proto import management
from proto.codec import decode
from proto.frame import FrameError, Kind, pack, unpack
from proto.limits import CONTROL_TIMEOUT_MS
from proto.status import OffloadError

A = TypeVar("A", Answer, management.Answer)


class PeerDied(OffloadError):
    """A process of the lab ended on its own; the text names it, its pid and how it ended."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.EOWNERDEAD, text)


class NoAnswer(OffloadError):
    """A living host did not answer a query within its bound."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.ETIMEDOUT, text)


class World(Protocol):
    """Where the parties of a lab live. Every method may raise PeerDied."""

    def ask(self, host: int, query: AnyQuery) -> Answer:
        """Put a query to a host and wait. Raises OffloadError(ETIMEDOUT), or what it refused."""

    def ask_card(self, card: int, request: management.AnyRequest) -> Any:
        """Put a request to a card itself, whatever its host does; -> the value of its answer.
        Raises as `ask` does."""

    def tell(self, party: str, request: management.AnyRequest) -> None:
        """Say something to a party that is stopped: it hears it when it goes on."""

    def state(self, party: str) -> PartyState:
        """How a party is ("host0", "card1")."""

    def live(self, party: str, verb: str, card: str | None = None) -> None:
        """One of life.VERBS; a card may come back as another one. Raises OffloadError(EALREADY)
        for what makes no sense now."""

    def wire(self) -> AbstractContextManager[Wire]:
        """The wire, ours alone within the `with` block."""

    def advance(self, seconds: float) -> None:
        """Let time pass: virtual in the simulator, real with processes."""

    def run_idle(self) -> None:
        """Let everything happen that can happen now (nothing to do where things run anyway)."""

    def now_ns(self) -> int:
        """The lab's time."""

    def close(self) -> None:
        """End everything and leave nothing behind. A second call changes nothing."""


def encode_ask(number: int, query: AnyQuery | management.AnyRequest) -> bytes:
    """The CONTROL message of a query to a host or of a request to a card."""
    return pack(Kind.CONTROL, msgspec.msgpack.encode((number, query)))


def find_answer(messages: Sequence[bytes], number: int, kind: type[A]) -> A | None:
    """The answer to ask `number` among control messages; late answers to older asks are skipped."""
    for raw in messages:
        try:
            message = unpack(raw)
            if message.kind is Kind.CONTROL:
                answer = decode(message.body, kind)
                if answer.id == number:
                    return answer
        except FrameError as error:
            raise OffloadError(errno.EBADMSG, f"the answer is nonsense: {error}") from None
    return None


def checked(answer: A) -> A:
    """The answer itself. Raises OffloadError with its errno and text if it is a refusal."""
    if answer.errno:
        raise OffloadError(answer.errno, answer.text)
    return answer


def no_answer(party: str, query: AnyQuery | management.AnyRequest) -> OffloadError:
    """The error for a question that nobody answered in time."""
    return NoAnswer(f"{party} did not answer {type(query).__name__} within {CONTROL_TIMEOUT_MS} ms")
