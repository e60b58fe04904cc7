# SPDX-License-Identifier: Apache-2.0
"""The plugin, used by a small test suite of somebody else."""

from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTALLED = bool(entry_points(group="pytest11", name="xfrmnic"))
SUITE = """
from scapy.layers.inet import IP, UDP

PACKET = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / UDP() / b"x")


def test_alone(xnic):
    assert xnic.settings.card == "tiny"
    assert xnic.hosts[0].send([PACKET]) == [0]
    xnic.settle()
    assert [frame.data[14:] for frame in xnic.wire.frames()] == [PACKET]


def test_pair(xnic_pair):
    a, b = xnic_pair.hosts
    a.send([PACKET])
    xnic_pair.settle()
    assert b.receive() == [PACKET]


def test_broken(xnic_pair):
    a, b = xnic_pair.hosts
    with xnic_pair.faults.inject("frames-lost", probability=1.0):
        a.send([PACKET])
        xnic_pair.settle()
        assert b.receive() == []
    assert [entry["name"] for entry in xnic_pair.faults.log()] == ["frames-lost"]
    assert xnic_pair.faults.list() == []


def test_fails(xnic):
    assert not xnic.hosts
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeini("[pytest]\n")  # or one further up would be taken
    pytester.makepyfile(test_suite=SUITE)
    return pytester


def run(suite: pytest.Pytester, *words: str) -> pytest.RunResult:
    plugin = () if INSTALLED else ("-p", "host_driver.pytest_plugin")
    return suite.runpytest_subprocess(*plugin, *words)


def test_fixtures_work_and_a_failure_tells_how_to_repeat_it(suite: pytest.Pytester) -> None:
    result = run(suite, "--xnic-card=tiny")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(
        ["to repeat this: pytest 'test_suite.py::test_fails' --xnic-target=sim --xnic-seed=*"]
    )


def test_fixtures_are_documented(suite: pytest.Pytester) -> None:
    result = run(suite, "--fixtures")
    result.stdout.fnmatch_lines(
        ["xnic*", "*A lab of one host*", "*xnic.faults.inject(*", "xnic_pair*"]
    )
