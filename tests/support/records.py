# SPDX-License-Identifier: Apache-2.0
"""Records of real kernels as pytest parameters."""

import json
from pathlib import Path

import pytest

VECTORS = Path(__file__).parents[1] / "vectors"


def records(topic: str, pattern: str = "*.json") -> list:
    """The recorded files of one topic, each with its path below the topic as id."""
    paths = sorted((VECTORS / topic).rglob(pattern))
    assert paths, f"no records below {VECTORS / topic}"
    return [
        pytest.param(path, id=str(path.relative_to(VECTORS / topic).with_suffix("")))
        for path in paths
    ]


def load(path: Path) -> dict:
    return json.loads(path.read_text())
