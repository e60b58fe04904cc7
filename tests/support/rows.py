# SPDX-License-Identifier: Apache-2.0
"""The mark that ties a test to rows of the fault catalogue."""

from collections.abc import Callable
from typing import Any

import pytest


def row(*ids: str, process: bool = False, lab: bool = True) -> Callable[[Any], Any]:
    """Mark a test with the ids of the rows that it judges.

    The test takes an argument `target`: "sim" and, with `process`, also "process". Without `lab` it
    takes none, because it needs no lab.
    """

    def mark(test: Any) -> Any:
        if lab:
            targets = ["sim", "process"] if process else ["sim"]
            test = pytest.mark.parametrize("target", targets)(test)
        return pytest.mark.row(*ids)(test)

    return mark
