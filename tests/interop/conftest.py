# SPDX-License-Identifier: Apache-2.0
"""A lab for each target, kept for a whole file: records use SPIs and flushes to stay apart."""

import json
from pathlib import Path

import pytest

from host_driver.lab import Lab

VECTORS = Path(__file__).parents[1] / "vectors"


def records(topic: str, pattern: str) -> list:
    """The recorded files of one topic as pytest parameters, named after kernel and record."""
    paths = sorted((VECTORS / topic).rglob(pattern))
    assert paths, f"no records below {VECTORS / topic}"
    return [pytest.param(path, id=f"{path.parent.name}-{path.stem}") for path in paths]


def load(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.fixture(scope="module", params=["sim", "process"])
def target(request):
    return request.param


@pytest.fixture(scope="module")
def open_lab(target):
    """One host with a `full` card whose wire ends in the open."""
    with Lab(target=target, hosts=1, card="full", seed=11) as lab:
        yield lab


@pytest.fixture
def host(open_lab):
    """The lab's host, empty again after each test."""
    host = open_lab.hosts[0]
    yield host
    open_lab.faults.reset()
    for command in ("xfrm state flush", "xfrm policy flush"):
        assert host.ip(command).rc == 0
    open_lab.settle()
    host.receive()
    host.notifications()
    assert not any(host.nic.census().values())
