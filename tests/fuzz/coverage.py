# SPDX-License-Identifier: Apache-2.0
"""Which edges (line to line) of chosen files an input walks, by `sys.settrace`.

Numba kernels show no lines; what they did is told by the features that a target gives with each
input (drop reasons, statuses), which count as coverage, too.
"""

import sys
from collections.abc import Iterable
from types import CodeType, FrameType
from typing import Any

LINE_BITS = 16


class Coverage:
    """`files`: endings of the paths whose code counts, `nic_model/mailbox.py` or `/ip/`."""

    def __init__(self, files: Iterable[str]) -> None:
        self._files = tuple(files)
        self._numbers: dict[int, int] = {}
        self._codes: list[CodeType] = []  # keeps their ids from being used again
        self._edges: set[int] = set()

    def __enter__(self) -> set[int]:
        """Start; the set fills with edges until the end of the block."""
        self._edges = set()
        sys.settrace(self._enter)
        return self._edges

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        number = self._numbers.get(id(frame.f_code))
        if number is None:
            number = self._number(frame.f_code)
        if not number:
            return None
        edges, base, last = self._edges, number << 2 * LINE_BITS, 0

        def line(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal last
            if event == "line":
                here = frame.f_lineno
                edges.add(base | last << LINE_BITS | here)
                last = here
            return line

        return line

    def _number(self, code: CodeType) -> int:
        """0 for code that does not count."""
        self._codes.append(code)
        counts = any(part in code.co_filename for part in self._files)
        self._numbers[id(code)] = len(self._codes) if counts else 0
        return self._numbers[id(code)]
