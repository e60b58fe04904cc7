# SPDX-License-Identifier: Apache-2.0
"""docs/kernel-map.md is true: what it names is there, and what bears a kernel's name is in it."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
TEXT = (REPO / "docs" / "kernel-map.md").read_text()
PLACE = re.compile(r"`([\w/]+\.py):([\w.]+)`")
PLACES = sorted(set(PLACE.findall(TEXT)))
KERNEL_NAME = re.compile(r"(xfrm|xdst|verify|esp|copy_to|km|build)_\w+")


@cache
def names(path: Path) -> frozenset[str]:
    """Functions, classes, methods and module-level names of a file."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = (one for one in node.body if isinstance(one, ast.FunctionDef))
            found |= {f"{node.name}.{one.name}" for one in inner}
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        found |= {one.id for one in targets if isinstance(one, ast.Name)}
    return frozenset(found)


def file_of(place: str) -> Path:
    below = "" if place.split("/")[0] in ("proto", "nic_model") else "host_driver"
    return REPO / below / place


@pytest.mark.parametrize(("place", "name"), PLACES, ids=lambda one: str(one))
def test_what_the_map_names_is_there(place: str, name: str) -> None:
    assert file_of(place).exists(), place
    assert name in names(file_of(place)), f"{place} has no {name}"


def test_what_bears_a_kernel_s_name_is_in_the_map() -> None:
    listed = {name for _, name in PLACES}
    wrong = []
    for path in sorted((REPO / "host_driver" / "xfrm").glob("*.py")):
        for name in names(path) - listed:
            if KERNEL_NAME.fullmatch(name):
                wrong.append(f"{path.name}:{name}")
    assert wrong == []


def test_every_row_says_both_sides() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("|")]
    rows = [row for row in rows if not row.startswith(("| kernel |", "|---"))]
    assert len(rows) > 80
    for row in rows:
        _, kernel, here, _ = row.split("|")
        assert kernel.strip(), row
        assert PLACE.search(here), row
