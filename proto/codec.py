# SPDX-License-Identifier: Apache-2.0
"""MessagePack from a peer: a value of the type that was asked for, or FrameError.

The decoder has several ways to complain, and one of them (RecursionError, of what is nested deep)
is no ValueError: every reader of a message decodes here, so that none can forget one.
"""

from typing import Any, TypeVar, overload

import msgspec

from proto.frame import FrameError

T = TypeVar("T")


@overload
def decode(body: bytes | memoryview | msgspec.Raw, type: type[T]) -> T: ...


@overload
def decode(body: bytes | memoryview | msgspec.Raw, type: Any) -> Any: ...


def decode(body: bytes | memoryview | msgspec.Raw, type: Any) -> Any:
    """The value in `body`, of `type`. Raises FrameError for anything else."""
    try:
        return msgspec.msgpack.decode(body, type=type)
    except (ValueError, RecursionError) as error:
        raise FrameError(str(error)) from None
