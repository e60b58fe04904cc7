# SPDX-License-Identifier: Apache-2.0
"""The mark `row`, and one protected way through a lab."""

import pytest

from host_driver.lab import Lab
from support.way import Way


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known; `support.rows` explains it."""
    config.addinivalue_line("markers", "row(*ids): the rows of the fault catalogue that it judges")


@pytest.fixture(scope="module")
def labs():
    """A lab for each target, made when first asked for."""
    made: dict[str, Lab] = {}

    def lab(target: str) -> Lab:
        if target not in made:
            made[target] = Lab(target=target, hosts=2, card="full", seed=21)
            made[target].start()
        return made[target]

    yield lab
    for one in made.values():
        one.close()


@pytest.fixture
def way(labs):
    """Makes the way of a test, and takes it away afterwards."""
    ways: list[Way] = []

    def make(target: str, *arguments, **options) -> Way:
        ways.append(Way(labs(target), *arguments, **options))
        return ways[-1]

    yield make
    for one in ways:
        one.clear()
