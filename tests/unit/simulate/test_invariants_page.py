# SPDX-License-Identifier: Apache-2.0
"""docs/invariants.md says what the data says: `python tests/unit/simulate/test_invariants_page.py`
prints its tables."""

from collections.abc import Iterator
from pathlib import Path

from host_driver.simulate.invariants import ELSEWHERE, INVARIANTS, SECTIONS

ROOT = Path(__file__).resolve().parents[3]
COUNT = 54
JUDGED_MIN = 40


def tables() -> Iterator[str]:
    """Of each section: its title, then a row for each invariant."""
    low = 1
    for title, module in SECTIONS.items():
        own = [n for n, one in INVARIANTS.items() if one.check.__module__ == module.__name__]
        high = max([*own, *(n for n in ELSEWHERE if low <= n and n <= max(own) + 4)])
        yield f"## {title}\n"
        yield "| | invariant | what is judged | where |\n|---|---|---|---|"
        for number in range(low, high + 1):
            yield row(number)
        yield ""
        low = high + 1


def row(number: int) -> str:
    if number in INVARIANTS:
        one = INVARIANTS[number]
        return f"| {number} | {one.title} | {one.what} | simulator |"
    other = ELSEWHERE[number]
    files = ", ".join(f"`{file}`" for file in other.where)
    return f"| {number} | {other.title} | {other.why} | {files} |"


def test_every_invariant_is_judged_somewhere() -> None:
    assert {*INVARIANTS, *ELSEWHERE} == set(range(1, COUNT + 1))
    assert not INVARIANTS.keys() & ELSEWHERE.keys()
    assert len(INVARIANTS) >= JUDGED_MIN


def test_what_is_judged_elsewhere_is_there() -> None:
    files = [file for other in ELSEWHERE.values() for file in other.where]
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_the_page_says_what_the_data_says() -> None:
    page = (ROOT / "docs" / "invariants.md").read_text()
    missing = [line for line in "\n".join(tables()).splitlines() if line and line not in page]
    assert missing == []
    rows = [line for line in page.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert len(rows) == COUNT


if __name__ == "__main__":
    print("\n".join(tables()))
