# SPDX-License-Identifier: Apache-2.0
"""HELLO: how a process says that it is ready, who it is and what it speaks."""

import msgspec

from proto import VERSION
from proto.caps import Caps
from proto.codec import decode
from proto.limits import PROTOCOL_VERSION


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """`endpoints` names the addresses a card is bound to, by channel name in lower case.

    `boot` is new with every start of a card, and the epoch of its messages on the wire.
    """

    party: str
    name: str
    pid: int
    protocol: int = PROTOCOL_VERSION
    version: str = VERSION
    caps: Caps | None = None
    boot: int = 0
    endpoints: dict[str, str] = {}


def decode_hello(body: bytes | memoryview) -> Hello:
    """Raises ValueError for another protocol version or anything that is no HELLO."""
    hello = decode(body, Hello)
    if hello.protocol != PROTOCOL_VERSION:
        raise ValueError(
            f"{hello.name} speaks protocol {hello.protocol}, this side {PROTOCOL_VERSION}"
        )
    return hello
