# SPDX-License-Identifier: Apache-2.0
"""A lab for each target, kept for a whole file: records use SPIs and flushes to stay apart."""

import pytest

from host_driver.lab import Lab


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
