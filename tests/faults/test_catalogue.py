# SPDX-License-Identifier: Apache-2.0
"""The fault catalogue and the tests of its rows belong together."""

import ast
from collections import Counter
from pathlib import Path

import pytest

from host_driver.faults.catalogue import catalogue, find
from host_driver.faults.page import FIELDS, page
from host_driver.faults.plan import specs_of
from proto.faults import FaultSpec
from proto.status import OffloadError

HERE = Path(__file__).parent

# What the first release must survive, area by area.
MINIMUM = {
    "CTL": (1, 2, 6, 14),
    "TAB": (1, 3, 4, 14),
    "DP": (1, 8, 15, 16, 21),
    "LIM": (1, 2, 5, 9, 13, 18, 22),
    "RNG": (1, 5, 9),
    "LIF": (1, 2, 4, 5, 15),
    "WIR": (2, 6, 7, 12),
    "SEC": (1, 3, 5, 7, 9),
}


def rows_tested() -> Counter[str]:
    """How many tests name each row, as their decorators say."""
    counts: Counter[str] = Counter()
    for file in sorted(HERE.glob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "row":
                counts.update(ast.literal_eval(argument) for argument in node.args)
    return counts


def test_every_row_that_is_not_left_out_has_a_test():
    modelled = {row.id for row in catalogue().values() if row.fault is not None}
    assert set(rows_tested()) == modelled


def test_each_row_has_a_fault_of_its_own():
    names = Counter(row.fault for row in catalogue().values() if row.fault is not None)
    assert [name for name, count in names.items() if count > 1] == []


def test_the_catalogue_is_whole():
    rows = catalogue().values()
    assert len(rows) == 186


def test_the_minimum_is_all_there_and_none_of_it_left_out():
    ids = {f"F-{area}-{n:02}" for area, numbers in MINIMUM.items() for n in numbers}
    assert len(ids) == 37
    assert {row.id for row in catalogue().values() if row.minimum} == ids
    assert ids <= set(rows_tested()), "a row of the minimum without a test"


def test_what_a_row_injects_can_be_armed():
    for row in catalogue().values():
        if row.inject:
            assert [spec.kind for spec in specs_of(row.fault, {}, "")]


def test_the_page_says_what_the_catalogue_says():
    written = (HERE.parents[1] / "docs" / "faults.md").read_text()
    again = "it is old: python -m host_driver.faults.page > docs/faults.md"
    assert written == page(), again


def test_the_page_names_every_field_of_a_fault():
    assert {"site", "kind", *FIELDS} == set(FaultSpec.__struct_fields__)


@pytest.mark.parametrize("name", ["", "no-such-fault"])
def test_a_fault_that_is_not_there_is_refused(name):
    with pytest.raises(OffloadError, match="no fault is named"):
        find(name)
