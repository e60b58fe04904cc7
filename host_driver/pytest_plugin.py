# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin: labs as fixtures. Loads nothing heavy until a fixture is used.

def test_my_driver(xnic):
    (host,) = xnic.hosts
    assert host.ip("xfrm state list").rc == 0
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from host_driver.lab import Lab

TARGETS = ("sim", "process")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--xnic-target` and `--xnic-seed`."""
    group = parser.getgroup("xfrmnic", "xfrmnic: the SmartNIC you do not have to buy")
    group.addoption(
        "--xnic-target",
        choices=TARGETS,
        default="sim",
        help="where labs of the xnic fixtures live: one process with virtual time, or processes",
    )
    group.addoption(
        "--xnic-seed", type=int, default=0, metavar="N", help="seed of these labs (default 0)"
    )


def pytest_report_header(config: pytest.Config) -> str:
    """What a failing run is repeated with."""
    target, seed = config.getoption("--xnic-target"), config.getoption("--xnic-seed")
    return f"xfrmnic: --xnic-target={target} --xnic-seed={seed}"


def _lab(request: pytest.FixtureRequest, hosts: int) -> Iterator["Lab"]:
    from host_driver.lab import Lab

    option = request.config.getoption
    with Lab(option("--xnic-target"), hosts=hosts, seed=option("--xnic-seed")) as lab:
        yield lab


@pytest.fixture
def xnic(request: pytest.FixtureRequest) -> Iterator["Lab"]:
    """A lab of one host with one card of profile `full`; the wire ends in the open."""
    yield from _lab(request, hosts=1)


@pytest.fixture
def xnic_pair(request: pytest.FixtureRequest) -> Iterator["Lab"]:
    """A lab of two hosts, a card each, and the wire between them."""
    yield from _lab(request, hosts=2)
