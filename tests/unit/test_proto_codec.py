# SPDX-License-Identifier: Apache-2.0
"""What does not decode is a FrameError, in whatever way it does not."""

import pytest

from proto.codec import decode
from proto.events import Event
from proto.frame import FrameError
from proto.hello import Hello


def test_a_value_of_the_type_comes_through() -> None:
    assert decode(b"\x91\x93\x01\x02\x03", list[Event]) == [Event(1, 2, 3)]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\xc1", b"\x91", b"\x93\x01\x02\x03", b"\x91\x93\xa1x\x02\x03",
        b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff",
        b"\x91\x93\x01\xa2\xff\xfe\x03",
        b"\x91\x94\x01\x02\x03" + b"\x91" * 100_000,
    ],
    ids=["empty", "reserved", "cut", "no-list", "text", "long-list", "long-bytes", "utf-8", "deep"],
)  # fmt: skip
def test_anything_else_is_a_frame_error(body: bytes) -> None:
    with pytest.raises(FrameError):
        decode(body, list[Event])


def test_a_hello_that_is_nested_deep_is_none() -> None:
    with pytest.raises(FrameError):
        decode(b"\x81\xa1x" * 100_000, Hello)
