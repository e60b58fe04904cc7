# SPDX-License-Identifier: Apache-2.0
"""tests/vectors/fuzz: one file a target, one input a line, in hex."""

from collections.abc import Sequence
from pathlib import Path

DIRECTORY = Path(__file__).resolve().parents[1] / "vectors" / "fuzz"


def load(name: str) -> list[bytes]:
    """The kept inputs of a target, possibly none."""
    path = DIRECTORY / f"{name}.hex"
    return read(path) if path.exists() else []


def save(name: str, inputs: Sequence[bytes]) -> None:
    """Keep these inputs of a target, and no others."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    write(DIRECTORY / f"{name}.hex", inputs)


def read(path: Path) -> list[bytes]:
    """Inputs of a file."""
    return [bytes.fromhex(line) for line in path.read_text().splitlines()]


def write(path: Path, inputs: Sequence[bytes]) -> None:
    """One line an input; an empty line is the empty input."""
    path.write_text("".join(data.hex() + "\n" for data in inputs))
