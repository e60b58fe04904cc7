# SPDX-License-Identifier: Apache-2.0
"""The mark `row`, one protected way through a lab, and two hosts whose cards may die."""

import pytest

from host_driver.lab import Lab
from support.both import CARD, Both
from support.rows import first_among_processes
from support.way import Way


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known; `support.rows` explains it."""
    config.addinivalue_line("markers", "row(*ids): the rows of the fault catalogue that it judges")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What runs once among processes does (`support.rows`)."""
    items[:], others = first_among_processes(items)
    config.hook.pytest_deselected(items=others)


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


def revived(lab: Lab) -> Lab:
    """Everybody lives, nobody has anything, as in a new lab."""
    lab.faults.reset()
    for host in lab.hosts:
        lab.wire.set_carrier(host=host.number, up=True)
        for party, name in ((host, "host"), (host.nic, "card")):
            if lab.state(f"{name}{host.number}") != "running":
                party.restart()
        if host.info()["device_state"] == "failed" or len(host.devices()) < 2:
            host.nic.restart()
            host.restart()
        for _ in range(100):
            if host.info()["device_state"] == "up":
                break
            lab.advance(0.1)
        Both.ip(host, "xfrm policy setdefault out accept")
    for host in lab.hosts:
        for table in ("state", "policy"):
            Both.ip(host, f"xfrm {table} flush")
        host.receive()
    lab.settle()
    return lab


@pytest.fixture(scope="module")
def processes():
    """One lab of processes for all tests of a module, revived for each."""
    with Lab(target="process", hosts=2, card=CARD, seed=4) as lab:
        yield lab


@pytest.fixture
def both(request):
    """Two hosts that protect everything, on the target of the test; judged at the end."""
    made: list[Both] = []
    labs: list[Lab] = []

    def make(target: str, **options) -> Both:
        if target == "process":
            lab = revived(request.getfixturevalue("processes"))
        else:
            lab = Lab(target="sim", hosts=2, card=CARD, seed=4)
            lab.start()
            labs.append(lab)
        made.append(Both(lab, **options))
        made[-1].talk()
        return made[-1]

    yield make
    for one in made:
        one.judge()
    for lab in labs:
        lab.close()
