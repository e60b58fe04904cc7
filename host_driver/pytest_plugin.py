# SPDX-License-Identifier: Apache-2.0
"""pytest plugin: a lab for each test, and the line that repeats a failure.

    def test_one_packet_leaves(xnic):
        xnic.hosts[0].send([packet])
        xnic.settle()
        assert len(xnic.wire.frames()) == 1

    def test_nothing_is_left_of_an_add_that_fails(xnic):
        with xnic.faults.inject(site="card.table", kind="full", match={"table": "rules"}):
            assert xnic.hosts[0].ip("xfrm state add ...").rc == 2
        assert sum(xnic.hosts[0].nic.census().values()) == 0

Nothing heavy is imported before a test asks for a lab.
"""

import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from host_driver.lab import Lab

TARGETS = ("sim", "process")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, all with the prefix `--xnic-`."""
    group = parser.getgroup("xfrmnic", "emulated SmartNICs")
    group.addoption(
        "--xnic-target",
        choices=TARGETS,
        default="sim",
        help="where labs run: sim (one process, virtual time) or process (default: sim)",
    )
    group.addoption(
        "--xnic-seed",
        type=int,
        default=None,
        help="seed of every lab (default: each test has its own, derived from its name)",
    )
    group.addoption(
        "--xnic-card",
        default="full",
        help="card profile with overrides, as full:counter_bits=8 (default: full)",
    )


def _lab(request: pytest.FixtureRequest, hosts: int) -> Iterator["Lab"]:
    from host_driver.lab import Lab

    with Lab(hosts=hosts, **_options(request)) as lab:
        yield lab


def _options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Arguments of Lab from the command line; the report of a failure says how to repeat it."""
    target, card = (request.config.getoption(name) for name in ("xnic_target", "xnic_card"))
    seed = request.config.getoption("xnic_seed")
    if seed is None:
        seed = zlib.crc32(request.node.nodeid.encode())
    again = f"pytest '{request.node.nodeid}' --xnic-target={target} --xnic-seed={seed}"
    if card != "full":
        again += f" --xnic-card={card}"
    request.node.add_report_section("setup", "xnic", f"to repeat this: {again}")
    request.node.user_properties.append(("xnic_seed", seed))
    return {"target": target, "card": card, "seed": seed}


@pytest.fixture
def xnic(request: pytest.FixtureRequest) -> Iterator["Lab"]:
    """A lab of one host and its card; the wire ends in the open. To break it for a while:
    `with xnic.faults.inject("reply-lost"): ...`, a name of docs/faults.md or a fault's fields."""
    yield from _lab(request, hosts=1)


@pytest.fixture
def xnic_pair(request: pytest.FixtureRequest) -> Iterator["Lab"]:
    """A lab of two hosts, a card each, and the wire between them."""
    yield from _lab(request, hosts=2)


@pytest.fixture
def xnic_machine(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Runs a host_driver.testing.LabMachine on labs with the options of the command line;
    further arguments are those of `host_driver.testing.run_on_lab`."""
    from host_driver.testing import run_on_lab

    options = _options(request)
    if options["card"] == "full":  # the machine's own card
        del options["card"]
    return lambda machine, config=None, **more: run_on_lab(machine, config, **options, **more)
